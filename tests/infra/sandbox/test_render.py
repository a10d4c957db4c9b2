"""The pictures: seamless, the same each time, and true to the houses."""

import numpy as np
import pytest
import shapely
from shapely import Polygon

from infra.sandbox import texture
from infra.sandbox.region import ABSENT_TILES_Z18, FIRST_TILE_Z18, ORIGIN_X, ORIGIN_Y, SIZE
from infra.sandbox.render import Renderer, has_imagery
from infra.sandbox.world import World, build_world
from tasks.grid import HALF_WORLD, tile_span

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


def zoom20_pixels(renderer: Renderer, x: float, y: float) -> np.ndarray:
    """The 3 x 3 pixels of zoom 20 around a point in local metres."""
    metres = tile_span(20) / 256
    column, row = int((x + ORIGIN_X + HALF_WORLD) / metres), int((HALF_WORLD - y - ORIGIN_Y) / metres)
    tile = renderer.tile(20, column // 256, row // 256)
    r, c = min(max(row % 256, 1), 254), min(max(column % 256, 1), 254)
    return tile[r - 1 : r + 2, c - 1 : c + 2].astype(float)


def test_courtyards_are_open_in_the_picture(world: World, renderer: Renderer) -> None:
    """A court shows its ground, not the roof: taking all courtyards together the colours differ clearly."""
    courts = [h for h in world.houses if isinstance(h.footprint, Polygon) and h.footprint.interiors]
    inside = shapely.box(50, 250, SIZE - 50, SIZE - 50)
    courts = [h for h in courts if inside.contains(h.footprint)]
    apart = 0
    for house in courts:
        # What the roof would look like there: its own colour under the brightest and the darkest light.
        court = Polygon(house.footprint.interiors[0]).representative_point()
        seen = zoom20_pixels(renderer, court.x, court.y).mean(axis=(0, 1))
        tint = np.array(house.colour, dtype=float)
        apart += bool(np.linalg.norm(seen / seen.sum() - tint / tint.sum()) > 0.012 or seen.sum() < 0.6 * tint.sum())
    assert len(courts) >= 12
    assert apart >= 0.7 * len(courts)


def test_roofs_differ_from_bare_ground_under_the_same_noise(world: World, renderer: Renderer) -> None:
    """A house that OSM calls ``building=no`` is not drawn; a bow-tie's house is."""
    drawn = {house.oddity: house for house in world.houses}
    point = drawn["building_no"].footprint.representative_point()
    without = zoom20_pixels(renderer, point.x, point.y)
    houses = [
        h if h.oddity != "building_no" else type(h)(h.footprint, h.roof, (250, 0, 250), 5.0) for h in world.houses
    ]
    other = Renderer(World(world.seed, world.landscape, houses, world.ground, world.trees))
    assert np.abs(zoom20_pixels(other, point.x, point.y) - without).mean() > 20


def test_where_there_is_imagery() -> None:
    assert has_imagery(18, X, Y)
    assert has_imagery(18, X + 15, Y + 14 - 14)
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
