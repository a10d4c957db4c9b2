"""Tiles told from where their pixels lie."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.geo.georeference import MERCATOR, Georeference, tile_at, tile_georeference
from tasks.geo.tiles import HALF_WORLD, MAX_ZOOM, Tile, tile_span

TILE = Tile(18, 131081, 131045)


@st.composite
def tiles(draw: st.DrawFn) -> Tile:
    zoom = draw(st.integers(0, MAX_ZOOM))
    return Tile(zoom, draw(st.integers(0, 2**zoom - 1)), draw(st.integers(0, 2**zoom - 1)))


@given(tiles(), st.integers(1, 16_384))
def test_a_tile_is_told_from_its_georeference(tile: Tile, pixels: int) -> None:
    lies = tile_georeference(tile, pixels)
    assert tile_at(lies, pixels, pixels) == tile
    other = pixels // 2 + 1  # of the same ground in other pixels
    assert tile_at(lies.scaled(pixels / other, pixels / other), other, other) == tile


@given(tiles(), st.floats(-1, 1), st.floats(-1, 1), st.floats(0.5, 2))
def test_a_window_off_the_grid_is_no_tile(tile: Tile, across: float, down: float, wide: float) -> None:
    a, b, c, d, e, f = tile_georeference(tile, 256).transform
    span = tile_span(tile.z)
    off = [abs(value - round(value)) for value in (across, down)] + [abs(math.log2(wide) - round(math.log2(wide)))]
    moved = Georeference(MERCATOR, (a * wide, b, c + across * span, d, e * wide, f - down * span))
    found = tile_at(moved, 256, 256)
    if max(off) > 1e-5:
        assert found is None or abs(math.log2(wide)) > 0.999  # half or twice as large it may be another tile
    if found is not None:
        assert tile_georeference(found, 256).transform == pytest.approx(moved.transform, abs=2e-6 * span)


def changed(index: int, value: float) -> Georeference:
    transform = list(tile_georeference(TILE, 256).transform)
    transform[index] = value
    return Georeference(MERCATOR, tuple(transform))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Odd:
    why: str
    lies: Georeference
    width: int = 256
    height: int = 256


SPAN = tile_span(18)
OTHERS = [
    Odd("another CRS", tile_georeference(TILE, 256)._replace(crs="EPSG:32631")),
    Odd("not square", tile_georeference(TILE, 256), 256, 128),
    Odd("part of a tile", tile_georeference(TILE, 256), 200, 200),
    Odd("turned", changed(1, 0.1)),
    Odd("sheared", changed(3, 0.1)),
    Odd("upside down", changed(4, SPAN / 256)),
    Odd("mirrored", changed(0, -SPAN / 256)),
    Odd("high pixels", changed(4, -SPAN / 250)),
    Odd("no pixel size", changed(0, 0.0)),
    Odd("endless", changed(0, math.inf)),
    Odd("no number across", changed(0, math.nan)),
    Odd("no number west", changed(2, math.nan)),
    Odd("no number down", changed(4, math.nan)),
    Odd("no number north", changed(5, math.nan)),
    Odd("west of the map", changed(2, -HALF_WORLD - SPAN)),
    Odd("east of the map", changed(2, HALF_WORLD)),
    Odd("north of the map", changed(5, HALF_WORLD + SPAN)),
    Odd("south of the map", changed(5, -HALF_WORLD)),
    Odd("a little off", changed(2, tile_georeference(TILE, 256).transform[2] + 1e-5 * SPAN)),
    Odd("larger than the map", tile_georeference(Tile(0, 0, 0), 256), 512, 512),
    Odd("deeper than any zoom", tile_georeference(Tile(MAX_ZOOM, 0, 0), 256), 64, 64),
]


@pytest.mark.parametrize("odd", OTHERS, ids=lambda odd: odd.why)
def test_what_is_no_whole_tile(odd: Odd) -> None:
    assert tile_at(odd.lies, odd.width, odd.height) is None
