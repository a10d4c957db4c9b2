"""Footprints to class masks, exactly, in a tile's own EPSG:3857 pixel grid.

The rule is GDAL's: a pixel belongs to a polygon when its centre does. Holes stay open and every part
of a MultiPolygon is drawn.
"""

from collections.abc import Sequence

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio import Affine

from tasks.grid import Tile, mercator, tile_bounds


class FootprintIndex:
    """Footprints in EPSG:3857 with a spatial index; read-only, so threads may share it."""

    def __init__(self, footprints: NDArray[np.object_]) -> None:
        """``footprints``: shapely Polygons and MultiPolygons in EPSG:4326, valid."""
        self._geometry = shapely.transform(np.asarray(footprints, dtype=object), mercator)
        self._tree = shapely.STRtree(self._geometry)

    def __len__(self) -> int:
        return len(self._geometry)

    def mask(self, tile: Tile, pixels: int) -> NDArray[np.bool_]:
        """Building pixels of ``tile`` as bool (pixels, pixels); row 0 is the northern edge."""
        bounds = tile_bounds(tile)
        found = self._geometry[np.sort(self._tree.query(shapely.box(*bounds)))]
        if not len(found):
            return np.zeros((pixels, pixels), dtype=np.bool_)
        west, _, east, north = bounds
        size = (east - west) / pixels
        transform = Affine(size, 0.0, west, 0.0, -size, north)
        burnt: NDArray[np.uint8] = rasterio.features.rasterize(
            found, out_shape=(pixels, pixels), transform=transform, dtype="uint8"
        )
        return burnt.astype(np.bool_)


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


def building_fractions(masks: Sequence[NDArray[np.bool_]]) -> list[float]:
    """Share of building pixels in each mask, 0 to 1."""
    return [float(np.count_nonzero(mask)) / mask.size for mask in masks]
