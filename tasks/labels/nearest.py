"""Which pixel of a raster, in any CRS and on any grid, lies under the centre of each pixel of a window."""

import numpy as np
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio import Affine

from tasks.errors import LabelError
from tasks.geo.georeference import Georeference, transformer
from tasks.samples.window import Window

_STEP = 16  # pixels of a window between those whose place is computed; on so short a way no projection bends
_FAR = -1e30


def places(window: Window, lies: Georeference) -> NDArray[np.float64]:
    """Column and row of a raster in which the centre of each of a window's pixels lies: whole numbers (2, y, x).

    Far outside where the raster's CRS does not reach. Raises LabelError where the two cannot be laid over one another.
    """
    if window.georeference is None:
        raise LabelError(f"{window.name}: has no CRS or no transform, so a map cannot be laid over it")
    across, down = _nodes(window.width), _nodes(window.height)
    x, y = Affine(*window.georeference.transform) * np.meshgrid(across + 0.5, down + 0.5)
    if window.georeference.crs != lies.crs:
        try:
            x, y = transformer(window.georeference.crs, lies.crs).transform(x, y)
        except ProjError as error:
            raise LabelError(
                f"{window.name}: a map in {lies.crs[:60]} cannot be laid over {window.georeference.crs[:60]} "
                f"({' '.join(str(error).split())[:100]}); write both in one CRS"
            ) from None
    found = np.stack(~Affine(*lies.transform) * (x, y))
    found[~np.isfinite(found)] = _FAR
    found = _between(across, window.width, found)
    return np.floor(_between(down, window.height, found.swapaxes(1, 2)).swapaxes(1, 2))


def _nodes(length: int) -> NDArray[np.intp]:
    """Every sixteenth of the pixels of an axis, and the last."""
    return np.unique(np.append(np.arange(0, length, _STEP), max(1, length - 1)))


def _between(nodes: NDArray[np.intp], length: int, found: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., length): ``found`` (..., nodes) at every pixel of the last axis, straight from node to node.

    A product of matrices would be shorter, but wakes threads for it, which on a busy machine wait for one another.
    """
    pixels = np.arange(length)
    left = np.minimum(pixels // _STEP, len(nodes) - 2)
    part = (pixels - nodes[left]) / (nodes[left + 1] - nodes[left])
    return np.asarray(found[..., left] * (1 - part) + found[..., left + 1] * part)
