"""Features that cannot be right: each is named with its file, and none ends in a traceback or a crash."""

import json
import struct
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from shapely import box

from tasks.errors import LabelError
from tasks.labels.footprints import LabelReport, read_footprints, write_footprints
from tasks.labels.vector import VectorFiles, VectorSource
from tests.tasks.labels.conftest import STEP, TILE
from tests.tasks.labels.test_vector import WRITERS

HOUSES = [box(0, 0, STEP, STEP), box(2 * STEP, 0, 3 * STEP, STEP)]
GOOD = shapely.to_wkb(HOUSES[0])


def fetch(path: Path) -> LabelReport:
    return VectorSource(path).fetch([TILE], path.parent).report


def houses() -> Any:
    return geopandas.GeoDataFrame({"osm_id": [1, 2]}, geometry=HOUSES, crs=4326)


def geojson(path: Path, ring: Any, **properties: Any) -> Path:
    """A good building, and one with this ring."""
    features = [
        {"type": "Feature", "properties": told, "geometry": {"type": "Polygon", "coordinates": [coordinates]}}
        for told, coordinates in (({}, [[0, 0], [STEP, 0], [STEP, STEP], [0, 0]]), (properties, ring))
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def parquet(path: Path, wkb: list[Any], kind: Any = None, **geometry: Any) -> Path:
    """A file that says of its geometry column whatever it is told to."""
    told = {"encoding": "WKB", "geometry_types": [], **geometry}
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": told}}
    table = pa.table({"geometry": pa.array(wkb, kind or pa.binary())})
    pq.write_table(table.replace_schema_metadata({b"geo": json.dumps(geo)}), path)
    return path


@pytest.mark.parametrize(
    ("ring", "message"),
    [
        ([[0, 0], [STEP, 0], [STEP, STEP], [0, STEP]], "has no readable geometry .*a ring is not closed"),
        ([[0, 0], [STEP, 0]], "has no readable geometry"),
        ([[0, 0], [float("nan"), 0], [STEP, STEP], [0, 0]], "has a coordinate that is no finite number"),
        ([[0, 0], [STEP, 1e9], [STEP, STEP], [0, 0]], "reaches .* off the globe"),
    ],
)
def test_a_geometry_that_cannot_be_is_named(tmp_path: Path, ring: Any, message: str) -> None:
    with pytest.raises(LabelError, match=rf"x\.geojson: feature 1 {message}"):
        fetch(geojson(tmp_path / "x.geojson", ring))


@pytest.mark.parametrize("number", [10**20, "1" * 20, f"way/{10**20}", "9" * 5000])
def test_an_id_that_cannot_be_is_named(tmp_path: Path, number: Any) -> None:
    ring = [[0, 0], [STEP, 0], [STEP, STEP], [0, 0]]
    with pytest.raises(LabelError, match=r"x\.geojson: feature 1: its osm_id .* is no OSM id") as caught:
        fetch(geojson(tmp_path / "x.geojson", ring, osm_id=number))
    assert len(str(caught.value)) < 500
    assert fetch(geojson(tmp_path / "x.geojson", ring, osm_id=2**53, id=10**20)).kept == 2


@pytest.mark.parametrize("kind", sorted(WRITERS))
@pytest.mark.parametrize("alone", [True, False])
def test_metres_are_no_degrees(tmp_path: Path, kind: str, alone: bool) -> None:
    metres = houses().to_crs(32631).set_crs(4326, allow_override=True)
    path = tmp_path / f"b.{kind}"
    WRITERS[kind](metres if alone else pd.concat([houses(), metres]), path)
    with pytest.raises(
        LabelError, match=rf"b\.{kind}: (feature|row) \d reaches 166\d+\.\d+, 110\.\d+, .*off the globe.* ogr2o"
    ):
        fetch(path)


def test_latitude_first_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.geojson"
    geopandas.GeoDataFrame(geometry=[box(45, 120, 45.1, 120.1)], crs=4326).to_file(path)
    with pytest.raises(LabelError, match=r"feature 0 reaches 45.1, 120.1, .* longitude comes before latitude"):
        fetch(path)


@pytest.mark.parametrize("crs", [3857, 32631])
@pytest.mark.parametrize("kind", ["gpkg", "parquet"])
def test_a_projection_has_an_end(tmp_path: Path, kind: str, crs: int) -> None:
    path = tmp_path / f"far.{kind}"
    WRITERS[kind](geopandas.GeoDataFrame({"osm_id": [1]}, geometry=[box(1e9, 1e9, 2e9, 2e9)], crs=crs), path)
    with pytest.raises(LabelError, match=rf"far\.{kind}: (feature 1|row 0) reaches .* off the globe in WGS 84 / "):
        fetch(path)


def test_where_labels_lie_is_reported(tmp_path: Path) -> None:
    far = geopandas.GeoDataFrame({"osm_id": [9]}, geometry=[box(7.4, 43.7, 7.5, 43.8)], crs=4326)
    houses().to_crs(3857).to_file(tmp_path / "a.gpkg", layer="a")
    far.to_file(tmp_path / "b.geojson")
    report = fetch(tmp_path / "b.geojson")
    assert (report.held, report.read, report.kept) == (1, 0, 0)
    assert report.bounds == pytest.approx((7.4, 43.7, 7.5, 43.8))
    (tmp_path / "c.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    found = VectorFiles(tmp_path, "*.g*").fetch([TILE], tmp_path)
    assert (found.report.held, found.report.read) == (3, 2)
    assert found.report.bounds == pytest.approx((0, 0, 7.5, 43.8), abs=1e-9)
    write_footprints(tmp_path / "kept.parquet", found)
    assert read_footprints(tmp_path / "kept.parquet").report == found.report


def test_a_building_on_the_antimeridian_may_stand_out(tmp_path: Path) -> None:
    edge = geopandas.GeoDataFrame(geometry=[box(179.9999, 0, 180.0001, STEP)], crs=4326)
    edge.to_file(tmp_path / "x.gpkg", layer="x")
    assert fetch(tmp_path / "x.gpkg").held == 1


@pytest.mark.parametrize(
    ("wkb", "message"),
    [
        (b"garbage", "row 1 has no readable geometry"),
        (b"\x01\x03\0\0\0\x01\0\0\0\xff\xff\xff\x7f", "row 1 has no readable geometry"),
        (b"\x01\x07\0\0\0\x01\0\0\0" * 200_000, "row 1 has no readable geometry .*nested too deeply"),
        (b"\x00\0\0\0\x06\0\0\0\x01" * 200_000, "row 1 has no readable geometry .*nested too deeply"),
        (
            struct.pack("<BIIIdddddd", 1, 3, 1, 3, 0, 0, np.inf, 0, 0, 0),
            "row 1 has a coordinate that is no finite number",
        ),
    ],
)
def test_damaged_wkb_is_named_and_crashes_nothing(tmp_path: Path, wkb: bytes, message: str) -> None:
    with pytest.raises(LabelError, match=rf"x\.parquet: {message}"):
        fetch(parquet(tmp_path / "x.parquet", [GOOD, wkb, None]))


def test_large_collections_are_no_deep_ones(tmp_path: Path) -> None:
    grid = [box(x * 1e-5, y * 1e-5, x * 1e-5 + 5e-6, y * 1e-5 + 5e-6) for x in range(30) for y in range(30)]
    high = shapely.force_3d(shapely.multipolygons(grid), 5.0)
    mixed = shapely.geometrycollections([shapely.Point(0, 0), shapely.LineString([(0, 0), (0, 1e-3)]), high])
    blobs = [
        shapely.to_wkb(shape, byte_order=order, flavor=flavor, output_dimension=3)
        for shape in (high, mixed)
        for order in (0, 1)
        for flavor in ("iso", "extended")
    ]
    report = fetch(parquet(tmp_path / "x.parquet", blobs))
    assert min(map(len, blobs)) > 64 << 10
    assert (report.read, report.kept) == (8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": pa.string()}, "holds string and no WKB"),
        ({"crs": "+init=/dev/zero:1"}, "cannot be read"),
        ({"crs": {"type": "GeographicCRS"}}, "cannot be read"),
        ({"crs": 5}, "cannot be read"),
        ({"crs": None}, "declares no CRS"),
        ({"bbox": "x"}, "cannot be read"),
        ({"covering": {"bbox": {"xmin": ["no", "where"]}}}, "cannot be read"),
        ({"encoding": "polygon"}, "cannot be read"),
        ({"encoding": 3}, "cannot be read"),
    ],
)
def test_what_geoparquet_says_of_itself_is_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    wkb = [GOOD.hex()] if "kind" in options else [GOOD]
    with pytest.raises(LabelError, match=rf"x\.parquet: .*{message}"):
        fetch(parquet(tmp_path / "x.parquet", wkb, **options))


def test_geoparquet_in_native_encodings_and_old_crs(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    houses().to_parquet(path, geometry_encoding="geoarrow", write_covering_bbox=True)
    assert fetch(path).kept == 2
    assert fetch(parquet(path, [GOOD], crs=houses().crs.to_wkt())).kept == 1


def test_one_building_of_a_million_corners_is_refused_by_name(tmp_path: Path) -> None:
    turn = np.linspace(0, 2 * np.pi, 60_000)
    ring = (
        STEP * np.column_stack((np.cos(turn), np.sin(turn))) * (1 + 0.5 * np.random.default_rng(1).random((60_000, 1)))
    )
    ring[-1] = ring[0]
    with pytest.raises(LabelError, match=r"x\.geojson: feature 1 has 60,000 corners, over 50,000; .*ogr2ogr"):
        fetch(geojson(tmp_path / "x.geojson", ring.tolist()))
