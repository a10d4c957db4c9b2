"""What a vector file may be: one of the promised formats by its content, opened by that format's driver alone."""

import json
import os
import shutil
import sqlite3
import time
from pathlib import Path
from random import Random
from typing import Any

import geopandas
import pytest
from shapely import box

from tasks.errors import LabelError
from tasks.labels.vector import VectorFiles, VectorSource, matching
from tests.support.odd import geojson
from tests.tasks.labels.conftest import STEP, TILE, Answer, Scripted

RING = [[0, 0], [STEP, 0], [STEP, STEP], [0, 0]]
FEATURE = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [RING]}}
ENDLESS = (
    "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT i AS fid, i AS geom FROM r WHERE i < 0"
)


def kept(path: Path) -> int:
    return VectorSource(path).fetch([TILE], path.parent).report.kept


def house() -> Any:
    return geopandas.GeoDataFrame({"osm_id": [1]}, geometry=[box(0, 0, STEP, STEP)], crs=4326)


@pytest.fixture
def server_of_features(server: Scripted) -> Scripted:
    body = json.dumps({"type": "FeatureCollection", "features": [FEATURE]}).encode()
    for path in ("/x.geojson", "/wfs", "/crs"):
        server.on(path, Answer(200, body))
    return server


def described(url: str, other: Path) -> dict[str, str]:
    """Files that make GDAL look elsewhere."""

    def vrt(source: Any) -> str:
        layer = f'<OGRVRTLayer name="x"><SrcDataSource>{source}</SrcDataSource></OGRVRTLayer>'
        return f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>"

    pipeline = {"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline ! read {url}/x.geojson"}
    return {
        "VRT of a URL": vrt(f"/vsicurl/{url}/x.geojson"),
        "VRT of a file": vrt(other),
        "pipeline": json.dumps(pipeline),
        "WFS": f"<OGRWFSDataSource><URL>{url}/wfs</URL></OGRWFSDataSource>",
        "link": json.dumps({"crs": {"type": "link", "properties": {"href": f"{url}/crs"}}, **FEATURE}),
        "link in other letters": json.dumps({"CRS": {"TYPE": "Link", "properties": {"href": f"{url}/crs"}}, **FEATURE}),
        "escaped link": json.dumps({"crs": {"type": "url", "properties": {"url": f"{url}/crs"}}, **FEATURE}).replace(
            '"crs"', '"\\u0063rs"'
        ),
        "link with a comment": json.dumps(
            {"crs": {"type": "link", "properties": {"href": f"{url}/crs"}}, **FEATURE}
        ).replace('"crs":', "'crs'/**/:/**/"),
    }


@pytest.mark.parametrize("kind", list(described("", Path())))
@pytest.mark.parametrize("name", ["x.geojson", "x.json", "x.gpkg", "x.shp", "x"])
def test_nothing_else_is_asked_or_read(tmp_path: Path, server_of_features: Scripted, kind: str, name: str) -> None:
    other = tmp_path / "other.geojson"
    house().to_file(other)
    path = tmp_path / name
    path.write_text(described(server_of_features.url, other)[kind])
    with pytest.raises(LabelError, match=rf"{name}: .*(another format|cannot be read|crs)"):
        kept(path)
    assert server_of_features.asked == []


def test_content_tells_the_format_and_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a b!;é.txt").write_bytes(b"\xef\xbb\xbf\n" + json.dumps(FEATURE).encode())
    (tmp_path / "lines").write_text(json.dumps(FEATURE) + "\n" + json.dumps(FEATURE))
    house().to_file(tmp_path / "x.gpkg", layer="x")
    house().to_parquet(tmp_path / "parquet.dat")
    (tmp_path / "link.gpkg").symlink_to(tmp_path / "x.gpkg")
    assert [kept(tmp_path / name) for name in ("a b!;é.txt", "lines", "parquet.dat", "link.gpkg")] == [1, 2, 1, 1]
    shutil.copy(tmp_path / "x.gpkg", tmp_path / "x.db")
    with pytest.raises(LabelError, match=r"x\.db: looks like GPKG inside; rename it so that it ends in \.gpkg"):
        kept(tmp_path / "x.db")
    shutil.copy(tmp_path / "x.gpkg", tmp_path / "a!b.gpkg")
    with pytest.raises(LabelError, match="a path with ! or ; cannot be opened"):
        kept(tmp_path / "a!b.gpkg")


@pytest.mark.parametrize(
    ("name", "crs"),
    [
        ("bogus", None),
        ("/etc/hostname", None),
        ("http://127.0.0.1:9/crs", None),
        ("EPSG:999999", None),
        ("+init=/etc/hostname:1", None),
        ("urn:ogc:def:crs:EPSG::25832", 25832),
        ("http://www.opengis.net/def/crs/EPSG/0/25832", 25832),
        ("EPSG:25832", 25832),
        ("urn:ogc:def:crs:OGC:1.3:CRS84", 4326),
    ],
)
def test_geojson_names_a_crs_that_is_known(tmp_path: Path, name: str, crs: int | None) -> None:
    path = tmp_path / "x.geojson"
    house().to_crs(crs or 4326).to_file(path)
    document = json.loads(path.read_text())
    document["crs"] = {"type": "name", "properties": {"name": name}}
    path.write_text(json.dumps(document))
    if crs:
        assert kept(path) == 1
    else:
        with pytest.raises(LabelError, match=r"x\.geojson: its crs '.*' is not known; give the code"):
            kept(path)


def test_a_property_called_crs_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.geojson"
    for value in ("link", 7, None, {"a": 1}):
        path.write_text(json.dumps(FEATURE | {"properties": {"crs": value}}))
        assert kept(path) == 1


@pytest.mark.parametrize("sidecar", [None, "prj"])
def test_what_is_no_plain_file_is_not_opened(tmp_path: Path, sidecar: str | None) -> None:
    path = tmp_path / "x.shp"
    house().to_file(path)
    special = path.with_suffix(f".{sidecar}") if sidecar else path
    special.unlink()
    os.mkfifo(special)
    with pytest.raises(LabelError, match=rf"{special.name}: is no plain file"):
        kept(path)
    with pytest.raises(LabelError, match="is a folder; name the file in it, or use"):
        kept(tmp_path)


@pytest.mark.parametrize("path", ["x" * 5000, "loop", "a/" * 3000, "x" * 300 + "*", "**b/{scene}", "a\0b", "a\0*"])
def test_what_is_no_path_is_said_in_one_short_line(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(LabelError) as caught:
        VectorFiles(tmp_path, path).fetch([TILE], tmp_path)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_brackets_in_a_pattern_are_brackets(tmp_path: Path) -> None:
    for name in ("a[1]_x.geojson", "a1_x.geojson", "._a[1]_x.geojson"):
        (tmp_path / name).touch()
    assert [file.name for file in matching(tmp_path, "*[1]_{scene}.geojson")] == ["a[1]_x.geojson"]


def test_folders_in_folders(tmp_path: Path) -> None:
    for name in ("x_1.geojson", "a/x_2.geojson", "a/b/x_3.geojson", "a/b/y_4.geojson", ".hidden/x_5.geojson"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    assert [file.name for file in matching(tmp_path, "**/x_{scene}.geojson")] == [
        "x_3.geojson",
        "x_2.geojson",
        "x_1.geojson",
    ]
    assert [file.name for file in matching(tmp_path, "a/*/x_*.geojson")] == ["x_3.geojson", "x_1.geojson"]


def test_a_pattern_of_many_stars_takes_no_time(tmp_path: Path) -> None:
    (tmp_path / ("a" * 200 + ".geojson")).touch()
    began = time.monotonic()
    assert matching(tmp_path, "*a" * 40 + "*b") == []
    assert time.monotonic() - began < 5


def changed(path: Path, *statements: str) -> Path:
    house().to_file(path, layer="houses")
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    return path


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            [
                f"CREATE VIEW slow AS {ENDLESS}",
                "INSERT INTO gpkg_contents (table_name, data_type, srs_id) VALUES ('slow', 'features', 4326)",
                "INSERT INTO gpkg_geometry_columns VALUES ('slow', 'geom', 'POLYGON', 4326, 0, 0)",
            ],
            "the layer slow is a view",
        ),
        (
            ["ALTER TABLE gpkg_extensions RENAME TO other", f"CREATE VIEW gpkg_extensions AS {ENDLESS}"],
            "gpkg_extensions is a view in the place of a table",
        ),
        (
            [
                "PRAGMA writable_schema = 1",
                "INSERT INTO sqlite_master VALUES ('table', 'v', 'v', 0,"
                " 'CREATE VIRTUAL TABLE v /* USING rtree */ USING VirtualOGR(\"/etc/hostname\")')",
            ],
            "v is a virtual table, which may read other files",
        ),
        (["CREATE VIEW v AS SELECT ogr_geocode('x')"], "cannot be read .*OGR extension SQL function"),
        (["DROP TABLE gpkg_contents"], "is an SQLite database and no GeoPackage"),
    ],
)
def test_a_geopackage_is_tables_alone(tmp_path: Path, statements: list[str], message: str) -> None:
    with pytest.raises(LabelError, match=rf"x\.gpkg: {message}"):
        kept(changed(tmp_path / "x.gpkg", *statements))


def test_a_view_that_is_no_layer_is_not_looked_into(tmp_path: Path) -> None:
    assert kept(changed(tmp_path / "x.gpkg", f"CREATE VIEW slow AS {ENDLESS}")) == 1


@pytest.mark.parametrize("name", ["x.gpkg", "x.shp", "x.fgb", "x.parquet", "x.geojson"])
def test_first_bytes_alone_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for head in (b"SQLite format 3\0", b"\0\0\x27\x0a", b"fgb\x03fgb\0", b"PAR1", b"{", b"{" + b"[" * 100_000, b"\0"):
        path.write_bytes(head + b"\xff" * 300)
        with pytest.raises(LabelError, match=name):
            kept(path)


def test_odd_documents_are_read_or_refused_in_a_line(tmp_path: Path) -> None:
    path, read = tmp_path / "odd.geojson", 0
    told: list[str] = []
    for seed in range(150):
        path.write_bytes(geojson(Random(seed)))
        try:
            read += kept(path)
        except LabelError as error:
            told.append(str(error))
    assert read
    assert all(line.startswith(f"{path}: ") and len(line.splitlines()) == 1 for line in told)
