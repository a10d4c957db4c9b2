"""What a person reads: the funnel from candidates to samples, estimates, and a picture of samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.recipe.load import AnyRecipe, MapboxImagery, Recipe
from tasks.state.ledger import LABEL_REASONS, Ledger, State
from tasks.views.picture import viewable

# Mapbox's published price for raster tiles beyond the monthly free ones, as of 2026.
MAPBOX_FREE_REQUESTS = 200_000
MAPBOX_DOLLARS_PER_1000 = 0.25
# Median of 256 px aerial JPEG tiles at zoom 18; only a guess until a build has real ones.
ASSUMED_TILE_BYTES = 21_000
# Half of what benchmarks/fetch.py measures at 50 ms latency: a server far away is slower than one on this machine.
ASSUMED_TILES_PER_SECOND = 800.0
WRITTEN_PER_SECOND = 1000.0  # decode and write a version, on two cores (benchmarks/build.py: 2,048 tiles in 2 s)
OVERLAY = np.array([235.0, 40.0, 110.0])  # a red that no roof has


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
    kept: int
    pending: int  # selected and not asked for yet
    what: str = "tile"  # that a candidate is
    minimum: float | None = 0.0  # building fraction asked for; None where the filter does not ask for one
    would_pass: dict[str, int] = field(default_factory=dict)  # at lower minimum building fractions

    @classmethod
    def of(cls, ledger: Ledger, recipe: AnyRecipe) -> Self:
        """The funnel as the ledger has it now."""
        counts, rejected = ledger.counts(), ledger.reasons(State.REJECTED)
        densities = np.array(ledger.densities())
        minimum = recipe.filter.min_building_fraction
        nodata, clouds = rejected.get("nodata", 0), rejected.get("clouds", 0)
        by_labels = sum(rejected.get(reason, 0) for reason in LABEL_REASONS)
        selected = sum(counts.values()) - counts[State.PLANNED] - by_labels
        lower = sorted({round((minimum or 0) * factor, 4) for factor in (0.2, 0.5, 0.8)})
        return cls(
            candidates=sum(counts.values()),
            measured=ledger.measured(),
            with_building=int((densities > 0).sum()),
            selected=selected,
            rejected_density=by_labels,
            rejected_nodata=nodata,
            rejected_clouds=clouds,
            absent=counts[State.ABSENT],
            failed=counts[State.FAILED],
            kept=counts[State.KEPT],
            pending=counts[State.SELECTED],
            what="tile" if isinstance(recipe, Recipe) else "window",
            minimum=minimum,
            would_pass={f"{level:g}": int((densities >= level).sum()) for level in lower},
        )

    def label_rows(self) -> list[tuple[str, int]]:
        """What labels alone decide, top to bottom, for a table."""
        if self.minimum is None:
            passing = [("that pass the label filter", self.selected)]
        else:
            passing = [
                ("with any building", self.with_building),
                (f"with at least {self.minimum:.0%} building", self.selected),
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
            ("kept", self.kept),
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


@dataclass(frozen=True)
class Estimate:
    """What asking for the pending imagery would take."""

    requests: int
    bytes: int
    dollars: float | None  # None where requests are not billed
    seconds: float | None  # None where nobody can say


def estimate(funnel: Funnel, recipe: Recipe, mean_bytes: float | None) -> Estimate:
    """Requests, bytes, cost and time of the images not on disk yet. ``mean_bytes``: of those already there."""
    requests = funnel.pending + funnel.failed
    per_second = min(ASSUMED_TILES_PER_SECOND, recipe.imagery.requests_per_second or ASSUMED_TILES_PER_SECOND)
    billed = isinstance(recipe.imagery, MapboxImagery)
    dollars = max(0, requests - MAPBOX_FREE_REQUESTS) / 1000 * MAPBOX_DOLLARS_PER_1000
    return Estimate(
        requests=requests,
        bytes=round(requests * (mean_bytes or ASSUMED_TILE_BYTES * (recipe.grid.tile_size / 256) ** 2)),
        dollars=round(dollars, 2) if billed else None,
        seconds=round(requests / per_second + (requests + funnel.kept) / WRITTEN_PER_SECOND, 1),
    )


def draw_samples(
    path: Path,
    samples: Sequence[tuple[NDArray[Any], NDArray[np.uint8]]],
    bands: Sequence[str],
    colors: Mapping[int, str],
    columns: int = 4,
) -> None:
    """Write a PNG of samples: each image (band, y, x) above itself with its mask (uint8 y, x) laid over.

    bands: names of the bands. colors: #rrggbb of every class; with two classes the foreground is drawn in a red
    that no roof has. Samples smaller than 256 px are enlarged by a whole factor. No samples, no picture.
    """
    if not samples:
        return
    palette = np.zeros((256, 3))
    painted = np.zeros(256, dtype=np.bool_)
    for value, color in colors.items():
        palette[value] = OVERLAY if len(colors) == 2 else [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        painted[value] = value != 0
    rows_of, columns_of = samples[0][1].shape
    scale = max(1, 256 // max(rows_of, columns_of))
    high, wide, gap = rows_of * scale, columns_of * scale, 6
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * (wide + gap) + gap, rows * (2 * high + 2 * gap) + gap), "#ffffff")
    for i, (image, mask) in enumerate(samples):
        x = gap + (i % columns) * (wide + gap)
        y = gap + (i // columns) * (2 * high + 2 * gap)
        pixels = np.moveaxis(viewable(image, bands), 0, -1)
        laid = np.where(painted[mask][..., None], 0.45 * pixels + 0.55 * palette[mask], pixels).astype(np.uint8)
        pair = np.concatenate((pixels, laid))
        sheet.paste(Image.fromarray(pair).resize((wide, 2 * high), Image.Resampling.NEAREST), (x, y))
    temporary = path.with_suffix(".tmp.png")
    sheet.save(temporary, optimize=True)
    temporary.replace(path)
