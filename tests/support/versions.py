"""Versions for tests: written as they are given, and what they hold sample by sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.versions.plan import Row, VersionPlan
from tasks.versions.read import DatasetVersion, VersionInfo, open_version, previous_of
from tasks.versions.schema import SPLITS, Layout
from tasks.versions.write import Draft, ReadSample, heal_tags, open_or_create

CLASSES = [
    {"name": "background", "value": 0, "color": "#000000"},
    {"name": "building", "value": 1, "color": "#ffaa00"},
]


def planned(uri: str, rows: Mapping[str, Sequence[Row]], layout: Layout, content: str = "c") -> VersionPlan:
    """The next version of a store, which is made when missing: of these rows by split, in the order given."""
    repository = open_or_create(uri)
    heal_tags(repository)
    previous = previous_of(uri, repository)
    members = [(row.sample.name, row.unit, split) for split in rows for row in rows[split]]
    return VersionPlan(
        rows={split: tuple(rows.get(split, ())) for split in SPLITS},
        layout=layout,
        content=content,
        number=previous.number,
        previous=previous.newest,
        assigned={name: split for name, _, split in members},
        units={name: unit for name, unit, _ in members},
    )


def write_plan(uri: str, plan: VersionPlan, read: ReadSample, **attributes: Any) -> VersionInfo:
    """Write a planned version block by block, and commit it with some root attributes."""
    draft = Draft.begin(uri, plan)
    written = [draft.write(block, read) for block in plan.blocks]
    common = {"classes": CLASSES, "recipe_hash": "r", "software_version": "tilewright test"}
    return draft.commit(written, {**common, **attributes})


@dataclass(frozen=True, eq=False)
class Stored:
    """One sample with all that is known of it."""

    split: str
    image: NDArray[Any]  # (band, y, x)
    mask: NDArray[np.uint8]  # (y, x)
    crs: str
    transform: tuple[float, ...]
    class_fraction: tuple[float, ...]
    cloud_fraction: float
    nodata_fraction: float
    origin: str
    group: str


def stored(store: Path, version: str | None = None) -> dict[str, Stored]:
    """All samples of a version by name."""
    return _samples(open_version(str(store), version))


def _samples(version: DatasetVersion) -> dict[str, Stored]:
    found = {}
    for split in SPLITS:
        arrays = version.split(split)
        images, masks = np.asarray(arrays.image[:]), np.asarray(arrays.mask[:])
        columns = {
            name: arrays.array(name)
            for name in ("crs", "transform", "class_fraction", "cloud_fraction", "nodata_fraction", "origin", "group")
        }
        for i, name in enumerate(arrays.sample_id):
            assert name not in found, f"{name} stands twice"
            found[name] = Stored(
                split,
                images[i],
                masks[i],
                str(columns["crs"][i]),
                tuple(columns["transform"][i].tolist()),
                tuple(columns["class_fraction"][i].tolist()),
                float(columns["cloud_fraction"][i]),
                float(columns["nodata_fraction"][i]),
                str(columns["origin"][i]),
                str(columns["group"][i]),
            )
    return found
