"""Datasets and ledgers that the program before its rebuild left are read and continued."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.sandbox.services.scripted import ScriptedServer
from tasks.geo.tiles import Tile
from tasks.versions.read import versions
from tests.support.builds import BuildSummary, run_build
from tests.support.continued import NAMES, Site, by_sample, held, unpack
from tests.support.small import png_of

TILES = ("schema-1", "schema-2-tiles")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Has an image of every tile, also of those that were absent, without data or not to be had before."""
    with ScriptedServer(lambda key: png_of(_tile(key)), content_type="image/png") as running:
        yield running


@pytest.fixture(params=NAMES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return unpack(request.param, tmp_path)


def _tile(key: str) -> Tile:
    return Tile.parse(key.strip("/").removesuffix(".png"))


def _asked(server: ScriptedServer) -> list[str]:
    return sorted(_tile(request.key).name for request in server.requests)


def _build(site: Site, step: int, server: ScriptedServer | None = None) -> BuildSummary:
    """Go on as the earlier program did; without a server no tile can be had. Where tiles come from is no identity."""
    overrides = list(site.known["steps"][step]["overrides"])
    if server is not None and site.name in TILES:
        overrides.append(f"imagery.subdomains=['{server.url.removeprefix('http://')}']")
    return run_build(site.recipe, site.store, overrides)


def _assert_as_left(site: Site) -> None:
    for version, known in site.known["versions"].items():
        assert held(site.store, version) == known


def _assert_step(site: Site, step: int, summary: BuildSummary) -> None:
    """The same samples, splits, images and masks, and the same fates, as the earlier program came to."""
    known = site.known["steps"][step]
    for key in ("kept", "absent", "failed", "rejected"):
        assert getattr(summary, "accepted" if key == "kept" else key) == known[key], key
    assert by_sample(held(site.store, summary.version)) == known["samples"]


def _number(version: str) -> int:
    return int(version.removeprefix("v"))


def test_every_version_is_read(site: Site) -> None:
    assert [one.version for one in versions(str(site.store))] == list(site.known["versions"]) == ["v1", "v2"]
    _assert_as_left(site)


def test_only_what_is_missing_is_asked_for(site: Site, server: ScriptedServer) -> None:
    summary = _build(site, 0, server)
    asked = _asked(server)
    assert asked == site.known["steps"][0]["asked"]
    assert summary.requests["imagery"] == len(asked)
    # What had failed, and what a run that was killed had not come to; nothing that has an answer.
    assert not set(asked) & site.names("kept", "absent", "rejected:nodata")
    if site.name in TILES:
        assert set(asked) == site.names("failed", "selected", "planned") - _without_buildings(site)
    _assert_step(site, 0, summary)
    _assert_as_left(site)


def _without_buildings(site: Site) -> set[str]:
    """Of the tiles of the third run's column: those whose label says that there is none."""
    return {name for name in site.names("planned") if sum(Tile.parse(name)[1:]) % 4 == 0}


def test_samples_that_stay_keep_split_and_place(site: Site, server: ScriptedServer) -> None:
    before = site.known["versions"]["v2"]
    summary = _build(site, 0, server)
    now = held(site.store, summary.version)
    then, found = by_sample(before), by_sample(now)
    assert {name: found[name] for name in then} == then
    for split, arrays in before["splits"].items():  # where nothing left
        ids = arrays["sample_id"]
        assert now["splits"][split]["sample_id"][: len(ids)] == ids


def test_what_was_absent_or_without_data_stays_so(site: Site, server: ScriptedServer) -> None:
    gone = site.names("absent", "rejected:nodata")
    assert gone
    site.come_later()
    for step in (0, 1):
        summary = _build(site, step, server)
        assert not gone & by_sample(held(site.store, summary.version)).keys()
    assert not gone & set(_asked(server))


def test_what_comes_back_is_taken_from_the_disk(site: Site, server: ScriptedServer) -> None:
    """Samples that were no candidates, or that labels had rejected, return with their images and their splits."""
    _build(site, 0, server)
    server.reset()
    site.come_later()
    latest = versions(str(site.store))[-1].version
    summary = _build(site, 1)  # nobody would answer
    assert summary.new
    assert _number(summary.version) > _number(latest)
    assert (summary.requests["imagery"], server.requests) == (0, [])
    _assert_step(site, 1, summary)
    first, now = by_sample(site.known["versions"]["v1"]), by_sample(held(site.store, summary.version))
    left = first.keys() - by_sample(site.known["versions"]["v2"]).keys()
    assert left
    assert {name: now[name][:2] for name in left} == {name: first[name][:2] for name in left}  # split and image
    _assert_as_left(site)


def test_a_continued_dataset_that_is_complete_asks_for_nothing(site: Site, server: ScriptedServer) -> None:
    first = _build(site, 0, server)
    server.reset()
    again = _build(site, 0, server)
    assert (again.version, again.new) == (first.version, False)
    assert (again.requests["imagery"], server.requests) == (0, [])
    assert [one.version for one in versions(str(site.store))][:2] == ["v1", "v2"]


def test_version_numbers_grow(site: Site, server: ScriptedServer) -> None:
    _build(site, 0, server)
    site.come_later()
    _build(site, 1, server)
    numbers = [_number(one.version) for one in versions(str(site.store))]
    assert numbers[:2] == [1, 2]
    assert len(numbers) > 2
    assert numbers == sorted(set(numbers))
