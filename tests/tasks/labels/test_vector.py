import json
import os
import pickle
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from shapely import LineString, MultiPolygon, Point, Polygon, box

from tasks.errors import LabelError
from tasks.labels.vector import VectorFiles, VectorSource, matching
from tests.tasks.labels.conftest import STEP, TILE


def cell(x: int, y: int) -> Polygon:
    return box(x * STEP, y * STEP, (x + 0.5) * STEP, (y + 0.5) * STEP)


COURTYARD = Polygon(box(0, 0, 4 * STEP, 4 * STEP).exterior, [cell(1, 1).exterior])


def buildings(**columns: list[Any]) -> Any:
    """A courtyard, a pair, one off the tile."""
    shapes = [COURTYARD, MultiPolygon([cell(4, 0), cell(4, 2)]), cell(50, 50)]
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=4326)


WRITERS: dict[str, Any] = {
    "geojson": lambda frame, path: frame.to_file(path),
    "gpkg": lambda frame, path: frame.to_file(path, layer="houses"),
    "fgb": lambda frame, path: frame.to_file(path),
    "shp": lambda frame, path: frame.to_file(path),
    "parquet": lambda frame, path: frame.to_parquet(path),
    "pq": lambda frame, path: frame.to_parquet(path, write_covering_bbox=True, schema_version="1.1.0"),
}


# GeoJSON is in longitude and latitude (RFC 7946).
@pytest.mark.parametrize(
    ("kind", "crs"),
    [("geojson", 4326), *((kind, crs) for kind in sorted(WRITERS) if kind != "geojson" for crs in (4326, 3857, 32631))],
)
def test_every_format_in_any_crs(tmp_path: Path, kind: str, crs: int) -> None:
    path = tmp_path / f"b.{kind}"
    WRITERS[kind](buildings(osm_id=[11, 12, 13], building=["yes", "house", "no"]).to_crs(crs), path)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    found = VectorSource(path).fetch([TILE], tmp_path)
    assert sorted(found.osm_id) == [11, 12]
    assert (found.report.read, found.report.kept, found.report.requests) == (2, 2, 0)
    assert found.report.timestamp == "2023-11-14T22:13:20Z"
    assert found.report.source == f"vector b.{kind}"
    by_id = dict(zip(found.osm_id, found.geometry, strict=True))
    assert len(by_id[11].interiors) == 1
    assert by_id[11].hausdorff_distance(COURTYARD) < 1e-8
    assert by_id[12].geom_type == "MultiPolygon"


def test_tags_and_ids_from_columns(tmp_path: Path) -> None:
    path = tmp_path / "b.gpkg"
    shapes = [cell(0, 0), cell(1, 0), cell(2, 0), cell(3, 0), cell(0, 1)]
    columns = {
        "osm_id": [5.0, np.nan, np.nan, np.nan, np.nan],
        "osm_type": ["relation", None, None, None, None],
        "@id": [None, "way/6", None, None, None],
        "id": ["x1", "x2", "relation/7", "8", None],
        "building": ["yes", "no", None, "yes", "yes"],
        "location": [None, None, None, "underground", None],
    }
    geopandas.GeoDataFrame(columns, geometry=shapes, crs=4326).to_file(path)
    found = VectorSource(path).fetch([TILE], tmp_path)
    assert found.report.dropped == {"building=no": 1, "underground": 1}
    told = set(zip(found.osm_type, (int(one) for one in found.osm_id), strict=True))
    assert told == {("relation", 5), ("relation", 7), ("", 0)}


def test_layer_is_chosen_or_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "b.gpkg"
    geopandas.GeoDataFrame(geometry=[Point(0, 0)], crs=4326).to_file(path, layer="trees")
    buildings().to_file(path, layer="houses")
    assert VectorSource(path).fetch([TILE], tmp_path).report.kept == 2
    buildings().iloc[:1].to_file(path, layer="sheds")
    with pytest.raises(
        LabelError, match=r"b\.gpkg: several layers with polygons \(houses, sheds\); name one in labels"
    ):
        VectorSource(path).fetch([TILE], tmp_path)
    assert VectorSource(path, "sheds").fetch([TILE], tmp_path).report.source == "vector b.gpkg (sheds)"
    with pytest.raises(LabelError, match="no layer 'barns'; there: trees, houses, sheds"):
        VectorSource(path, "barns").fetch([TILE], tmp_path)


def test_no_building_on_the_tiles_is_legal(tmp_path: Path) -> None:
    path = tmp_path / "b.fgb"
    buildings().iloc[2:].to_file(path)
    assert VectorSource(path).fetch([TILE], tmp_path).report.read == 0


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"gone\.geojson: no such file; correct labels\.path"):
        VectorSource(tmp_path / "gone.geojson").fetch([TILE], tmp_path)


@pytest.mark.parametrize("kind", ["geojson", "gpkg", "fgb", "shp", "parquet"])
@pytest.mark.parametrize("damage", ["cut", "nothing", "noise"])
def test_damaged_file_is_named(tmp_path: Path, kind: str, damage: str) -> None:
    path = tmp_path / f"b.{kind}"
    WRITERS[kind](buildings(osm_id=[1, 2, 3]), path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "nothing": b"", "noise": b"\x00\xff" * 500}[damage])
    with pytest.raises(LabelError, match=rf"b\.{kind}: "):
        VectorSource(path).fetch([TILE], tmp_path)


@pytest.mark.parametrize("kind", ["geojson", "gpkg", "fgb", "parquet"])
def test_empty_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"b.{kind}"
    WRITERS[kind](buildings(osm_id=[1, 2, 3]).iloc[:0], path)
    with pytest.raises(LabelError, match=rf"b\.{kind}: holds no"):
        VectorSource(path).fetch([TILE], tmp_path)


@pytest.mark.parametrize("kind", ["geojson", "gpkg", "parquet"])
def test_file_without_polygons(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"b.{kind}"
    line = LineString([(0, 0), (STEP, STEP)])
    WRITERS[kind](geopandas.GeoDataFrame(geometry=[line, line], crs=4326), path)
    with pytest.raises(LabelError, match=rf"b\.{kind}: holds no polygons"):
        VectorSource(path).fetch([TILE], tmp_path)


@pytest.mark.parametrize("kind", ["shp", "parquet"])
def test_file_without_crs_says_what_to_do(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"b.{kind}"
    WRITERS[kind](buildings(osm_id=[1, 2, 3]), path)
    if kind == "shp":
        path.with_suffix(".prj").unlink()
    else:
        WRITERS[kind](geopandas.GeoDataFrame(geometry=[cell(0, 0)]), path)
    with pytest.raises(LabelError, match=rf"b\.{kind}: declares no CRS; set it, for example with ogr2ogr"):
        VectorSource(path).fetch([TILE], tmp_path)


def test_plain_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    buildings(osm_id=[1, 2, 3]).drop(columns="geometry").to_parquet(path)
    with pytest.raises(LabelError, match="Parquet without geometry metadata"):
        VectorSource(path).fetch([TILE], tmp_path)


def test_overpass_turbo_export(tmp_path: Path) -> None:
    path = tmp_path / "export.geojson"
    shape = {"type": "Polygon", "coordinates": [[[0, 0], [STEP, 0], [STEP, STEP], [0, 0]]]}
    feature = {"type": "Feature", "id": "way/9", "properties": {"@id": "way/9", "building": "yes"}, "geometry": shape}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    found = VectorSource(path).fetch([TILE], tmp_path)
    assert (list(found.osm_type), list(found.osm_id)) == (["way"], [9])


def test_many_files_are_one_source(tmp_path: Path) -> None:
    first = buildings(osm_id=[1, 2, 3])
    first.to_file(tmp_path / "b_1.geojson")
    again = geopandas.GeoDataFrame({"osm_id": [2, 9]}, geometry=[first.geometry[1], cell(2, 4)], crs=4326)
    again.to_file(tmp_path / "b_2.geojson")
    (tmp_path / "b_3.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    found = VectorFiles(tmp_path, "b_{scene}.geojson").fetch([TILE], tmp_path)
    assert sorted(found.osm_id.tolist()) == [1, 2, 9]
    report = found.report
    assert (report.read, report.kept, report.dropped) == (4, 3, {"duplicate": 1})
    assert report.source == "vector b_{scene}.geojson (3 files)"
    with pytest.raises(LabelError, match=r"c_\*\.geojson: matches no file; correct labels\.path"):
        VectorFiles(tmp_path, "c_*.geojson").fetch([TILE], tmp_path)
    with pytest.raises(LabelError, match="holds no feature"):
        VectorSource(tmp_path / "b_3.geojson").fetch([TILE], tmp_path)
    broken = tmp_path / "b_4.geojson"
    broken.write_text("{")
    with pytest.raises(LabelError, match=r"b_4\.geojson: cannot be read"):
        VectorFiles(tmp_path, "b_*.geojson").fetch([TILE], tmp_path)


def test_a_pattern_finds_the_files_of_all_scenes(tmp_path: Path) -> None:
    from tasks.labels.registry import footprint_source, label_origin
    from tests.tasks.raster.made import scenes_recipe

    for folder in ("austin", "kitsap"):
        (tmp_path / folder).mkdir()
        buildings(osm_id=[1, 2, 3]).to_file(tmp_path / folder / "x_tile_7.geojson")
    recipe = scenes_recipe(tmp_path, "{scene}.tif", {"source": "vector", "path": "*/x_{scene}.geojson"})
    source = footprint_source(recipe)
    assert isinstance(source, VectorFiles)
    assert pickle.loads(pickle.dumps(source)) == source
    assert [one.parent.name for one in matching(source.folder, source.pattern)] == ["austin", "kitsap"]
    assert source.fetch([TILE], tmp_path).report.source == "vector x_{scene}.geojson (2 files)"
    outside = str(tmp_path / "kits*" / "*.geojson")  # a path of its own, from another folder
    assert [one.parent.name for one in matching(Path("elsewhere"), outside)] == ["kitsap"]
    before = label_origin(recipe)
    os.utime(tmp_path / "kitsap" / "x_tile_7.geojson", (1, 1))
    assert label_origin(recipe) != before
