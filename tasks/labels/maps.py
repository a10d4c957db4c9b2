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
        return report_of(self._shown, {self._path.name: LocalAsset(self._path)}, {})

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
        places = _places(window, lies)
        beyond = np.any((places < 0) | (places >= [[[header.width]], [[header.height]]]), axis=0)
        if beyond.all():
            if self._labels.missing == "error":
                raise LabelError(
                    f"{window.name}: {header.name} does not reach it; take a map of the whole area, a smaller area, or "
                    "set labels.missing: skip"
                )
            return None
        values, missing = self._at(header, *places[:, ~beyond].astype(np.intp))
        return self._raw(header, Pixels(_spread(values, ~beyond), _spread(missing, ~beyond)), beyond)

    def _at(self, header: Header, x: NDArray[np.intp], y: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Of the map's pixels at the columns ``x`` and rows ``y`` (n,): values, and where they are none, (band, n)."""
        columns, rows = np.arange(x.min(), x.max() + 1), np.arange(y.min(), y.max() + 1)
        if len(columns) * len(rows) > BLOCK_PIXELS and len(x) > 1:  # a map much finer than the window
            middle = len(x) // 2
            halves = self._at(header, x[:middle], y[:middle]), self._at(header, x[middle:], y[middle:])
            values, missing = (np.concatenate(parts, axis=1) for parts in zip(*halves, strict=True))
            return values, missing
        bands, count = self._bands(header)
        block = self._rasters.read(self._path, header.name, columns, rows, bands, count)
        nowhere = np.zeros(block.values.shape, dtype=np.bool_)
        missing = nowhere if block.missing is None else block.missing
        return block.values[:, y - rows[0], x - columns[0]], missing[:, y - rows[0], x - columns[0]]


def _spread(found: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[Any]:
    """(band, y, x): ``found`` (band, n) in the n places ``where`` (y, x), 0 elsewhere."""
    whole = np.zeros((len(found), *where.shape), dtype=found.dtype)
    whole[:, where] = found
    return whole


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
    found: NDArray[np.float64] = np.floor(_between(down, window.height) @ places @ _between(across, window.width).T)
    return found


def _nodes(length: int) -> NDArray[np.intp]:
    """Every sixteenth of the pixels of an axis, and the last."""
    return np.unique(np.append(np.arange(0, length, _STEP), length - 1))


def _between(nodes: NDArray[np.intp], length: int) -> NDArray[np.float64]:
    """(length, nodes): how much of each node's place is in each pixel's."""
    pixels = np.arange(length)
    return np.column_stack([np.interp(pixels, nodes, unit) for unit in np.eye(len(nodes))])
