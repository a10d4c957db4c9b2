"""Square cells in UTM: which of them meet an area, each piece of ground in one cell only. Everything here is pure.

Zones are the plain six-degree strips, without the exceptions for Norway and Svalbard: a cell needs a metric CRS that
fits its place, and any neighbouring zone does.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.errors import AreaError
from tasks.geo.georeference import projection_from_lonlat, transformer
from tasks.geo.quadtree import Squares, squares_in, z_order

SOUTH_END, NORTH_END = -80.0, 84.0  # latitudes where UTM ends
MAX_SIDE = 100_000.0  # metres; a larger cell would not fit into a zone at high latitudes
MIN_SIDE = 0.1  # metres; the columns and rows of smaller cells would be no numbers to count with
_STEP = 0.02  # degrees between the points of an edge that is carried from degrees to metres; less than 1 m off
_SHARED = 1e-6  # share of a cell; two cells that share less only touch


class UtmCell(NamedTuple):
    """The square [column, column + 1] x [row, row + 1] of a zone, in units of a cell's side; rows grow northwards."""

    epsg: int
    column: int
    row: int


def utm_epsg(longitude: float, latitude: float) -> int:
    """The EPSG code of the UTM zone of a place in degrees. Raises AreaError beyond 80 S and 84 N."""
    if not SOUTH_END <= latitude <= NORTH_END:
        raise AreaError(f"there is no UTM zone at latitude {latitude:.4f}, it ends at 80 S and 84 N; {_ELSEWHERE}")
    zone = min(60, int((longitude + 180) % 360 // 6) + 1)
    return (32600 if latitude >= 0 else 32700) + zone


def cells_over(shape: Any, side: float, cap: int, over_cap: str) -> list[UtmCell]:
    """The cells of ``side`` metres that share surface with ``shape``, sorted so that neighbours stand together.

    shape: polygons in degrees, EPSG:4326, longitudes within -180..180. Every cell stands on multiples of ``side`` in
    the zone of the place that it covers. Where zones meet, a cell that reaches over the border keeps its ground and
    the next zone (eastwards, then the southern one) leaves out the cells that would share it, so that no two cells
    overlap and at a border a strip narrower than a cell may lie in none. Raises AreaError with ``over_cap`` ({count}
    in it is replaced) as soon as more than ``cap`` are certain, and for an area where there is no UTM.
    """
    _, south, _, north = shape.bounds
    if south < SOUTH_END or north > NORTH_END:
        raise AreaError(
            f"the area reaches from latitude {south:.4f} to {north:.4f}; UTM ends at 80 S and 84 N; {_ELSEWHERE}"
        )
    if side > MAX_SIDE:
        raise AreaError(f"cells of {side:,.0f} m are too large for UTM; keep size * resolution under {MAX_SIDE:,.0f} m")
    if side < MIN_SIDE:
        raise AreaError(f"cells of {side:g} m are too small for UTM; keep size * resolution over {MIN_SIDE:g} m")
    found: list[UtmCell] = []
    near_border: list[Any] = []  # polygons in degrees of cells that the next zone has to spare
    for epsg, strip in _strips(shape):
        metres = shapely.transform(shapely.segmentize(shapely.intersection(shape, strip), _STEP), to_metres(epsg))
        if metres.area <= 0:
            continue
        cells = _meeting(metres, side, cap, over_cap, len(found))
        boxes = _boxes(cells, side)
        free = _free_of(near_border, boxes, epsg)
        cells, boxes = cells[:, free], boxes[free]
        # A cell of the next zone reaches over the border by less than its diagonal.
        inner = shapely.transform(shapely.segmentize(strip, _STEP), to_metres(epsg)).buffer(-1.5 * side)
        shapely.prepare(inner)
        across = boxes[~shapely.contains(inner, boxes)]
        near_border += list(shapely.transform(shapely.segmentize(across, side / 16), to_degrees(epsg)))
        order = np.argsort(z_order(*cells), kind="stable")
        found += [UtmCell(epsg, column, row) for column, row in cells[:, order].T.tolist()]
    return found


_ELSEWHERE = "take a smaller area, or imagery.cells of kind tiles"


def _strips(shape: Any) -> list[tuple[int, Any]]:
    """The zones, by their codes, and their parts of the map that the shape meets, from west to east, north first."""
    west, south, east, north = shape.bounds
    strips = []
    for zone in range(int((west + 180) // 6) + 1, min(60, int((east + 180) // 6) + 1) + 1):
        left = 6.0 * zone - 186
        for base, low, high in ((32600, max(south, 0.0), north), (32700, south, min(north, 0.0))):
            if low < high:
                # A little higher and lower than the area, so that only borders of zones count as borders.
                low, high = (max(0.0, low - 2), high + 2) if base == 32600 else (low - 2, min(0.0, high + 2))
                strips.append((base + zone, shapely.box(left, low, left + 6, high)))
    return strips


def _meeting(metres: Any, side: float, cap: int, over_cap: str, before: int) -> Squares:
    """The cells that share surface with a shape in metres, by descending a quadtree; ``before`` lie in other zones."""
    west, south, east, north = metres.bounds
    top = max(0, math.ceil(math.log2(max(east - west, north - south) / side)))
    block = side * (1 << top)
    first, last = np.floor([west / block, south / block]), np.floor([east / block, north / block])
    grid = np.meshgrid(np.arange(first[0], last[0] + 1), np.arange(first[1], last[1] + 1))
    blocks = np.stack([axis.ravel() for axis in grid]).astype(np.int64)
    least = math.ceil(metres.area / side**2)
    return squares_in(
        metres, lambda level, at: _boxes(at, side * (1 << level)), blocks, top, cap, over_cap, least, before
    )


def _free_of(taken: list[Any], boxes: NDArray[np.object_], epsg: int) -> NDArray[np.bool_]:
    """Which boxes of a zone share no ground with polygons in degrees."""
    free = np.ones(len(boxes), dtype=np.bool_)
    middle = 6.0 * (epsg % 100) - 183
    near = [polygon for polygon in taken if abs((polygon.bounds[0] - middle + 180) % 360 - 180) < 15]
    if not near or not len(boxes):
        return free
    there = shapely.transform(np.array(near), to_metres(epsg))
    box_index, near_index = shapely.STRtree(there).query(boxes, predicate="intersects")
    shared = shapely.area(shapely.intersection(boxes[box_index], there[near_index]))
    free[box_index[shared > _SHARED * shapely.area(boxes[box_index])]] = False
    return free


def _boxes(cells: Squares, side: float) -> NDArray[np.object_]:
    x, y = cells
    boxes: NDArray[np.object_] = shapely.box(x * side, y * side, (x + 1) * side, (y + 1) * side)
    return boxes


def to_metres(epsg: int) -> Any:
    """For :func:`shapely.transform`: degrees to metres of a zone."""
    return projection_from_lonlat(f"EPSG:{epsg}")


def to_degrees(epsg: int) -> Any:
    """For :func:`shapely.transform`: metres of a zone to degrees. Longitudes go on beyond 180 rather than jump."""
    middle = 6.0 * (epsg % 100) - 183

    def back(metres: NDArray[np.float64]) -> NDArray[np.float64]:
        longitude, latitude = transformer(f"EPSG:{epsg}", "EPSG:4326").transform(metres[:, 0], metres[:, 1])
        return np.column_stack((middle + (longitude - middle + 180) % 360 - 180, latitude))

    return back


def utm_outlines(cells: Sequence[UtmCell], side: float) -> NDArray[np.object_]:
    """The outlines (n,) of cells, sorted by zone, in degrees; longitudes go on beyond 180 rather than jump."""
    found = []
    for epsg, of_zone in itertools.groupby(cells, lambda cell: cell.epsg):
        squares = np.array([(cell.column, cell.row) for cell in of_zone], dtype=np.int64).T
        found.append(shapely.transform(shapely.segmentize(_boxes(squares, side), side / 16), to_degrees(epsg)))
    return np.concatenate(found) if found else np.zeros(0, dtype=object)
