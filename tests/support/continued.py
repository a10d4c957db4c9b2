"""Small datasets that the program before its rebuild made, with their work directories, to be read and continued.

Beside the archive of each, in ``tests/data/continued``, a JSON file tells what that program read in it, what its ledger
held, and what it made of it when it went on. tests/data/README.md says how they were made.
"""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.versions.read import open_version
from tests.support.digests import SPLITS

FOLDER = Path(__file__).parents[1] / "data" / "continued"
NAMES = ("schema-1", "schema-2-tiles", "schema-2-windows")
DESCRIBED = ("bands", "classes", "identity", "mean", "std")  # root attributes


@dataclass(frozen=True)
class Site:
    """A dataset as it was left: its recipe and inputs, its store and work directory, and what was known of it."""

    name: str
    folder: Path
    known: dict[str, Any]

    @property
    def recipe(self) -> Path:
        """The recipe, its labels and, where it has them, its scenes beside it."""
        return self.folder / "recipe.yaml"

    @property
    def store(self) -> Path:
        """The store; its work directory is beside it."""
        return self.folder / "store"

    def come_later(self) -> None:
        """Put the inputs in place that came after the last version: labels as they had been, files that were mended."""
        shutil.copytree(self.folder / "later", self.folder, dirs_exist_ok=True)

    def names(self, *states: str) -> set[str]:
        """Of every sample that the ledger held in one of these states, candidate or not; ``state:reason`` narrows."""
        rows = self.known["ledger"].items()
        return {name for name, row in rows if row["state"] in states or f"{row['state']}:{row['reason']}" in states}


def unpack(name: str, folder: Path) -> Site:
    """The dataset of that name in ``folder``; times of files are as they were."""
    with tarfile.open(FOLDER / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return Site(name, folder, json.loads((FOLDER / f"{name}.json").read_text()))


def held(store: Path | str, version: str) -> dict[str, Any]:
    """All that a version holds, as JSON has it: root attributes, and SHA-256 of images, masks and other arrays."""
    opened = open_version(str(store), version)
    splits: dict[str, Any] = {}
    for split in SPLITS:
        arrays = opened.split(split)
        others = sorted(set(arrays.group.array_keys()) - {"image", "mask", "sample_id"})
        splits[split] = {
            "sample_id": arrays.sample_id,
            "image": [_sha256(image) for image in np.asarray(arrays.image[:])],
            "mask": [_sha256(mask) for mask in np.asarray(arrays.mask[:])],
            "others": {name: _sha256(np.asarray(arrays.array(name))) for name in others},
        }
    return {key: opened.attributes[key] for key in DESCRIBED} | {"splits": splits}


def by_sample(version: dict[str, Any]) -> dict[str, list[str]]:
    """Of what :func:`held` says: split, image and mask of every sample."""
    found = {}
    for split, arrays in version["splits"].items():
        rows: Iterable[Any] = zip(arrays["sample_id"], arrays["image"], arrays["mask"], strict=True)
        found.update({name: [split, image, mask] for name, image, mask in rows})
    return found


def _sha256(values: NDArray[Any]) -> str:
    texts = values.dtype.kind not in "biuf"
    data = "\n".join(str(value) for value in values).encode() if texts else np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(data).hexdigest()
