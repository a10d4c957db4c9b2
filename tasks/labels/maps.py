"""Labels from one raster of the whole area, such as a land-cover map, in any CRS and on any grid."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine

from tasks.errors import LabelError
from tasks.geo.georeference import Georeference, transformer
from tasks.labels.footprints import LabelReport
from tasks.labels.protocol import RawLabels
from tasks.labels.rasters import FileLabels, report_of
from tasks.raster.files import Header, Pixels
from tasks.raster.scene import LocalAsset
from tasks.recipe.sources import RasterLabels
from tasks.samples.window import Window

BLOCK_PIXELS = 16 << 20  # of the map, read at once
_STEP = 16  # pixels of a window between those whose place is computed; on so short a way no projection bends
_FAR = -1e30


class MapLabels(FileLabels):
    """A pixel of a window has the label of the map's pixel in which its centre lies."""

    def __init__(self, path: Path, labels: RasterLabels, *, listed: Collection[int] = ()) -> None:
        """``listed``: see :class:`tasks.labels.rasters.FileLabels`."""
        super().__init__(labels, listed=listed)
        self._path, self._shown = path, labels.path

    def prepare(self, windows: Sequence[Window], work: Path) -> LabelReport:  # noqa: ARG002 - the map is here
        """Say which map it is. Raises LabelError where there is none or it has no place."""
        self._header()
        return report_of(self._shown, {self._path.name: LocalAsset(self._path)})

    def _header(self) -> tuple[Header, Georeference]:
        header = self._rasters.header(self._path, str(self._path))
        if header.georeference is None:
            raise LabelError(
                f"{header.name}: has no CRS or no transform, so it cannot be laid over an area; give it a georeference "
                "(gdal_edit.py -a_srs ... -a_ullr ...), or put {scene} into labels.path for a file of each cell"
            )
        return header, header.georeference

    def _of(self, window: Window) -> RawLabels | None:
        header, lies = self._header()
        places, last = _places(window, lies), np.array([[[header.width - 1]], [[header.height - 1]]])
        nearest = np.clip(places, 0, last)
        beyond = (places != nearest).any(axis=0)
        if beyond.all():
            self._skip(
                f"{window.name}: {header.name} does not reach it; take a map of the whole area, a smaller area, or set "
                "labels.missing: skip"
            )
            return None
        return self._raw(header, Pixels(*self._at(header, *nearest.astype(np.intp))), beyond)

    def _at(self, header: Header, x: NDArray[np.intp], y: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The map's pixels at columns and rows (y, x): values, and where they are none, (band, y, x)."""
        columns, rows = np.arange(x.min(), x.max() + 1), np.arange(y.min(), y.max() + 1)
        if len(columns) * len(rows) > BLOCK_PIXELS and len(x) > 1:  # a map much finer than the window
            middle = len(x) // 2
            halves = self._at(header, x[:middle], y[:middle]), self._at(header, x[middle:], y[middle:])
            values, missing = (np.concatenate(parts, axis=1) for parts in zip(*halves, strict=True))
            return values, missing
        block = self._rasters.read(self._path, header.name, columns, rows, *self._bands(header))
        missing = np.zeros(block.values.shape, dtype=np.bool_) if block.missing is None else block.missing
        return block.values[:, y - rows[0], x - columns[0]], missing[:, y - rows[0], x - columns[0]]


def _places(window: Window, lies: Georeference) -> NDArray[np.float64]:
    """Column and row of a raster in which the centre of each of a window's pixels lies: whole numbers (2, y, x).

    Far outside where the raster's CRS does not reach.
    """
    if window.georeference is None:
        raise LabelError(f"{window.name}: has no CRS or no transform, so a map cannot be laid over it")
    across, down = _nodes(window.width), _nodes(window.height)
    x, y = Affine(*window.georeference.transform) * np.meshgrid(across + 0.5, down + 0.5)
    if window.georeference.crs != lies.crs:
        x, y = transformer(window.georeference.crs, lies.crs).transform(x, y)
    places = np.stack(~Affine(*lies.transform) * (x, y))
    places[~np.isfinite(places)] = _FAR
    places = _between(across, window.width, places)
    return np.floor(_between(down, window.height, places.swapaxes(1, 2)).swapaxes(1, 2))


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
