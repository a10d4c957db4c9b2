"""The build flow: labels first, imagery only for what passes, one commit at the end.

The stages and their order are those of :mod:`tasks.build.line`; here they become Prefect tasks. What is done is known
from the ledger, not from Prefect's states, so a killed run goes on where it stopped.
"""

from typing import Annotated

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.ending import foreseen
from flows.jobs import job_of
from flows.progress import Stages
from flows.runner import WORKERS, PrefectRunner
from flows.warned import warnings_in
from tasks.build import line
from tasks.build.commit import BuildSummary
from tasks.recipe.tokens import typed_pattern

# Prefect keeps parameters before the recipe is read: its server refuses those that hold a token.
Setting = Annotated[str, Field(json_schema_extra={"not": {"pattern": typed_pattern()}})]


@flow(name="build", task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))  # type: ignore[arg-type]
@foreseen()
def build(recipe: str, store: str | None = None, set: list[Setting] | None = None) -> BuildSummary:
    """Build the next version of a dataset.

    recipe: a recipe file, or a name in ``datasets/``. store: a local path or ``s3://bucket/prefix``,
    ``stores/<name>`` by default. set: ``key=value`` changes to the recipe. Returns what the build came
    to; the version is new, or the last one when nothing changed. Raises a TilewrightError otherwise.
    """
    job = job_of(recipe, store, set or [])
    with Stages() as stages, warnings_in(get_run_logger()):
        summary = line.build(job, PrefectRunner(stages))
    _publish_summary(job.recipe.title, job.store, summary)
    state = "new version" if summary.new else "unchanged,"
    get_run_logger().info("%s %s of %s: %d samples", state, summary.version, job.store, summary.accepted)
    return summary


def _publish_summary(title: str, store: str, summary: BuildSummary) -> None:
    create_table_artifact(
        table=[{"split": split, "samples": count} for split, count in summary.splits.items()],
        key="build-splits",
        description=f"{title}: {summary.version} of {store}",
    )
    heading = f"# {title}: {summary.version}" + ("" if summary.new else " (unchanged)")
    facts = [("store", f"`{store}`, snapshot `{summary.snapshot}`"), *summary.rows()]
    lines = [heading, "", *(f"- {name}: {value}" for name, value in facts)]
    create_markdown_artifact(key="build-summary", markdown="\n".join(lines))
