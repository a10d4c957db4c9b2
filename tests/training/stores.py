"""Stores of any bands and dtype, with clouds and ignored labels, written without the pipeline's own writer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray

from tasks.versions.read import DatasetVersion, open_version, storage_of
from tasks.versions.schema import SCHEMA_VERSION, SPLITS, TRAIN
from tests.training.samples import BUILDING, CLASSES

IGNORE = 255
SCALES = {"uint8": (20, 200), "uint16": (3000, 60000), "int16": (-9000, 9000), "float32": (-0.02, 0.6)}  # ground, house


class Samples(NamedTuple):
    """What a split holds."""

    image: NDArray[Any]  # (n, band, y, x)
    mask: NDArray[np.uint8]  # (n, y, x)
    cloud_mask: NDArray[np.uint8] | None = None  # (n, y, x)


def draw(n: int, bands: int, dtype: str, shape: tuple[int, int] = (16, 16), seed: int = 0) -> Samples:
    """Bright houses on dark, noisy ground; no label on the left edge, and clouds over every other sample."""
    rng = np.random.default_rng(seed)
    ground, house = SCALES[dtype]
    masks = np.where(rng.random((n, shape[0] // 4, shape[1] // 4)) < 0.3, np.uint8(BUILDING), np.uint8(0))
    masks = masks.repeat(4, 1).repeat(4, 2)
    share = (masks == BUILDING)[:, None] * 0.8 + rng.random((n, bands, *shape)) * 0.2
    masks[:, :, 0] = IGNORE
    cloud_mask = np.zeros_like(masks)
    cloud_mask[::2, 5:11, 4:] = 1
    return Samples((ground + (house - ground) * share).astype(dtype), masks, cloud_mask)


def write_store(
    path: Path, splits: Mapping[str, Samples], *, ignore_index: int | None = IGNORE, chunk: int = 4, **attributes: Any
) -> DatasetVersion:
    """Write version v1 of a new store at ``path``; a split without ``cloud_mask`` gets no such array."""
    repository = icechunk.Repository.create(storage_of(str(path)))
    session = repository.writable_session("main")
    root = zarr.create_group(session.store)
    for name in SPLITS:
        group, samples = root.create_group(name), splits[name]
        for array, values in samples._asdict().items():
            if values is not None:
                chunks = (chunk, *values.shape[1:])
                group.create_array(array, shape=values.shape, dtype=values.dtype, chunks=chunks)[...] = values
        ids = group.create_array("sample_id", shape=(len(samples.image),), dtype="string")
        ids[...] = np.array([f"{name}/{i}" for i in range(len(samples.image))], dtype=object)
    train = splits[TRAIN].image.astype(np.float64)
    root.update_attributes(
        {
            "dataset": "land",
            "recipe_hash": "abc",
            "schema_version": SCHEMA_VERSION,
            "classes": CLASSES,
            "bands": [f"B{i + 1:02}" for i in range(train.shape[1])],
            "mean": train.mean((0, 2, 3)).tolist(),
            "std": train.std((0, 2, 3)).tolist(),
            **({} if ignore_index is None else {"ignore_index": ignore_index}),
            **attributes,
        }
    )
    repository.create_tag("v1", session.commit("v1"))
    return open_version(str(path))
