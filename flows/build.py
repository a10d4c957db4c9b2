"""The build flow: labels first, imagery only for tiles that pass, one commit at the end.

plan -> labels -> select -> fetch -> split -> write -> commit, with a Prefect task per shard and stage.
Prefect sees shards, never tiles. What is done is known from the ledger, not from Prefect's states, so a
killed run goes on where it stopped.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows.progress import Stages
from tasks.build.base import BuildSummary, open_build
from tasks.errors import TilewrightError
from tasks.recipe.load import find_recipe, load_recipe
from tasks.views.funnel import describe_funnel

Item = TypeVar("Item")
WORKERS = 2  # the steps hold the interpreter for about half of their time; more threads gain nothing


def default_store(recipe_name: str) -> str:
    """Where a recipe's store is when nothing else is said."""
    return f"stores/{recipe_name}"


def _unexpected(_task: Any, _run: Any, state: Any) -> bool:
    """Retry what nobody foresaw; our own errors come after retries of their own, or would only repeat."""
    return not isinstance(state.result(raise_on_failure=False), TilewrightError)


@flow(name="build", task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))  # type: ignore[arg-type]
def build(recipe: str, store: str | None = None, set: list[str] | None = None) -> BuildSummary:
    """Build the next version of a dataset.

    recipe: a recipe file, or a name in ``datasets/``. store: a local path or ``s3://bucket/prefix``,
    ``stores/<name>`` by default. set: ``key=value`` changes to the recipe. Returns what the build came
    to; the version is new, or the last one when nothing changed. Raises a TilewrightError otherwise.
    """
    what = load_recipe(find_recipe(recipe), set or [])
    target = store or default_store(what.name)
    logger = get_run_logger()
    with open_build(what, target) as run, Stages() as stages:
        run.check_imagery()
        with stages.stage("plan", 1) as stage:
            shards = task(name="plan", cache_policy=NO_CACHE)(run.plan)()
            stage.advance()
        with stages.stage("labels", 1) as stage:
            labels = task(
                name="labels", retries=2, retry_delay_seconds=10, retry_condition_fn=_unexpected, cache_policy=NO_CACHE
            )(run.take_labels)()
            stage.advance()
        logger.info("%d shards, %d labels (%s)", len(shards), labels.kept, labels.source)
        _each(stages, "select", run.measure, run.to_measure(shards))
        funnel = run.funnel()
        logger.info("the funnel:\n%s", describe_funnel(funnel))
        _each(stages, "fetch", run.fetch, run.to_fetch(shards), retries=2)
        run.check_failures()
        blocks = task(name="split", cache_policy=NO_CACHE)(run.start_version)()
        _each(stages, "write", run.write, blocks)
        summary = task(name="commit", cache_policy=NO_CACHE)(run.finish)()
        run.draw_preview()
    _publish_summary(what.title, target, summary)
    logger.info(
        "%s %s of %s: %d samples", "new version" if summary.new else "unchanged,", summary.version, target, summary.kept
    )
    return summary


def _each(stages: Stages, name: str, step: Callable[[Item], Any], items: Sequence[Item], retries: int = 0) -> None:
    """Run ``step`` on every item as a Prefect task, a few at a time; after the first error no further one starts."""
    stopped = threading.Event()

    def one(index: int) -> None:
        if not stopped.is_set():
            try:
                step(items[index])
            except TilewrightError:
                stopped.set()
                raise

    # The index is the task's only argument: Prefect walks every argument it is given.
    by_shard = task(
        name=name,
        task_run_name=f"{name}-{{index}}",
        retries=retries,
        retry_delay_seconds=5,
        retry_condition_fn=_unexpected,
        cache_policy=NO_CACHE,
    )(one)
    with stages.stage(name, len(items)) as stage:
        running: deque[Any] = deque()
        for index in range(len(items)):
            running.append(by_shard.submit(index))
            if len(running) > 2 * WORKERS:
                running.popleft().result()
                stage.advance()
        while running:
            running.popleft().result()
            stage.advance()


def _publish_summary(title: str, store: str, summary: BuildSummary) -> None:
    create_table_artifact(
        table=[{"split": split, "samples": count} for split, count in summary.splits.items()],
        key="build-splits",
        description=f"{title}: {summary.version} of {store}",
    )
    create_markdown_artifact(
        key="build-summary",
        markdown="\n".join(
            [
                f"# {title}: {summary.version}" + ("" if summary.new else " (unchanged)"),
                "",
                f"- store `{store}`, snapshot `{summary.snapshot}`",
                f"- {summary.candidates:,} candidates, {summary.selected:,} passed, {summary.kept:,} kept, "
                f"{summary.absent:,} absent, {summary.failed:,} failed",
                *(f"- {count:,} rejected: {reason}" for reason, count in summary.rejected.items()),
                *(f"- {count:,} left out: {reason}" for reason, count in summary.left_out.items()),
                f"- requests: {summary.requests['imagery']:,} imagery, {summary.requests['labels']:,} labels",
                f"- {summary.seconds:.1f} s",
            ]
        ),
    )
