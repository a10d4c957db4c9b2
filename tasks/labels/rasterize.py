"""Footprints to class masks, exactly, in a sample's own pixel grid.

The rule is GDAL's: a pixel belongs to a polygon when its centre does. Holes stay open and every part
of a MultiPolygon is drawn.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio import Affine

from tasks.geo.georeference import MERCATOR, Georeference, corners, projection_from_lonlat, tile_georeference
from tasks.geo.tiles import Tile, mercator

# rasterio changes the process's warning filters while it rasterizes, which threads must not do at once; and it holds
# the interpreter for most of the time, so that threads taking turns tile by tile are slower than one after the other.
_RASTERIZING = threading.Lock()


class FootprintIndex:
    """Footprints in one CRS with a spatial index; read-only, so threads may share it."""

    def __init__(self, footprints: NDArray[np.object_], crs: str = MERCATOR) -> None:
        """``footprints``: shapely Polygons and MultiPolygons in EPSG:4326, valid. crs: of the masks to draw."""
        project = mercator if crs == MERCATOR else projection_from_lonlat(crs)
        shapes = shapely.transform(np.asarray(footprints, dtype=object), project)
        polygons = shapely.get_parts(shapes)
        if crs != MERCATOR and len(polygons):  # a zone does not reach everywhere
            polygons = polygons[np.isfinite(shapely.bounds(polygons)).all(axis=1)]
        self._count = len(shapes)
        self._tree = shapely.STRtree(polygons)
        # Every vertex in one array, with where each ring and each polygon's rings begin: asking shapely for
        # the coordinates of one polygon after the other takes longer than GDAL takes to draw them.
        self._vertices = shapely.get_coordinates(polygons)
        self._ring_starts: list[int] = []
        self._polygon_starts: list[int] = []
        if len(polygons):
            _, _, (rings, parts) = shapely.to_ragged_array(polygons)
            self._ring_starts, self._polygon_starts = rings.tolist(), parts.tolist()

    def __len__(self) -> int:
        return self._count

    def mask(self, tile: Tile, pixels: int) -> NDArray[np.bool_]:
        """Building pixels of ``tile`` as bool (pixels, pixels); row 0 is the northern edge."""
        return self.masks([tile], pixels)[0]

    def masks(self, tiles: Sequence[Tile], pixels: int) -> list[NDArray[np.bool_]]:
        """The mask of each tile, for an index in EPSG:3857. One thread draws at a time."""
        return self.draw([(tile_georeference(tile, pixels), pixels, pixels) for tile in tiles])

    def draw(self, images: Sequence[tuple[Georeference, int, int]]) -> list[NDArray[np.bool_]]:
        """Building pixels of images given as (georeference in the index's CRS, width, height): bool (height, width).

        One thread draws at a time.
        """
        with _RASTERIZING, rasterio.Env():
            return [self._draw(*image) for image in images]

    def _draw(self, georeference: Georeference, width: int, height: int) -> NDArray[np.bool_]:
        points = corners(georeference, width, height)
        found = self._tree.query(shapely.box(*points.min(axis=0), *points.max(axis=0)))
        if not len(found):
            return np.zeros((height, width), dtype=np.bool_)
        burnt: NDArray[np.uint8] = rasterio.features.rasterize(
            [self._polygon(int(index)) for index in found],
            out_shape=(height, width),
            transform=Affine(*georeference.transform),
            dtype="uint8",
        )
        return burnt.view(np.bool_)  # every pixel is 0 or 1

    def _polygon(self, index: int) -> dict[str, Any]:
        """A polygon as GeoJSON writes it."""
        starts = self._ring_starts
        rings = range(self._polygon_starts[index], self._polygon_starts[index + 1])
        return {
            "type": "Polygon",
            "coordinates": [self._vertices[starts[ring] : starts[ring + 1]].tolist() for ring in rings],
        }


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """A bool mask as one bit a pixel, rows first."""
    return np.packbits(mask).tobytes()


def unpack_mask(data: bytes, pixels: int) -> NDArray[np.bool_]:
    """The bool (pixels, pixels) mask that :func:`pack_mask` made ``data`` from."""
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=pixels * pixels)
    return bits.reshape(pixels, pixels).astype(np.bool_)


def resize_mask(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A class mask (h, w) at ``side`` pixels by nearest neighbour, so that no new value appears."""
    rows = ((np.arange(side) + 0.5) * mask.shape[0] / side).astype(np.intp)
    columns = ((np.arange(side) + 0.5) * mask.shape[1] / side).astype(np.intp)
    return mask[np.ix_(rows, columns)]
