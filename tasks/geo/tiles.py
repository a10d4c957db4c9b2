"""Tile arithmetic on the slippy-map grid (Web Mercator, EPSG:3857), and groups of neighbouring tiles.

A tile is named z/x/y with y growing southwards, as OSM's slippy map does. Everything here is pure.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import mercantile
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
        text = text.strip()
        parts = text.split("/")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
            told = text if len(text) < 60 else f"{text[:60]}..."
            raise AreaError(f"{told!r} is no tile; expected z/x/y, for example 18/132814/90172")
        z, x, y = (int(part) for part in parts)
        if z > MAX_ZOOM:
            raise AreaError(f"{text} is off the map: zoom goes from 0 to {MAX_ZOOM}")
        if x >= 1 << z or y >= 1 << z:
            raise AreaError(f"{text} is off the map: at zoom {z} x and y run from 0 to {(1 << z) - 1}")
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
    west, south, east, north = mercantile.bounds(tile.x, tile.y, tile.z)
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
    return str(mercantile.quadkey(tile.x, tile.y, tile.z))


def grouped(tiles: Iterable[Tile], capacity: int = SHARD_TILES) -> list[tuple[Tile, tuple[Tile, ...]]]:
    """Cut tiles of one zoom into groups of at most ``capacity``: each a parent tile and those that lie in it.

    A quadtree: a parent with too many tiles is split into its four children. Groups come in quadkey
    order with their tiles sorted, so the result does not depend on the order of ``tiles``.
    """
    return list(_cut(sorted(set(tiles)), 0, capacity))


def _cut(tiles: Sequence[Tile], zoom: int, capacity: int) -> Iterator[tuple[Tile, tuple[Tile, ...]]]:
    """The groups of tiles that lie in one of ``zoom``, each with the deepest tile that holds it."""
    if len(tiles) > capacity:
        children: dict[Tile, list[Tile]] = {}
        for tile in tiles:
            children.setdefault(tile.parent(zoom + 1), []).append(tile)
        for child in sorted(children, key=lambda child: (child.y, child.x)):
            yield from _cut(children[child], zoom + 1, capacity)
    elif tiles:
        columns, rows = [tile.x for tile in tiles], [tile.y for tile in tiles]
        spread = (min(columns) ^ max(columns)) | (min(rows) ^ max(rows))
        yield tiles[0].parent(tiles[0].z - spread.bit_length()), tuple(tiles)
