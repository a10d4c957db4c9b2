import json
from typing import Any

import pytest

from tasks.errors import CredentialError, RecipeError, SourceError, TermsError, TilewrightError
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.protocol import TileServer
from tasks.imagery.slippy.source import accepted_terms, tile_server
from tasks.web.exchange import USER_AGENT
from tests.tasks.raster.pictures import recipe

TOKEN = "pk.a-token-for-tests"


def mapbox(**imagery: Any) -> dict[str, Any]:
    return {"source": "mapbox", "accept_terms": True, **imagery}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> TileServer:
    monkeypatch.setenv("MAPBOX_ACCESS_TOKEN", TOKEN)
    return tile_server(recipe(mapbox()))


def test_requests(source: TileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    request = source.request(Tile(18, 5, 6))
    assert request.url == f"https://api.mapbox.com/v4/mapbox.satellite/18/5/6.jpg90?access_token={TOKEN}"
    assert request.headers == {"User-Agent": USER_AGENT}
    assert TOKEN not in repr(request)
    assert source.tile_pixels == 256

    monkeypatch.setenv("MAPBOX_API_URL", "http://127.0.0.1:9/base/")
    monkeypatch.setenv("MAPBOX_ACCESS_TOKEN", "a&b")
    double = tile_server(recipe(mapbox(tileset="a.b,c.d", format="png"), tile_size=512))
    assert double.request(Tile(1, 0, 1)).url == "http://127.0.0.1:9/base/v4/a.b,c.d/1/0/1@2x.png?access_token=a%26b"
    assert double.tile_pixels == 512


def test_missing_token_names_both_ways_to_give_it() -> None:
    with pytest.raises(CredentialError, match=r"MAPBOX_ACCESS_TOKEN.*Prefect Secret block named mapbox-access-token"):
        tile_server(recipe(mapbox()))


def test_the_token_may_come_from_a_prefect_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def find(env: str, block: str) -> str:
        asked.append((env, block))
        return TOKEN

    monkeypatch.setattr("tasks.imagery.slippy.mapbox.find_secret", find)
    assert tile_server(recipe(mapbox())).request(Tile(0, 0, 0)).url.endswith(f"={TOKEN}")
    assert asked == [("MAPBOX_ACCESS_TOKEN", "mapbox-access-token")]


def test_a_base_url_that_is_none(source: TileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPBOX_API_URL", "api.mapbox.com")
    with pytest.raises(RecipeError, match=r"MAPBOX_API_URL: 'api\.mapbox\.com' is no base URL"):
        tile_server(recipe(mapbox()))


def test_zoom_out_of_range(source: TileServer) -> None:
    assert tile_server(recipe(mapbox(), zoom=22)).max_zoom == 22
    with pytest.raises(RecipeError, match=r"grid\.zoom: mapbox has imagery up to zoom 22, the recipe asks for 23"):
        tile_server(recipe(mapbox(), zoom=23))


def test_terms_not_accepted() -> None:
    with pytest.raises(TermsError) as caught:
        tile_server(recipe({"source": "mapbox"}))
    for part in (
        "storing its imagery",
        "mapbox.com/legal/tos",
        "imagery.accept_terms: true",
        "TILEWRIGHT_ACCEPT_TERMS",
    ):
        assert part in str(caught.value)


def test_terms_accepted_by_the_recipe_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    record = accepted_terms(recipe(mapbox()))
    assert record is not None
    assert (record["source"], record["accepted_by"]) == ("mapbox", "recipe")
    assert record["accepted_at"].endswith("+00:00")
    assert record["terms_url"].startswith("https://www.mapbox.com/legal/")
    for value, accepted in (("mapbox", True), ("ign, Mapbox", True), ("all", True), ("ign", False), ("true", False)):
        monkeypatch.setenv("TILEWRIGHT_ACCEPT_TERMS", value)
        if accepted:
            record = accepted_terms(recipe({"source": "mapbox"}))
            assert record is not None
            assert record["accepted_by"] == "environment"
        else:
            with pytest.raises(TermsError):
                accepted_terms(recipe({"source": "mapbox"}))


def test_other_sources_have_no_terms_to_accept() -> None:
    assert accepted_terms(recipe({"source": "ign"})) is None
    assert accepted_terms(recipe({"source": "xyz", "url": "http://h/{z}/{x}/{y}"})) is None


@pytest.mark.parametrize(
    ("status", "message", "kind", "advice"),
    [
        (401, "Not Authorized - Invalid Token", CredentialError, "give a valid token in MAPBOX_ACCESS_TOKEN"),
        (403, "Forbidden", CredentialError, "check its scopes and URL restrictions"),
        (404, "Tileset mapbox.satelite does not exist", SourceError, "correct imagery.tileset (mapbox.satellite)"),
        (404, "Tileset does not contain any tiles", SourceError, "correct imagery.tileset (mapbox.satellite)"),
        (422, "Zoom level must be between 0-30.", SourceError, "correct grid.zoom (0 to 22) or imagery.format"),
        (410, "Gone", SourceError, "would refuse every tile"),
    ],
)
def test_refusals(source: TileServer, status: int, message: str, kind: type[TilewrightError], advice: str) -> None:
    body = json.dumps({"message": message}).encode()
    assert not source.is_absent(status, body)
    error = source.explain_refusal(status, body, source.request(Tile(18, 5, 6)).url)
    assert type(error) is kind
    assert advice in str(error)
    assert f"/v4/mapbox.satellite/18/5/6.jpg90?access_token=*** answered HTTP {status} ({message})" in str(error)
    assert TOKEN not in str(error)


def test_only_tile_not_found_is_absent(source: TileServer) -> None:
    assert source.is_absent(404, b'{"message":"Tile not found"}')
    assert not source.is_absent(200, b'{"message":"Tile not found"}')
