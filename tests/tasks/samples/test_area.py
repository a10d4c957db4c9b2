import json
from pathlib import Path
from typing import Any

import mercantile
import osmnx
import pytest
import requests
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import AreaError
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.recipe.load import load_recipe
from tasks.samples.area import candidate_tiles, clip_to_map, read_geojson, sample_in, systematic_sample, tiles_in
from tests.support.recipes import write_recipe


def tiles_for(folder: Path, area: str, zoom: int = 12, *more: str) -> list[Tile]:
    recipe = load_recipe(
        write_recipe(folder, ("{tiles: tiles.txt}", area)), [f"grid.zoom={zoom}", "splits.block_zoom=null", *more]
    )
    return candidate_tiles(recipe, folder)


def geojson(folder: Path, content: Any) -> Path:
    path = folder / "area.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@given(st.floats(-179, 178), st.floats(-80, 80), st.floats(0.001, 0.9), st.floats(0.001, 0.9), st.integers(0, 11))
@settings(max_examples=60)
def test_a_box_holds_mercantile_s_tiles(west: float, south: float, width: float, height: float, zoom: int) -> None:
    shape = shapely.box(west, south, west + width, south + height)
    expected = {Tile(t.z, t.x, t.y) for t in mercantile.tiles(*shape.bounds, zooms=zoom)}
    found = set(tiles_in(shape, zoom, 10_000_000))
    # mercantile pulls the far edges in by 1e-11 degrees; a sliver thinner than that is its only excess or lack.
    for tile in found ^ expected:
        overlap = shapely.intersection(shape, shapely.box(*lonlat_bounds(tile)))
        assert overlap.area <= 1e-8


def test_only_tiles_that_share_surface_with_the_polygon(tmp_path: Path) -> None:
    outer = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
    hole = [[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8], [0.2, 0.2]]
    geojson(tmp_path, {"type": "Polygon", "coordinates": [outer, hole]})
    found = tiles_for(tmp_path, "{geojson: area.geojson}")
    shape = shapely.Polygon(outer, [hole])
    everything = [Tile(t.z, t.x, t.y) for t in mercantile.tiles(-0.1, -0.1, 1.1, 1.1, zooms=12)]
    expected = [t for t in everything if shapely.intersection(shape, shapely.box(*lonlat_bounds(t))).area > 0]
    assert found == sorted(expected)
    assert len(found) < len(everything)


def test_a_box_over_the_antimeridian(tmp_path: Path) -> None:
    found = tiles_for(tmp_path, "{bbox: [179.9, -17, -179.9, -16.9]}", 8)
    assert {tile.x for tile in found} == {0, 255}


def test_a_polygon_with_longitudes_over_180_is_folded(tmp_path: Path) -> None:
    ring = [[179, 0], [181, 0], [181, 1], [179, 1], [179, 0]]
    geojson(tmp_path, {"type": "Polygon", "coordinates": [ring]})
    assert {tile.x for tile in tiles_for(tmp_path, "{geojson: area.geojson}", 4)} == {0, 15}


def test_the_poles_are_cut_at_the_square_map(tmp_path: Path) -> None:
    found = tiles_for(tmp_path, "{bbox: [0, 84, 10, 90]}", 6)
    assert min(tile.y for tile in found) == 0
    with pytest.raises(AreaError, match="the area is empty"):
        tiles_for(tmp_path, "{bbox: [0, 86, 10, 90]}", 6)


def test_over_the_cap_is_refused_before_it_is_enumerated(tmp_path: Path) -> None:
    with pytest.raises(
        AreaError, match=r"about 6,\d{3},\d{3},\d{3},\d{3} tiles at zoom 22, over limits.max_tiles 1,000"
    ):
        tiles_for(tmp_path, "{bbox: [-90, -80, 90, 80]}", 22, "limits.max_tiles=1000")
    with pytest.raises(AreaError, match=r"over limits\.max_tiles 10"):
        tiles_for(tmp_path, "{bbox: [0, 0, 1, 1], sample: 11}", 12, "limits.max_tiles=10")


def test_a_tile_list(tmp_path: Path) -> None:
    (tmp_path / "tiles.txt").write_text("# a comment\n12/5/6\n\n12/4/9  # west\n12/5/6\n")
    assert tiles_for(tmp_path, "{tiles: tiles.txt}") == [Tile(12, 4, 9), Tile(12, 5, 6)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("12/1/1\n11/1/1\n", r"tiles\.txt:2: tile 11/1/1 is of zoom 11, the recipe's grid\.zoom is 12"),
        ("12/1\n", r"tiles\.txt:1: '12/1' is no tile; expected z/x/y"),
        ("12/1/9999\n", r"tiles\.txt:1: 12/1/9999 is off the map"),
        ("# nothing\n", "the area is empty"),
        (None, r"tiles\.txt: the tile list cannot be read"),
    ],
)
def test_a_bad_tile_list_names_the_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tiles.txt").write_text(content)
    with pytest.raises(AreaError, match=message):
        tiles_for(tmp_path, "{tiles: tiles.txt}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"type": "Polygon", "coordinates": [[[0,0],', "is not valid GeoJSON"),
        ({"type": "Point", "coordinates": [0, 0]}, "holds no polygon"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({"type": "Polygon", "coordinates": [[[1e6, 0], [2e6, 0], [2e6, 1e6], [1e6, 0]]]}, "are not degrees"),
        ([1, 2], "is not valid GeoJSON"),
    ],
)
def test_bad_geojson_names_the_file(tmp_path: Path, content: Any, message: str) -> None:
    path = geojson(tmp_path, content)
    with pytest.raises(AreaError, match=rf"area\.geojson: .*{message}"):
        read_geojson(path)


def test_a_feature_collection_is_united(tmp_path: Path) -> None:
    square = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}
    bow = {"type": "Polygon", "coordinates": [[[2, 0], [3, 1], [3, 0], [2, 1], [2, 0]]]}
    features = [{"type": "Feature", "properties": {}, "geometry": g} for g in (square, bow)]
    shape = read_geojson(geojson(tmp_path, {"type": "FeatureCollection", "features": features}))
    assert shape.area == pytest.approx(1.5)


def test_a_place_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import geopandas

    asked: list[tuple[str, bool]] = []

    def geocode(place: str, by_osmid: bool) -> Any:
        asked.append((place, by_osmid))
        return geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 0.3, 0.3)], crs=4326)

    monkeypatch.setattr(osmnx, "geocode_to_gdf", geocode)
    first = tiles_for(tmp_path, "{place: R42}")
    assert tiles_for(tmp_path, "{place: R42}") == first == tiles_for(tmp_path, "{bbox: [0, 0, 0.3, 0.3]}")
    assert asked == [("R42", True)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (osmnx._errors.InsufficientResponseError("0 results"), r"was not found \(0 results\); check the name"),
        (requests.ConnectionError("refused"), r"could not be looked up at Nominatim \(ConnectionError\)"),
    ],
)
def test_a_place_that_is_not_had_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def geocode(place: str, by_osmid: bool) -> Any:
        raise error

    monkeypatch.setattr(osmnx, "geocode_to_gdf", geocode)
    with pytest.raises(AreaError, match=rf"area.place 'Atlantis' {message}.* or give area.bbox"):
        tiles_for(tmp_path, "{place: Atlantis}")


@pytest.mark.parametrize("zoom", [14, 19])  # enumerated, and drawn without enumerating
def test_a_sample_is_even_over_the_area_and_repeatable(zoom: int) -> None:
    shape = shapely.union(shapely.box(0, 0, 1, 1), shapely.box(2, 0, 2.5, 0.5))
    found = sample_in(shape, zoom, 800, seed=3)
    assert len(set(found)) == 800
    assert set(found) == set(sample_in(shape, zoom, 800, seed=3))
    assert set(found) != set(sample_in(shape, zoom, 800, seed=4))
    west = sum(lonlat_bounds(tile)[0] < 0.5 for tile in found)
    east = sum(lonlat_bounds(tile)[0] > 1.5 for tile in found)
    assert west == pytest.approx(800 * 0.4, rel=0.08)
    assert east == pytest.approx(800 * 0.2, rel=0.08)


def test_a_sample_larger_than_the_area_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AreaError, match=r"asks for 5,000 tiles, the area holds [\d,]+; lower area.sample"):
        tiles_for(tmp_path, "{bbox: [0, 0, 0.5, 0.5], sample: 5000}")


def test_a_sampled_list_takes_equal_steps() -> None:
    tiles = [Tile(5, x, y) for x in range(32) for y in range(32)]
    chosen = systematic_sample(tiles, 64, seed=0)
    assert len({tile.parent(3) for tile in chosen}) == 64


def test_what_lies_off_the_map_is_empty() -> None:
    assert clip_to_map(shapely.box(0, 86, 1, 89)).is_empty
