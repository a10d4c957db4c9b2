"""Writing a version: arrays filled block by block in one Icechunk session, then one commit and one tag.

Nothing is visible before the commit, and a killed writer leaves the last version as it was. The tag
follows the commit; should the process die between the two, the next build sets it (:func:`heal_tags`).
"""

import asyncio
import hashlib
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, Self

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.core.sync import sync

from tasks.errors import StoreError
from tasks.geo.georeference import lonlat_of, tile_at
from tasks.state.ledger import Sample
from tasks.state.workdir import local_path
from tasks.versions.plan import Block, Row, VersionPlan
from tasks.versions.read import (
    BRANCH,
    VersionInfo,
    find_repository,
    list_versions,
    next_number,
    open_repository,
    storage_of,
    store_errors,
)
from tasks.versions.schema import ARRAYS, NOT_KNOWN, SCHEMA_VERSION, SPLITS, TRAIN, ArraySpec, Layout

# Chosen by benchmarks/reader.py; docs/architecture.md says why, benchmarks/README.md has the figures.
IMAGE_CODEC = BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle", typesize=1)
MASK_CODEC = ZstdCodec(level=1)
WRITE_ALL: Any = {"write_empty_chunks": True}  # zarr's search for empty chunks takes longer than the rest of a write
HELD_CHUNKS = 4  # chunks that a write task holds in memory, and stores, at once, if they are small
HELD_BYTES = 32 << 20  # of images; one chunk at least
# Icechunk 2 makes stores in a format of its own unless told otherwise, and 1, the newest for Python 3.11, cannot read
# that. Format 1 both read and go on with, as it is. 1 knows no other and takes no such argument.
FORMAT: Any = {"spec_version": 1} if hasattr(icechunk, "SpecVersion") else {}


class Pixels(NamedTuple):
    """What a version stores of one sample."""

    image: NDArray[Any]  # (band, y, x)
    mask: NDArray[np.uint8]  # (y, x)
    cloud_mask: NDArray[np.bool_] | None = None  # (y, x)


ReadSample = Callable[[Sample], Pixels]


class Moments(NamedTuple):
    """Sums over the images of one chunk, by band: exact for integers."""

    start: int  # the chunk's first sample
    pixels: int
    total: tuple[int | float, ...]
    squares: tuple[int | float, ...]

    @classmethod
    def of(cls, start: int, sums: Sequence[tuple[Sequence[Any], Sequence[Any]]], pixels: int) -> Self:
        """From the sums and sums of squares of the chunk's images, of so many pixels each."""
        totals, squares = (tuple(map(sum, zip(*part, strict=True))) for part in zip(*sums, strict=True))
        return cls(start, pixels * len(sums), totals, squares)


@dataclass(frozen=True)
class Written:
    """What writing a block came to; the commit needs that of all blocks."""

    split: str
    start: int
    image_sha256: bytes  # 32 of each sample, one after the other
    mask_sha256: bytes
    moments: tuple[Moments, ...]  # of the chunks of the train split; none of others

    def __len__(self) -> int:
        return len(self.image_sha256) // 32


def open_or_create(uri: str) -> icechunk.Repository:
    """The repository at ``uri``, made when there is none."""
    path = local_path(uri)
    if path is None:
        if find_repository(uri) is None:
            with store_errors(uri):
                icechunk.Repository.create(storage_of(uri), **FORMAT)
    elif not path.exists() or (path.is_dir() and not any(path.iterdir())):
        path = path.resolve()  # a link stays one, and what it leads to becomes the store
        # Made beside its place and moved there, so that a process that dies meanwhile leaves no half of a store.
        # Nothing can be moved to where a disk is mounted.
        making = path if path.is_mount() else path.with_name(f".{path.name}.new")
        with store_errors(uri):
            if making is path:
                icechunk.Repository.create(storage_of(str(path)), **FORMAT)
                return open_repository(uri)
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            icechunk.Repository.create(storage_of(str(making)), **FORMAT)
            making.replace(path)
    return open_repository(uri)  # refuses a folder that holds something else


def heal_tags(repository: icechunk.Repository) -> None:
    """Set the tag of a committed version whose process died before it could."""
    head = next(iter(repository.ancestry(branch=BRANCH)))
    version = (head.metadata or {}).get("version")
    if version and version not in repository.list_tags():
        try:
            repository.create_tag(str(version), head.id)
        except icechunk.IcechunkError as error:
            if not any(told in str(error) for told in ("tag already exists", "tag was already deleted")):
                raise
            # Somebody deleted it. Icechunk never makes such a tag again, and the next version gets a higher number.


@dataclass(frozen=True, eq=False)
class Draft:
    """One version in the making. ``write`` may be called from several threads, for different blocks."""

    uri: str
    plan: VersionPlan
    repository: icechunk.Repository
    session: icechunk.Session
    groups: Mapping[str, zarr.Group]  # by split, and "" for the root
    arrays: Mapping[str, Mapping[str, zarr.Array[Any]]]  # by split and name, those that are still to be filled

    @classmethod
    def begin(cls, uri: str, plan: VersionPlan) -> Self:
        """Start the planned version in the store at ``uri``: all arrays, with what is known of the samples so far.

        Raises StoreError, also when a version was made since it was planned; DiskError.
        """
        repository = open_or_create(uri)
        with store_errors(uri):
            session = repository.writable_session(BRANCH)
            if next_number(repository) != plan.number:
                raise StoreError(_OVERTAKEN.format(uri=uri))
            root = zarr.create_group(session.store, overwrite=True)
            groups = {split: root.create_group(split) for split in SPLITS}
            side = plan.layout.width, plan.layout.height
            places = [row.georeference for rows in plan.rows.values() for row in rows]
            tiles = bool(places) and all(lies is not None and tile_at(lies, *side) is not None for lies in places)
            arrays = {
                split: _create_arrays(group, plan.rows[split], plan.layout, tiles) for split, group in groups.items()
            }
        return cls(uri, plan, repository, session, {"": root, **groups}, arrays)

    def write(self, block: Block, read: ReadSample) -> Written:
        """Write a block's images and masks, as ``read`` gives them. Raises StoreError, DiskError, and as ``read``."""
        layout, chunk = self.plan.layout, self.plan.layout.samples_per_chunk
        held = min(chunk * max(1, min(HELD_CHUNKS, HELD_BYTES // layout.chunk_bytes)), len(block.samples))
        # Held for the whole block, for new memory costs the system time.
        images = np.empty((held, len(layout.bands), layout.height, layout.width), dtype=layout.dtype)
        masks = np.empty((held, layout.height, layout.width), dtype=np.uint8)
        clouds = np.zeros(masks.shape if layout.cloud_mask else (0,), dtype=np.uint8)
        image_hashes, mask_hashes, sums = bytearray(), bytearray(), []
        for first in range(0, len(block.samples), held):
            samples = block.samples[first : first + held]
            for i, sample in enumerate(samples):
                pixels = read(sample)
                images[i], masks[i] = pixels.image, pixels.mask
                if layout.cloud_mask:
                    clouds[i] = 0 if pixels.cloud_mask is None else pixels.cloud_mask
                # While the pixels are in the processor's cache.
                image_hashes += hashlib.sha256(images[i].data).digest()
                mask_hashes += hashlib.sha256(masks[i].data).digest()
                if block.split == TRAIN:
                    sums.append(_sums(images[i]))
            found = {"image": images, "mask": masks} | ({"cloud_mask": clouds} if layout.cloud_mask else {})
            self._store(block.split, block.start + first, {name: part[: len(samples)] for name, part in found.items()})
        moments = tuple(
            Moments.of(block.start + at, sums[at : at + chunk], masks[0].size) for at in range(0, len(sums), chunk)
        )
        return Written(block.split, block.start, bytes(image_hashes), bytes(mask_hashes), moments)

    def _store(self, split: str, start: int, found: Mapping[str, NDArray[Any]]) -> None:
        """Set the pixels of some chunks, by array: all at once, but each by itself, for zarr copies what is not one."""
        chunk = self.plan.layout.samples_per_chunk

        async def set_all() -> list[BaseException | None]:
            return await asyncio.gather(
                *(
                    self.arrays[split][name].async_array.setitem(slice(start + at, start + at + len(part)), part)
                    for name, values in found.items()
                    for at in range(0, len(values), chunk)
                    for part in (values[at : at + chunk],)
                ),
                return_exceptions=True,  # so that none is still at work when one has failed
            )

        with store_errors(self.uri):
            for error in sync(set_all()):
                if error is not None:
                    raise error

    def commit(self, written: Iterable[Written], attributes: Mapping[str, Any]) -> VersionInfo:
        """Commit and tag the version, whose blocks were all written. Raises StoreError, DiskError.

        ``attributes`` become root attributes, with what only the writer knows: among them ``classes``, ``recipe_hash``
        and ``software_version``, and ``ignore_index`` where the recipe has one.
        """
        plan, blocks = self.plan, sorted(written, key=lambda one: one.start)
        counts = {split: len(plan.rows[split]) for split in SPLITS}
        mean, std = _mean_std([moments for one in blocks for moments in one.moments], len(plan.layout.bands))
        read_by_all = {"bands": list(plan.layout.bands), "mean": mean, "std": std}
        told = {"version": plan.version, "content_hash": plan.content}
        with store_errors(self.uri):
            for split, count in counts.items():
                mine = [one for one in blocks if one.split == split]
                if sum(map(len, mine)) != count:
                    raise StoreError(f"{self.uri}: {split} was not written whole; run the same command again")
                for name in ("image_sha256", "mask_sha256"):
                    joined = b"".join(getattr(one, name) for one in mine)
                    self.arrays[split][name][...] = np.frombuffer(joined, dtype=np.uint8).reshape(count, 32)
                # Also here, where who opens a split in xarray finds them.
                self.groups[split].update_attributes({"classes": attributes["classes"], **read_by_all})
            own = {**told, "schema_version": SCHEMA_VERSION, "splits": counts}
            self.groups[""].update_attributes({**attributes, **own, **read_by_all})
            metadata = {key: attributes[key] for key in ("recipe_hash", "software_version")} | told | counts
            try:
                snapshot = self.session.commit(f"{plan.version}: {len(plan)} samples", metadata=metadata)
            except icechunk.ConflictError:
                raise StoreError(_OVERTAKEN.format(uri=self.uri)) from None
            self.repository.create_tag(plan.version, snapshot)
            return next(info for info in list_versions(self.repository) if info.version == plan.version)


_OVERTAKEN = "{uri}: another build committed to this store meanwhile; run the same command again"


# ---- what images sum up to -------------------------------------------------------------------------


def _sums(image: NDArray[Any]) -> tuple[list[Any], list[Any]]:
    """Of an image (band, y, x), by band, the values and their squares."""
    values = image.reshape(len(image), -1)
    if image.dtype == np.uint8:  # in 32 bits, which hold the squares of so many bytes and are quickly added up
        parts = [values[:, at : at + _FITTING].astype(np.uint32) for at in range(0, values.shape[1], _FITTING)]
        totals = sum(part.sum(axis=1, dtype=np.uint32).astype(np.int64) for part in parts)
        squares = sum(np.einsum("bi,bi->b", part, part).astype(np.int64) for part in parts)
    else:
        values = values.astype(np.int64 if image.dtype.kind in "ui" else np.float64)
        totals, squares = values.sum(axis=1), (values * values).sum(axis=1)
    return totals.tolist(), squares.tolist()


_FITTING = 1 << 16  # < 2**32 / 255**2


def _mean_std(parts: Sequence[Moments], bands: int) -> tuple[list[float], list[float]]:
    """Of every band. Parts in the order of their chunks, so that they do not depend on the order of writing."""
    parts = sorted(parts)
    pixels = sum(part.pixels for part in parts)
    if pixels == 0:
        return [0.0] * bands, [1.0] * bands
    mean = [sum(part.total[band] for part in parts) / pixels for band in range(bands)]
    square = [sum(part.squares[band] for part in parts) / pixels for band in range(bands)]
    return mean, [math.sqrt(max(s - m * m, 0.0)) for s, m in zip(square, mean, strict=True)]


# ---- arrays ----------------------------------------------------------------------------------------


def _create_arrays(group: zarr.Group, rows: Sequence[Row], layout: Layout, tiles: bool) -> dict[str, zarr.Array[Any]]:
    """Make all arrays of a split; those that are still to be filled come back by name.

    As they were made: an array that is opened again has lost WRITE_ALL.
    """
    open_ones = {}
    for spec in ARRAYS:
        if not spec.is_there(layout, tiles):
            continue
        values = _values(spec, rows, layout) if spec.column else None
        attributes = spec.described(layout)
        if values is not None and spec.dtype == "int64" and NOT_KNOWN not in values:
            del attributes["_FillValue"]
        array = group.create_array(
            spec.name,
            shape=spec.shape(len(rows), layout),
            chunks=spec.chunks(len(rows), layout),
            dtype=layout.dtype if spec.dtype == "image" else spec.dtype,
            compressors=_codecs(spec, layout),
            config=WRITE_ALL,
            dimension_names=spec.dimensions,
            attributes=attributes,
        )
        if values is None:
            open_ones[spec.name] = array
        elif len(rows):
            array[...] = values
    return open_ones


def _codecs(spec: ArraySpec, layout: Layout) -> Any:
    if not spec.is_pixels:
        return "auto"
    if spec.name != "image":
        return [MASK_CODEC]
    wide = np.dtype(layout.dtype).itemsize
    return [IMAGE_CODEC if wide == 1 else BloscCodec(cname="lz4", clevel=1, shuffle="shuffle", typesize=wide)]


_WORKED_OUT: dict[str, Callable[[Any, Layout], Any]] = {
    "crs": lambda lies, _: lies.crs,
    "transform": lambda lies, _: lies.transform,
    "bounds": lambda lies, layout: lonlat_of(lies, layout.width, layout.height),
    "tile": lambda lies, layout: tile_at(lies, layout.width, layout.height),
    "source_sha256": lambda sample, _: _source_sha256(sample),
}
_UNKNOWN = {"string": "", "int64": NOT_KNOWN}  # what stands where nobody knows; elsewhere NaN


def _values(spec: ArraySpec, rows: Sequence[Row], layout: Layout) -> NDArray[Any]:
    """What a small array holds of these rows."""
    shape = spec.shape(len(rows), layout)
    column, worked_out = attrgetter(spec.column), _WORKED_OUT.get(spec.name)
    unknown = _UNKNOWN.get(spec.dtype, math.nan if len(shape) == 1 else [math.nan] * shape[1])
    values = [
        unknown if value is None or value == () else worked_out(value, layout) if worked_out else value
        for value in map(column, rows)
    ]
    return np.array(values, dtype=object if spec.dtype == "string" else spec.dtype).reshape(shape)


def _source_sha256(sample: Sample) -> NDArray[np.uint8]:
    """Changes when the staged image or the label mask does, of which image and mask are made."""
    digest = hashlib.sha256(f"{sample.sha256} {sample.mask_sha256}".encode()).digest()
    return np.frombuffer(digest, dtype=np.uint8)
