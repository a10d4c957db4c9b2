"""Which cells of an area are drawn where a recipe asks for a sample: evenly over it, and the same on every machine."""

import hashlib
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.errors import AreaError
from tasks.geo.coverage import (
    Codes,
    coarse_cover,
    codes_of,
    columns_and_rows,
    lonlat_boxes,
    tiles_of,
    tiles_of_surface,
    tiles_over,
)
from tasks.geo.quadtree import Ground, Squares, z_order

MAX_POINTS = 1 << 26  # of the sequence that are tried for a sample: two minutes at most
MAX_SQUARES = 1 << 16  # that stand for an area in which hardly any point of the sequence lies
_FEW = 50_000  # of no more tiles than that all are listed to draw some
_EXACT = 1 << 53  # whole numbers below are apart in float64
_R2 = (0.7548776662466927, 0.5698402909980532)  # inverse powers of the plastic number: the R2 sequence (Roberts 2018)
_BATCH = 4096


def sample_in(shape: Any, zoom: int, count: int, seed: int) -> Squares:
    """``count`` tiles of ``zoom`` spread evenly over ``shape``.

    Points of the R2 low-discrepancy sequence over the bounding box of the shape in tile coordinates; the tile of each
    point is taken when its centre lies in the shape. A shape with few more tiles than asked for is listed instead, and
    one that is thin or scattered is covered with squares first. Raises AreaError when it holds fewer than ``count``.
    """
    if tiles_of_surface(shape, zoom) <= max(4 * count, _FEW):
        try:
            listed = tiles_over(shape, zoom, max(16 * count, 400_000), "")
        except AreaError:  # a thin shape meets many more tiles than it has surface
            return _drawn_in_squares(shape, zoom, count, seed, {})
        return systematic_sample(listed, count, seed)
    found: dict[int, None] = {}
    start = 1 + seed * 1_000_003
    if abs(start) < _EXACT:
        _draw_in_box(shape, zoom, count, start, found)
    if len(found) < count:
        return _drawn_in_squares(shape, zoom, count, seed, found)
    return tiles_of(np.fromiter(found, np.int64))


def _draw_in_box(shape: Any, zoom: int, count: int, start: int, found: dict[int, None]) -> None:
    """Put the numbers of up to ``count`` tiles into ``found``; fewer where points rarely lie in the shape."""
    west, south, east, north = shape.bounds
    (left, right), (top, bottom) = columns_and_rows(np.array([(west, north), (east, south)]), zoom)
    width, height = right - left + 1, bottom - top + 1
    shapely.prepare(shape)
    for first in range(start, start + min(MAX_POINTS, (1 << 20) + 1024 * count), _BATCH):
        index = np.arange(first, first + _BATCH, dtype=np.float64)
        x = left + (index * _R2[0] % 1.0 * width).astype(np.int64)
        y = top + (index * _R2[1] % 1.0 * height).astype(np.int64)
        at = np.stack((x, y))
        inside = shapely.contains(shape, shapely.centroid(lonlat_boxes(zoom, at)))
        _take(codes_of(at[:, inside]), count, found)
        if len(found) == count:
            return


def _drawn_in_squares(shape: Any, zoom: int, count: int, seed: int, found: dict[int, None]) -> Squares:
    """``count`` tiles, those of ``found`` among them, where at least so many share surface with the shape.

    The squares of a coarser zoom that cover the shape, put side by side along the Z curve, are the box of the sequence.
    """
    coarse, squares = coarse_cover(shape, zoom, MAX_SQUARES)
    squares = squares[:, np.argsort(z_order(*squares), kind="stable")]
    side = 1 << (zoom - coarse)
    shift = _hash64(seed) / 2.0**64
    ground, first = Ground(shape), 1
    while len(found) < count:
        index = np.arange(first, first + _BATCH, dtype=np.float64)
        along = (index * _R2[0] + shift) % 1.0 * squares.shape[1]
        inner = np.stack((along % 1.0, (index * _R2[1] + shift) % 1.0)) * side
        at = squares[:, along.astype(np.int64)] * side + inner.astype(np.int64)
        _take(codes_of(at[:, ground.meets(lonlat_boxes(zoom, at))[0]]), count, found)
        first += _BATCH
    return tiles_of(np.fromiter(found, np.int64))


def _take(codes: Codes, count: int, found: dict[int, None]) -> None:
    for code in codes.tolist():
        if len(found) == count:
            return
        found[code] = None


def systematic_sample(tiles: Squares, count: int, seed: int) -> Squares:
    """``count`` of ``tiles`` at equal steps along their quadkeys, so that they spread evenly. Raises AreaError."""
    order = np.argsort(z_order(*tiles), kind="stable")
    return tiles[:, order[equal_steps(len(order), count, seed, _R2[0], "tiles")]]


def equal_steps(available: int, count: int, seed: int, turn: float, what: str) -> NDArray[np.int64]:
    """``count`` numbers below ``available`` at equal steps, which begin at a part of a step: ``turn`` for each seed.

    Raises AreaError, which calls them ``what``, where there are not so many.
    """
    if count > available:
        raise AreaError(f"area.sample asks for {count:,} {what}, the area holds {available:,}; lower area.sample")
    offset = (seed if abs(seed) < _EXACT else _hash64(seed) % _EXACT) * turn % 1.0
    steps = (np.arange(count) + offset) * (available / count)
    return np.minimum(steps.astype(np.int64), available - 1)


def even_order(x: NDArray[np.int64], y: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """An order of cells of which the first so many lie evenly among all, whatever cells there are.

    A cell's place hangs on itself and the seed alone: where cells come and go, the first so many stay but for a few. It
    is that of a dither mask: the cell's value in the R2 lattice, turned by the seed, in exact arithmetic modulo 2^64.
    """
    turns = [np.uint64(int(turn * 2.0**64)) for turn in _R2]
    value = x.astype(np.uint64) * turns[0] + y.astype(np.uint64) * turns[1] + np.uint64(_hash64(seed))
    return np.lexsort((y, x, value))


def _hash64(seed: int) -> int:
    """64 bits of any whole number."""
    told = seed.to_bytes(seed.bit_length() // 8 + 1, "big", signed=True)
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "big")
