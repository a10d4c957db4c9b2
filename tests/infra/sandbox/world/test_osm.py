"""What readers of OSM get back is what was built: by Overpass with osmnx, and from the extract with pyosmium."""

import hashlib
import socket
from pathlib import Path
from typing import Any

import osmium
import pytest
import requests
import shapely
from shapely import MultiPolygon, Polygon

from infra.sandbox.files.pbf import write_pbf
from infra.sandbox.services.server import Running
from infra.sandbox.world.osm import GENERATOR, Footprint, build_osm, footprints_frame, sound_footprints, to_mercator
from infra.sandbox.world.region import REGION_BOUNDS

Geometries = dict[tuple[str, int], Any]


@pytest.fixture(scope="module")
def truth() -> dict[tuple[str, int], Footprint]:
    return {(f.osm_type, f.osm_id): f for f in build_osm(0).footprints}


@pytest.fixture(scope="module")
def extract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pbf") / "synthetic.osm.pbf"
    write_pbf(build_osm(0), path)
    return path


@pytest.fixture
def osmnx(sandbox: Running, monkeypatch: pytest.MonkeyPatch) -> Any:
    import osmnx

    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)  # osmnx replaces it for good
    monkeypatch.setattr(osmnx.settings, "overpass_url", sandbox.url + "/api")
    monkeypatch.setattr(osmnx.settings, "use_cache", False)
    monkeypatch.setattr(osmnx.settings, "requests_timeout", 30)
    return osmnx


def same(found: Any, expected: Polygon | MultiPolygon) -> bool:
    """Equal coordinate by coordinate, whatever ring starts where; a polygon equals a multipolygon of itself."""

    def plain(geometry: Any) -> Any:
        parts = shapely.get_parts(geometry)
        return MultiPolygon([*parts]).normalize()

    return bool(shapely.equals_exact(plain(found), plain(expected), 0.0))


def assert_sound_buildings_are_equal(found: Geometries, truth: dict[tuple[str, int], Footprint]) -> None:
    sound = {(f.osm_type, f.osm_id): f for f in sound_footprints(truth.values())}
    assert sound.keys() <= found.keys()
    wrong = [key for key, footprint in sound.items() if not same(found[key], footprint.geometry)]
    assert wrong == []
    extra = {truth[key].oddity for key in found.keys() - sound.keys()}
    assert extra <= {"building_no", "underground", "demolished", "unclosed", "bow_tie"}


@pytest.mark.parametrize("rate_limit", [True, False])
def test_osmnx_reads_all_buildings(osmnx: Any, truth: Any, rate_limit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(osmnx.settings, "overpass_rate_limit", rate_limit)
    frame = osmnx.features_from_bbox((0.0490, 0.0490, 0.0740, 0.0740), {"building": True})
    found = {key: row.geometry for key, row in frame.iterrows()}
    assert_sound_buildings_are_equal(found, truth)
    holes = sum(
        len(part.interiors) for g in found.values() for part in shapely.get_parts(g) if part.geom_type == "Polygon"
    )
    assert holes >= 15


def test_osmnx_with_a_list_of_values(osmnx: Any, truth: Any) -> None:
    kinds = ["house", "industrial"]
    frame = osmnx.features_from_bbox((0.0490, 0.0490, 0.0740, 0.0740), {"building": kinds})
    expected = {key for key, f in truth.items() if f.tags.get("building") in kinds}
    assert set(frame.index) == expected


def test_osmnx_with_a_polygon_takes_what_meets_it(osmnx: Any, truth: Any) -> None:
    area = shapely.box(0.0600, 0.0600, 0.0615, 0.0612)
    frame = osmnx.features_from_polygon(area, {"building": True})
    expected = {key for key, f in truth.items() if f.tags.get("building") and f.geometry.intersects(area)}
    # osmnx drops the line of an unclosed way when only its closed shape would meet the area.
    unsure = {key for key, f in truth.items() if f.oddity in ("unclosed", "bow_tie")}
    assert set(frame.index) - unsure == expected - unsure
    assert len(expected) > 20


def test_osmnx_at_a_date_sees_fewer(osmnx: Any, truth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = '[out:json][timeout:{timeout}]{maxsize}[date:"2021-01-01T00:00:00Z"]'
    monkeypatch.setattr(osmnx.settings, "overpass_settings", settings)
    frame = osmnx.features_from_bbox((0.0490, 0.0490, 0.0740, 0.0740), {"building": True})
    assert 0.2 * len(truth) < len(frame) < 0.8 * len(truth)
    sound = {(f.osm_type, f.osm_id): f for f in sound_footprints(truth.values())}
    assert all(same(row.geometry, sound[key].geometry) for key, row in frame.iterrows() if key in sound)


def test_pyosmium_reads_all_buildings(extract: Path, truth: Any) -> None:
    factory, found = osmium.geom.WKBFactory(), {}
    processor = osmium.FileProcessor(str(extract)).with_areas(osmium.filter.KeyFilter("building"))
    for item in processor.with_filter(osmium.filter.KeyFilter("building")):
        if isinstance(item, osmium.osm.Area) and item.num_rings() != (0, 0):  # none: the way crosses itself
            key = ("way" if item.from_way() else "relation", item.orig_id())
            found[key] = shapely.from_wkb(bytes.fromhex(factory.create_multipolygon(item)))
    assert_sound_buildings_are_equal(found, truth)
    assert not [key for key in found if truth[key].oddity in ("unclosed", "bow_tie")]  # no areas


def test_extract_holds_more_than_buildings(extract: Path) -> None:
    kinds, versions = set(), set()
    for item in osmium.FileProcessor(str(extract)):
        kinds |= {tag.k for tag in item.tags}
        versions.add(item.version)
        assert item.timestamp.year >= 2016
    assert {"building", "highway", "landuse", "natural", "type", "demolished:building"} <= kinds
    assert len(versions) > 2


def test_extract_says_synthetic_and_is_reproducible(extract: Path, tmp_path: Path) -> None:
    with osmium.io.Reader(str(extract)) as reader:
        assert "synthetic" in reader.header().get("generator")
    md5 = write_pbf(build_osm(0), tmp_path / "again.osm.pbf")
    assert md5 == hashlib.md5(extract.read_bytes()).hexdigest()
    assert write_pbf(build_osm(1), tmp_path / "other.osm.pbf") != md5


def test_extract_is_served_with_checksum_ranges_and_etag(sandbox: Running) -> None:
    address = sandbox.url + "/synthetic-latest.osm.pbf"
    whole = requests.get(address, timeout=10)
    name = requests.get(address + ".md5", timeout=10).text.split()
    assert name == [hashlib.md5(whole.content).hexdigest(), "synthetic-latest.osm.pbf"]
    part = requests.get(address, headers={"Range": "bytes=100-199"}, timeout=10)
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    again = requests.get(address, headers={"If-None-Match": whole.headers["ETag"]}, timeout=10)
    assert again.status_code == 304


def test_truth_in_metres_and_as_a_frame(truth: Any) -> None:
    frame = footprints_frame(0)
    assert frame.crs.to_epsg() == 4326
    assert len(frame) == len(truth)
    footprint = next(iter(truth.values()))
    projected = frame.geometry.iloc[:1].to_crs(3857).iloc[0]
    assert to_mercator(footprint.geometry).hausdorff_distance(projected) < 1e-3
    inside = frame.cx[REGION_BOUNDS[0] : REGION_BOUNDS[2], REGION_BOUNDS[1] : REGION_BOUNDS[3]]
    assert len(inside) > 0.9 * len(frame)


def test_status_lets_osmnx_go_on(sandbox: Running) -> None:
    text = requests.get(sandbox.url + "/api/status", timeout=10).text
    assert text.split("\n")[4] == "2 slots available now."


def test_answer_says_synthetic_and_when(sandbox: Running) -> None:
    query = '[out:json];node["natural"="tree"](0.05,0.05,0.06,0.06);out meta;'
    answer = requests.get(sandbox.url + "/api/interpreter", params={"data": query}, timeout=10).json()
    assert answer["generator"] == GENERATOR
    assert answer["osm3s"]["timestamp_osm_base"] == "2026-11-01T00:00:00Z"
    assert "Synthetic" in answer["osm3s"]["copyright"]
    assert len(answer["elements"]) > 10
    for element in answer["elements"]:
        assert element["type"] == "node"
        assert 0.05 <= element["lon"] <= 0.06
        assert element["tags"] == {"natural": "tree"}
        assert element["version"] >= 1


def test_pattern_union_and_ids(sandbox: Running) -> None:
    query = '[out:json];(way["building"~"^(shed|barn)$"];rel["building"="civic"];);out ids;'
    elements = requests.post(sandbox.url + "/api/interpreter", data={"data": query}, timeout=10).json()["elements"]
    data = build_osm(0)
    ways = [w.id for w in data.ways.values() if w.tags.get("building") in ("shed", "barn")]
    relations = [r.id for r in data.relations.values() if r.tags["building"] == "civic"]
    assert elements == [{"type": "way", "id": n} for n in ways] + [{"type": "relation", "id": n} for n in relations]


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("", "must begin with"),
        ("[out:xml];node;out;", "JSON only"),
        ("[out:json];way[building](around:10,1,2);out;", "bounding box"),
        ("[out:json];way['building'](poly:'1 2 3');out;", "polygon"),
        ("[out:json];(way['building'];out;", "expected"),
        ("[out:json];way['building']", "expected"),
        ('[out:json][date:"yesterday"];node;out;', "2024-01-01"),
        ("[out:json];way{};out;", "parse error"),
        ("[out:json];way['building'~'('];out;", "pattern"),
    ],
)
def test_query_that_is_not_understood(sandbox: Running, query: str, complaint: str) -> None:
    answer = requests.post(sandbox.url + "/api/interpreter", data={"data": query}, timeout=10)
    assert answer.status_code == 400
    assert complaint in answer.text
    assert "Error" in answer.text
