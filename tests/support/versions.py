"""What a version of windows holds, sample by sample, for tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.versions.read import DatasetVersion, open_version
from tasks.versions.splits import SPLITS


@dataclass(frozen=True, eq=False)
class Stored:
    """One sample with all that is known of it."""

    split: str
    image: NDArray[Any]  # (band, y, x)
    mask: NDArray[np.uint8]  # (y, x)
    crs: str
    transform: tuple[float, ...]
    class_share: tuple[float, ...]
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
            for name in ("crs", "transform", "class_share", "cloud_fraction", "nodata_fraction", "origin", "group")
        }
        for i, name in enumerate(arrays.sample_id):
            assert name not in found, f"{name} stands twice"
            found[name] = Stored(
                split,
                images[i],
                masks[i],
                str(columns["crs"][i]),
                tuple(columns["transform"][i].tolist()),
                tuple(columns["class_share"][i].tolist()),
                float(columns["cloud_fraction"][i]),
                float(columns["nodata_fraction"][i]),
                str(columns["origin"][i]),
                str(columns["group"][i]),
            )
    return found
