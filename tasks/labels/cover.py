"""Which bounding boxes lie on the candidate tiles: the question every label source asks of every building."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.geo.coverage import columns_and_rows
from tasks.geo.tiles import MAX_LATITUDE, Tile, lonlat_bounds

_FEW_ROWS = 8


class TileCover:
    """A set of tiles of one zoom, asked for many boxes at a time."""

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self.zoom = tiles[0].z if tiles else 0
        self._names = np.array([(tile.x, tile.y) for tile in tiles], dtype=np.int64).reshape(-1, 2)
        # One number a tile, row by row, so that the tiles x0..x1 of a row are neighbours in the sorted array; the last
        # is of no tile and larger than all.
        codes = np.unique(_code(self._names[:, 0], self._names[:, 1]))
        self._codes = np.append(codes, np.iinfo(np.int64).max)
        self._rows = np.unique(self._names[:, 1])

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of all tiles together, in degrees. There must be a tile."""
        west, _, _, north = lonlat_bounds(Tile(self.zoom, *self._names.min(axis=0).tolist()))
        _, south, east, _ = lonlat_bounds(Tile(self.zoom, *self._names.max(axis=0).tolist()))
        return west, south, east, north

    def touches(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """For ``boxes`` (n, 4), west south east north in degrees: which of them touch a tile, as bool (n,).

        A box that is not finite (of an empty geometry) touches none, and one beyond the map's edge in latitude
        none either.
        """
        known = np.isfinite(boxes).all(axis=1) & (boxes[:, 1] <= MAX_LATITUDE) & (boxes[:, 3] >= -MAX_LATITUDE)
        left, bottom = columns_and_rows(boxes[known][:, :2], self.zoom)
        right, top = columns_and_rows(boxes[known][:, 2:], self.zoom)
        hit = np.zeros(len(left), dtype=bool)
        height = bottom - top
        for step in range(min(int(height.max(initial=0)), _FEW_ROWS - 1) + 1):
            asked = (height >= step) & (height < _FEW_ROWS)
            hit[asked] |= self._any_in_row(top[asked] + step, left[asked], right[asked])
        for one in np.flatnonzero(height >= _FEW_ROWS):
            rows = self._rows[np.searchsorted(self._rows, top[one]) : np.searchsorted(self._rows, bottom[one], "right")]
            hit[one] = self._any_in_row(rows, left[one], right[one]).any()
        found = np.zeros(len(boxes), dtype=bool)
        found[known] = hit
        return found

    def _any_in_row(
        self, row: NDArray[np.int64], left: NDArray[np.int64] | np.int64, right: NDArray[np.int64] | np.int64
    ) -> NDArray[np.bool_]:
        first = np.searchsorted(self._codes, _code(left, row))
        return np.asarray(self._codes[first] <= _code(right, row))


def _code(x: NDArray[np.int64] | np.int64, y: NDArray[np.int64]) -> NDArray[np.int64]:
    return (y << 32) | x
