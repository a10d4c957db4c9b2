"""Which cells a footprint touches, and the sample that is drawn among those.

Footprints come in batches and go: memory holds the numbers of the cells, eight bytes each. These are kept in the work
directory (:func:`find_kept`, :func:`kept`), from where whoever lays cells over the area takes them, in this process or
another, and a run that was killed goes on.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.atomic import writing
from tasks.errors import AreaError, LabelError
from tasks.geo.coverage import (
    Codes,
    coarse_cover,
    codes_of,
    columns_and_rows,
    distinct,
    lonlat_boxes,
    named,
    tiles_of,
)
from tasks.geo.quadtree import Ground, Squares
from tasks.geo.tiles import MAX_LATITUDE, Tile
from tasks.samples.draw import even_order

MAX_TOUCHED = 50_000_000  # cells with a footprint: 400 MB, and as much again where they are put together
MAX_SPAN = 1 << 22  # cells that the box of one footprint may span
NEAR_TILES, NEAR_ZOOM = 4096, 14  # at most so many tiles, of that zoom at most, say where footprints are wanted
KEPT = "touched.npz"  # the file in the work directory
_MERGED = 1 << 21  # numbers that wait to be put together
_AT_ONCE = 1 << 18  # cells whose outlines are drawn at once


class Outlines(Protocol):
    """The footprints of a recipe's labels, as they are before cleaning."""

    @property
    def origin(self) -> str:
        """Changes when :meth:`near` would tell others, as far as is known without asking."""

    def near(self, tiles: Sequence[Tile]) -> Iterator[NDArray[np.object_]]:
        """Those near ``tiles`` (of one zoom), in batches: polygons or lines (n,), EPSG:4326. Raises LabelError."""


def touched_in(shape: Any, zoom: int, outlines: Outlines) -> Codes:
    """The numbers of the tiles of ``zoom`` in the box around ``shape`` (EPSG:4326) that a footprint touches, sorted.

    Raises LabelError for a footprint over MAX_SPAN and as ``outlines``, AreaError for over MAX_TOUCHED tiles.
    """
    west, south, east, north = shape.bounds
    box = columns_and_rows(np.array([(west, north), (east, south)]), zoom)
    level, near = coarse_cover(shape, min(zoom, NEAR_ZOOM), NEAR_TILES)
    return _touched(outlines.near(named(near, level)), zoom, box)


def touched_among(listed: Squares, zoom: int, outlines: Outlines) -> Codes:
    """As :func:`touched_in`, of ``listed`` tiles."""
    if not listed.size:
        return np.zeros(0, dtype=np.int64)
    up = max(0, zoom - NEAR_ZOOM)
    near = distinct(codes_of(listed >> up))
    while len(near) > NEAR_TILES:
        up += 1
        near = distinct(codes_of(listed >> up))
    box = np.stack((listed.min(axis=1), listed.max(axis=1)), axis=1)
    found = _touched(outlines.near(named(tiles_of(near), zoom - up)), zoom, box)
    return np.intersect1d(found, distinct(codes_of(listed)), assume_unique=True)


def touched_cells(cells: NDArray[np.object_], shape: Any, outlines: Outlines) -> NDArray[np.int64]:
    """The numbers in ``cells`` (polygons over the area ``shape``, EPSG:4326) of those that a footprint touches."""
    tree, found = shapely.STRtree(cells), np.zeros(len(cells), dtype=np.bool_)
    level, near = coarse_cover(shape, NEAR_ZOOM, NEAR_TILES)
    for batch in outlines.near(named(near, level)):
        found[tree.query(batch, predicate="intersects")[1]] = True
    return np.flatnonzero(found)


def forget_kept(work: Path) -> None:
    """Have footprints asked again."""
    (work / KEPT).unlink(missing_ok=True)


def find_kept(work: Path, place: str, origin: str, find: Callable[[], NDArray[np.int64]]) -> None:
    """Have what ``find`` finds at ``place`` kept, unless it is there from an earlier run with the same ``origin``.

    Raises what ``find`` raises, and DiskError.
    """
    origin = hashlib.sha256(origin.encode()).hexdigest()
    if _load(work, place, origin) is None:
        found = find()
        with writing(work / KEPT) as temporary, temporary.open("wb") as opened:
            np.savez(opened, found=found, place=np.array(place), origin=np.array(origin))


def kept(work: Path, place: str) -> NDArray[np.int64]:
    """What :func:`find_kept` kept. Raises AreaError where that is something else."""
    found = _load(work, place)
    if found is None:
        raise AreaError(
            f"{work / KEPT}: does not hold where the area's buildings are; another run may have replaced it, run the "
            "same command again"
        )
    return found


def _load(work: Path, place: str, origin: str | None = None) -> NDArray[np.int64] | None:
    """Found at ``place``, and by ``origin`` if that is given; None where the file is of others, not there, or torn."""
    try:
        with (work / KEPT).open("rb") as file, np.load(file, allow_pickle=False) as opened:
            if str(opened["place"]) == place and origin in (None, str(opened["origin"])):
                found: NDArray[np.int64] = opened["found"]
                return found
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    return None


def draw_touched(codes: Codes, shape: Any, zoom: int, count: int, seed: int) -> Squares:
    """``count`` of the tiles with these numbers, spread evenly over them, of those that share surface with ``shape``.

    ``shape`` None: any. A tile's turn hangs on itself and the seed alone (:func:`tasks.samples.draw.even_order`).
    Raises AreaError where there are not so many.
    """
    tiles = tiles_of(codes)
    tiles = tiles[:, even_order(tiles[0], tiles[1], seed)]
    if shape is None:
        return tiles[:, : checked(count, tiles.shape[1], "tiles")]
    ground, found, have = Ground(shape), [], 0
    for first in range(0, tiles.shape[1], _AT_ONCE):
        batch = tiles[:, first : first + _AT_ONCE]
        found.append(batch[:, ground.meets(lonlat_boxes(zoom, batch))[0]])
        have += found[-1].shape[1]
        if have >= count:
            break
    checked(count, have, "tiles")
    return np.concatenate(found, axis=1)[:, :count]


def checked(count: int, available: int, what: str) -> int:
    """``count``. Raises AreaError, which calls the cells ``what``, where a footprint touches fewer."""
    if not available:
        raise AreaError(
            f"area.among: no footprint of the labels touches any of the area's {what}; see that labels and area are "
            "of the same place"
        )
    if count > available:
        raise AreaError(
            f"area.sample asks for {count:,} {what} with a building, the area holds {available:,}; lower area.sample"
        )
    return count


def _touched(batches: Iterable[NDArray[np.object_]], zoom: int, box: Squares) -> Codes:
    """Sorted numbers of the tiles of ``zoom`` that a footprint touches, within ``box``: first and last column, row."""
    merged = np.zeros(0, dtype=np.int64)
    waiting: list[Codes] = []

    def merge() -> Codes:
        together = distinct(np.concatenate((merged, *waiting)))
        waiting.clear()
        if len(together) > MAX_TOUCHED:
            raise AreaError(
                f"area.among: footprints touch more than {MAX_TOUCHED:,} tiles of zoom {zoom}, the most that are held "
                "in memory; take a smaller area or a lower zoom"
            )
        return together

    for batch in batches:
        waiting += _of_batch(batch, zoom, box)
        if sum(map(len, waiting)) > _MERGED:
            merged = merge()
    return merge()


def _of_batch(shapes: NDArray[np.object_], zoom: int, box: Squares) -> Iterator[Codes]:
    """The numbers, each once or more, of the tiles within ``box`` that any of the shapes touches."""
    bounds = shapely.bounds(shapes).reshape(-1, 4)
    on_map = np.isfinite(bounds).all(axis=1) & (bounds[:, 1] <= MAX_LATITUDE) & (bounds[:, 3] >= -MAX_LATITUDE)
    shapes, bounds = shapes[on_map], bounds[on_map]
    first = np.maximum(columns_and_rows(bounds[:, [0, 3]], zoom), box[:, :1])
    last = np.minimum(columns_and_rows(bounds[:, [2, 1]], zoom), box[:, 1:])
    width, height = last - first + 1
    single = (width == 1) & (height == 1)
    yield codes_of(first[:, single])
    several = np.flatnonzero((width > 0) & (height > 0) & ~single)
    spans = width[several] * height[several]
    if (spans > MAX_SPAN).any():
        at = several[int(np.argmax(spans))]
        west, south, east, north = bounds[at]
        raise LabelError(
            f"labels: a footprint from {west:.4f}, {south:.4f} to {east:.4f}, {north:.4f} spans {spans.max():,} tiles "
            f"of zoom {zoom}, over {MAX_SPAN:,}; that is no building: correct the labels, or leave out area.among"
        )
    shapely.prepare(shapes[several])
    ends = np.cumsum(spans)
    start = 0
    while start < len(several):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] - spans[start] + _AT_ONCE, "right")))
        which, count = several[start:stop], spans[start:stop]
        of = np.repeat(which, count)
        step = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
        tiles = first[:, of] + np.stack((step % width[of], step // width[of]))
        yield codes_of(tiles[:, shapely.intersects(shapes[of], lonlat_boxes(zoom, tiles))])
        start = stop
