"""Small stores of any bands, type and georeference, written without the pipeline's writer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray

from tasks.versions.read import DatasetVersion, open_version, storage_of
from tasks.versions.schema import SCHEMA_VERSION, SPLITS

CLASSES = [
    {"name": "background", "value": 0, "color": "#000000"},
    {"name": "building", "value": 3, "color": "#ffaa00"},
    {"name": "water", "value": 7, "color": "#0000fe"},
]
IGNORE = 255


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of a split."""

    ids: Sequence[str]
    image: NDArray[Any]  # (n, band, y, x)
    mask: NDArray[np.uint8]  # (n, y, x)
    more: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # further arrays


def draw(
    ids: Sequence[str],
    bands: int = 3,
    dtype: str = "uint8",
    shape: tuple[int, int] = (8, 12),
    seed: int = 0,
    **more: Any,
) -> Split:
    """Noise with masks of every class and ignored pixels; ``more`` as arrays."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0.2, 0.1, (len(ids), bands, *shape)).astype("float32")
    if dtype != "float32":
        limits = np.iinfo(dtype)
        image = rng.integers(limits.min, limits.max, image.shape, endpoint=True).astype(dtype)
    mask = rng.choice(np.array([0, 3, 7, IGNORE], dtype=np.uint8), (len(ids), *shape))
    return Split(ids, image, mask, {name: np.asarray(values) for name, values in more.items()})


def utm(n: int, epsg: int = 32633) -> dict[str, Any]:
    """Georeferences of ``n`` samples of 10 m, as further arrays."""
    return {
        "crs": np.array([f"EPSG:{epsg}"] * n, dtype=object),
        "transform": np.array([[10.0, 0.0, 500_000.0 + 1000 * i, 0.0, -10.0, 5_000_000.0] for i in range(n)]),
    }


def nowhere(n: int) -> dict[str, Any]:
    """What stores hold of ``n`` samples without a georeference."""
    return {"crs": np.array([""] * n, dtype=object), "transform": np.full((n, 6), np.nan)}


def write_store(
    path: Path,
    splits: Mapping[str, Split],
    *,
    chunk: int = 2,
    schema: int = SCHEMA_VERSION,
    ignore_index: int | None = IGNORE,
    **more: Any,
) -> DatasetVersion:
    """Write the next version of the store at ``path``; splits not given are empty. ``more`` are root attributes.

    Except in schema 1, samples without ``crs`` get no georeference.
    """
    repository = icechunk.Repository.open_or_create(storage_of(str(path)))
    session = repository.writable_session("main")
    root = zarr.create_group(session.store, overwrite=True)
    some = next(iter(splits.values()))
    for name in SPLITS:
        split = splits.get(name) or Split(
            [], some.image[:0], some.mask[:0], {array: values[:0] for array, values in some.more.items()}
        )
        group = root.create_group(name)
        ids = np.array(list(split.ids), dtype=object)
        arrays = {"image": split.image, "mask": split.mask, "sample_id": ids}
        if schema > 1:
            arrays |= nowhere(len(ids))
        for array, values in (arrays | dict(split.more)).items():
            made = group.create_array(
                array,
                shape=values.shape,
                chunks=(chunk, *values.shape[1:]),
                dtype="string" if values.dtype == object else values.dtype,
            )
            if len(values):
                made[...] = values
    root.update_attributes(
        {
            "dataset": "land",
            "schema_version": schema,
            "classes": CLASSES,
            "bands": [f"B{band + 1:02}" for band in range(some.image.shape[1])],
            **({} if ignore_index is None else {"ignore_index" if schema > 2 else "ignore": ignore_index}),
            "attributions": {"imagery": "made up", "labels": "© nobody"},
            "licences": {"imagery": "CC0-1.0", "labels": "CC0-1.0"},
            **more,
        }
    )
    version = f"v{len(list(repository.list_tags())) + 1}"
    repository.create_tag(version, session.commit(version))
    return open_version(str(path), version)
