"""Where the pixels of a sample lie: a CRS and an affine transform, and what follows from them."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import pyproj
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from tasks.geo.tiles import EARTH_RADIUS, HALF_WORLD, MAX_ZOOM, Tile, tile_bounds

MERCATOR = "EPSG:3857"
LONLAT = "EPSG:4326"
_OFF = 1e-6  # of a tile's side: how far from a tile's own place a window may lie to be that tile


class Georeference(NamedTuple):
    """Where the pixels of a sample lie."""

    crs: str  # "EPSG:32633", or WKT where the CRS has no code
    transform: tuple[float, float, float, float, float, float]  # a, b, c, d, e, f as in rasterio.Affine

    def scaled(self, factor_x: float, factor_y: float) -> "Georeference":
        """Of the same ground in pixels that are so many times as wide and high."""
        a, b, c, d, e, f = self.transform
        return Georeference(self.crs, (a * factor_x, b * factor_y, c, d * factor_x, e * factor_y, f))


def tile_georeference(tile: Tile, pixels: int) -> Georeference:
    """Of a tile as an image of ``pixels`` x ``pixels``, in EPSG:3857."""
    west, _, east, north = tile_bounds(tile)
    size = (east - west) / pixels
    return Georeference(MERCATOR, (size, 0.0, west, 0.0, -size, north))


def tile_at(georeference: Georeference, width: int, height: int) -> Tile | None:
    """The tile that an image of ``width`` x ``height`` pixels shows, None when it shows no whole one.

    The inverse of :func:`tile_georeference`.
    """
    a, b, west, d, e, north = georeference.transform
    side = a * width
    if georeference.crs != MERCATOR or width != height or b or d or not 0 < side < math.inf:
        return None
    zoom = round(math.log2(2 * HALF_WORLD / side))
    if not 0 <= zoom <= MAX_ZOOM:
        return None
    count = 1 << zoom
    span = 2 * HALF_WORLD / count
    left, top = (west + HALF_WORLD) / span, (HALF_WORLD - north) / span
    if not (-_OFF <= left < count and -_OFF <= top < count):
        return None
    x, y = round(left), round(top)
    near = abs(left - x) <= _OFF and abs(top - y) <= _OFF and abs(side - span) <= _OFF * span and abs(a + e) <= _OFF * a
    return Tile(zoom, x, y) if near and x < count and y < count else None


def corners(georeference: Georeference, width: int, height: int) -> NDArray[np.float64]:
    """The four corners of an image, (4, 2) in its CRS, from the upper left clockwise."""
    a, b, c, d, e, f = georeference.transform
    column, row = np.array([0, width, width, 0.0]), np.array([0, 0, height, height])
    return np.column_stack((a * column + b * row + c, d * column + e * row + f))


def lonlat_of(georeference: Georeference, width: int, height: int) -> tuple[float, float, float, float]:
    """(west, south, east, north) in degrees (EPSG:4326) of an image; not finite where the CRS does not reach."""
    points = corners(georeference, width, height)
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    if georeference.crs == MERCATOR:  # thousands of tiles, and a formula is thirty times as fast as PROJ
        south, north = (math.degrees(math.atan(math.sinh(y / EARTH_RADIUS))) for y in (bottom, top))
        return math.degrees(left / EARTH_RADIUS), south, math.degrees(right / EARTH_RADIUS), north
    try:
        west, south, east, north = transformer(georeference.crs, LONLAT).transform_bounds(left, bottom, right, top)
    except ProjError:
        return np.nan, np.nan, np.nan, np.nan
    return west, south, east, north


@functools.lru_cache(maxsize=64)
def transformer(source: str, target: str) -> pyproj.Transformer:
    """From one CRS to another, x before y."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def projection_from_lonlat(crs: str) -> Any:
    """A function for ``shapely.transform``: EPSG:4326 degrees (n, 2) to ``crs``."""
    found = transformer(LONLAT, crs)
    return lambda lonlat: np.column_stack(found.transform(lonlat[:, 0], lonlat[:, 1]))
