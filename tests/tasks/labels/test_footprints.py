import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Point, Polygon, box

from tasks.errors import DiskError, LabelError
from tasks.labels import footprints as module
from tasks.labels.footprints import OUTLINE, Footprints, clean, read_footprints, read_report, write_footprints

COURTYARD = Polygon([(0, 0), (4, 0), (4, 4), (0, 4)], [[(1, 1), (2, 1), (2, 2), (1, 2)]])
BOW_TIE = Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])


def make(geometry: list[Any], **options: Any) -> Footprints:
    return clean(geometry, source="test", timestamp="2026-01-01T00:00:00Z", **options)


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[Any, str, int]]:
    """Buildings with and without a courtyard, single and in parts, with distinct ids or none."""
    count = draw(st.integers(0, 12))
    numbers = draw(st.lists(st.integers(1, 2**53), min_size=count, max_size=count, unique=True))
    found = []
    for number in numbers:
        x, y = draw(st.floats(-179, 178)), draw(st.floats(-80, 79))
        side = draw(st.floats(1e-4, 0.5))
        shell = box(x, y, x + side, y + side)
        shape = {
            "plain": shell,
            "courtyard": shell.difference(shell.buffer(-side / 4)),
            "parts": MultiPolygon([shell, box(x + 2 * side, y, x + 3 * side, y + side)]),
        }[draw(st.sampled_from(["plain", "courtyard", "parts"]))]
        found.append((shape, draw(st.sampled_from(["way", "relation", ""])), draw(st.sampled_from([number, 0]))))
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows(), st.randoms(use_true_random=False))
def test_round_trip_and_order(tmp_path: Path, found: list[tuple[Any, str, int]], random: Any) -> None:
    def of(some: list[tuple[Any, str, int]]) -> Footprints:
        return make([row[0] for row in some], osm_type=[row[1] for row in some], osm_id=[row[2] for row in some])

    shuffled = list(found)
    random.shuffle(shuffled)
    first, second = of(found), of(shuffled)
    assert first.report == second.report
    path = tmp_path / "labels.parquet"
    write_footprints(path, first)
    back = read_footprints(path)
    assert back.report == read_report(path) == first.report
    assert module.content_hash(back.geometry, back.osm_type, back.osm_id) == first.report.sha256
    frame = geopandas.read_parquet(path)
    assert frame.crs.to_epsg() == 4326
    assert len(frame) == len(first)


def test_hash_tells_other_content_but_not_direction_time_or_place() -> None:
    plain = make([COURTYARD], osm_id=[1]).report.sha256
    assert make([shapely.reverse(COURTYARD)], osm_id=[1], requests=3).report.sha256 == plain
    assert make([MultiPolygon([COURTYARD])], osm_id=[1]).report.sha256 == plain
    assert make([COURTYARD], osm_id=[2]).report.sha256 != plain
    assert make([Polygon(COURTYARD.exterior)], osm_id=[1]).report.sha256 != plain


def test_file_is_geoparquet_with_the_report_and_neighbours_together(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    corners = [box(x, y, x + 0.1, y + 0.1) for x in (0, 50, 100) for y in (0, 40) for _ in range(3)]
    order = np.random.default_rng(1).permutation(len(corners))
    write_footprints(path, make([corners[row] for row in order], osm_id=order + 1))
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"tilewright"])["kept"] == len(corners)
    assert json.loads(metadata[b"geo"])["version"] == "1.1.0"
    frame = geopandas.read_parquet(path)
    assert list(frame.columns) == ["geometry", "osm_type", "osm_id", "source", "timestamp"]
    places = [(shape.bounds[0], shape.bounds[1]) for shape in frame.geometry]
    assert sum(a != b for a, b in pairwise(places)) == 5
    assert len(geopandas.read_parquet(path, bbox=(49, 39, 51, 41))) == 3


def test_every_reason_is_counted() -> None:
    broken = shapely.set_coordinates(box(0, 0, 1, 1), [(0, 0), (0, 1), (np.inf, 1), (1, 0), (0, 0)])
    flat = Polygon([(0, 0), (1, 1), (2, 2)])
    line = shapely.LineString([(0, 0), (1, 1)])
    ring = shapely.LineString([(0, 0), (1, 1), (1, 0), (0, 0)])
    cases: list[tuple[Any, str, dict[str, str], str]] = [
        (None, "way", {}, "empty geometry"),
        (Polygon(), "way", {}, "empty geometry"),
        (broken, "way", {}, "broken coordinates"),
        (flat, "way", {}, "no area"),
        (Point(0, 0), "", {}, "not a polygon"),
        (line, "", {}, "not a polygon"),
        (line, "way", {}, "unclosed way"),
        (ring, "way", {"area": "no"}, "area=no"),
        (box(0, 0, 1, 1), "way", {"building": "no"}, "building=no"),
        (box(0, 0, 1, 1), "way", {"location": "underground"}, "underground"),
        (box(0, 0, 1, 1), "way", {"demolished:building": "yes"}, "demolished"),
    ]
    for shape, kind, tags, reason in cases:
        report = make([shape, COURTYARD], osm_type=[kind, "relation"], tags=[tags, {}]).report
        assert report.dropped == {reason: 1}
        assert (report.read, report.kept) == (2, 1)


def test_invalid_is_repaired_and_counted() -> None:
    outside = Polygon([(0, 0), (4, 0), (4, 4), (0, 4)], [[(3, 1), (6, 1), (6, 2), (3, 2)]])
    twice = Polygon([(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (4, 0), (4, 4), (0, 4)])
    found = make([BOW_TIE, outside, twice, COURTYARD])
    assert found.report.repaired == 3
    assert shapely.is_valid(found.geometry).all()
    # Even-odd, as GDAL draws: the part of a hole that lies outside its shell counts as inside.
    assert [shape.area for shape in found.geometry] == pytest.approx([0.5, 17, 16, 15])


def test_three_dimensions_and_collections_become_plain_polygons() -> None:
    high = shapely.force_3d(COURTYARD, 7.0)
    mixed = shapely.GeometryCollection([box(0, 0, 1, 1), Point(5, 5), MultiPolygon([box(2, 2, 3, 3)])])
    found = make([high, mixed, MultiPolygon([box(0, 0, 1, 1)])])
    assert [shape.geom_type for shape in found.geometry] == ["Polygon", "MultiPolygon", "Polygon"]
    assert not shapely.has_z(found.geometry).any()
    assert len(found.geometry[0].interiors) == 1


def test_one_object_stays_once() -> None:
    left, right = box(0, 0, 1, 1), box(2, 0, 3, 1)
    typed = make([left, right, left], osm_type=["way", "way", "relation"], osm_id=[7, 7, 7])
    assert typed.report.dropped == {"duplicate": 1}
    untyped = make([left, right, left, left], osm_id=[7, 7, 7, 0])
    assert untyped.report.dropped == {"duplicate": 1}
    assert untyped.report.kept == 3


def test_outline_tagged_beside_its_multipolygon_does_not_fill_the_courtyard() -> None:
    outline, inside = Polygon(shapely.reverse(COURTYARD).exterior), box(1.2, 1.2, 1.8, 1.8)
    found = make([outline, COURTYARD, inside], osm_type=["way", "relation", "way"], osm_id=[1, 2, 3])
    assert found.report.dropped == {OUTLINE: 1}
    assert list(found.osm_id) == [2, 3]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.parquet"
    write_footprints(path, make([COURTYARD]))
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(DiskError, match=r"labels\.parquet: .*No space left on device"):
        write_footprints(path, make([BOW_TIE]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("read", [read_footprints, read_report])
def test_unreadable_file_is_named(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "labels.parquet"
    with pytest.raises(LabelError, match=r"labels\.parquet: no readable footprint file"):
        read(path)
    write_footprints(path, make([COURTYARD]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LabelError, match=r"labels\.parquet: no readable footprint file"):
        read(path)
    geopandas.GeoDataFrame(geometry=[COURTYARD], crs=4326).to_parquet(path)
    with pytest.raises(LabelError, match=r"labels\.parquet: no readable footprint file"):
        read(path)


def comb(teeth: int) -> Polygon:
    """A line up and down, crossed once for every tooth."""
    up = [(x, x % 2) for x in range(teeth)]
    return Polygon([*up, (teeth, 0.5), (-1, 0.5)])


def test_outlines_that_take_too_long_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = np.linspace(0, 2 * np.pi, module.MAX_CORNERS + 1)
    round_one = Polygon(np.column_stack((np.cos(turn), np.sin(turn))))
    with pytest.raises(LabelError, match=r"test: way 7 has 50,00\d corners, over 50,000; .*-explodecollections"):
        make([COURTYARD, round_one], osm_type=["way", "way"], osm_id=[1, 7])
    assert make([comb(300)]).report.repaired == 1
    for tangled in (
        comb(1200),
        Polygon(np.random.default_rng(1).random((300, 2))),
        Polygon([(x, 0) for x in range(60)] * 40),
    ):
        with pytest.raises(LabelError, match=r"test: the footprint at .* is not valid .*too tangled to repair"):
            make([COURTYARD, tangled])
    with pytest.raises(LabelError, match=r"b\.geojson: feature 1 is not valid"):
        make([COURTYARD, comb(1200)], name=lambda row: f"b.geojson: feature {row}")
    monkeypatch.setattr(module, "MAX_SECONDS", 0.0)
    with pytest.raises(LabelError, match="test: to check and repair its 1 outlines takes over 0 s"):
        make([BOW_TIE])


def test_many_corners_that_do_not_cross_are_repaired() -> None:
    houses = [box(x, y, x + 1, y + 1) for x in range(10) for y in range(15)]  # they share their walls
    found = make([MultiPolygon(houses)])
    assert (found.report.repaired, found.geometry[0].area) == (1, 150)
    yards = [box(x, y, x + 1, y + 1).exterior for x in range(3) for y in range(3)]
    assert make([Polygon(box(-1, -1, 4, 4).exterior, yards)]).geometry[0].area == 25 - 9


def test_what_a_source_holds_is_reported_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    write_footprints(path, make([COURTYARD], held=7, bounds=(-1.5, 0, 2, 3)))
    assert (read_report(path).held, read_report(path).bounds) == (7, [-1.5, 0, 2, 3])
    table = pq.read_table(path)
    told = json.loads(table.schema.metadata[module.REPORT_KEY])
    del told["held"], told["bounds"]  # as earlier programs wrote it
    metadata = {**table.schema.metadata, module.REPORT_KEY: json.dumps(told).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert (read_report(path).kept, read_report(path).held, read_report(path).bounds) == (1, None, None)
