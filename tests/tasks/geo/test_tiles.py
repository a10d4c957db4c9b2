import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import AreaError
from tasks.geo.tiles import (
    MAX_LATITUDE,
    Tile,
    grouped,
    lonlat_bounds,
    mercator,
    quadkey,
    tile_bounds,
    tile_span,
)


@st.composite
def tiles(draw: st.DrawFn, low: int = 0, high: int = 22) -> Tile:
    zoom = draw(st.integers(low, high))
    return Tile(zoom, draw(st.integers(0, 2**zoom - 1)), draw(st.integers(0, 2**zoom - 1)))


@given(tiles())
def test_bounds_and_quadkeys_are_mercantile_s(tile: Tile) -> None:
    reference = mercantile.Tile(tile.x, tile.y, tile.z)
    assert np.allclose(tile_bounds(tile), mercantile.xy_bounds(reference), rtol=0, atol=1e-6)
    assert np.allclose(lonlat_bounds(tile), mercantile.bounds(reference), rtol=0, atol=1e-10)
    assert quadkey(tile) == mercantile.quadkey(reference)


@given(tiles(low=1))
def test_a_parent_holds_its_tile(tile: Tile) -> None:
    parent = tile.parent(tile.z - 1)
    assert parent == Tile(*(mercantile.parent(mercantile.Tile(tile.x, tile.y, tile.z))[i] for i in (2, 0, 1)))
    west, south, east, north = tile_bounds(tile)
    outer = tile_bounds(parent)
    slack = tile_span(tile.z) * 1e-6
    assert outer[0] <= west + slack
    assert outer[1] <= south + slack
    assert outer[2] >= east - slack
    assert outer[3] >= north - slack


@given(tiles())
def test_names_parse_back(tile: Tile) -> None:
    assert Tile.parse(f" {tile.name}\n") == tile


@pytest.mark.parametrize("text", ["", "1/2", "1/2/3/4", "a/b/c", "3/8/0", "3/0/-1", "31/0/0", "1/²/0"])
def test_what_is_no_tile_is_refused(text: str) -> None:
    with pytest.raises(AreaError):
        Tile.parse(text)


@given(st.floats(-180, 180), st.floats(-90, 90))
def test_mercator_stays_on_the_square_map(lon: float, lat: float) -> None:
    x, y = mercator(np.array([[lon, lat]]))[0]
    world = tile_bounds(Tile(0, 0, 0))
    assert world[0] - 1e-6 <= x <= world[2] + 1e-6
    assert world[1] - 1e-6 <= y <= world[3] + 1e-6
    if abs(lat) < MAX_LATITUDE:
        assert np.allclose((x, y), mercantile.xy(lon, lat), rtol=1e-12, atol=1e-6)


@given(st.sets(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=1, max_size=300), st.integers(1, 64))
def test_groups_partition_the_tiles(cells: set[tuple[int, int]], capacity: int) -> None:
    given_tiles = [Tile(8, x, y) for x, y in cells]
    found = grouped(given_tiles, capacity)
    seen = [tile for _, inside in found for tile in inside]
    assert sorted(seen) == sorted(given_tiles)
    assert all(len(inside) <= capacity and inside == tuple(sorted(inside)) for _, inside in found)
    assert all(tile.parent(parent.z) == parent for parent, inside in found for tile in inside)
    parents = [parent for parent, _ in found]
    assert len(set(parents)) == len(found)
    assert [quadkey(parent) for parent in parents] == sorted(quadkey(parent) for parent in parents)
    assert found == grouped(reversed(given_tiles), capacity)


def test_a_dense_square_makes_full_groups() -> None:
    square = [Tile(10, x, y) for x in range(256, 320) for y in range(512, 576)]
    assert {len(inside) for _, inside in grouped(square, 512)} == {256}


def test_no_tiles_make_no_group() -> None:
    assert grouped([]) == []
