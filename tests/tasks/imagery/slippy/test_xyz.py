import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import CredentialError, RecipeError, SourceError
from tasks.geo.tiles import Tile, quadkey
from tasks.imagery.slippy.protocol import body_message
from tasks.imagery.slippy.source import tile_server
from tasks.imagery.slippy.xyz import expand
from tasks.web.exchange import USER_AGENT
from tests.tasks.raster.pictures import recipe

URL = "http://127.0.0.1:8000/{z}/{x}/{y}.png"


@st.composite
def tiles(draw: st.DrawFn) -> Tile:
    zoom = draw(st.integers(0, 24))
    return Tile(zoom, draw(st.integers(0, (1 << zoom) - 1)), draw(st.integers(0, (1 << zoom) - 1)))


@given(tiles())
def test_rows_from_the_south_are_the_mirror_of_rows_from_the_north(tile: Tile) -> None:
    north, south = (int(text) for text in expand("{y} {-y}", tile).split())
    assert north + south == 2**tile.z - 1
    assert north == tile.y


@given(tiles())
def test_a_quadkey_names_the_tile(tile: Tile) -> None:
    key = expand("{q}", tile)
    assert len(key) == tile.z
    x = int("".join(str(int(digit) & 1) for digit in key) or "0", 2)
    y = int("".join(str(int(digit) >> 1) for digit in key) or "0", 2)
    assert (x, y) == (tile.x, tile.y)
    assert key == quadkey(tile)


@given(tiles(), st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True))
def test_a_tile_always_asks_the_same_subdomain_and_neighbours_share_the_work(tile: Tile, names: list[str]) -> None:
    assert expand("{s}", tile, names) == expand("{s}", tile, names)
    row = {expand("{s}", Tile(24, x, 5), names) for x in range(len(names))}
    assert row == set(names)


@given(tiles())
def test_nothing_but_placeholders_changes(tile: Tile) -> None:
    made = expand("http://h/{z}/{x}/{y}?a={z}&style={other}&b=%7Bz%7D", tile)
    assert made == f"http://h/{tile.z}/{tile.x}/{tile.y}?a={tile.z}&style={{other}}&b=%7Bz%7D"


def test_wmts_in_key_value_form() -> None:
    url = "https://example.org/wmts?REQUEST=GetTile&LAYER=a:b&TILEMATRIX={z}&TILEROW={y}&TILECOL={x}"
    request = tile_server(recipe({"source": "xyz", "url": url})).request(Tile(18, 7, 9))
    assert request.url == "https://example.org/wmts?REQUEST=GetTile&LAYER=a:b&TILEMATRIX=18&TILEROW=9&TILECOL=7"


def test_spaces_and_letters_outside_ascii_are_escaped() -> None:
    source = tile_server(recipe({"source": "xyz", "url": "http://h/été one/{z}/{x}/{y}"}))
    assert source.request(Tile(1, 0, 1)).url == "http://h/%C3%A9t%C3%A9%20one/1/0/1"


def test_headers_are_sent_with_our_user_agent_unless_the_recipe_gives_one() -> None:
    source = tile_server(recipe({"source": "xyz", "url": URL, "headers": {"Referer": "http://me"}}))
    assert source.request(Tile(0, 0, 0)).headers == {"User-Agent": USER_AGENT, "Referer": "http://me"}
    assert USER_AGENT.startswith("tilewright/")
    own = tile_server(recipe({"source": "xyz", "url": URL, "headers": {"user-agent": "me"}}))
    assert own.request(Tile(0, 0, 0)).headers == {"user-agent": "me"}


def test_the_token_comes_from_the_environment_into_url_and_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", " s3cret/{z} ")
    given_recipe = recipe(
        {
            "source": "xyz",
            "url": "http://h/{z}/{x}/{y}?k={token}",
            "token_env": "MY_TOKEN",
            "headers": {"Authorization": "Bearer {token}"},
        }
    )
    request = tile_server(given_recipe).request(Tile(1, 0, 1))
    assert request.url == "http://h/1/0/1?k=s3cret%2F%7Bz%7D"
    assert request.headers["Authorization"] == "Bearer s3cret/{z}"
    assert "s3cret" not in repr(request)


def test_missing_token() -> None:
    asked = recipe({"source": "xyz", "url": URL + "?key={token}", "token_env": "MY_TOKEN"})
    with pytest.raises(CredentialError, match="the environment variable MY_TOKEN is not set; set it to the token for"):
        tile_server(asked)


@pytest.mark.parametrize("url", ["http:///{z}/{x}/{y}", "http://host:port/{z}/{x}/{y}", "http://[::1/{z}/{x}/{y}"])
def test_a_url_that_names_no_host_is_refused(url: str) -> None:
    with pytest.raises(RecipeError, match=r"imagery\.url: .* has no valid host and port"):
        tile_server(recipe({"source": "xyz", "url": url}))


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X-Client": "a\nb"}, r"imagery\.headers\.X-Client: expected one line of printable ASCII"),
        ({"X Client": "a"}, r"imagery\.headers\.X Client: expected one line of printable ASCII"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(headers: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tile_server(recipe({"source": "xyz", "url": URL, "headers": headers}))


def test_what_counts_as_absent() -> None:
    source = tile_server(recipe({"source": "xyz", "url": URL}))
    assert source.is_absent(404, b'{"message":"tile NOT found"}')
    assert source.is_absent(204, b"")
    assert not source.is_absent(404, b"<h1>Not Found</h1>")
    assert not source.is_absent(403, b"Tile not found")
    assert tile_server(recipe({"source": "xyz", "url": URL, "absent": "gone fishing"})).is_absent(404, b"Gone Fishing")
    assert tile_server(recipe({"source": "xyz", "url": URL, "absent": ""})).is_absent(404, b"")


def test_refusals_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    source = tile_server(recipe({"source": "xyz", "url": URL}))
    url = source.request(Tile(1, 0, 1)).url
    missing = source.explain_refusal(404, b"<html><h1>Not   Found</h1></html>", url)
    assert isinstance(missing, SourceError)
    assert str(missing) == (
        "http://127.0.0.1:8000/1/0/1.png answered HTTP 404 (Not Found); check imagery.url; if this is how the source "
        "says that a single tile does not exist, set imagery.absent to a part of that message"
    )
    assert isinstance(source.explain_refusal(401, b"", url), CredentialError)
    assert "imagery.headers" in str(source.explain_refusal(403, b"", url))
    assert "check imagery.url and grid.zoom" in str(source.explain_refusal(422, b"", url))

    monkeypatch.setenv("MY_TOKEN", "s3cret")
    tokened = tile_server(recipe({"source": "xyz", "url": URL + "?odd={token}", "token_env": "MY_TOKEN"}))
    refused = tokened.explain_refusal(
        401, json.dumps({"message": "s3cret is bad"}).encode(), tokened.request(Tile(0, 0, 0)).url
    )
    assert "check the token in MY_TOKEN" in str(refused)
    assert "(*** is bad)" in str(refused)
    assert "s3cret" not in str(refused)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message": "Tile not found"}', "Tile not found"),
        (b'{"error": "no"}', "no"),
        (b'{"error": {"code": 1}}', '{"error": {"code": 1}}'),
        (b"<E><Code>Bad</Code>\n<T>Layer  x</T></E>", "Bad Layer x"),
        (b"\xff\x00\x1b[31mred", "[31mred"),
        (b"", ""),
        (b"x" * 9000, "x" * 200),
    ],
)
def test_the_message_of_an_error_body_is_one_short_line(body: bytes, message: str) -> None:
    assert body_message(body) == message
