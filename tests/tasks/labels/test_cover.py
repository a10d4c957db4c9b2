from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.labels.cover import TileCover

ZOOM = 6
SIDE = 1 << ZOOM
cells = st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1))


def box_of(west: int, north: int, east: int, south: int) -> tuple[float, float, float, float]:
    """A box that reaches into the middle of its corner tiles."""
    a, b = lonlat_bounds(Tile(ZOOM, west, north)), lonlat_bounds(Tile(ZOOM, east, south))
    return (a[0] + a[2]) / 2, (b[1] + b[3]) / 2, (b[0] + b[2]) / 2, (a[1] + a[3]) / 2


@settings(max_examples=60, deadline=None)
@given(st.lists(cells, min_size=1, max_size=30), st.lists(st.tuples(cells, cells), min_size=1, max_size=10))
def test_agrees_with_looking_at_every_tile(tiles: list[tuple[int, int]], corners: list[tuple[Any, Any]]) -> None:
    spans = [(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])) for a, b in corners]
    found = TileCover([Tile(ZOOM, x, y) for x, y in tiles]).touches(np.array([box_of(*span) for span in spans]))
    for (west, north, east, south), hit in zip(spans, found, strict=True):
        assert hit == any(west <= x <= east and north <= y <= south for x, y in tiles)


def test_bounds_hold_all_tiles() -> None:
    tiles = [Tile(10, 3, 5), Tile(10, 7, 4)]
    west, south, east, north = TileCover(tiles).bounds
    assert (west, north) == (lonlat_bounds(tiles[0])[0], lonlat_bounds(tiles[1])[3])
    assert (east, south) == (lonlat_bounds(tiles[1])[2], lonlat_bounds(tiles[0])[1])


def test_edges_of_the_map_and_boxes_of_nothing() -> None:
    cover = TileCover([Tile(2, 3, 0)])
    boxes = np.array([[179, 80, 180, 85.05], [179, 86, 180, 89], [np.nan] * 4, [-180, 80, -179, 85]])
    assert cover.touches(boxes).tolist() == [True, False, False, False]
    assert TileCover([]).touches(boxes).tolist() == [False] * 4
