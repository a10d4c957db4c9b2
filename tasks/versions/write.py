"""Writing a version: arrays filled block by block in one Icechunk session, then one commit and one tag.

Nothing is visible before the commit, and a killed writer leaves the last version as it was. The tag
follows the commit; should the process die between the two, the next build sets it (:func:`heal_tags`).
"""

import hashlib
import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec

from tasks.errors import StoreError
from tasks.geo.georeference import Georeference, lonlat_of
from tasks.geo.tiles import Tile
from tasks.state.ledger import Sample
from tasks.versions.read import (
    BRANCH,
    SCHEMA_VERSION,
    VersionInfo,
    list_versions,
    local_path,
    open_repository,
    storage_of,
    store_errors,
)
from tasks.versions.splits import SPLITS, TRAIN, hash_order

# Chosen by benchmarks/reader.py; docs/architecture.md says why, benchmarks/README.md has the figures.
SAMPLES_PER_CHUNK = 16
CHUNK_BYTES = 16 << 20  # of images; large samples get fewer of them in a chunk
IMAGE_CODEC = BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle", typesize=1)
MASK_CODEC = ZstdCodec(level=1)
WRITE_ALL: Any = {"write_empty_chunks": True}  # zarr's search for empty chunks takes longer than the rest of a write
BLOCK_SAMPLES = 512  # samples of a write task
HELD_CHUNKS = 4  # of these, how many chunks a write task holds in memory at once, if they are small
HELD_BYTES = 32 << 20  # of images; one chunk at least
NOT_KNOWN = np.iinfo(np.int64).min  # of a time; xarray shows it as NaT


class Pixels(NamedTuple):
    """What a version stores of one sample."""

    image: NDArray[Any]  # (band, y, x)
    mask: NDArray[np.uint8]  # (y, x)
    unusable: NDArray[np.bool_] | None = None  # (y, x)


ReadSample = Callable[[Sample], Pixels]


@dataclass(frozen=True)
class Layout:
    """What all samples of a version have in common, and what is known of each but its pixels."""

    bands: tuple[str, ...]
    dtype: np.dtype[Any]  # of the images
    height: int  # pixels
    width: int
    classes: tuple[str, ...]  # names, in the order of Sample.shares
    georeference: Callable[[str], Georeference | None]  # of a sample's pixels, by its name
    unit: Callable[[str], str]  # what a split keeps together with it
    tiles: bool = False  # whether samples are tiles of the slippy map
    unusable: bool = False  # whether there is a mask of unusable pixels
    building: bool = True  # whether there is a class for buildings

    @property
    def chunk_bytes(self) -> int:
        """Of the images in a chunk."""
        return self.samples_per_chunk * self._image_bytes

    @property
    def _image_bytes(self) -> int:
        return len(self.bands) * self.height * self.width * self.dtype.itemsize

    @property
    def samples_per_chunk(self) -> int:
        """A power of two, so that blocks are whole chunks."""
        size = self._image_bytes
        chunk = SAMPLES_PER_CHUNK
        while chunk > 1 and chunk * size > CHUNK_BYTES:
            chunk //= 2
        return chunk


@dataclass(frozen=True)
class Block:
    """A run of samples of one split, aligned to chunks: what one write task does."""

    split: str
    start: int
    samples: tuple[Sample, ...]


class _Moments:
    """Sums over images, kept apart by where they stand: so the statistics do not depend on the order of writing."""

    def __init__(self, bands: int) -> None:
        self._bands = bands
        self._parts: dict[int, tuple[int, list[Any], list[Any]]] = {}

    def add(self, start: int, images: NDArray[Any]) -> None:
        """Sums over images (n, band, y, x) from sample ``start`` on: exact for integers."""
        exact = images.dtype.kind in "ui"
        total: list[Any] = [0] * self._bands
        squares: list[Any] = [0] * self._bands
        for image in images:  # one after the other, so that what is widened stays in the processor's cache
            if image.dtype == np.uint8:
                values = image.reshape(self._bands, -1).astype(np.uint16)  # which holds the square of a byte
            else:
                values = image.reshape(self._bands, -1).astype(np.int64 if exact else np.float64)
            kind = np.int64 if exact else np.float64
            sums, squared = values.sum(axis=1, dtype=kind), (values * values).sum(axis=1, dtype=kind)
            total = [a + b for a, b in zip(total, sums.tolist(), strict=True)]
            squares = [a + b for a, b in zip(squares, squared.tolist(), strict=True)]
        self._parts[start] = (images.shape[0] * images.shape[2] * images.shape[3], total, squares)

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Of every band."""
        parts = [self._parts[start] for start in sorted(self._parts)]
        pixels = sum(part[0] for part in parts)
        if pixels == 0:
            return [0.0] * self._bands, [1.0] * self._bands
        mean = [sum(part[1][band] for part in parts) / pixels for band in range(self._bands)]
        square = [sum(part[2][band] for part in parts) / pixels for band in range(self._bands)]
        return mean, [math.sqrt(max(s - m * m, 0.0)) for s, m in zip(square, mean, strict=True)]


def open_or_create(uri: str) -> icechunk.Repository:
    """The repository at ``uri``, made when there is none."""
    path = local_path(uri)
    if path is None:
        with store_errors(uri):
            return icechunk.Repository.open_or_create(storage_of(uri))
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        # Made beside its place and moved there, so that a process that dies meanwhile leaves no half of a store.
        making = path.with_name(f".{path.name}.new")
        with store_errors(uri):
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            icechunk.Repository.create(storage_of(str(making)))
            making.replace(path)
    return open_repository(uri)  # refuses a folder that holds something else


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
        for sample in sorted(samples[split], key=lambda one: one.name):
            digest.update(f"{split} {sample.name} {sample.sha256} {sample.mask_sha256}\n".encode())
    return digest.hexdigest()


def shuffled(samples: Sequence[Sample], previous: Sequence[str], seed: int) -> list[Sample]:
    """Samples in their stored order: those of the previous version as they were, newcomers by hash."""
    by_name = {sample.name: sample for sample in samples}
    stayed = [name for name in previous if name in by_name]
    newcomers = hash_order(by_name.keys() - set(stayed), seed)
    return [by_name[name] for name in (*stayed, *newcomers)]


class VersionWriter:
    """One version in the making. ``write`` may be called from several threads, for different blocks."""

    def __init__(
        self, uri: str, repository: icechunk.Repository, samples: Mapping[str, Sequence[Sample]], layout: Layout
    ) -> None:
        """Start a version with these samples by split, all of one layout."""
        self.uri, self._repository = uri, repository
        self._layout = layout
        self._moments = _Moments(len(layout.bands))
        self._moments_lock = threading.Lock()
        with store_errors(uri):
            self._session = repository.writable_session(BRANCH)
            self._root = zarr.create_group(self._session.store, overwrite=True)
            self._arrays = {split: _create_split(self._root, split, samples[split], layout) for split in SPLITS}
        self.blocks = [
            Block(split, start, tuple(samples[split][start : start + BLOCK_SAMPLES]))
            for split in SPLITS
            for start in range(0, len(samples[split]), BLOCK_SAMPLES)
        ]

    def write(self, block: Block, read: ReadSample) -> None:
        """Write a block's images and masks, as ``read`` gives them."""
        layout = self._layout
        held = layout.samples_per_chunk * max(1, min(HELD_CHUNKS, HELD_BYTES // layout.chunk_bytes))
        for first in range(0, len(block.samples), held):
            self._write_samples(block.split, block.start + first, block.samples[first : first + held], read)

    def _write_samples(self, split: str, start: int, samples: Sequence[Sample], read: ReadSample) -> None:
        layout, n = self._layout, len(samples)
        images = np.empty((n, len(layout.bands), layout.height, layout.width), dtype=layout.dtype)
        masks = np.empty((n, layout.height, layout.width), dtype=np.uint8)
        unusable = np.zeros(masks.shape if layout.unusable else (0,), dtype=np.uint8)
        for i, sample in enumerate(samples):
            pixels = read(sample)
            images[i], masks[i] = pixels.image, pixels.mask
            if layout.unusable and pixels.unusable is not None:
                unusable[i] = pixels.unusable
        arrays = self._arrays[split]
        end = start + n
        with store_errors(self.uri):
            arrays["image"][start:end] = images
            arrays["mask"][start:end] = masks
            if layout.unusable:
                arrays["unusable"][start:end] = unusable
        if split == TRAIN:
            with self._moments_lock:
                self._moments.add(start, images)

    def commit(self, attributes: Mapping[str, Any]) -> VersionInfo:
        """Commit and tag the version. ``attributes`` become root attributes, with what only the writer knows."""
        mean, std = self._moments.mean_std()
        counts = {split: int(arrays["image"].shape[0]) for split, arrays in self._arrays.items()}
        with store_errors(self.uri):
            number = max((int(info.version[1:]) for info in list_versions(self._repository)), default=0) + 1
            version = f"v{number}"
            self._root.update_attributes(
                {
                    **attributes,
                    "version": version,
                    "schema_version": SCHEMA_VERSION,
                    "bands": list(self._layout.bands),
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
    root: zarr.Group, split: str, samples: Sequence[Sample], layout: Layout
) -> dict[str, zarr.Array[Any]]:
    """Make the group of a split with all its arrays; those that are still to be filled come back by name.

    As they were made: an array that is opened again has lost WRITE_ALL.
    """
    group = root.create_group(split)
    n, bands, side = len(samples), len(layout.bands), (layout.height, layout.width)
    chunk = min(layout.samples_per_chunk, max(n, 1))
    wide = layout.dtype.itemsize
    image = group.create_array(
        "image",
        shape=(n, bands, *side),
        chunks=(chunk, bands, *side),
        dtype=layout.dtype,
        compressors=[IMAGE_CODEC if wide == 1 else BloscCodec(cname="lz4", clevel=1, shuffle="shuffle", typesize=wide)],
        config=WRITE_ALL,
        dimension_names=["sample", "band", "y", "x"],
        attributes={"long_name": "image", "bands": list(layout.bands), "coordinates": "sample_id"},
    )
    filled = {"image": image}
    masks = {"mask": "class mask"} | ({"unusable": "1 where clouds hide the ground"} if layout.unusable else {})
    for name, meaning in masks.items():
        filled[name] = group.create_array(
            name,
            shape=(n, *side),
            chunks=(chunk, *side),
            dtype="uint8",
            compressors=[MASK_CODEC],
            config=WRITE_ALL,
            dimension_names=["sample", "y", "x"],
            attributes={"long_name": meaning, "coordinates": "sample_id"},
        )
    for name, column in _columns(samples, layout).items():
        array = group.create_array(
            name,
            shape=column.values.shape,
            chunks=(max(n, 1), *column.values.shape[1:]),
            dtype="string" if column.values.dtype == object else column.values.dtype,
            dimension_names=column.dimensions,
            attributes=column.attributes,
        )
        if n:
            array[...] = column.values
    return filled


class _Column(NamedTuple):
    values: NDArray[Any]
    dimensions: list[str]
    attributes: dict[str, Any]


def _columns(samples: Sequence[Sample], layout: Layout) -> dict[str, _Column]:
    """The small arrays: what is known of every sample."""
    n = len(samples)
    lies = [layout.georeference(sample.name) for sample in samples]
    columns = {
        "sample_id": _texts([sample.name for sample in samples]),
        "group": _texts([layout.unit(sample.name) for sample in samples]),
        "crs": _texts([one.crs if one else "" for one in lies]),
        "transform": _Column(
            np.array([one.transform if one else [np.nan] * 6 for one in lies], dtype=np.float64).reshape(n, 6),
            ["sample", "coefficient"],
            {
                "coefficient": list("abcdef"),
                "convention": "rasterio.Affine: x = a column + b row + c, y = d column + ...",
            },
        ),
        "bounds": _Column(
            np.array(
                [lonlat_of(one, layout.width, layout.height) if one else [np.nan] * 4 for one in lies], dtype=np.float64
            ).reshape(n, 4),
            ["sample", "edge"],
            {"edge": ["west", "south", "east", "north"], "units": "degrees", "crs": "EPSG:4326"},
        ),
        "class_share": _Column(
            np.array([sample.shares or [np.nan] * len(layout.classes) for sample in samples], dtype=np.float32).reshape(
                n, len(layout.classes)
            ),
            ["sample", "class"],
            {"class": list(layout.classes)},
        ),
        "nodata_fraction": _numbers([sample.nodata_fraction for sample in samples]),
        "fetched_at": _times([sample.fetched_at for sample in samples]),
    }
    if layout.building:
        columns["building_fraction"] = _numbers([sample.building_fraction for sample in samples])
    if layout.tiles:
        columns["tile"] = _Column(
            np.array([Tile.parse(sample.name) for sample in samples], dtype=np.int32).reshape(n, 3),
            ["sample", "index"],
            {"index": ["z", "x", "y"]},
        )
    else:
        columns["origin"] = _texts([sample.origin for sample in samples])
        columns["acquired_at"] = _times([sample.acquired_at for sample in samples])
        columns["cloud_fraction"] = _numbers([sample.cloud_fraction for sample in samples])
    return columns


def _texts(values: Sequence[str]) -> _Column:
    return _Column(np.array(values, dtype=object), ["sample"], {})


def _numbers(values: Sequence[float | None]) -> _Column:
    known = [np.nan if value is None else value for value in values]
    return _Column(np.array(known, dtype=np.float32), ["sample"], {})


def _times(values: Sequence[int | None]) -> _Column:
    known = [NOT_KNOWN if value is None else value for value in values]
    attributes = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian", "_FillValue": int(NOT_KNOWN)}
    if NOT_KNOWN not in known:
        del attributes["_FillValue"]
    return _Column(np.array(known, dtype=np.int64), ["sample"], attributes)
