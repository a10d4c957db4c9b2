"""The end of a build: one commit and one tag, what the version says of itself, and what a person is told."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from typing import Any

from tasks.build.job import Job
from tasks.build.stages import pixels_of
from tasks.build.told import Contents, contents
from tasks.build.tools import tools_of
from tasks.errors import TilewrightError
from tasks.labels.footprints import LabelReport
from tasks.recipe.model import Recipe
from tasks.samples.window import Candidates
from tasks.state.transitions import State
from tasks.versions.plan import VersionPlan
from tasks.versions.write import Written
from tasks.views.funnel import Funnel
from tasks.views.sheet import draw_samples


@dataclass(frozen=True)
class BuildSummary:
    """What a build came to; the command line's ``--json`` is this."""

    version: str
    snapshot: str
    new: bool
    candidates: int
    selected: int
    accepted: int  # samples of the version
    absent: int
    failed: int
    rejected: dict[str, int]  # by reason
    left_out: dict[str, int]  # what could not become a candidate, by reason
    splits: dict[str, int]
    requests: dict[str, int]
    seconds: float
    labels: dict[str, Any]  # source, and how many footprints (or rasters) were read, kept and repaired
    class_shares: dict[str, dict[str, float]]  # by split and class; see tasks.build.told.Contents
    ignored: dict[str, float]  # by split
    warnings: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str]]:
        """For people, from candidates to seconds."""
        counted = {name: getattr(self, name) for name in ("candidates", "selected", "accepted", "absent", "failed")}
        counted |= {f"rejected: {reason}": count for reason, count in self.rejected.items()}
        counted |= {f"left out: {reason}": count for reason, count in self.left_out.items()}
        return [
            *((name, f"{count:,}") for name, count in counted.items()),
            *label_rows(self.labels),
            ("splits", listed(self.splits)),
            *Contents(self.splits, self.class_shares, self.ignored).rows(),
            ("requests", listed(self.requests)),
            ("seconds", f"{self.seconds:.1f}"),
            *(("warning", text) for text in self.warnings),
        ]


def listed(counts: Mapping[str, int]) -> str:
    """Counts by name, in a line."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def labels_told(report: LabelReport) -> dict[str, Any]:
    """Of a report what a version and a summary say."""
    return {"source": report.source, "read": report.read, "kept": report.kept, "repaired": report.repaired}


def label_rows(labels: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same for people."""
    return [("labels", f"{labels['read']:,} read, {labels['kept']:,} used ({labels['source']})")]


def held(plan: VersionPlan, recipe: Recipe) -> Contents:
    """What the planned version holds."""
    return contents({split: [row.sample.class_fractions for row in rows] for split, rows in plan.rows.items()}, recipe)


def commit(
    job: Job,
    found: Candidates,
    report: LabelReport,
    plan: VersionPlan,
    holds: Contents,
    written: Sequence[Written],
    began: float,
) -> BuildSummary:
    """Commit and tag what was written (or name the unchanged version) and sum the run up.

    ``holds``: see :func:`held`. ``began``: when the run did, on the monotonic clock.
    """
    tools = tools_of(job)
    with tools.ledger() as ledger:
        counts = Funnel.of(ledger, job.recipe)
        info = plan.previous
        if info is None or not plan.unchanged:
            info = tools.draft(plan).commit(written, attributes(job, report, counts, ledger.notes()))
        ledger.assign_splits(plan.assigned, plan.units)
        ledger.set_run_state(replace(ledger.run_state(), labels_key=""))
        rejected = ledger.reasons(State.REJECTED)
    return BuildSummary(
        version=info.version,
        snapshot=info.snapshot,
        new=not plan.unchanged,
        candidates=counts.candidates,
        selected=counts.selected,
        accepted=len(plan),
        absent=counts.absent,
        failed=counts.failed,
        rejected=rejected,
        left_out=found.left_out,
        splits=holds.splits,
        requests={"imagery": tools.source.requests, "labels": report.requests},
        seconds=round(time.monotonic() - began, 3),
        labels=labels_told(report),
        class_shares=holds.class_shares,
        ignored=holds.ignored,
    )


def draw_preview(job: Job, plan: VersionPlan, count: int = 8) -> str:
    """Draw the first samples of the first split that has any, and their masks, into the work directory.

    Returns a warning when that cannot be, for the version is there already; "" otherwise.
    """
    tools = tools_of(job)
    first = next((rows for rows in plan.rows.values() if rows), ())[:count]
    try:
        with tools.ledger() as ledger:
            drawn = [pixels_of(job, tools, ledger, row.sample) for row in first]
        colors = {entry.value: entry.color for entry in job.recipe.classes}
        draw_samples(job.work.preview, [(one.image, one.mask) for one in drawn], plan.layout.bands, colors)
    except TilewrightError as error:
        return f"{job.work.preview}: the picture of some samples could not be drawn, the version is whole ({error})"
    return ""


def attributes(job: Job, report: LabelReport, counts: Funnel, notes: dict[str, int]) -> dict[str, Any]:
    """What a version says of itself, less what only its writer knows."""
    recipe = job.recipe
    return {
        "dataset": recipe.name,
        "title": recipe.title,
        "recipe": recipe.public(),
        "recipe_hash": recipe.hash(),
        "identity": recipe.identity(),
        "classes": [entry.model_dump(exclude_none=True) for entry in recipe.classes],
        **({} if recipe.ignore_index is None else {"ignore_index": recipe.ignore_index}),
        "counts": dataclasses.asdict(counts),
        "attributions": {"imagery": recipe.imagery.attribution, "labels": recipe.labels.attribution},
        "licences": {"imagery": recipe.imagery.licence, "labels": recipe.labels.licence},
        "labels": labels_told(report),
        "label_timestamp": report.timestamp,
        "about": recipe.about.model_dump(),
        "clouds": recipe.clouds.model_dump(),
        "value_rules": notes,
        "terms_accepted": tools_of(job).source.terms(),
        "software_version": f"tilewright {package_version('tilewright')}",
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
