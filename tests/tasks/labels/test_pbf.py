import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import LabelError
from tasks.geo.tiles import Tile
from tasks.labels import pbf as module
from tasks.labels.pbf import PbfSource
from tasks.web.retry import RetryPolicy
from tests.tasks.labels.conftest import TILE, Answer, Scripted

QUICK = RetryPolicy(2, 5, 0.01)


def test_ways_and_courtyards_of_an_extract(pbf: Path, tmp_path: Path) -> None:
    found = PbfSource(pbf).fetch([TILE], tmp_path / "work")
    assert set(zip(found.osm_type, found.osm_id.tolist(), strict=True)) == {("way", 1), ("relation", 1)}
    shapes = dict(zip(found.osm_type, found.geometry, strict=True))
    assert len(shapes["relation"].interiors) == 1
    assert shapes["way"].geom_type == "MultiPolygon"
    report = found.report
    assert report.dropped == {
        "area=no": 1,
        "building=no": 1,
        "outline of a multipolygon": 1,
        "unclosed way": 1,
        "underground": 1,
    }
    assert (report.read, report.kept, report.repaired, report.incomplete, report.requests) == (7, 2, 1, 2, 0)
    assert report.source == "pbf region.osm.pbf"
    assert report.timestamp == "2026-01-02T03:04:05Z"


def test_outlines_are_what_would_be_cleaned(pbf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a multipolygon's own outline, which clean drops: polygons with a building, in batches."""
    kept = PbfSource(pbf).fetch([TILE], tmp_path)
    monkeypatch.setattr(module, "_BATCH", 2)
    batches = list(PbfSource(pbf).outlines([TILE], tmp_path))
    assert len(batches) > 1
    found = np.concatenate(batches)
    assert len(found) == kept.report.kept + kept.report.dropped["outline of a multipolygon"]
    assert {shape.bounds for shape in kept.geometry} <= {shape.bounds for shape in found}
    pbf.write_bytes(pbf.read_bytes()[:-30])
    with pytest.raises(LabelError, match=r"region\.osm\.pbf: cannot be read as an OSM extract"):
        list(PbfSource(pbf).outlines([TILE], tmp_path))


def test_only_what_lies_on_the_tiles(pbf: Path, tmp_path: Path) -> None:
    far = Tile(16, TILE.x + 18, TILE.y - 18)
    found = PbfSource(pbf).fetch([far], tmp_path)
    assert list(found.osm_id) == [8]


def test_batches_and_the_index_on_disk_change_nothing(
    pbf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = PbfSource(pbf).fetch([TILE], tmp_path)
    monkeypatch.setattr(module, "_BATCH", 2)
    monkeypatch.setattr(module, "LARGE_FILE", 0)
    work = tmp_path / "work"
    work.mkdir()
    (work / "pbf-nodes.idx").write_bytes(b"left by a killed run" * 100)
    assert PbfSource(pbf).fetch([TILE], work).report == usual.report
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "nothing", "noise", "page"])
def test_damaged_extract_is_named(pbf: Path, tmp_path: Path, damage: str) -> None:
    whole = pbf.read_bytes()
    pbf.write_bytes({"cut": whole[:-30], "nothing": b"", "noise": b"\x00\xff" * 500, "page": b"<html>"}[damage])
    with pytest.raises(LabelError, match=r"region\.osm\.pbf: cannot be read as an OSM extract"):
        PbfSource(pbf).fetch([TILE], tmp_path)


def test_extract_without_times_is_dated_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "old.osm"
    path.write_text('<osm version="0.6"><node id="1" lat="0" lon="0"/></osm>')
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert PbfSource(path).fetch([TILE], tmp_path).report.timestamp == "2023-11-14T22:13:20Z"


def test_missing_extract(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"gone\.osm\.pbf: no such file"):
        PbfSource(tmp_path / "gone.osm.pbf").fetch([TILE], tmp_path)


def test_extract_behind_a_url(server: Scripted, pbf: Path, tmp_path: Path) -> None:
    digest = hashlib.md5(pbf.read_bytes()).hexdigest()
    server.on("/region.osm.pbf", Answer(200, pbf.read_bytes()))
    found = PbfSource(None, server.url + "/region.osm.pbf", f"md5:{digest}", QUICK).fetch([TILE], tmp_path / "work")
    local = PbfSource(pbf).fetch([TILE], tmp_path / "work")
    assert found.report.sha256 == local.report.sha256
    assert found.report.source == local.report.source
    assert found.report.requests == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>maintenance</html>", r"region\.osm\.pbf: the server sent a web page"),
        (
            b"noise",
            r"^http://127.*region\.osm\.pbf: the file cannot be read as an OSM extract.*run the same command again",
        ),
    ],
)
def test_damaged_download_is_not_kept(server: Scripted, pbf: Path, tmp_path: Path, body: bytes, said: str) -> None:
    page = Answer(200, body, {"ETag": '"1"'})
    server.on("/region.osm.pbf", page, Answer(200, pbf.read_bytes(), {"ETag": '"2"'}))
    source = PbfSource(None, server.url + "/region.osm.pbf", None, QUICK)
    with pytest.raises(LabelError, match=said):
        source.fetch([TILE], tmp_path)
    assert source.fetch([TILE], tmp_path).report.kept == 2
    assert "If-None-Match" not in server.asked[1].headers
