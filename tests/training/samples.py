"""Small stores for the tests: bright houses on dark, noisy ground."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.geo.georeference import tile_georeference
from tasks.geo.tiles import Tile
from tasks.state.ledger import Sample
from tasks.versions.plan import Row
from tasks.versions.read import DatasetVersion, open_version
from tasks.versions.schema import SPLITS, Layout
from tasks.versions.write import Pixels
from tests.support.versions import planned, write_plan

CLASSES = [
    {"name": "background", "value": 0, "color": "#000000"},
    {"name": "building", "value": 3, "color": "#ffaa00"},
]
BUILDING = 3
COUNTS = {"train": 24, "validation": 8, "test": 8}


def draw(seed: int, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image (3, side, side) and its class mask (side, side)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(20, 90, (3, side, side))
    mask = np.zeros((side, side), dtype=np.uint8)
    for _ in range(3):
        top, left = rng.integers(0, side * 3 // 4, 2)
        height, width = rng.integers(side // 6, side // 3, 2)
        mask[top : top + height, left : left + width] = BUILDING
    image[:, mask == BUILDING] += 120
    return image.astype(np.uint8), mask


def make_store(
    path: Path,
    *,
    counts: Mapping[str, int] = COUNTS,
    side: int = 32,
    seed: int = 0,
    **attributes: Any,
) -> DatasetVersion:
    """Write the next version of the store at ``path``; other ``seed``, other samples."""
    uri, numbers = str(path), {}
    rows: dict[str, list[Row]] = {}
    for number, split in enumerate(SPLITS):
        rows[split] = []
        for i in range(counts[split]):
            tile = Tile(18, 1000 * (number + 1) + i, seed)
            numbers[tile.name] = 1000 * seed + 100 * number + i
            sample = Sample(tile.name, "", "", 0.0, 1_700_000_000, (0.8, 0.2), 0.2)
            rows[split].append(Row(sample, tile.name, tile_georeference(tile, side)))
    layout = Layout(
        bands=("red", "green", "blue"),
        dtype="uint8",
        height=side,
        width=side,
        classes=tuple(str(entry["name"]) for entry in CLASSES),
    )
    plan = planned(uri, rows, layout, content=f"{seed}")
    values: dict[str, Any] = {"dataset": "town", "recipe_hash": "abc", "software_version": "0", "classes": CLASSES}
    written = write_plan(uri, plan, lambda one: Pixels(*draw(numbers[one.name], side)), **{**values, **attributes})
    return open_version(uri, written.version)
