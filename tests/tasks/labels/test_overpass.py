import json
import logging
import socket
import time
from pathlib import Path

import osmnx
import pytest
import requests
import shapely

from tasks.errors import LabelError, RecipeError
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.labels.overpass import MAX_QUERIES, OverpassSource, query_areas, slot_wait
from tasks.labels.pbf import PbfSource
from tasks.web.client import Bounds
from tests.support.fault_server import FaultServer
from tests.support.memory import Peak
from tests.tasks.labels.conftest import TILE, Answer, Scripted, overpass_answer

STATUS = b"Connected as: 1\nCurrent time: 2026-11-21T00:00:00Z\nRate limit: 2\n\n2 slots available now.\n"


def good(**changes: object) -> Answer:
    return Answer(200, json.dumps(overpass_answer() | changes).encode(), {"Content-Type": "application/json"})


def source(server: Scripted, **options: object) -> OverpassSource:
    return OverpassSource(server.url + "/api", **({"timeout": 5, "first_pause": 0.01, "rate_limit": False} | options))


def test_small_region_comes_as_the_extract_has_it(server: Scripted, pbf: Path, tmp_path: Path) -> None:
    server.on("/api/interpreter", good())
    found = source(server).fetch([TILE], tmp_path / "work")
    same = PbfSource(pbf).fetch([TILE], tmp_path / "work")
    assert found.report.sha256 == same.report.sha256
    assert found.report.dropped == same.report.dropped
    assert (found.report.read, found.report.kept, found.report.repaired) == (7, 2, 1)
    assert found.report.incomplete == same.report.incomplete == 2
    assert found.report.timestamp == "2026-02-03T04:05:06Z"
    assert found.report.requests == 1
    courtyard = found.geometry[list(found.osm_type).index("relation")]
    assert len(courtyard.interiors) == 1


def test_broken_relation_costs_itself_alone(server: Scripted, tmp_path: Path) -> None:
    answer = overpass_answer()
    members = [{"type": "way", "ref": 1, "role": "outer"}, {"type": "way", "ref": 5, "role": "inner"}]
    tags = {"type": "multipolygon", "building": "yes"}
    answer["elements"].append({"type": "relation", "id": 3, "members": members, "tags": tags})
    server.on("/api/interpreter", Answer(200, json.dumps(answer).encode()))
    report = source(server).fetch([TILE], tmp_path).report
    assert (report.kept, report.incomplete) == (2, 3)


NODE = {"type": "node", "id": 1, "lon": 0.0, "lat": 0.0}
WAY = {"type": "way", "id": 1, "nodes": [1]}
RELATION = {"type": "relation", "id": 1, "members": [{"type": "way", "ref": 1, "role": "outer"}]}


@pytest.mark.parametrize(
    ("element", "said"),
    [
        (5, "an element is '5'"),
        ({"type": "node", "id": 1}, "node 1 lies at None, expected degrees"),
        (NODE | {"id": 12345678901234567890}, "a node has the id 12345678901234567890, expected a whole number"),
        (NODE | {"id": "1"}, "a node has the id 1"),
        (NODE | {"id": True}, "a node has the id True"),
        (NODE | {"lon": float("nan")}, "node 1 lies at nan"),
        (NODE | {"lat": float("inf")}, "node 1 lies at inf"),
        (NODE | {"lat": 10**400}, "node 1 lies at 1000"),
        (NODE | {"lon": 500_000.0}, "node 1 lies at 500000.0"),
        (WAY | {"nodes": 5}, "way 1 has no list of its parts"),
        (WAY | {"nodes": [1.5]}, "way 1: a node has the id 1.5"),
        (WAY | {"tags": ["building"]}, "way 1 has the tags"),
        (WAY | {"tags": {"building": 5}}, "way 1 has the tags"),
        (RELATION | {"members": [5]}, "relation 1 has the member '5'"),
        (RELATION | {"members": [{"type": "town", "ref": 1}]}, "relation 1 has the member"),
        (RELATION | {"members": [{"type": "way", "ref": 1 << 63}]}, "relation 1: a member has the id"),
        (WAY | {"tags": {"building": "x" * 100_000}}, "."),
        (WAY | {"tags": {"building": "a\0b"}}, "way 1 has a text with a NUL character"),
        (RELATION | {"members": [{"type": "way", "ref": 1, "role": "\0"}]}, "relation 1 has a text with a NUL"),
    ],
)
def test_answer_with_objects_that_are_none(server: Scripted, tmp_path: Path, element: object, said: str) -> None:
    server.on("/api/interpreter", Answer(200, json.dumps({"elements": [element]}).encode()))
    with pytest.raises(LabelError, match=rf"an answer makes no sense \(.*{said}") as caught:
        source(server).fetch([TILE], tmp_path)
    assert len(str(caught.value)) < 400
    assert not list(tmp_path.rglob("*.pbf"))


@pytest.mark.parametrize("stamp", [5, "yesterday", {}, None, "x" * 10_000])
def test_a_stamp_that_is_none_is_left_out(server: Scripted, tmp_path: Path, stamp: object) -> None:
    server.on("/api/interpreter", good(osm3s={"timestamp_osm_base": stamp}))
    assert source(server).fetch([TILE], tmp_path / "a").report.timestamp.startswith("20")
    server.on("/api/interpreter", good(osm3s=[stamp]))
    assert source(server).fetch([TILE], tmp_path / "b").report.timestamp.startswith("20")


def test_the_second_time_nothing_is_asked(server: Scripted, tmp_path: Path) -> None:
    server.on("/api/interpreter", good())
    server.on("/api/status", Answer(200, STATUS))
    first = source(server, rate_limit=True).fetch([TILE], tmp_path)
    again = source(server, rate_limit=True).fetch([TILE], tmp_path)
    assert len(server.asked) == 2
    assert again.report.requests == 0
    assert again.report.sha256 == first.report.sha256
    assert again.report.timestamp == first.report.timestamp


def test_kept_answer_that_a_kill_cut_short_is_asked_again(server: Scripted, tmp_path: Path) -> None:
    server.on("/api/interpreter", good())
    source(server).fetch([TILE], tmp_path)
    kept = next(tmp_path.rglob("*.json"))
    kept.write_text(kept.read_text()[:100])
    assert source(server).fetch([TILE], tmp_path).report.kept == 2
    assert len(server.asked) == 2


def test_query_carries_time_and_date(server: Scripted, tmp_path: Path) -> None:
    server.on("/api/interpreter", good())
    found = source(server, date="2024-01-01T00:00:00Z").fetch([TILE], tmp_path)
    assert "%5Btimeout%3A5%5D%5Bdate%3A%222024-01-01T00%3A00%3A00Z%22%5D" in server.asked[0].body
    assert found.report.timestamp == "2024-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "fault",
    [
        Answer(429, b"busy", {"Retry-After": "0"}),
        Answer(504, b"<html>The server is probably too busy</html>"),
        Answer(200, b"<html><body>rate_limited</body></html>"),
        Answer(200, json.dumps(overpass_answer()).encode()[:900]),
        Answer(200, json.dumps(overpass_answer()).encode()[:900], claimed=5000),
        good(remark="runtime error: Query timed out"),
    ],
    ids=["429", "504", "html", "truncated", "short", "remark"],
)
def test_fault_once_is_got_over(server: Scripted, tmp_path: Path, fault: Answer) -> None:
    server.on("/api/interpreter", fault, good())
    found = source(server).fetch([TILE], tmp_path)
    assert (found.report.kept, found.report.requests) == (2, 2)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Answer(504, b"busy"), "answered 504"),
        (good(remark="runtime error: Query timed out"), "cut the answer short: runtime error: Query timed out"),
        (Answer(200, b"<html>no</html>"), r"\(HTML\), where JSON was expected \(no\); gave up after 3 attempts"),
        (Answer(200, b"[]"), "no Overpass JSON"),
        (Answer(200, b"[" * 100_000), "nested too deeply"),
        (Answer(200, b"1" * 100_000), "where JSON was expected"),
        (good(remark="x" * 100_000), "cut the answer short: x{300};"),
    ],
)
def test_fault_for_ever_ends_soon_and_leaves_nothing_behind(
    server: Scripted, tmp_path: Path, fault: Answer, says: str
) -> None:
    server.on("/api/interpreter", fault)
    start = time.monotonic()
    with pytest.raises(LabelError, match=says) as caught:
        source(server, attempts=3).fetch([TILE], tmp_path)
    assert time.monotonic() - start < 3
    assert server.url in str(caught.value)
    assert len(server.asked) == 3
    assert not list(tmp_path.rglob("*.json"))


def test_long_retry_after_is_not_waited_for(server: Scripted, tmp_path: Path) -> None:
    server.on("/api/interpreter", Answer(429, b"", {"Retry-After": "86400"}))
    with pytest.raises(LabelError, match="429"):
        source(server).fetch([TILE], tmp_path)
    assert len(server.asked) == 1


def test_refused_query_is_not_tried_again(server: Scripted, tmp_path: Path) -> None:
    server.on("/api/interpreter", Answer(400, b"<p><strong>Error</strong>: attic data is not available</p>"))
    with pytest.raises(LabelError, match=r"400 .*attic data is not available"):
        source(server).fetch([TILE], tmp_path)
    assert len(server.asked) == 1


def test_redirect_says_where_to(server: Scripted, tmp_path: Path) -> None:
    server.on("/api/interpreter", Answer(301, b"", {"Location": "https://overpass.example/api?key=abc"}))
    with pytest.raises(LabelError, match=r"moved to https://overpass\.example/api\?key=\*\*\*"):
        source(server).fetch([TILE], tmp_path)


def test_server_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    down = OverpassSource(f"http://127.0.0.1:{port}/api", attempts=2, first_pause=0.01, rate_limit=False)
    with pytest.raises(
        LabelError,
        match=rf"{port}/api/interpreter: no connection \(the connection was refused\); gave up after 2 attempts",
    ):
        down.fetch([TILE], tmp_path)


def test_nothing_there_is_a_legal_answer(server: Scripted, tmp_path: Path) -> None:
    server.on("/api/interpreter", Answer(200, b'{"elements": []}'))
    found = source(server).fetch([TILE], tmp_path)
    assert len(found) == found.report.read == 0


def test_slot_is_waited_for_and_counted(server: Scripted, tmp_path: Path) -> None:
    server.on("/api/status", Answer(200, STATUS))
    server.on("/api/interpreter", good())
    found = source(server, rate_limit=True).fetch([TILE], tmp_path)
    assert [one.path for one in server.asked] == ["/api/status", "/api/interpreter"]
    assert found.report.requests == 2


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        (STATUS.decode(), 0),
        ("Rate limit: 0\nCurrently running queries (pid):\n", 0),
        ("Rate limit: 2\nSlot available after: 2026-01-01T00:00:09Z, in 9 seconds.\n", 9),
        ("Slot available after: 2026-01-01T00:00:09Z, in 9 seconds.\nSlot available after: x, in 4 seconds.\n", 4),
        ("Slot available after: 2026-01-01T00:00:09Z, in -3 seconds.\n", 0),
        ("<html>something else</html>", 0),
        (f"Slot available after: x, in {'9' * 5000} seconds.\n", 0),
        ("Rate limit: 2\nCurrently running queries (pid):\n123\n", 0),
    ],
)
def test_slot_wait_reads_what_servers_say(status: str, seconds: float) -> None:
    assert slot_wait(status) == seconds


def test_settings_and_name_look_up_are_put_back(server: Scripted, tmp_path: Path) -> None:
    names = [name for name in dir(osmnx.settings) if not name.startswith("_")]
    before = {name: getattr(osmnx.settings, name) for name in names}
    look_up = socket.getaddrinfo
    server.on("/api/interpreter", good(), Answer(400, b"no"))
    source(server).fetch([TILE], tmp_path / "a")
    with pytest.raises(LabelError):
        source(server).fetch([TILE], tmp_path / "b")
    assert {name: getattr(osmnx.settings, name) for name in names} == before
    assert socket.getaddrinfo is look_up


def test_osmnx_sends_nothing_and_looks_nothing_up(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes the query, with its own agent, for a server that it never hears of."""

    def never(*args: object, **_: object) -> None:
        raise AssertionError(args)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", never)
    server.on("/api/interpreter", good())
    with pytest.raises(AssertionError):
        source(server).fetch([TILE], tmp_path / "a")
    assert server.asked == []
    monkeypatch.undo()
    monkeypatch.setattr(socket, "gethostbyname", lambda host: never(host) if host != "127.0.0.1" else host)
    source(server).fetch([TILE], tmp_path / "b")
    (asked,) = server.asked
    assert asked.body.startswith("data=%5Bout%3Ajson%5D%5Btimeout%3A5%5D")
    assert asked.headers["User-Agent"].startswith("OSMnx")


@pytest.mark.parametrize("fault", ["never", "drip-headers", "drip-body", "endless-continue"])
def test_a_server_that_drips_is_given_up_in_time(
    faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("tasks.labels.overpass.GRACE", 0.2)
    for rate_limit in (False, True):
        slow = OverpassSource(faults.at(fault), attempts=2, timeout=0, first_pause=0.01, rate_limit=rate_limit)
        began = time.monotonic()
        with pytest.raises(LabelError, match=r"not whole within 0.2 s.*; gave up after 2 attempts"):
            slow.fetch([TILE], tmp_path)
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("fault", ["endless-close", "endless-chunks", "length-absurd", "bomb-gzip"])
def test_an_answer_without_end_is_refused_in_little_memory(faults: FaultServer, tmp_path: Path, fault: str) -> None:
    small = OverpassSource(faults.at(fault), rate_limit=False, limits=Bounds(answer_bytes=1_000_000))
    peak = Peak()
    with pytest.raises(LabelError, match=r"more than 1 MB, limits\.max_answer_mb"):
        small.fetch([TILE], tmp_path)
    assert len(faults.asked) == 1
    assert peak.mib() < 60


def test_a_slot_that_never_comes_is_told_and_given_up(
    server: Scripted, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    server.on("/api/status", Answer(200, b"Slot available after: x, in 999999 seconds."))
    server.on("/api/interpreter", good())
    waiting = source(server, rate_limit=True, attempts=2, timeout=60, limits=Bounds(patience=100))
    with caplog.at_level(logging.WARNING, "tilewright"):
        waiting.fetch([TILE], tmp_path / "a")
        assert caplog.messages == [f"{server.url}/api: has no free slot; waiting 90 s as it asks"]
    less = source(server, rate_limit=True, attempts=2, timeout=60, limits=Bounds(patience=80))
    with pytest.raises(LabelError, match=r"no free slot; it asks to wait 90 s, more than .* \(80 s in all\); gave up"):
        less.fetch([TILE], tmp_path / "b")


def test_bad_date_is_the_recipes_fault(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"labels\.date: '\"\];' is no date"):
        OverpassSource("http://127.0.0.1:9/api", date='"];').fetch([TILE], tmp_path)


def test_one_area_holds_all_tiles_of_a_town() -> None:
    tiles = [Tile(18, 132800 + x, 90160 + y) for x, y in ((0, 0), (9, 3), (2, 8))]
    (area,) = query_areas(tiles)
    assert all(area.contains(shapely.box(*lonlat_bounds(tile))) for tile in tiles)


def test_sites_far_apart_and_beside_the_antimeridian_are_asked_apart() -> None:
    tiles = [Tile(18, 0, 90160), Tile(18, (1 << 18) - 1, 90160), Tile(18, 132800, 90160)]
    areas = query_areas(tiles)
    assert len(areas) == 3
    assert all(any(area.contains(shapely.box(*lonlat_bounds(tile))) for area in areas) for tile in tiles)
    assert all(area.area < 1e-3 for area in areas)


def test_a_country_is_refused() -> None:
    tiles = [Tile(10, 500 + step, 350) for step in range(MAX_QUERIES + 1)]
    with pytest.raises(
        LabelError, match=r"too far for Overpass .17 areas; allowed are 16 .*use labels from a pbf extract"
    ):
        query_areas(tiles)
    with pytest.raises(LabelError, match=r"too far for Overpass .1 areas"):
        query_areas([Tile(5, 16, 11)])
