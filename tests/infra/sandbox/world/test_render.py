"""The pictures: seamless, the same each time, and true to the houses."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.features import rasterize

from infra.sandbox.world import texture
from infra.sandbox.world.osm import build_osm, to_mercator
from infra.sandbox.world.region import ABSENT_TILES_Z18, FIRST_TILE_Z18, ORIGIN_X, ORIGIN_Y, SIZE
from infra.sandbox.world.render import Renderer, has_imagery
from infra.sandbox.world.scenery import Trees
from infra.sandbox.world.world import World, build_world
from tasks.geo.tiles import HALF_WORLD, Tile, tile_bounds, tile_span

X, Y = FIRST_TILE_Z18


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


@pytest.fixture(scope="module")
def renderer(world: World) -> Renderer:
    return Renderer(world)


def test_same_tile_same_pixels(renderer: Renderer, world: World) -> None:
    tile = renderer.tile(18, X + 8, Y + 8)
    assert tile.shape == (256, 256, 3)
    assert tile.dtype == np.uint8
    assert np.array_equal(tile, Renderer(world).tile(18, X + 8, Y + 8))


def test_other_seed_other_pixels(renderer: Renderer) -> None:
    other = Renderer(build_world(1)).tile(18, X + 8, Y + 8).astype(int)
    assert np.abs(other - renderer.tile(18, X + 8, Y + 8)).mean() > 10


@pytest.mark.parametrize(("column", "row"), [(8, 8), (4, 6), (12, 2), (14, 12), (0, 0)])
def test_four_tiles_make_the_picture_of_their_parent(renderer: Renderer, column: int, row: int) -> None:
    x, y = X + column, Y + row
    four = [[renderer.tile(18, x + i, y + j) for i in (0, 1)] for j in (0, 1)]
    mosaic = np.concatenate([np.concatenate(line, axis=1) for line in four], axis=0).astype(int)
    parent = renderer.tile(17, x // 2, y // 2, 512).astype(int)
    different = np.abs(mosaic - parent).max(axis=2) > 1
    assert different.mean() < 1e-3
    seam = np.concatenate([different[254:258].ravel(), different[:, 254:258].ravel()])
    assert seam.mean() < 1e-2


def test_noise_meets_at_the_edge() -> None:
    whole = texture.octave(0, 3, 18, 1000, 2000, 512)
    east = texture.octave(0, 3, 18, 1256, 2000, 256)
    assert whole is not None
    assert east is not None
    assert np.abs(whole[:256, 256:] - east).max() < 1e-4
    assert np.array_equal(texture.grain(0, 256, 0, 264)[:, :8], texture.grain(0, 512, 0, 264)[:, :8])


def test_octave_below_a_pixel_is_left_out() -> None:
    assert texture.octave(0, 0, 17, 0, 0, 256) is None


@pytest.fixture(scope="module")
def painted(world: World) -> Renderer:
    """The same houses in a colour that nothing else has, without shadows and trees."""
    houses = [replace(house, colour=(250, 0, 250), height=0.0) for house in world.houses]
    bare = Trees(np.empty((0, 2)), np.empty(0), np.empty((0, 3)))
    return Renderer(replace(world, houses=houses, trees=bare))


def house_pixels(painted: Renderer, z: int, x: int, y: int) -> np.ndarray:
    tile = painted.tile(z, x, y).astype(int)
    return (tile[..., 0] > tile[..., 1] + 75) & (tile[..., 2] > tile[..., 1] + 75)


def shows_house(painted: Renderer, point: shapely.Point) -> bool:
    """Whether the pixel of zoom 20 at a point in local metres shows a house."""
    metres = tile_span(20) / 256
    column, row = int((point.x + ORIGIN_X + HALF_WORLD) / metres), int((HALF_WORLD - point.y - ORIGIN_Y) / metres)
    return bool(house_pixels(painted, 20, column // 256, row // 256)[row % 256, column % 256])


@pytest.mark.parametrize(("zoom", "column", "row"), [(18, 8, 8), (18, 4, 6), (18, 13, 12), (19, 14, 17), (20, 30, 40)])
def test_houses_lie_where_their_labels_are(painted: Renderer, zoom: int, column: int, row: int) -> None:
    x, y = (X << (zoom - 18)) + column, (Y << (zoom - 18)) + row
    drawn = [f for f in build_osm(0).footprints if f.oddity not in ("building_no", "demolished", "underground")]
    west, _, _, north = tile_bounds(Tile(zoom, x, y))
    pixel = tile_span(zoom) / 256
    transform = Affine(pixel, 0, west, 0, -pixel, north)
    label = rasterize([to_mercator(f.geometry) for f in drawn], (256, 256), transform=transform).astype(bool)
    seen = house_pixels(painted, zoom, x, y)
    assert label.mean() > 0.1
    assert (label & seen).sum() / (label | seen).sum() > 0.95


def test_courtyards_are_open_in_the_picture(world: World, painted: Renderer) -> None:
    parts = [part for house in world.houses for part in shapely.get_parts(house.footprint) if part.interiors]
    inside = shapely.box(0, 0, SIZE, SIZE)
    courts = [shapely.Polygon(ring) for part in parts for ring in part.interiors if inside.contains(part)]
    assert len(courts) >= 15
    assert not any(shows_house(painted, court.representative_point()) for court in courts)
    assert all(shows_house(painted, part.representative_point()) for part in parts if inside.contains(part))


def test_what_is_no_house_is_not_drawn(world: World, painted: Renderer) -> None:
    for house in world.houses:
        if house.oddity is not None:
            stands = house.oddity in ("unclosed", "bow_tie")
            assert shows_house(painted, house.footprint.representative_point()) == stands, house.oddity


def test_where_there_is_imagery() -> None:
    assert has_imagery(18, X, Y)
    assert has_imagery(18, X + 15, Y)
    assert has_imagery(14, X >> 4, Y >> 4)
    assert has_imagery(21, X << 3, Y << 3)
    assert not has_imagery(18, X - 1, Y)
    assert not has_imagery(18, X + 16, Y)
    assert not has_imagery(18, X, Y + 16)
    assert not has_imagery(18, X, Y - 1)
    assert not has_imagery(13, X >> 5, Y >> 5)
    assert not has_imagery(22, X << 4, Y << 4)
    for x, y in ABSENT_TILES_Z18:
        assert not has_imagery(18, x, y)
        assert not has_imagery(20, x * 4 + 1, y * 4 + 3)
        assert has_imagery(17, x // 2, y // 2)
