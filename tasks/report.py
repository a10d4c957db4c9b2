"""What a person reads: the funnel from candidates to samples, estimates, and a picture of samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.ledger import Ledger, State
from tasks.recipe import MapboxImagery, Recipe

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
    """How many candidate tiles got how far."""

    candidates: int
    measured: int
    with_building: int
    selected: int  # pass the density filter, whatever became of their image
    rejected_density: int
    rejected_nodata: int
    absent: int
    failed: int
    kept: int
    pending: int  # selected and not asked for yet
    minimum: float = 0.0
    would_pass: dict[str, int] = field(default_factory=dict)  # at lower minimum building fractions

    @classmethod
    def of(cls, ledger: Ledger, recipe: Recipe) -> Self:
        """The funnel as the ledger has it now."""
        counts, rejected = ledger.counts(), ledger.reasons(State.REJECTED)
        densities = np.array(ledger.densities())
        minimum = recipe.filter.min_building_fraction
        nodata = rejected.get("nodata", 0)
        selected = counts[State.SELECTED] + counts[State.KEPT] + counts[State.ABSENT] + counts[State.FAILED] + nodata
        lower = sorted({round(minimum * factor, 4) for factor in (0.2, 0.5, 0.8)})
        return cls(
            candidates=sum(counts.values()),
            measured=len(densities),
            with_building=int((densities > 0).sum()),
            selected=selected,
            rejected_density=rejected.get("density", 0),
            rejected_nodata=nodata,
            absent=counts[State.ABSENT],
            failed=counts[State.FAILED],
            kept=counts[State.KEPT],
            pending=counts[State.SELECTED],
            minimum=minimum,
            would_pass={f"{level:g}": int((densities >= level).sum()) for level in lower},
        )

    def rows(self) -> list[tuple[str, int]]:
        """Lines of the funnel, top to bottom, for a table."""
        return [
            ("candidate tiles", self.candidates),
            ("with any building", self.with_building),
            (f"with at least {self.minimum:.0%} building", self.selected),
            ("imagery absent at the source", self.absent),
            ("imagery rejected for nodata", self.rejected_nodata),
            ("imagery failed", self.failed),
            ("kept", self.kept),
        ]


def describe_funnel(funnel: Funnel) -> str:
    """The funnel as lines of text, with what a lower filter would let through."""
    lines = [f"  {count:>12,}  {name}" for name, count in funnel.rows()]
    if funnel.selected == 0:
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
    seconds: float


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


def draw_samples(path: Path, samples: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], columns: int = 4) -> None:
    """Write a PNG of samples: each image (uint8 band, y, x) above itself with its mask (uint8 y, x) laid over.

    Samples smaller than 256 px are enlarged by a whole factor. No samples, no picture.
    """
    if not samples:
        return
    scale = max(1, 256 // samples[0][0].shape[-1])
    side, gap = samples[0][0].shape[-1] * scale, 6
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (2 * side + 2 * gap) + gap), "#ffffff")
    for i, (image, mask) in enumerate(samples):
        x = gap + (i % columns) * (side + gap)
        y = gap + (i // columns) * (2 * side + 2 * gap)
        pixels = np.moveaxis(image, 0, -1)
        laid = np.where(mask[..., None] != 0, 0.45 * pixels + 0.55 * OVERLAY, pixels).astype(np.uint8)
        pair = np.concatenate((pixels, laid))
        sheet.paste(Image.fromarray(pair).resize((side, 2 * side), Image.Resampling.NEAREST), (x, y))
    temporary = path.with_suffix(".tmp.png")
    sheet.save(temporary, optimize=True)
    temporary.replace(path)
