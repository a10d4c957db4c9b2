"""The command line as a user meets it: outputs, exit codes, and one message instead of a traceback."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.sandbox.services.faults import FaultMix
from infra.sandbox.services.scripted import Reply, ScriptedServer
from tasks.versions.read import versions
from tests.support.builds import contents, run_build
from tests.support.commands import Ended, Tilewright, assert_told, tilewright_started
from tests.support.small import SmallRegion

KEYS = {"version", "snapshot", "new", "candidates", "selected", "accepted", "kept", "absent", "failed", "rejected"}
KEYS |= {"left_out", "splits", "requests", "seconds"}


class Site:
    """A served region, and the command line run on it."""

    def __init__(self, folder: Path, tilewright: Tilewright) -> None:
        self.region = SmallRegion(side=8)
        self.server = ScriptedServer(self._answer, content_type="image/png")
        self.reply: Reply | None = None
        self.folder, self.store, self.tilewright = folder, folder / "store", tilewright

    def _answer(self, key: str) -> bytes | Reply | None:
        return self.reply or self.region.image(key)

    @property
    def recipe(self) -> str:
        return str(self.folder / "small.yaml")

    @property
    def words(self) -> tuple[str, ...]:
        return "build", self.recipe, "--store", str(self.store)

    def build(self, *words: str) -> Ended:
        return self.tilewright(*self.words, *words)


@pytest.fixture
def site(tmp_path: Path, tilewright: Tilewright) -> Iterator[Site]:
    found = Site(tmp_path, tilewright)
    with found.server as server:
        found.region.write_recipe(tmp_path, server.url, "description: for the command line")
        yield found


@pytest.mark.server
def test_build_twice_with_json(site: Site, prefect_server: str) -> None:
    first = tilewright_started(*site.words, "--json")
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert summary.keys() >= KEYS
    assert (summary["version"], summary["new"], summary["accepted"]) == ("v1", True, len(site.region.selected))
    assert summary["kept"] == summary["accepted"]  # its name before
    assert sum(summary["splits"].values()) == summary["accepted"]
    assert summary["requests"] == {"imagery": len(site.region.selected), "labels": 0}
    second = json.loads(site.build("--json").stdout)
    assert (second["version"], second["new"], second["requests"]["imagery"]) == ("v1", False, 0)
    listed = site.tilewright("versions", str(site.store))
    assert "v1" in listed.stdout
    assert json.loads(site.tilewright("versions", str(site.store), "--json").stdout)["versions"][0]["version"] == "v1"
    assert contents(site.store) == contents_of_a_plain_build(site)


def contents_of_a_plain_build(site: Site) -> dict[str, tuple[str, bytes, bytes]]:
    run_build(Path(site.recipe), site.folder / "plain")
    return contents(site.folder / "plain")


@pytest.mark.server
def test_the_fault_mix_over_1024_tiles(tmp_path: Path, prefect_server: str, tilewright: Tilewright) -> None:
    """What no peer survives: 23 tiles absent, 139 spoiled twice in four ways. All valid or absent, and told so."""
    region = SmallRegion(side=32)
    keys = [f"/{tile.name}.png" for tile in region.tiles]
    with ScriptedServer(region.image, faults=FaultMix.exact(keys), content_type="image/png") as server:
        recipe = region.write_recipe(tmp_path, server.url, "filter: {min_building_fraction: 0.0}")
        words = ["build", str(recipe), "--store", str(tmp_path / "store"), "--json"]
        first = tilewright(*words)
        assert first.returncode == 0, first.stderr
        summary = json.loads(first.stdout)
        assert (summary["candidates"], summary["selected"], summary["accepted"]) == (1024, 1024, 1001)
        assert (summary["absent"], summary["failed"]) == (23, 0)
        assert summary["requests"]["imagery"] == len(server.requests) == 1024 + 2 * 139
        server.reset()
        again = json.loads(tilewright(*words).stdout)
        assert (again["version"], again["new"], len(server.requests)) == ("v1", False, 0)


@pytest.mark.server
def test_build_for_a_person(site: Site, prefect_server: str) -> None:
    result = site.build("--set", "splits.by=tile")
    assert result.returncode == 0, result.stderr
    assert "new version v1" in result.stdout
    assert "train 34, validation 7, test 7" in result.stdout
    assert (site.folder / "store.work" / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_plan_asks_for_no_imagery(site: Site) -> None:
    result = tilewright_started("plan", site.recipe, "--store", str(site.store))
    assert result.returncode == 0, result.stderr
    assert "candidate tiles" in result.stdout
    assert "imagery requests" in result.stdout
    assert site.server.requests == []
    plan = json.loads(site.tilewright("plan", site.recipe, "--store", str(site.store), "--json").stdout)
    assert plan["funnel"]["selected"] == plan["estimate"]["requests"] == len(site.region.selected)
    assert not site.store.exists()


@pytest.mark.server
@pytest.mark.parametrize(
    ("override", "parts", "code"),
    [
        ("grid.zom=3", ["--set grid.zom: unknown key; did you mean 'zoom'?"], 2),
        ("grid.zoom=99", ["--set grid.zoom: input should be less than or equal to 24 (got 99)"], 2),
        ("area.bbox=[0, 86, 1, 87]", ["the area is empty"], 2),
        ("limits.max_tiles=10", ["the area holds about 64 tiles at zoom 16, over limits.max_tiles 10"], 2),
        ("filter.min_building_fraction=0.9", ["no tile passes the filter", "64 candidate tiles", "would pass"], 1),
        ("labels.path=none.geojson", ["none.geojson", "no such file"], 1),
        ("imagery.url=http://127.0.0.1:9/{z}/{x}/{y}.png", ["cannot reach http://127.0.0.1:9"], 1),
        ("imagery={source: mapbox}", ["terms", "imagery.accept_terms: true"], 1),
        ("imagery={source: mapbox, accept_terms: true}", ["no Mapbox token", "MAPBOX_ACCESS_TOKEN"], 1),
    ],
)
def test_bad_input_is_told(site: Site, prefect_server: str, override: str, parts: list[str], code: int) -> None:
    assert_told(site.build("--set", override, "--json"), *parts, code=code)
    assert not site.store.exists()


@pytest.mark.server
@pytest.mark.parametrize(
    ("reply", "parts"),
    [
        (Reply(401, b'{"message":"Not Authorized - Invalid Token"}'), ["HTTP 401", "Not Authorized - Invalid Token"]),
        (Reply(404, b'{"message":"Tileset a.b does not exist"}'), ["HTTP 404", "Tileset a.b does not exist"]),
        (Reply(200, b"<html>hello</html>", content_type="text/html"), ["images failed", "not an image (text/html)"]),
    ],
)
def test_a_refusing_server_is_told(site: Site, prefect_server: str, reply: Reply, parts: list[str]) -> None:
    site.reply = reply
    assert_told(site.build("--set", "imagery.attempts=1"), *parts)
    assert not site.store.exists()


@pytest.mark.server
@pytest.mark.parametrize("content", ["{", '{"type": "FeatureCollection", "features": ['])
def test_a_corrupted_geojson_is_told(site: Site, prefect_server: str, content: str) -> None:
    (site.folder / "buildings.geojson").write_text(content)
    assert_told(site.build(), "buildings.geojson")


@pytest.mark.server
def test_a_corrupted_pbf_is_told(site: Site, prefect_server: str) -> None:
    (site.folder / "bad.osm.pbf").write_bytes(b"\x00\x00\x00\x0dnot a pbf at all" * 50)
    assert_told(site.build("--set", "labels={source: pbf, path: bad.osm.pbf}"), "bad.osm.pbf")


@pytest.mark.server
def test_a_store_of_another_recipe_is_told_and_kept(site: Site, prefect_server: str) -> None:
    run_build(Path(site.recipe), site.store)
    result = tilewright_started(*site.words, "--set", "resize=64")
    assert_told(result, "holds another recipe: resize is 32 there and 64 here")
    assert [info.version for info in versions(str(site.store))] == ["v1"]


@pytest.mark.parametrize(
    ("words", "parts", "code"),
    [
        (["build", "osm-mars"], ["osm-mars: neither a recipe file nor a name in ./datasets", "osm-france"], 2),
        (["plan", "nowhere.yaml"], ["nowhere.yaml: no such recipe file"], 2),
        (["versions", "nowhere"], ["nowhere: no store there"], 1),
        (["bild"], ["No such command 'bild'"], 2),
        (["build"], ["Missing argument"], 2),
        (["sandbox", "--faults", "earthquake"], ["earthquake", "peers"], 1),
    ],
)
def test_a_bad_command_is_told(words: list[str], parts: list[str], code: int) -> None:
    assert_told(tilewright_started(*words), *parts, code=code)


@pytest.mark.server
def test_a_token_appears_nowhere(site: Site, prefect_server: str, tmp_path: Path) -> None:
    secret = "pk.marked0token0that0must0not0leak"
    overrides = ["--set", f"imagery.url={site.server.url}/{{z}}/{{x}}/{{y}}.png?access_token={{token}}"]
    site.reply = None
    environment = {"MY_TOKEN": secret, "PREFECT_LOGGING_LEVEL": "DEBUG"}
    words = [*site.words, "--set", "imagery.token_env=MY_TOKEN", *overrides]
    good = tilewright_started(*words, **environment)
    assert good.returncode == 0, good.stderr
    site.reply = Reply(403, f'{{"message":"Forbidden {secret}"}}'.encode())
    refused = site.tilewright(*words[:3], str(site.folder / "second"), *words[4:], **environment)
    assert refused.returncode == 1
    assert "Forbidden" in refused.stderr
    written = [path for path in (*tmp_path.rglob("*"), *Path(os.environ["PREFECT_HOME"]).rglob("*")) if path.is_file()]
    assert len(written) > 20
    leaks = [path for path in written if secret.encode() in path.read_bytes()]
    assert leaks == []
    assert secret not in good.stdout + good.stderr + refused.stdout + refused.stderr


def test_a_prefect_server_that_is_down_is_told(site: Site) -> None:
    result = tilewright_started(*site.words, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert_told(result, "Failed to reach API at http://127.0.0.1:9/api", "unset PREFECT_API_URL")
    assert site.server.requests == []


def test_the_help_names_every_command() -> None:
    result = tilewright_started("--help")
    assert result.returncode == 0
    for command in ("build", "plan", "versions", "export", "train", "run", "sandbox"):
        assert command in result.stdout
