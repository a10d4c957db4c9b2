"""Labels from one raster of the whole area, such as a land-cover map, in any CRS and on any grid."""

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

from tasks.errors import LabelError
from tasks.labels.footprints import LabelReport
from tasks.labels.protocol import RawLabels
from tasks.labels.rasters import FileLabels, raster_of, report_of
from tasks.raster.grids import Header
from tasks.raster.scene import LocalAsset
from tasks.recipe.sources import RasterLabels
from tasks.samples.window import Window


class MapLabels(FileLabels):
    """A pixel of a window has the label of the map's pixel in which its centre lies."""

    def __init__(self, path: Path, labels: RasterLabels, *, listed: Collection[int] = ()) -> None:
        """``path`` may have ``*`` in it. ``listed``: see :class:`tasks.labels.rasters.FileLabels`."""
        super().__init__(labels, listed=listed)
        self._path, self._shown = path, labels.path

    def prepare(self, windows: Sequence[Window], work: Path) -> LabelReport:  # noqa: ARG002 - the map is here
        """Say which map it is. Raises LabelError where there is none or it has no place."""
        self.windows = windows
        self._header()
        return report_of(self._shown, {self._map.file.name: self._map})

    @cached_property
    def _map(self) -> LocalAsset:
        return LocalAsset(raster_of(self._path, "") or self._path)

    def _header(self) -> Header:
        header = self._rasters.header(self._map.file, self._map.name)
        if header.georeference is None:
            raise LabelError(
                f"{header.name}: has no CRS or no transform, so it cannot be laid over an area; give it a georeference "
                "(gdal_edit.py -a_srs ... -a_ullr ...), or put {scene} into labels.path for a file of each cell"
            )
        return header

    def _of(self, window: Window) -> RawLabels | None:
        return self._nearest(self._map.file, self._header(), window)
