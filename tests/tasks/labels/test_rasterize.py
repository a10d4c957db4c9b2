import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.geo.georeference import tile_georeference
from tasks.geo.tiles import HALF_WORLD, Tile, tile_bounds, tile_span
from tasks.labels.rasterize import FootprintIndex

TILE = Tile(18, 131081, 131045)
PIXEL = tile_span(18) / 256


def lonlat(x: float, y: float) -> tuple[float, float]:
    """EPSG:4326 of a point in pixels of TILE, from its north-western corner."""
    west, _, _, north = tile_bounds(TILE)
    mx, my = west + x * PIXEL, north - y * PIXEL
    return mx / HALF_WORLD * 180, float(np.degrees(2 * np.arctan(np.exp(my / HALF_WORLD * np.pi)) - np.pi / 2))


def polygon(shell: list[tuple[float, float]], *holes: list[tuple[float, float]]) -> shapely.Polygon:
    return shapely.Polygon([lonlat(*p) for p in shell], [[lonlat(*p) for p in hole] for hole in holes])


def box(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def draw(*footprints: shapely.Geometry) -> np.ndarray:
    return draw_on(FootprintIndex(np.array(footprints, dtype=object)), TILE)[0]


def draw_on(index: FootprintIndex, *tiles: Tile) -> list[np.ndarray]:
    return index.draw([(tile_georeference(tile, 256), 256, 256) for tile in tiles])


corner = st.floats(-40, 296).filter(lambda value: abs(value % 1 - 0.5) > 1e-3)


@given(corner, corner, corner, corner)
def test_a_box_covers_the_pixels_whose_centres_it_holds(x0: float, y0: float, x1: float, y1: float) -> None:
    x0, x1, y0, y1 = min(x0, x1), max(x0, x1) + 0.1, min(y0, y1), max(y0, y1) + 0.1
    if any(abs(value % 1 - 0.5) <= 1e-3 for value in (x1, y1)):
        return
    centres = np.arange(256) + 0.5
    expected = ((centres > y0) & (centres < y1))[:, None] & ((centres > x0) & (centres < x1))[None, :]
    assert np.array_equal(draw(polygon(box(x0, y0, x1, y1))), expected)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(5, 250), st.floats(5, 250)), min_size=3, max_size=7))
def test_any_polygon_covers_exactly_the_centres_inside(points: list[tuple[float, float]]) -> None:
    shape = shapely.convex_hull(shapely.MultiPoint(points))
    if shape.geom_type != "Polygon" or shape.area < 1:
        return
    mask = draw(polygon(list(shape.exterior.coords)))
    y, x = np.mgrid[0:256, 0:256] + 0.5
    centres = shapely.points(x, y)
    clear = shapely.distance(shape.boundary, centres) > 1e-4
    assert np.array_equal(mask[clear], shapely.contains(shape, centres)[clear])


def test_courtyards_stay_open_and_all_parts_are_drawn() -> None:
    ring = polygon(box(10, 10, 60, 60), box(25, 25, 45, 45))
    far = polygon(box(100, 100, 110, 120))
    mask = draw(shapely.MultiPolygon([ring, far]))
    assert mask.sum() == 50 * 50 - 20 * 20 + 10 * 20
    assert not mask[35, 35]
    assert mask[12, 12]
    assert mask[110, 105]


def test_a_building_inside_a_courtyard_is_drawn_whatever_the_order() -> None:
    ring = polygon(box(10, 10, 60, 60), box(20, 20, 50, 50))
    inner = polygon(box(30, 30, 40, 40))
    assert np.array_equal(draw(ring, inner), draw(inner, ring))
    assert draw(ring, inner)[35, 35]


def test_neighbouring_tiles_share_a_footprint_without_gap_or_overlap() -> None:
    index = FootprintIndex(np.array([polygon(box(200, 50, 300, 80))], dtype=object))
    west, east = draw_on(index, TILE, Tile(18, TILE.x + 1, TILE.y))
    assert west.sum() == 56 * 30
    assert east.sum() == 44 * 30


def test_no_footprint_gives_an_empty_mask() -> None:
    empty = FootprintIndex(np.array([], dtype=object))
    assert not draw_on(empty, TILE)[0].any()
    assert draw_on(empty) == []


def test_masks_of_many_images_come_in_their_order() -> None:
    index = FootprintIndex(np.array([polygon(box(40 * n, 40 * n, 40 * n + 30, 40 * n + 30)) for n in range(16)]))
    tiles = [Tile(18, TILE.x + x, TILE.y + y) for x in (2, 0, 1, -1) for y in (0, 2, 1)]
    together = draw_on(index, *tiles)
    assert sum(mask.any() for mask in together) == 5  # the diagonal's, and two where a box lies on a corner
    for tile, mask in zip(tiles, together, strict=True):
        assert np.array_equal(mask, draw_on(index, tile)[0])
