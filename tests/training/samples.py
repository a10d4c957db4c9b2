"""Small stores for the tests: bright houses on dark, noisy ground."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.geo.georeference import tile_georeference
from tasks.geo.tiles import Tile
from tasks.state.ledger import Sample
from tasks.versions.read import DatasetVersion, open_version
from tasks.versions.splits import SPLITS
from tasks.versions.write import Layout, Pixels, VersionWriter, heal_tags, open_or_create

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
    uri, names = str(path), {}
    samples: dict[str, list[Sample]] = {}
    for number, split in enumerate(SPLITS):
        tiles = [Tile(18, 1000 * (number + 1) + i, seed).name for i in range(counts[split])]
        names.update({tile: 1000 * seed + 100 * number + i for i, tile in enumerate(tiles)})
        samples[split] = [Sample(tile, 0.2, "", 0.0, "", 1_700_000_000, split, (0.8, 0.2)) for tile in tiles]
    repository = open_or_create(uri)
    heal_tags(repository)
    layout = Layout(
        bands=("red", "green", "blue"),
        dtype=np.dtype(np.uint8),
        height=side,
        width=side,
        classes=tuple(str(entry["name"]) for entry in CLASSES),
        georeference=lambda name: tile_georeference(Tile.parse(name), side),
        unit=lambda name: name,
        tiles=True,
    )
    writer = VersionWriter(uri, repository, samples, layout)
    for block in writer.blocks:
        writer.write(block, lambda sample: Pixels(*draw(names[sample.name], side)))
    values: dict[str, Any] = {
        "dataset": "town",
        "recipe_hash": "abc",
        "content_hash": f"{seed}",
        "software_version": "0",
        "classes": CLASSES,
        **attributes,
    }
    return open_version(uri, writer.commit(values).version)
