"""Footprints drawn over windows: the same sources, cleaning and drawing for tiles, cells and scenes, in their grids."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import mercantile
import numpy as np

from tasks.errors import LabelError
from tasks.geo.georeference import Georeference, lonlat_of, tile_at
from tasks.geo.tiles import MAX_LATITUDE, Tile
from tasks.labels.footprints import LabelReport, read_footprints, read_report, write_footprints
from tasks.labels.protocol import FootprintSource, RawLabels, rim
from tasks.labels.rasterize import FootprintIndex
from tasks.samples.window import Window

MAX_ZOOM = 18  # of the tiles that windows are looked up by; deeper ones are smaller than any building's context
BATCH_PIXELS = 512 * 256 * 256  # of windows drawn at once: a shard of tiles


class FootprintLabels:
    """Footprints drawn over windows. Satisfies :class:`tasks.labels.protocol.Labels`."""

    def __init__(self, source: FootprintSource, footprints: Path, padding: int = 0) -> None:
        """source: where they come from. footprints: the file to keep them in. padding: pixels of rim without label."""
        self._source, self._file, self._padding = source, footprints, padding
        self._indexes: dict[str, FootprintIndex] = {}
        self._lock = threading.Lock()

    def prepare(self, windows: Sequence[Window], work: Path) -> LabelReport:
        """Fetch the footprints, unless the file has them already; then no request is counted. Raises LabelError."""
        if self._file.exists():
            return replace(read_report(self._file), requests=0)
        footprints = self._source.fetch(tiles_of(windows), work)
        write_footprints(self._file, footprints)
        self.close()
        return footprints.report

    def read(self, windows: Sequence[Window]) -> Iterator[RawLabels]:
        """Of each window bool (height, width): True on buildings. :meth:`prepare` has run, perhaps elsewhere.

        Raises LabelError for a window without a place.
        """
        for crs, images in _batches(windows):
            for mask in self._index(crs).draw(images):
                yield RawLabels(mask, rim(mask.shape, self._padding) if self._padding else None)

    def close(self) -> None:
        """Let the footprints go."""
        with self._lock:
            self._indexes.clear()

    def _index(self, crs: str) -> FootprintIndex:
        with self._lock:
            if crs not in self._indexes:
                self._indexes[crs] = FootprintIndex(read_footprints(self._file).geometry, crs)
            return self._indexes[crs]


def tiles_of(windows: Sequence[Window]) -> list[Tile]:
    """Slippy-map tiles of one zoom that cover the windows, sorted: themselves when they are such tiles.

    Otherwise about as large as the windows. Raises LabelError for a window without a place.
    """
    own = [tile_at(lies, one.width, one.height) if (lies := one.georeference) else None for one in windows]
    tiles = sorted({tile for tile in own if tile is not None})
    if None not in own and len({tile.z for tile in tiles}) < 2:
        return tiles
    boxes = np.array([_lonlat(window) for window in windows])
    boxes[:, [1, 3]] = np.clip(boxes[:, [1, 3]], -MAX_LATITUDE, MAX_LATITUDE)
    span = float(np.median(boxes[:, 2] - boxes[:, 0]))
    zoom = int(np.clip(np.floor(np.log2(360.0 / max(span, 1e-9))), 0, MAX_ZOOM))
    found = {tile for box in boxes for tile in mercantile.tiles(*box, zooms=zoom)}
    return sorted(Tile(tile.z, tile.x, tile.y) for tile in found)


def _batches(windows: Sequence[Window]) -> Iterator[tuple[str, list[tuple[Georeference, int, int]]]]:
    """Runs of windows of one CRS as (georeference, width, height), each of about BATCH_PIXELS at most."""
    images = [(_place(window), window.width, window.height) for window in windows]
    ends = itertools.accumulate(width * height for _, width, height in images)
    numbered = [((image[0].crs, (end - 1) // BATCH_PIXELS), image) for image, end in zip(images, ends, strict=True)]
    for (crs, _), run in itertools.groupby(numbered, lambda one: one[0]):
        yield crs, [image for _, image in run]


def _lonlat(window: Window) -> tuple[float, float, float, float]:
    lies = _place(window)
    box = lonlat_of(lies, window.width, window.height)
    if not np.isfinite(box).all():
        raise LabelError(
            f"{window.name}: its place in {lies.crs} has no longitude and latitude; check the CRS and the transform of "
            "the file"
        )
    return box


def _place(window: Window) -> Georeference:
    if window.georeference is None:
        raise LabelError(
            f"{window.scene}: has no CRS or no transform, so footprints cannot be drawn over it; give the file a "
            "georeference (gdal_edit.py -a_srs ... -a_ullr ..., or its .aux.xml side file), or take label rasters"
        )
    return window.georeference
