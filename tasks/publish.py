"""Writing a version: arrays filled block by block in one Icechunk session, then one commit and one tag.

Nothing is visible before the commit, and a killed writer leaves the last version as it was. The tag
follows the commit; should the process die between the two, the next build sets it (:func:`heal_tags`).
"""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

from tasks.errors import StoreError
from tasks.grid import Tile, lonlat_bounds
from tasks.ledger import Sample
from tasks.splits import SPLITS, TRAIN, hash_order
from tasks.store import (
    BRANCH,
    SCHEMA_VERSION,
    VersionInfo,
    list_versions,
    local_path,
    open_repository,
    storage_of,
    store_errors,
)

# Chosen by benchmarks/reader.py; docs/architecture.md says why, benchmarks/README.md has the figures.
SAMPLES_PER_CHUNK = 16
IMAGE_CODEC = BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle", typesize=1)
MASK_CODEC = ZstdCodec(level=1)
WRITE_ALL: Any = {"write_empty_chunks": True}  # zarr's search for empty chunks takes longer than the rest of a write
BLOCK_SAMPLES = 512  # samples of a write task
HELD_SAMPLES = 64  # of these, how many a write task holds in memory at once; whole chunks
BANDS = ("red", "green", "blue")

ReadSample = Callable[[Tile], tuple[NDArray[np.uint8], NDArray[np.uint8]]]


@dataclass(frozen=True)
class Block:
    """A run of samples of one split, aligned to chunks: what one write task does."""

    split: str
    start: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class _Moments:
    """Exact sums over images, so the statistics do not depend on the order of writing."""

    pixels: int
    total: NDArray[np.int64]
    squares: NDArray[np.int64]

    @classmethod
    def of(cls, images: NDArray[np.uint8]) -> Self:
        """Sums over images (n, band, y, x)."""
        total, squares = np.zeros(len(BANDS), dtype=np.int64), np.zeros(len(BANDS), dtype=np.int64)
        for image in images:  # one after the other, so that what is widened stays in the processor's cache
            values = image.reshape(len(BANDS), -1).astype(np.uint16)  # which holds the square of a byte
            total += values.sum(axis=1, dtype=np.int64)
            squares += (values * values).sum(axis=1, dtype=np.int64)
        return cls(images.shape[0] * images.shape[2] * images.shape[3], total, squares)

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(self.pixels + other.pixels, self.total + other.total, self.squares + other.squares)

    def mean_std(self) -> tuple[list[float], list[float]]:
        if self.pixels == 0:
            return [0.0] * len(BANDS), [1.0] * len(BANDS)
        mean = self.total / self.pixels
        variance = np.maximum(self.squares / self.pixels - mean * mean, 0.0)
        return [float(value) for value in mean], [float(value) for value in np.sqrt(variance)]


def open_or_create(uri: str) -> icechunk.Repository:
    """The repository at ``uri``, made when there is none."""
    path = local_path(uri)
    if path is not None and path.exists() and (not path.is_dir() or any(path.iterdir())):
        return open_repository(uri)  # refuses a folder that holds something else
    with store_errors(uri):
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)
        return icechunk.Repository.open_or_create(storage_of(uri))


def heal_tags(repository: icechunk.Repository) -> None:
    """Set the tag of a committed version whose process died before it could."""
    head = next(iter(repository.ancestry(branch=BRANCH)))
    version = (head.metadata or {}).get("version")
    if version and version not in repository.list_tags():
        repository.create_tag(str(version), head.id)


def content_hash(samples: Mapping[str, Sequence[Sample]], recipe_hash: str) -> str:
    """SHA-256 of what a version holds: recipe, samples, splits, image and mask contents."""
    digest = hashlib.sha256(f"{SCHEMA_VERSION} {recipe_hash}\n".encode())
    for split in SPLITS:
        for sample in sorted(samples[split], key=lambda one: one.tile):
            digest.update(f"{split} {sample.tile.name} {sample.sha256} {sample.mask_sha256}\n".encode())
    return digest.hexdigest()


def shuffled(samples: Sequence[Sample], previous: Sequence[str], seed: int) -> list[Sample]:
    """Samples in their stored order: those of the previous version as they were, newcomers by hash."""
    by_name = {sample.tile.name: sample for sample in samples}
    stayed = [name for name in previous if name in by_name]
    newcomers = hash_order(by_name.keys() - set(stayed), seed)
    return [by_name[name] for name in (*stayed, *newcomers)]


class VersionWriter:
    """One version in the making. ``write`` may be called from several threads, for different blocks."""

    def __init__(
        self, uri: str, repository: icechunk.Repository, samples: Mapping[str, Sequence[Sample]], side: int
    ) -> None:
        """Start a version with these samples by split, images of ``side`` x ``side`` pixels."""
        self.uri, self._repository = uri, repository
        self._side = side
        self._moments = _Moments.of(np.empty((0, len(BANDS), side, side), dtype=np.uint8))
        self._moments_lock = threading.Lock()
        with store_errors(uri):
            self._session = repository.writable_session(BRANCH)
            self._root = zarr.create_group(self._session.store, overwrite=True)
            self._arrays = {split: _create_split(self._root, split, samples[split], side) for split in SPLITS}
        self.blocks = [
            Block(split, start, tuple(samples[split][start : start + BLOCK_SAMPLES]))
            for split in SPLITS
            for start in range(0, len(samples[split]), BLOCK_SAMPLES)
        ]

    def write(self, block: Block, read: ReadSample) -> None:
        """Write a block's images (uint8 band, y, x) and masks (uint8 y, x), as ``read`` gives them."""
        for first in range(0, len(block.samples), HELD_SAMPLES):
            samples = block.samples[first : first + HELD_SAMPLES]
            self._write_samples(block.split, block.start + first, samples, read)

    def _write_samples(self, split: str, start: int, samples: Sequence[Sample], read: ReadSample) -> None:
        images = np.empty((len(samples), len(BANDS), self._side, self._side), dtype=np.uint8)
        masks = np.empty((len(samples), self._side, self._side), dtype=np.uint8)
        for i, sample in enumerate(samples):
            images[i], masks[i] = read(sample.tile)
        image_array, mask_array = self._arrays[split]
        end = start + len(samples)
        with store_errors(self.uri):
            image_array[start:end] = images
            mask_array[start:end] = masks
        if split == TRAIN:
            moments = _Moments.of(images)
            with self._moments_lock:
                self._moments += moments

    def commit(self, attributes: Mapping[str, Any]) -> VersionInfo:
        """Commit and tag the version. ``attributes`` become root attributes, with what only the writer knows."""
        mean, std = self._moments.mean_std()
        counts = {split: int(arrays[0].shape[0]) for split, arrays in self._arrays.items()}
        with store_errors(self.uri):
            number = max((int(info.version[1:]) for info in list_versions(self._repository)), default=0) + 1
            version = f"v{number}"
            self._root.update_attributes(
                {
                    **attributes,
                    "version": version,
                    "schema_version": SCHEMA_VERSION,
                    "bands": list(BANDS),
                    "mean": mean,
                    "std": std,
                    "splits": counts,
                }
            )
            metadata = {key: attributes[key] for key in ("content_hash", "recipe_hash", "software_version")}
            try:
                snapshot = self._session.commit(
                    f"{version}: {sum(counts.values())} samples", metadata={"version": version, **metadata, **counts}
                )
            except icechunk.ConflictError:
                raise StoreError(
                    f"{self.uri}: another build committed to this store meanwhile; run the same command again"
                ) from None
            self._repository.create_tag(version, snapshot)
            return next(info for info in list_versions(self._repository) if info.version == version)


def _create_split(
    root: zarr.Group, split: str, samples: Sequence[Sample], side: int
) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
    group = root.create_group(split)
    n, bands = len(samples), len(BANDS)
    chunk = min(SAMPLES_PER_CHUNK, max(n, 1))
    image = group.create_array(
        "image",
        shape=(n, bands, side, side),
        chunks=(chunk, bands, side, side),
        dtype="uint8",
        compressors=[IMAGE_CODEC],
        config=WRITE_ALL,
        dimension_names=["sample", "band", "y", "x"],
        attributes={"long_name": "image", "bands": list(BANDS), "coordinates": "sample_id"},
    )
    mask = group.create_array(
        "mask",
        shape=(n, side, side),
        chunks=(chunk, side, side),
        dtype="uint8",
        compressors=[MASK_CODEC],
        config=WRITE_ALL,
        dimension_names=["sample", "y", "x"],
        attributes={"long_name": "class mask", "coordinates": "sample_id"},
    )
    columns: dict[str, tuple[Any, list[str], dict[str, Any]]] = {
        "tile": (
            np.array([s.tile for s in samples], dtype=np.int32).reshape(n, 3),
            ["sample", "index"],
            {"index": ["z", "x", "y"]},
        ),
        "bounds": (
            np.array([lonlat_bounds(s.tile) for s in samples], dtype=np.float64).reshape(n, 4),
            ["sample", "edge"],
            {"edge": ["west", "south", "east", "north"], "units": "degrees", "crs": "EPSG:4326"},
        ),
        "building_fraction": (np.array([s.building_fraction for s in samples], dtype=np.float32), ["sample"], {}),
        "nodata_fraction": (np.array([s.nodata_fraction for s in samples], dtype=np.float32), ["sample"], {}),
        "fetched_at": (
            np.array([s.fetched_at for s in samples], dtype=np.int64),
            ["sample"],
            {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"},
        ),
    }
    for name, (values, dimensions, attributes) in columns.items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=(max(n, 1), *values.shape[1:]),
            dtype=values.dtype,
            dimension_names=dimensions,
            attributes=attributes,
        )
        array[...] = values
    names = group.create_array("sample_id", shape=(n,), chunks=(max(n, 1),), dtype="string", dimension_names=["sample"])
    if n:
        names[...] = np.array([s.tile.name for s in samples], dtype=object)
    return image, mask
