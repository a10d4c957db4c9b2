import threading
from pathlib import Path
from typing import Any

import pytest

from infra.sandbox.services.scripted import Reply, ScriptedServer, json_reply
from tasks.errors import CredentialError, SourceError, TermsError
from tasks.geo.georeference import tile_georeference
from tasks.geo.tiles import Tile
from tasks.imagery.protocol import Source
from tasks.imagery.slippy.source import SlippySource
from tasks.recipe.model import Recipe
from tasks.recipe.parts import Area
from tasks.samples.window import Shard, Window
from tasks.state.ledger import Fetched
from tasks.state.staging import Staging
from tasks.state.transitions import Image
from tests.tasks.raster.pictures import encode, picture, recipe

NOWHERE = "http://127.0.0.1:9/{z}/{x}/{y}.png"
PICTURE = encode(picture(side=256), "PNG")


def xyz(url: str = NOWHERE, **more: Any) -> Recipe:
    return recipe({"source": "xyz", "url": url, **more})


def window(tile: Tile, pixels: int = 256) -> Window:
    return Window(tile.name, tile.name, "b", 0, 0, pixels, pixels, tile_georeference(tile, pixels))


def test_it_is_a_source_and_says_what_there_is_without_asking(tmp_path: Path) -> None:
    source: Source = SlippySource(xyz(), tmp_path)
    assert source.bands == ("red", "green", "blue")
    assert source.shape == ("uint8", 3, 256, 256)
    assert source.key == ""
    assert (source.requests, source.scenes(), source.fingerprints(), source.terms()) == (0, (), {}, None)
    source.close()


@pytest.mark.parametrize("count", [1, 600, 3000])
def test_candidates_are_tiles_cut_by_the_quadtree(tmp_path: Path, count: int) -> None:
    side = 64
    tiles = [Tile(18, 131072 + index // side, 90112 + index % side) for index in range(count)]
    (tmp_path / "tiles.txt").write_text("".join(f"{tile.name}\n" for tile in reversed(tiles)))
    asked = xyz().model_copy(update={"area": Area(tiles="tiles.txt")}).in_folder(tmp_path)
    found = SlippySource(asked, tmp_path).candidates()
    assert sorted(one.name for one in found.windows()) == sorted(tile.name for tile in tiles)
    assert found.left_out == {}
    for shard in found.shards:
        assert 0 < len(shard.windows) <= 512
        parent = Tile.parse(shard.name.replace("-", "/"))
        inside = [Tile.parse(one.name) for one in shard.windows]
        assert inside == sorted(inside)
        assert {tile.parent(parent.z) for tile in inside} == {parent}
        for one in shard.windows:
            tile = Tile.parse(one.name)
            assert (one.scene, one.width, one.height, one.group) == (tile.name, 256, 256, tile.parent(15).name)
            assert one.georeference == tile_georeference(tile, 256)


def test_the_tile_of_a_window_is_where_it_lies_whatever_its_name(tmp_path: Path) -> None:
    tile = Tile(18, 5, 7)
    named = Window("roof@1", "roof", "b", 0, 0, 256, 256, tile_georeference(tile, 256))
    outcomes: list[Fetched] = []
    with ScriptedServer({f"/{tile.name}.png": PICTURE}) as server:
        source = SlippySource(xyz(server.url + "/{z}/{x}/{y}.png"), tmp_path)
        source.fetch(Shard("0", (named,)), Staging(tmp_path / "images"), outcomes.extend)
        source.close()
    assert [(one.name, one.image) for one in outcomes] == [("roof@1", Image.STAGED)]
    assert outcomes[0].sha256 is not None
    staged = Staging(tmp_path / "images").read("roof@1", outcomes[0].sha256)
    assert staged is not None
    assert staged.image.shape == (3, 256, 256)


def test_threads_share_one_session_and_its_rate(tmp_path: Path) -> None:
    tiles = [Tile(18, 5, y) for y in range(40)]
    outcomes: list[Fetched] = []
    with ScriptedServer(lambda _: PICTURE, latency=0.02) as server:
        source = SlippySource(xyz(server.url + "/{z}/{x}/{y}.png", connections=3), tmp_path)

        def fetch(part: list[Tile]) -> None:
            shard = Shard("0", tuple(window(tile) for tile in part))
            source.fetch(shard, Staging(tmp_path / "images"), outcomes.extend)

        threads = [threading.Thread(target=fetch, args=[tiles[start::4]]) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert source.requests == len(server.requests) == 40
        assert server.max_in_flight <= 3
        source.close()
    assert sorted(one.name for one in outcomes) == sorted(tile.name for tile in tiles)


def test_the_recipes_attempts_and_limits_are_kept(tmp_path: Path) -> None:
    tiles = [Tile(18, 5, y) for y in (7, 8, 9)]
    busy, waiting, elsewhere = (f"/{tile.name}.png" for tile in tiles)
    replies = {
        busy: [Reply(503, headers={"Retry-After": "0"})],
        waiting: [Reply(503, headers={"Retry-After": "30"})],
        elsewhere: [Reply(302, headers={"Location": "http://127.0.0.2:9/a.png"})],
    }
    outcomes: list[Fetched] = []
    with ScriptedServer({}, script=replies) as server:
        asked = xyz(server.url + "/{z}/{x}/{y}.png", attempts=1)
        limited = asked.model_copy(update={"limits": asked.limits.model_copy(update={"patience": 20.0})})
        source = SlippySource(limited, tmp_path)
        images = Staging(tmp_path / "images")
        source.fetch(Shard("0", tuple(map(window, tiles[:2]))), images, outcomes.extend)
        assert {one.name: (one.image, one.reason) for one in outcomes} == {
            tiles[0].name: (Image.FAILED, "HTTP 503"),
            tiles[1].name: (Image.FAILED, "HTTP 503, with a wait beyond limits.patience"),
        }
        with pytest.raises(SourceError, match=r"^http://127\.0\.0\.2:9/a\.png: leads to a private address"):
            source.fetch(Shard("1", (window(tiles[2]),)), images, outcomes.extend)
        source.close()


def test_the_hosts_of_subdomains_are_named_by_the_recipe(tmp_path: Path) -> None:
    """They stand in no URL of it as they are asked."""
    outcomes: list[Fetched] = []
    with ScriptedServer(lambda _: PICTURE) as server:
        port = server.url.rpartition(":")[2]
        asked = xyz(f"http://{{s}}:{port}/{{z}}/{{x}}/{{y}}.png", subdomains=["127.0.0.1", "localhost"])
        source = SlippySource(asked, tmp_path)
        shard = Shard("0", tuple(window(Tile(18, 5, y)) for y in (7, 8)))
        source.fetch(shard, Staging(tmp_path / "images"), outcomes.extend)
        source.close()
    assert [one.image for one in outcomes] == [Image.STAGED] * 2


def test_what_is_missing_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    for imagery, kind in (
        ({"source": "mapbox"}, TermsError),
        ({"source": "mapbox", "accept_terms": True}, CredentialError),
        ({"source": "xyz", "url": NOWHERE, "headers": {"a": "{env:NO_SUCH}"}}, CredentialError),
    ):
        source = SlippySource(recipe(imagery), tmp_path)  # a plan needs neither terms nor token
        assert source.price([window(Tile(18, 5, 7))], 0, None).requests == 1
        with pytest.raises(kind):
            source.check()
        with pytest.raises(kind):
            source.fetch(Shard("0", (window(Tile(18, 5, 7)),)), Staging(tmp_path), lambda _: None)
    SlippySource(xyz(), tmp_path).check()


def test_a_refusal_ends_the_fetch(tmp_path: Path) -> None:
    with ScriptedServer(lambda _: json_reply(403, "{}")) as server:
        source = SlippySource(xyz(server.url + "/{z}/{x}/{y}.png"), tmp_path)
        with pytest.raises(CredentialError):
            source.fetch(Shard("0", (window(Tile(18, 5, 7)),)), Staging(tmp_path), lambda _: None)
        source.close()


def test_only_mapbox_bills_and_only_beyond_the_free_requests(tmp_path: Path) -> None:
    pending = [window(Tile(18, 5, y)) for y in range(100)]
    free = SlippySource(xyz(), tmp_path).price(pending, 0, None)
    assert (free.requests, free.dollars, free.bytes) == (100, None, 100 * 21_000)
    assert SlippySource(xyz(), tmp_path).price(pending, 0, 5_000.0).bytes == 500_000
    large = recipe({"source": "xyz", "url": NOWHERE}, tile_size=512)
    assert SlippySource(large, tmp_path).price(pending, 0, None).bytes == 4 * 100 * 21_000
    assert SlippySource(recipe({"source": "ign"}), tmp_path).price(pending, 0, None).dollars is None
    billed = SlippySource(recipe({"source": "mapbox"}), tmp_path)
    assert billed.price(pending, 0, None).dollars == 0.0
    assert billed.price(pending * 12_000, 0, None).dollars == 250.0
    assert SlippySource(xyz(requests_per_second=10), tmp_path).price(pending, 0, None).seconds == pytest.approx(
        10, abs=1
    )
    assert SlippySource(xyz(), tmp_path).price([], 5_000, None).seconds == 5.0  # what is there is still to be written
