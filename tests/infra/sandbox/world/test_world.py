"""The region: the same from the same seed, sensible as a town, and as large as it says."""

import itertools

import numpy as np
import pytest
from shapely import Polygon, STRtree, box, get_parts

from infra.sandbox.world.landscape import build_landscape
from infra.sandbox.world.region import (
    ABSENT_TILES_Z18,
    FIRST_TILE_Z18,
    REGION_BOUNDS,
    SIZE,
    TILE_Z18,
    from_lonlat,
    to_lonlat,
)
from infra.sandbox.world.settlement import build_settlement
from infra.sandbox.world.world import World, build_world
from tasks.geo.tiles import Tile, lonlat_bounds


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


def density(world: World) -> np.ndarray:
    """Share of building in each z18 tile, row by row from the north-west."""
    footprints = [h.footprint for h in world.houses if h.oddity is None]
    tree, shares = STRtree(footprints), []
    for row, column in itertools.product(range(16), range(16)):
        west, north = column * TILE_Z18, SIZE - row * TILE_Z18
        tile = box(west, north - TILE_Z18, west + TILE_Z18, north)
        shares.append(sum(footprints[n].intersection(tile).area for n in tree.query(tile)) / tile.area)
    return np.array(shares).reshape(16, 16)


def test_bounds_cover_256_tiles() -> None:
    west, south, east, north = REGION_BOUNDS
    first, last = Tile(18, *FIRST_TILE_Z18), Tile(18, FIRST_TILE_Z18[0] + 15, FIRST_TILE_Z18[1] + 15)
    outer = (*lonlat_bounds(first)[::3], *lonlat_bounds(last)[1:3])
    assert outer[0] < west < outer[0] + 5e-6
    assert outer[1] - 5e-6 < north < outer[1]
    assert outer[2] < south < outer[2] + 5e-6
    assert outer[3] - 5e-6 < east < outer[3]


def test_local_coordinates_come_back() -> None:
    local = np.array([[0.0, 0.0], [SIZE, SIZE], [1234.5, 17.25]])
    assert np.abs(from_lonlat(to_lonlat(local)) - local).max() < 0.006  # half of OSM's unit


def test_same_seed_same_town(world: World) -> None:
    again = build_settlement(0, build_landscape(0))
    assert [h.footprint.wkb for h in again] == [h.footprint.wkb for h in world.houses]
    assert [h.colour for h in again] == [h.colour for h in world.houses]


def test_other_seed_other_town(world: World) -> None:
    other = build_settlement(1, build_landscape(1))
    assert {h.footprint.wkb for h in other}.isdisjoint(h.footprint.wkb for h in world.houses)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_houses_are_valid_and_do_not_overlap(seed: int) -> None:
    houses = build_settlement(seed, build_landscape(seed))
    footprints = [h.footprint for h in houses if h.oddity != "underground"]
    assert all(f.is_valid for f in footprints)
    first, second = STRtree(footprints).query(footprints, predicate="overlaps")
    overlap = [footprints[a].intersection(footprints[b]).area for a, b in zip(first, second, strict=True)]
    assert sum(overlap) < 0.01


def test_forms(world: World) -> None:
    parts = [part for house in world.houses for part in get_parts(house.footprint)]
    corners = {len(part.exterior.coords) - 1 for part in parts}
    assert {4, 6, 8} <= corners  # rectangles, L, and T or U
    assert sum(bool(part.interiors) for part in parts) >= 15  # courtyards
    assert sum(house.footprint.geom_type == "MultiPolygon" for house in world.houses) >= 2


def test_attached_houses_share_corners(world: World) -> None:
    seen: dict[tuple[float, float], int] = {}
    for house in world.houses:
        for part in get_parts(house.footprint):
            assert isinstance(part, Polygon)
            for corner in part.exterior.coords[:-1]:
                seen[corner] = seen.get(corner, 0) + 1
    assert sum(count > 1 for count in seen.values()) > 500


def test_filter_at_15_percent_has_work(world: World) -> None:
    share = density(world)
    assert 0.25 <= (share >= 0.15).mean() <= 0.40
    assert (share == 0).mean() > 0.2
    absent = [share[y - FIRST_TILE_Z18[1], x - FIRST_TILE_Z18[0]] for x, y in ABSENT_TILES_Z18]
    assert sum(value >= 0.15 for value in absent) >= 2  # some of what passes the filter has no imagery


def test_every_oddity_is_there(world: World) -> None:
    oddities = {house.oddity for house in world.houses}
    assert oddities == {None, "building_no", "underground", "demolished", "unclosed", "bow_tie"}
