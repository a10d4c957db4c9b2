"""Which squares of a grid share surface with a shape, by descending a quadtree. Everything here is pure."""

from collections.abc import Callable

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.errors import AreaError

Squares = NDArray[np.int64]  # (2, n): columns and rows
_QUARTERS = np.array([[[0, 1, 0, 1]], [[0, 0, 1, 1]]])


class Ground:
    """The polygons of a shape, to be compared with many boxes."""

    def __init__(self, shape: shapely.Geometry) -> None:
        self._parts = shapely.get_parts(shape)
        shapely.prepare(self._parts)
        self._tree = shapely.STRtree(self._parts)  # or a shape of thousands of islands takes long at every box

    def meets(self, boxes: NDArray[np.object_], *, inside: bool = False) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which boxes share more than a border with the shape; and which lie in it, else the same again."""
        box, part = self._tree.query(boxes)
        near = shapely.intersects(self._parts[part], boxes[box])
        box, part = box[near], part[near]
        near = ~shapely.touches(self._parts[part], boxes[box])
        box, part = box[near], part[near]
        shared = np.zeros(len(boxes), dtype=np.bool_)
        shared[box] = True
        if not inside:
            return shared, shared
        within = np.zeros(len(boxes), dtype=np.bool_)
        within[box[shapely.contains(self._parts[part], boxes[box])]] = True
        return shared, within


def squares_in(
    shape: shapely.Geometry,
    boxes: Callable[[int, Squares], NDArray[np.object_]],
    start: Squares,
    height: int,
    cap: int,
    over_cap: str,
    least: int = 0,
    before: int = 0,
) -> Squares:
    """The squares that share more than a border with ``shape``, of those below ``start`` in the quadtree.

    ``boxes`` draws squares that are so many levels above the ones asked for; ``start`` are ``height`` levels above.
    Raises AreaError with ``over_cap`` ({count} in it is replaced by how many are certain) as soon as more than ``cap``
    squares are; ``least`` are from the start, and ``before`` others count as well.
    """
    ground = Ground(shape)
    found, at, count = [], start, 0
    for level in range(height, -1, -1):
        drawn = boxes(level, at)
        meets, inside = ground.meets(drawn, inside=level > 0)
        border = meets & ~inside
        count += int(inside.sum()) << (2 * level)
        certain = before + max(least, count + int(border.sum()))  # every square on the border holds one at least
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


def z_order(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each (x, y), of at most 31 bits each, on the Z curve: for tiles that of their quadkeys."""
    code = np.zeros(len(x), dtype=np.int64)
    for bit in range(31):
        code |= ((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1)
    return code
