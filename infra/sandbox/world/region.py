"""Where the synthetic region lies, its local coordinates, and its seeded random streams.

The region is the 16 x 16 tiles of zoom 18 from ``FIRST_TILE_Z18``, in the Gulf of Guinea, where no real town is.
Local coordinates are metres of EPSG:3857 from its south-west corner, x east and y north.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from tasks.geo.tiles import EARTH_RADIUS, HALF_WORLD, tile_span

FloatArray = NDArray[np.float64]

TILE_Z18 = tile_span(18)  # 153 m

TILES_ACROSS = 16
FIRST_TILE_Z18 = (131108, 131020)  # x and y of the north-west tile; both are multiples of 4: whole z16 blocks
SIZE = TILES_ACROSS * TILE_Z18  # 2,446 m

ORIGIN_X = FIRST_TILE_Z18[0] * TILE_Z18 - HALF_WORLD
ORIGIN_Y = HALF_WORLD - (FIRST_TILE_Z18[1] + TILES_ACROSS) * TILE_Z18

REGION_BOUNDS = (0.04944, 0.04944, 0.07141, 0.07141)
"""West, south, east, north in degrees; some decimetres inside the outer tile edges, so that it covers 256 tiles."""

ATTRIBUTION = "Synthetic imagery, Tilewright sandbox"

ABSENT_TILES_Z18 = frozenset(
    (FIRST_TILE_Z18[0] + column, FIRST_TILE_Z18[1] + row) for column, row in ((15, 15), (14, 15), (15, 14), (13, 15))
)
"""Tiles (x, y) of zoom 18 for which there is no imagery, though there are buildings: they answer Tile not found."""


def rng(seed: int, subject: str) -> np.random.Generator:
    """A random stream of its own for each subject, so that a change in one leaves the others as they are."""
    return np.random.default_rng([seed, zlib.crc32(subject.encode())])


def to_lonlat(local: FloatArray) -> FloatArray:
    """Local metres (n, 2) to degrees (n, 2) of EPSG:4326 as lon, lat, rounded to OSM's 1e-7 degree."""
    lon = np.degrees((local[:, 0] + ORIGIN_X) / EARTH_RADIUS)
    lat = np.degrees(np.arctan(np.sinh((local[:, 1] + ORIGIN_Y) / EARTH_RADIUS)))
    return np.round(np.stack([lon, lat], axis=1), 7)


def from_lonlat(lonlat: FloatArray) -> FloatArray:
    """Degrees (n, 2) of EPSG:4326 as lon, lat to local metres (n, 2)."""
    x = np.radians(lonlat[:, 0]) * EARTH_RADIUS
    y = np.arcsinh(np.tan(np.radians(lonlat[:, 1]))) * EARTH_RADIUS
    return np.stack([x - ORIGIN_X, y - ORIGIN_Y], axis=1)
