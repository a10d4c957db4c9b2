"""Cells of an area: that they cover it, do not overlap, and have names and groups of their own."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import AreaError
from tasks.geo.coverage import named
from tasks.geo.georeference import tile_georeference
from tasks.geo.tiles import Tile, tile_bounds
from tasks.geo.utm import cells_over, to_degrees, to_metres, utm_epsg
from tasks.recipe.model import Recipe
from tasks.recipe.parts import Area, PolygonCells, UtmCells
from tasks.samples.area import candidate_tiles, tiles_in
from tasks.samples.cells import cells, polygon_windows, utm_cells
from tasks.samples.window import Window
from tests.support.recipes import recipe_of
from tests.support.stac_items import recipe

CAP = 100_000
LONG_WAY = {"type": "MultiPolygon", "coordinates": [[[[179, 0], [-179, 0], [-179, 1], [179, 0]]]]}
NAME = re.compile(r"[A-Za-z0-9./_@-]+")


def square(window: Window) -> Any:
    """The window's outline in its own CRS."""
    assert window.georeference is not None
    a, _, c, _, e, f = window.georeference.transform
    return shapely.box(c, f + e * window.height, c + a * window.width, f)


def outline(window: Window, points: int = 16) -> Any:
    """The window's outline in degrees."""
    assert window.georeference is not None
    epsg = int(window.georeference.crs.removeprefix("EPSG:"))
    shape = square(window)
    return shapely.transform(shapely.segmentize(shape, shape.length / 4 / points), to_degrees(epsg))


def over(box: tuple[float, float, float, float], size: int = 64, resolution: float = 40.0, **area: Any) -> list[Window]:
    values = {"imagery.cells": {"kind": "utm", "size": size, "resolution": resolution}, "limits.max_tiles": CAP}
    splits = {"by": "block", "block": 4}
    return cells(recipe_of("stac", {"area": {"bbox": list(box), **area}, "splits": splits, **values}), Path())


@st.composite
def boxes(draw: st.DrawFn, crossing: bool) -> tuple[float, float, float, float]:
    """Boxes of some kilometres, within a zone or across a border of zones, on both hemispheres."""
    zone = draw(st.integers(2, 59))
    border = 6.0 * zone - 180
    west = border - draw(st.floats(0.02, 0.1)) if crossing else border + draw(st.floats(0.5, 5.0))
    south = draw(st.one_of(st.floats(-79, 82), st.floats(-0.1, 0.0)))
    return west, south, west + draw(st.floats(0.05, 0.25)), south + draw(st.floats(0.05, 0.2))


def sampled(box: tuple[float, float, float, float], seed: int = 0, count: int = 300) -> Any:
    random = np.random.default_rng(seed)
    return np.column_stack((random.uniform(box[0], box[2], count), random.uniform(box[1], box[3], count)))


def far_from_borders(points: Any, side: float) -> Any:
    """Points that no cell left out at a border of zones (or at the equator) can have held."""
    reach = 1.5 * math.sqrt(2) * side / 111_000
    from_border = np.abs((points[:, 0] + 3) % 6 - 3) * np.cos(np.radians(points[:, 1]))
    return points[(from_border > reach) & (np.abs(points[:, 1]) > reach)]


@given(box=boxes(crossing=False))
@settings(max_examples=25)
def test_utm_cells_of_a_zone_cover_the_area_once(box: tuple[float, float, float, float]) -> None:
    windows = over(box)
    points = far_from_borders(sampled(box), 64 * 40.0)
    for epsg in {window.georeference.crs for window in windows if window.georeference}:
        mine = [square(window) for window in windows if window.georeference and window.georeference.crs == epsg]
        code = int(epsg.removeprefix("EPSG:"))
        north = code < 32700
        there = points[(points[:, 1] >= 0) == north]
        metres = shapely.points(to_metres(code)(there))
        hits = shapely.STRtree(mine).query(metres, predicate="within")[0]
        assert (np.bincount(hits, minlength=len(there)) == 1).all()


@given(box=boxes(crossing=True))
@settings(max_examples=25)
def test_utm_cells_of_two_zones_share_no_ground(box: tuple[float, float, float, float]) -> None:
    windows = over(box)
    shapes = [outline(window) for window in windows]
    pairs = shapely.STRtree(shapes).query(shapes, predicate="intersects").T
    for a, b in pairs:
        if a < b:
            shared = shapely.intersection(shapes[a], shapes[b]).area
            assert shared < 1e-3 * shapes[a].area, (windows[a].name, windows[b].name)
    points = far_from_borders(sampled(box), 64 * 40.0)
    hits = shapely.STRtree(shapes).query(shapely.points(points), predicate="intersects")[0]
    assert (np.bincount(hits, minlength=len(points)) >= 1).all()


@given(box=st.one_of(boxes(crossing=False), boxes(crossing=True)), resolution=st.sampled_from([10.0, 40.0, 0.7]))
@settings(max_examples=25)
def test_utm_cells_are_named_placed_and_grouped_alike_every_time(
    box: tuple[float, float, float, float], resolution: float
) -> None:
    size = 64 if resolution > 1 else 4096
    windows = over(box, size, resolution)
    assert windows == over(box, size, resolution)
    names = [window.name for window in windows]
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) for name in names)
    for window in windows:
        assert window.georeference is not None
        a, b, west, d, e, north = window.georeference.transform
        assert (a, b, d, e) == (resolution, 0, 0, -resolution)
        side = size * resolution
        column, row = round(west / side), round(north / side) - 1
        assert west == pytest.approx(column * side)
        assert window.group == f"{window.georeference.crs.removeprefix('EPSG:')}/{column // 4}-{row // 4}"
        assert window.scene == window.name
        assert (window.width, window.height, window.column, window.row) == (size, size, 0, 0)


def test_neighbours_stand_together() -> None:
    windows = over((15.1, 45.1, 15.6, 45.4))
    centres = np.array([shapely.centroid(square(window)).coords[0] for window in windows])
    steps = np.abs(np.diff(centres, axis=0)).sum(axis=1)
    assert np.median(steps) <= 2 * 64 * 40.0


def test_an_area_over_the_antimeridian_has_cells_on_both_sides_and_none_twice(tmp_path: Path) -> None:
    made = recipe("unused", area={"bbox": [179.9, 10.0, -179.9, 10.1]}, imagery={})
    windows = cells(made, tmp_path)
    assert {window.name.split("/")[0] for window in windows} == {"32601", "32660"}
    shapes = [outline(window) for window in windows]
    turned = [shapely.transform(shape, lambda xy: xy % [360, 1000]) for shape in shapes]
    pairs = shapely.STRtree(turned).query(turned, predicate="intersects").T
    assert all(shapely.intersection(turned[a], turned[b]).area < 1e-3 * turned[a].area for a, b in pairs if a != b)


@pytest.mark.parametrize("box", [(10, 83.9, 10.1, 84.1), (10, -80.2, 10.1, -79.9)])
def test_beyond_utm_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(AreaError, match="UTM ends at 80 S and 84 N"):
        over(box)
    with pytest.raises(AreaError, match="no UTM zone at latitude"):
        utm_epsg(10.0, 84.01)


@pytest.mark.parametrize(
    ("longitude", "latitude", "epsg"), [(-180, 1, 32601), (180, 1, 32601), (179.99, -1, 32760), (0, 0, 32631)]
)
def test_zones(longitude: float, latitude: float, epsg: int) -> None:
    assert utm_epsg(longitude, latitude) == epsg


def test_too_many_cells_are_refused_before_they_are_made() -> None:
    with pytest.raises(AreaError, match=r"the area holds [0-9,]{13,}"):
        cells_over(shapely.box(-170, -70, 170, 70), 10.0, 1000, "the area holds {count}")
    thin = shapely.LineString([(15.1, 45.1), (16.9, 46.9)]).buffer(1e-7)  # hardly any surface, thousands of cells
    with pytest.raises(AreaError, match="holds"):
        cells_over(thin, 100.0, 1000, "holds {count}")


def test_cells_too_large_for_a_zone_are_refused() -> None:
    with pytest.raises(AreaError, match=r"keep size \* resolution under 100,000 m"):
        over((10, 10, 11, 11), 4096, 100.0)


def test_the_limit_names_what_to_change(tmp_path: Path) -> None:
    for change in ({"cells": {"kind": "utm", "size": 16, "resolution": 1.0}}, {"cells": {"kind": "tiles", "zoom": 22}}):
        made = recipe("unused", limits={"max_tiles": 100}, imagery=change)
        with pytest.raises(AreaError, match=r"over limits.max_tiles 100; take a smaller area"):
            cells(made, tmp_path)


def test_a_sample_is_drawn_evenly_and_alike() -> None:
    box = (15.1, 45.1, 15.6, 45.4)
    every = {window.name for window in over(box)}
    drawn = over(box, sample=20, seed=3)
    assert len(drawn) == 20
    assert {window.name for window in drawn} <= every
    assert drawn == over(box, sample=20, seed=3) != over(box, sample=20, seed=4)
    middle = np.mean([shapely.centroid(outline(window)).coords[0] for window in drawn], axis=0)
    assert np.abs(middle - [15.35, 45.25]).max() < 0.06
    with pytest.raises(AreaError, match=r"lower area.sample"):
        over(box, sample=100_000)
    with pytest.raises(AreaError, match=r"is over limits.max_tiles"):
        over(box, sample=CAP + 1)


def test_a_message_counts_the_cells_of_all_zones() -> None:
    """About 62,333 cells were over a limit of 1,000,000: those of the last zone alone."""
    shape, made = shapely.box(5.0, 45.0, 7.0, 45.5), UtmCells(kind="utm", size=64, resolution=40)
    area = Area(bbox=[5.0, 45.0, 7.0, 45.5])
    count = len(utm_cells(shape, area, made, CAP))
    for cap in (count // 3, count - 20):
        with pytest.raises(AreaError, match="holds about") as caught:
            utm_cells(shape, area, made, cap)
        (told,) = re.findall(rf"about ([\d,]+) cells, over limits.max_tiles {cap:,}", str(caught.value))
        assert int(told.replace(",", "")) > cap


@pytest.mark.parametrize("resolution", [1e-300, 5e-324, 1e-3])
def test_cells_too_small_to_count_are_refused(resolution: float) -> None:
    with pytest.raises(AreaError, match=r"are too small for UTM; keep size \* resolution over 0\.1 m"):
        over((15.0, 45.0, 15.1, 45.1), resolution=resolution)


def test_tiles_are_those_of_the_tile_recipe(tmp_path: Path) -> None:
    made = recipe("unused", area={"bbox": [15.0, 45.0, 15.05, 45.05]}, splits={"by": "block", "block": 4},
                  imagery={"cells": {"kind": "tiles", "zoom": 14, "size": 512}})  # fmt: skip
    windows = cells(made, tmp_path)
    tiles = named(tiles_in(shapely.box(15.0, 45.0, 15.05, 45.05), 14, CAP), 14)
    assert {window.name for window in windows} == {tile.name for tile in tiles}
    for window in windows:
        tile = Tile.parse(window.name)
        assert window.georeference is not None
        assert window.georeference.crs == "EPSG:3857"
        assert square(window).bounds == pytest.approx(tile_bounds(tile))
        assert window.group == f"14/{tile.x // 4}-{tile.y // 4}"


@pytest.mark.parametrize(
    ("splits", "zoom"), [({}, 13), ({"block_zoom": 14}, 14), ({"by": "tile"}, 16), ({"by": "sample"}, 16)]
)
def test_cells_of_a_slippy_map_are_its_tiles_in_their_order(tmp_path: Path, splits: dict[str, Any], zoom: int) -> None:
    imagery = {"source": "xyz", "url": "https://example.org/{z}/{x}/{y}.png"}
    values = recipe("unused").model_dump() | {"imagery": imagery, "grid": {"zoom": 16, "tile_size": 512}}
    made = Recipe.model_validate(values | {"splits": splits, "ignore_index": None})
    windows, tiles = cells(made, tmp_path), candidate_tiles(made, tmp_path)
    assert [window.name for window in windows] == [tile.name for tile in tiles] == [tile.name for tile in sorted(tiles)]
    for window, tile in zip(windows, tiles, strict=True):
        assert window.georeference == tile_georeference(tile, 512)
        assert (window.scene, window.width, window.height) == (tile.name, 512, 512)
        assert window.group == tile.parent(zoom).name


def test_a_grid_says_the_tiles_of_stac_items_too(tmp_path: Path) -> None:
    cut = recipe("unused", imagery={"cells": {"kind": "tiles", "zoom": 14, "size": 512}})
    values = cut.model_dump() | {"grid": {"zoom": 14, "tile_size": 512}}
    values["imagery"]["cells"] = None
    made = Recipe.model_validate(values)
    assert cells(made, tmp_path) == cells(cut, tmp_path)
    (tmp_path / "tiles.txt").write_text("15/8874/5892\n")
    made = Recipe.model_validate(values | {"area": {"tiles": "tiles.txt"}}).in_folder(tmp_path)
    with pytest.raises(AreaError, match=r"the recipe's grid.zoom is 14"):
        cells(made, tmp_path)


def test_a_list_of_tiles_goes_with_tiles(tmp_path: Path) -> None:
    (tmp_path / "tiles.txt").write_text("14/8874/5892\n14/8875/5892\n")
    made = recipe("unused", area={"tiles": "tiles.txt"}, folder=tmp_path,
                  imagery={"cells": {"kind": "tiles", "zoom": 14}})  # fmt: skip
    assert [window.name for window in cells(made, tmp_path)] == ["14/8874/5892", "14/8875/5892"]
    made = recipe("unused", area={"tiles": "tiles.txt"}, folder=tmp_path,
                  imagery={"cells": {"kind": "tiles", "zoom": 15}})  # fmt: skip
    with pytest.raises(AreaError, match=r"tiles.txt:1: .*the recipe's imagery.cells.zoom is 15"):
        cells(made, tmp_path)
    with pytest.raises(AreaError, match=r"area.tiles goes with imagery.cells of kind tiles"):
        cells(recipe("unused", area={"tiles": "tiles.txt"}, folder=tmp_path), tmp_path)


def feature(*ring: tuple[float, float], name: Any = None) -> dict[str, Any]:
    points = [*ring, ring[0]]
    made = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [points]}}
    return made if name is None else made | {"id": name}


def patch(lon: float, lat: float, name: Any = None, half: float = 0.001) -> dict[str, Any]:
    return feature(
        (lon - half, lat - half),
        (lon + half, lat - half),
        (lon + half, lat + half),
        (lon - half, lat + half),
        name=name,
    )


def of_polygons(folder: Path, features: list[Any], size: int = 64, cap: int = CAP) -> list[Window]:
    path = folder / "fields.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    made = PolygonCells(kind="polygons", path="fields.geojson", size=size, resolution=10.0)
    return polygon_windows(path, made, 4, cap)


@given(longitude=st.floats(-180, 180), latitude=st.floats(-79.9, 83.9))
@settings(max_examples=50)
def test_the_cell_of_a_polygon_is_centred_on_it(
    tmp_path_factory: pytest.TempPathFactory, longitude: float, latitude: float
) -> None:
    (window,) = of_polygons(tmp_path_factory.mktemp("cells"), [patch(longitude, latitude, half=0.0005)])
    assert window.georeference is not None
    epsg = int(window.georeference.crs.removeprefix("EPSG:"))
    centre = shapely.centroid(square(window))
    there = to_metres(epsg)(np.array([[longitude, latitude]]))[0]
    assert max(abs(centre.x - there[0]), abs(centre.y - there[1])) < 10.0 + 1.0
    assert [value % 10.0 for value in square(window).bounds] == pytest.approx([0, 0, 0, 0])


def test_polygons_have_their_ids_or_numbers(tmp_path: Path) -> None:
    fields = [patch(15.1, 45.1, "field-a"), patch(15.2, 45.2, 7)]
    assert sorted(window.name for window in of_polygons(tmp_path, fields)) == ["7", "field-a"]
    fields.append(patch(15.3, 45.3, "field d"))  # a name that is no sample's name
    assert sorted(window.name for window in of_polygons(tmp_path, fields)) == ["0", "1", "2"]
    with pytest.raises(AreaError, match="the feature id '7' stands twice"):
        of_polygons(tmp_path, [patch(15.1, 45.1, "7"), patch(15.2, 45.2, 7)])


def test_cells_of_polygons_that_overlap_share_a_group(tmp_path: Path) -> None:
    # Blocks are 2,560 m wide: these three stand in a row 500 m apart, wherever a block ends.
    row = [patch(15.1 + 0.006 * number, 45.1, number) for number in range(8)]
    away = patch(15.5, 45.1, "away")
    groups = {window.name: window.group for window in of_polygons(tmp_path, [*row, away])}
    assert len({groups[str(number)] for number in range(8)}) == 1
    assert groups["away"] != groups["0"]
    border = [patch(17.999, 45.1, "west"), patch(18.001, 45.1, "east")]  # in two zones
    windows = {window.name: window for window in of_polygons(tmp_path, border)}
    assert windows["west"].georeference != windows["east"].georeference
    assert windows["west"].group == windows["east"].group


def test_a_polygon_cut_at_the_antimeridian_has_one_cell(tmp_path: Path) -> None:
    parts = [
        [[[179.999, 10.0], [180.0, 10.0], [180.0, 10.002], [179.999, 10.002], [179.999, 10.0]]],
        [[[-180.0, 10.0], [-179.999, 10.0], [-179.999, 10.002], [-180.0, 10.002], [-180.0, 10.0]]],
    ]
    made = {"type": "Feature", "properties": {}, "geometry": {"type": "MultiPolygon", "coordinates": parts}}
    (window,) = of_polygons(tmp_path, [made])
    assert abs(abs(shapely.centroid(outline(window)).x) - 180) < 0.001


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ([], "expected a FeatureCollection with at least one polygon"),
        ([{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}], "feature 0 is no polygon"),
        ([{"type": "Feature", "geometry": None}], "feature 0 is no polygon"),
        ([7], "feature 0 is no polygon"),
        ([patch(500_000.0, 45.0)], "coordinates are not degrees"),
        ([patch(15.0, 85.0)], "polygon 0: there is no UTM zone at latitude 85.0"),
        ([patch(15.0, 45.0), patch(15.1, 45.0)], "holds 2 polygons, over limits.max_tiles 1"),
        ([{"type": "Feature", "geometry": LONG_WAY}], r"feature 0: an edge goes from longitude 179 to -179, over 180"),
    ],
)
def test_files_of_polygons_that_are_none(tmp_path: Path, features: list[Any], says: str) -> None:
    with pytest.raises(AreaError, match=says):
        of_polygons(tmp_path, features, cap=1)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    made = {"kind": "polygons", "path": "fields.geojson", "resolution": 10.0}
    values = recipe("unused").model_dump() | {"area": None}
    values["imagery"]["cells"] = made
    wanted = Recipe.model_validate(values).in_folder(tmp_path)
    with pytest.raises(AreaError, match=r"fields.geojson: cannot be read"):
        cells(wanted, tmp_path)
    (tmp_path / "fields.geojson").write_text("{")
    with pytest.raises(AreaError, match=r"fields.geojson: is not valid GeoJSON"):
        cells(wanted, tmp_path)
    (tmp_path / "fields.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [patch(15.0, 45.0, "one")]})
    )
    assert [window.name for window in cells(wanted, tmp_path)] == ["one"]
