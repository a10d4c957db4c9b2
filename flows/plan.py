"""The plan: the funnel and the price of a build, from labels alone."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from flows.jobs import job_of
from tasks.build import line
from tasks.build.commit import label_rows, listed
from tasks.build.told import Contents
from tasks.imagery.protocol import Price
from tasks.views.funnel import Funnel


@dataclass(frozen=True)
class Plan:
    """What a build would do."""

    title: str
    store: str
    shards: int
    funnel: Funnel
    estimate: Price
    about: dict[str, str]  # licence, size, needs and the like
    labels: dict[str, Any]  # source, and how many footprints (or rasters) were read, kept and repaired
    contents: Contents  # of the next version, if all imagery that passes comes
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        values: dict[str, Any] = dataclasses.asdict(self)
        values["funnel"]["kept"] = self.funnel.staged  # what it was called first
        contents: dict[str, Any] = values.pop("contents")  # as those of a build's summary
        return {**values, **contents}

    def rows(self) -> list[tuple[str, str]]:
        """For a table."""
        return [
            *label_rows(self.labels),
            *((name, f"{count:,}") for name, count in self.funnel.label_rows()),
            ("splits, if all imagery comes", listed(self.contents.splits)),
            *self.contents.rows(),
            ("already on disk", f"{self.funnel.staged:,}"),
            ("shards", f"{self.shards:,}"),
            *self._price(),
            *((name, text) for name, text in self.about.items() if text),
            *(("warning", text) for text in self.warnings),
        ]

    def _price(self) -> list[tuple[str, str]]:
        cost = self.estimate
        if cost.seconds is None:
            return [("windows to read", f"{cost.requests:,}"), ("pixels", f"about {cost.bytes / 1e6:,.1f} MB")]
        dollars = "none" if cost.dollars is None else f"about ${cost.dollars:,.2f} beyond the free 200,000 a month"
        return [
            ("imagery requests", f"{cost.requests:,}" + (" (billed)" if cost.dollars is not None else "")),
            ("download", f"about {cost.bytes / 1e6:,.1f} MB"),
            ("cost", dollars),
            ("time", f"about {cost.seconds:,.0f} s"),
        ]


def plan_build(recipe: str, store: str | None, overrides: list[str]) -> Plan:
    """Take the labels, draw the masks, and say what fetching would take. Asks for no imagery.

    What is found is kept in the store's work directory, where a build goes on from it.
    """
    job = job_of(recipe, store, overrides)
    planned = line.plan(job)
    about = job.recipe.about.model_dump()
    return Plan(
        job.recipe.title,
        job.store,
        planned.shards,
        planned.funnel,
        planned.price,
        about,
        planned.labels,
        planned.contents,
        planned.warnings,
    )
