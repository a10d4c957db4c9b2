"""Which squares of a grid share surface with a shape, by descending a quadtree. Everything here is pure."""

from collections.abc import Callable

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.errors import AreaError

Squares = NDArray[np.int64]  # (2, n): columns and rows
_QUARTERS = np.array([[[0, 1, 0, 1]], [[0, 0, 1, 1]]])


def squares_in(
    shape: shapely.Geometry,
    boxes: Callable[[int, Squares], NDArray[np.object_]],
    start: Squares,
    height: int,
    cap: int,
    over_cap: str,
    least: int = 0,
) -> Squares:
    """The squares that share more than a border with ``shape``, of those below ``start`` in the quadtree.

    ``boxes`` draws squares that are so many levels above the ones asked for; ``start`` are ``height`` levels above.
    Raises AreaError with ``over_cap`` ({count} in it is replaced) as soon as more than ``cap`` squares are certain;
    ``least`` are from the start.
    """
    shapely.prepare(shape)
    found, at, count = [], start, 0
    for level in range(height, -1, -1):
        drawn = boxes(level, at)
        meets = shapely.intersects(shape, drawn) & ~shapely.touches(shape, drawn)
        inside = shapely.contains(shape, drawn) if level else meets
        border = meets & ~inside
        count += int(inside.sum()) << (2 * level)
        certain = max(least, count + int(border.sum()))  # every square on the border holds one at least
        if certain > cap:
            raise AreaError(over_cap.format(count=f"{certain:,}"))
        found.append(_below(at[:, inside], level))
        at = _below(at[:, border], 1)
    return np.concatenate(found, axis=1)


def _below(squares: Squares, levels: int) -> Squares:
    """The squares so many levels further down that lie in ``squares``."""
    for _ in range(levels):
        squares = (2 * squares[:, :, None] + _QUARTERS).reshape(2, -1)
    return squares
