"""What a person reads of a build: the funnel from candidates to samples."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from tasks.recipe.model import Recipe
from tasks.recipe.sources import SlippyImagery
from tasks.state.ledger import Ledger
from tasks.state.transitions import CLOUDS, NODATA, State


@dataclass(frozen=True)
class Funnel:
    """How many candidates got how far."""

    candidates: int
    measured: int
    with_building: int
    selected: int  # pass the label filter, whatever became of their image
    rejected_density: int
    rejected_nodata: int
    rejected_clouds: int
    absent: int
    failed: int
    staged: int
    pending: int  # selected and not asked for yet
    what: str = "tile"  # that a candidate is
    minimum: float | None = 0.0  # building fraction asked for; None where the filter does not ask for one
    would_pass: dict[str, int] = field(default_factory=dict)  # at lower minimum building fractions

    @classmethod
    def of(cls, ledger: Ledger, recipe: Recipe) -> Self:
        """The funnel as the ledger has it now."""
        counts, rejected = ledger.counts(), ledger.reasons(State.REJECTED)
        fractions = np.array(ledger.building_fractions())
        minimum = recipe.filter.min_building_fraction
        nodata, clouds = rejected.get(NODATA, 0), rejected.get(CLOUDS, 0)
        by_labels = sum(rejected.values()) - nodata - clouds
        selected = sum(counts.values()) - counts[State.PLANNED] - by_labels
        lower = sorted({round((minimum or 0) * factor, 4) for factor in (0.2, 0.5, 0.8)})
        return cls(
            candidates=sum(counts.values()),
            measured=ledger.measured(),
            with_building=int((fractions > 0).sum()),
            selected=selected,
            rejected_density=by_labels,
            rejected_nodata=nodata,
            rejected_clouds=clouds,
            absent=counts[State.ABSENT],
            failed=counts[State.FAILED],
            staged=counts[State.STAGED],
            pending=counts[State.SELECTED],
            what="tile" if isinstance(recipe.imagery, SlippyImagery) else "window",
            minimum=minimum,
            would_pass={f"{level:g}": int((fractions >= level).sum()) for level in lower},
        )

    def label_rows(self) -> list[tuple[str, int]]:
        """What labels alone decide, top to bottom, for a table."""
        if self.minimum is None:
            passing = [("that pass the label filter", self.selected)]
        else:
            passing = [
                ("with any building", self.with_building),
                (f"with at least {percent(self.minimum)} building", self.selected),
            ]
        return [(f"candidate {self.what}s", self.candidates), *passing]

    def rows(self) -> list[tuple[str, int]]:
        """Lines of the funnel, top to bottom, for a table."""
        clouds = [("imagery rejected for clouds", self.rejected_clouds)] if self.what == "window" else []
        return [
            *self.label_rows(),
            ("imagery absent at the source", self.absent),
            *clouds,
            ("imagery rejected for nodata", self.rejected_nodata),
            ("imagery failed", self.failed),
            ("staged", self.staged),
        ]


def describe_funnel(funnel: Funnel) -> str:
    """The funnel as lines of text, with what a lower filter would let through."""
    lines = [f"  {count:>12,}  {name}" for name, count in funnel.rows()]
    if funnel.selected == 0 and funnel.minimum:
        lower = ", ".join(f"{count:,} at {level}" for level, count in funnel.would_pass.items())
        lines.append(f"  at a lower filter.min_building_fraction would pass: {lower}")
        if funnel.with_building == 0:
            lines.append("  no candidate has any building: check that area and labels are of the same place")
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share in percent, to four digits that count: ``0.01%`` for 0.0001."""
    return f"{np.format_float_positional(100 * share, precision=4, fractional=False, trim='-')}%"
