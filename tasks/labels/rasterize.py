"""Footprints drawn, exactly, in a window's own pixel grid.

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

from tasks.geo.georeference import MERCATOR, Georeference, corners, projection_from_lonlat
from tasks.geo.tiles import mercator

# rasterio changes the process's warning filters while it rasterizes, which threads must not do at once; and it holds
# the interpreter for most of the time, so that threads taking turns tile by tile are slower than one after the other.
_RASTERIZING = threading.Lock()


class FootprintIndex:
    """Footprints in one CRS with a spatial index; read-only, so threads may share it."""

    def __init__(self, footprints: NDArray[np.object_], crs: str = MERCATOR) -> None:
        """``footprints``: shapely Polygons and MultiPolygons in EPSG:4326, valid. crs: of the masks to draw."""
        project = mercator if crs == MERCATOR else projection_from_lonlat(crs)
        polygons = shapely.get_parts(shapely.transform(np.asarray(footprints, dtype=object), project))
        if crs != MERCATOR and len(polygons):  # a zone does not reach everywhere
            polygons = polygons[np.isfinite(shapely.bounds(polygons)).all(axis=1)]
        self._tree = shapely.STRtree(polygons)
        # Every vertex in one array, with where each ring and each polygon's rings begin: asking shapely for
        # the coordinates of one polygon after the other takes longer than GDAL takes to draw them.
        self._vertices = shapely.get_coordinates(polygons)
        offsets = shapely.to_ragged_array(polygons)[2] if len(polygons) else (polygons, polygons)
        self._ring_starts, self._polygon_starts = (starts.tolist() for starts in offsets)

    def draw(self, images: Sequence[tuple[Georeference, int, int]]) -> list[NDArray[np.bool_]]:
        """Building pixels of images given as (georeference in the index's CRS, width, height): bool (height, width).

        One thread draws at a time.
        """
        points = np.array([corners(*image) for image in images]).reshape(-1, 4, 2)
        (west, south), (east, north) = points.min(axis=1).T, points.max(axis=1).T
        of, found = self._tree.query(shapely.box(west, south, east, north))  # sorted by image
        each = np.split(found, np.searchsorted(of, np.arange(1, len(images))))
        with _RASTERIZING, rasterio.Env():
            return [self._draw(polygons.tolist(), *image) for polygons, image in zip(each, images, strict=False)]

    def _draw(self, polygons: list[int], georeference: Georeference, width: int, height: int) -> NDArray[np.bool_]:
        if not polygons:
            return np.zeros((height, width), dtype=np.bool_)
        burnt: NDArray[np.uint8] = rasterio.features.rasterize(
            [self._polygon(index) for index in polygons],
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
