"""Masks of footprints for windows: the same sources, cleaning and drawing as for tiles, in each window's own grid."""

import threading
from collections.abc import Sequence
from pathlib import Path

import mercantile
import numpy as np

from tasks.errors import LabelError
from tasks.geo.georeference import lonlat_of
from tasks.geo.tiles import MAX_LATITUDE, Tile
from tasks.labels.footprints import LabelReport, read_footprints, read_report, write_footprints
from tasks.labels.rasterize import FootprintIndex
from tasks.labels.registry import LabelSource
from tasks.samples.window import RawLabels, Window

MAX_ZOOM = 18  # of the tiles that windows are looked up by; deeper ones are smaller than any building's context


class FootprintLabels:
    """Footprints drawn over windows. Satisfies :class:`tasks.samples.window.WindowLabels`."""

    def __init__(self, source: LabelSource, footprints: Path, padding: int = 0) -> None:
        """source: where they come from. footprints: the file to keep them in. padding: pixels of rim without label."""
        self._source, self._file, self._padding = source, footprints, padding
        self._indexes: dict[str, FootprintIndex] = {}
        self._lock = threading.Lock()

    def prepare(self, windows: Sequence[Window], work: Path) -> LabelReport:
        """Fetch the footprints, unless the file has them already. Raises LabelError."""
        if self._file.exists():
            return read_report(self._file)
        footprints = self._source.fetch(covering_tiles(windows), work)
        write_footprints(self._file, footprints)
        return footprints.report

    def read(self, window: Window) -> RawLabels:
        """bool (height, width): True on buildings."""
        if window.georeference is None:
            raise _no_place(window)
        index = self._index(window.georeference.crs)
        (mask,) = index.draw([(window.georeference, window.width, window.height)])
        if not self._padding:
            return RawLabels(mask)
        rim = np.ones_like(mask)
        rim[self._padding : -self._padding, self._padding : -self._padding] = False
        return RawLabels(mask, rim)

    def _index(self, crs: str) -> FootprintIndex:
        with self._lock:
            found = self._indexes.get(crs)
            if found is None:
                found = self._indexes[crs] = FootprintIndex(read_footprints(self._file).geometry, crs)
            return found


def covering_tiles(windows: Sequence[Window]) -> list[Tile]:
    """Slippy-map tiles of one zoom, about as large as the windows, that cover them all. Raises LabelError."""
    boxes = np.array([_lonlat(window) for window in windows])
    boxes[:, [1, 3]] = np.clip(boxes[:, [1, 3]], -MAX_LATITUDE, MAX_LATITUDE)
    span = float(np.median(boxes[:, 2] - boxes[:, 0]))
    zoom = int(np.clip(np.floor(np.log2(360.0 / max(span, 1e-9))), 0, MAX_ZOOM))
    found = {tile for box in boxes for tile in mercantile.tiles(*box, zooms=zoom)}
    return sorted(Tile(tile.z, tile.x, tile.y) for tile in found)


def _lonlat(window: Window) -> tuple[float, float, float, float]:
    if window.georeference is None:
        raise _no_place(window)
    box = lonlat_of(window.georeference, window.width, window.height)
    if not np.isfinite(box).all():
        raise LabelError(
            f"{window.name}: its place in {window.georeference.crs} has no longitude and latitude; check the CRS and "
            "the transform of the file"
        )
    return box


def _no_place(window: Window) -> LabelError:
    return LabelError(
        f"{window.scene}: has no CRS or no transform, so footprints cannot be drawn over it; give the file a "
        "georeference (gdal_edit.py -a_srs ... -a_ullr ..., or its .aux.xml side file), or take label rasters"
    )
