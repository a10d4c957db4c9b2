"""Tile arithmetic on the slippy-map grid (Web Mercator, EPSG:3857), and groups of neighbouring tiles.

A tile is named z/x/y with y growing southwards, as OSM's slippy map does. Everything here is pure.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyproj
from numpy.typing import NDArray

from tasks.errors import AreaError

EARTH_RADIUS = 6378137.0  # metres, the sphere of EPSG:3857
HALF_WORLD = math.pi * EARTH_RADIUS  # metres from the centre of the map to its edge
MAX_LATITUDE = math.degrees(math.atan(math.sinh(math.pi)))  # where the square map ends
MAX_ZOOM = 30
SHARD_TILES = 512  # at most that many tiles in a group that is worked on at once


class Tile(NamedTuple):
    """A tile of the slippy map."""

    z: int
    x: int
    y: int

    @property
    def name(self) -> str:
        """``z/x/y``, which is also the sample's id."""
        return f"{self.z}/{self.x}/{self.y}"

    @classmethod
    def parse(cls, text: str) -> "Tile":
        """The tile named ``z/x/y``. Raises AreaError when the text is no such name or off the map."""
        parts = text.strip().split("/")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
            raise AreaError(f"{text.strip()!r} is no tile; expected z/x/y, for example 18/132814/90172")
        z, x, y = (int(part) for part in parts)
        if z > MAX_ZOOM or x >= 1 << z or y >= 1 << z:
            last = (1 << min(z, MAX_ZOOM)) - 1
            raise AreaError(f"{text.strip()} is off the map: at zoom {z} x and y run from 0 to {last}")
        return cls(z, x, y)

    def parent(self, zoom: int) -> "Tile":
        """The tile of ``zoom`` (at most ``z``) that holds this one."""
        shift = self.z - zoom
        return Tile(zoom, self.x >> shift, self.y >> shift)


def tile_span(zoom: int) -> float:
    """Side of a tile in EPSG:3857 metres."""
    return 2 * HALF_WORLD / (1 << zoom)


def tile_bounds(tile: Tile) -> tuple[float, float, float, float]:
    """(west, south, east, north) of a tile in EPSG:3857 metres."""
    span = tile_span(tile.z)
    west = tile.x * span - HALF_WORLD
    north = HALF_WORLD - tile.y * span
    return west, north - span, west + span, north


def lonlat_bounds(tile: Tile) -> tuple[float, float, float, float]:
    """(west, south, east, north) of a tile in degrees (EPSG:4326)."""
    size = 1 << tile.z
    west, east = tile.x / size * 360 - 180, (tile.x + 1) / size * 360 - 180
    south, north = (math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / size)))) for row in (tile.y + 1, tile.y))
    return west, south, east, north


def mercator(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    """EPSG:4326 degrees (n, 2) to EPSG:3857 metres (n, 2), latitudes held within the square map.

    PROJ does it, not a formula of ours: a footprint edge that runs through pixel centres falls on the
    same side as in every other GDAL program only when the last bit agrees.
    """
    lat = np.clip(lonlat[:, 1], -MAX_LATITUDE, MAX_LATITUDE)
    return np.column_stack(_to_mercator().transform(lonlat[:, 0], lat))


@functools.cache
def _to_mercator() -> pyproj.Transformer:
    return pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)


def quadkey(tile: Tile) -> str:
    """The tile's quadkey, as Bing-style ``{q}`` URLs take it."""
    digits = []
    for level in range(tile.z, 0, -1):
        bit = 1 << (level - 1)
        digits.append(str((1 if tile.x & bit else 0) + (2 if tile.y & bit else 0)))
    return "".join(digits)


def grouped(tiles: Iterable[Tile], capacity: int = SHARD_TILES) -> list[tuple[Tile, tuple[Tile, ...]]]:
    """Cut tiles of one zoom into groups of at most ``capacity``: each a parent tile and those that lie in it.

    A quadtree: a parent with too many tiles is split into its four children. Groups come in quadkey
    order with their tiles sorted, so the result does not depend on the order of ``tiles``.
    """
    found: list[tuple[Tile, tuple[Tile, ...]]] = []
    stack: list[tuple[Tile, Sequence[Tile]]] = [(Tile(0, 0, 0), sorted(set(tiles)))]
    while stack:
        parent, inside = stack.pop()
        if not inside:
            continue
        if len(inside) <= capacity or parent.z == inside[0].z:
            found.append((_smallest_parent(inside), tuple(inside)))
            continue
        zoom = parent.z + 1
        children: dict[Tile, list[Tile]] = {}
        for tile in inside:
            children.setdefault(tile.parent(zoom), []).append(tile)
        order = sorted(children, key=lambda child: (child.y, child.x), reverse=True)
        stack.extend((child, children[child]) for child in order)
    return found


def _smallest_parent(tiles: Sequence[Tile]) -> Tile:
    """The deepest tile that holds all of ``tiles``."""
    low, high = tiles[0], tiles[0]
    for tile in tiles:
        low = Tile(low.z, min(low.x, tile.x), min(low.y, tile.y))
        high = Tile(high.z, max(high.x, tile.x), max(high.y, tile.y))
    shift = max((low.x ^ high.x).bit_length(), (low.y ^ high.y).bit_length())
    return low.parent(low.z - shift)
