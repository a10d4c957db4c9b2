import email.utils
import errno
import hashlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from infra.sandbox.services.scripted import Reply, ScriptedServer, json_reply
from tasks.errors import CredentialError, DiskError, SourceError
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.fetch import UNDER_WAY, Fetcher
from tasks.state.ledger import Fetched
from tasks.state.staging import Staging
from tasks.state.transitions import Image
from tests.tasks.imagery.slippy.fetching import JPEG, KEY, PNG, TILE, WEBP, by_name, fetch, fetch_one, policy, xyz
from tests.tasks.raster.pictures import encode, picture, transparent


def test_a_good_image_is_staged_and_described(tmp_path: Path) -> None:
    before = int(time.time())
    outcome, server = fetch_one(tmp_path, Reply(200, PNG, {"ETag": '"abc"'}))
    path = Staging(tmp_path).path(TILE.name)
    assert path == tmp_path / "18" / "5" / "7.png"
    assert path.read_bytes() == PNG
    assert outcome.fetched_at is not None
    assert before <= outcome.fetched_at <= time.time()
    assert outcome == Fetched(
        TILE.name, Image.STAGED, "", 1, len(PNG), '"abc"', hashlib.sha256(PNG).hexdigest(), 0.0, outcome.fetched_at
    )
    assert server.requests[0].headers["User-Agent"].startswith("tilewright/")


@pytest.mark.parametrize(("body", "suffix"), [(JPEG, "jpg"), (WEBP, "webp"), (PNG, "png")])
def test_the_format_is_told_from_the_bytes_not_the_name(tmp_path: Path, body: bytes, suffix: str) -> None:
    fetch_one(tmp_path, content=body)
    assert [path.name for path in (tmp_path / "18" / "5").iterdir()] == [f"7.{suffix}"]


def test_an_older_image_in_another_format_does_not_stay_beside_the_new_one(tmp_path: Path) -> None:
    fetch_one(tmp_path, content=JPEG)
    fetch_one(tmp_path, content=PNG)
    assert [path.name for path in (tmp_path / "18" / "5").iterdir()] == ["7.png"]


@pytest.mark.parametrize("nodata", [0.25, 1.0])
def test_what_has_no_data_is_staged_too_with_how_much(tmp_path: Path, nodata: float) -> None:
    """A filter judges it afterwards, and another one may want it: nobody is asked twice."""
    outcome, _ = fetch_one(tmp_path, content=transparent(nodata))
    assert (outcome.image, outcome.reason, outcome.nodata_fraction) == (Image.STAGED, "", nodata)
    assert Staging(tmp_path).path(TILE.name) is not None


def test_a_tile_that_does_not_exist_is_absent(tmp_path: Path) -> None:
    outcome, _ = fetch_one(tmp_path, json_reply(404, '{"message":"Tile not found"}'))
    assert (outcome.image, outcome.reason, outcome.attempts) == (Image.ABSENT, "HTTP 404", 1)


@pytest.mark.parametrize(
    ("status", "kind", "advice"),
    [
        (400, SourceError, "check imagery.url and grid.zoom"),
        (401, CredentialError, "give its credentials in imagery.headers"),
        (403, CredentialError, "give its credentials in imagery.headers"),
        (404, SourceError, "set imagery.absent to a part of that message"),
        (410, SourceError, "check imagery.url and grid.zoom"),
        (422, SourceError, "check imagery.url and grid.zoom"),
    ],
)
def test_a_refusal_stops_the_run_at_once(tmp_path: Path, status: int, kind: type[Exception], advice: str) -> None:
    tiles = [Tile(18, 5, y) for y in range(400)]
    with (
        ScriptedServer(lambda _: json_reply(status, '{"message":"not for you"}')) as server,
        pytest.raises(kind, match=rf"/18/5/\d+\.png answered HTTP {status} \(not for you\); .*{advice}"),
    ):
        fetch(server.url, tmp_path, tiles)
    assert len(server.requests) <= 8 + 8  # what was under way on the eight connections, and little more


def test_what_was_done_before_a_refusal_is_handed_over(tmp_path: Path) -> None:
    tiles = [Tile(18, 5, y) for y in range(100)]

    def answer(key: str) -> bytes | Reply:
        if key == "/18/5/90.png":
            return json_reply(404, '{"message":"Tileset a.b does not exist"}')
        return Reply(200, PNG, delay=60.0) if key > "/18/5/90" else PNG

    outcomes: list[Fetched] = []
    started = time.monotonic()
    with (
        ScriptedServer(answer) as server,
        Fetcher(xyz(server.url + "/{z}/{x}/{y}.png"), policy()) as fetcher,
    ):
        with pytest.raises(SourceError, match=r"Tileset a\.b does not exist"):
            fetcher.fetch(by_name(tiles), Staging(tmp_path), outcomes.extend)
        assert time.monotonic() - started < 10
        assert 90 - UNDER_WAY * 8 <= len(outcomes) <= 99  # an image that waits to be checked is not done
        assert {outcome.image for outcome in outcomes} == {Image.STAGED}
        assert all(Staging(tmp_path).path(outcome.name) for outcome in outcomes)
        rest: list[Fetched] = []
        fetcher.fetch(by_name(tiles[:2]), Staging(tmp_path), rest.extend)  # the fetcher itself goes on
        assert len(rest) == 2


def test_a_refusal_stops_the_other_calls_as_well(tmp_path: Path) -> None:
    arrived = threading.Event()

    def answer(key: str) -> Reply:
        if key == KEY:
            return json_reply(403, "{}")
        arrived.set()
        return Reply(200, PNG, delay=60.0)

    caught: list[BaseException] = []

    def slow(fetcher: Fetcher) -> None:
        try:
            fetcher.fetch(by_name([Tile(18, 6, 1)]), Staging(tmp_path), lambda _: None)
        except CredentialError as error:
            caught.append(error)

    with (
        ScriptedServer(answer) as server,
        Fetcher(xyz(server.url + "/{z}/{x}/{y}.png"), policy()) as fetcher,
    ):
        other = threading.Thread(target=slow, args=[fetcher])
        other.start()
        assert arrived.wait(10)
        with pytest.raises(CredentialError):
            fetcher.fetch({TILE.name: TILE}, Staging(tmp_path), lambda _: None)
        other.join(10)
        assert not other.is_alive()
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("pixels", "got", "advice"),
    [(256, 512, "set grid.tile_size: 512"), (512, 256, "set grid.tile_size: 256"), (256, 100, "with 256 or 512 px")],
)
def test_the_wrong_size_is_not_tried_again(tmp_path: Path, pixels: int, got: int, advice: str) -> None:
    with (
        ScriptedServer({KEY: encode(picture(side=got), "JPEG")}) as server,
        pytest.raises(
            SourceError, match=f"tile 18/5/7 with {got} x {got} pixels, expected {pixels} x {pixels}; .*{advice}"
        ),
    ):
        fetch(server.url, tmp_path, pixels=pixels)
    assert len(server.requests) == 1


@pytest.mark.parametrize("form", ["seconds", "date", "reset"])
def test_429_holds_the_whole_source_for_as_long_as_it_says(tmp_path: Path, form: str) -> None:
    until = time.time() + 1.6

    def headers() -> Mapping[str, str]:
        if form == "seconds":
            return {"Retry-After": "1"}
        if form == "date":
            return {"Retry-After": email.utils.formatdate(int(until) + 1, usegmt=True)}
        return {"X-Rate-Limit-Reset": str(int(until) + 1)}

    tiles = [Tile(18, 5, y) for y in range(40)]
    throttled = json_reply(429, '{"message":"Too Many Requests"}', headers())
    content = {f"/18/5/{y}.png": PNG for y in range(40)}
    with ScriptedServer(content, script={"/18/5/0.png": [throttled]}) as server:
        outcomes = fetch(server.url, tmp_path, tiles, connections=1)
        times = [request.at for request in server.requests]
        assert [request.status for request in server.requests].count(429) == 1
        refused = next(index for index, request in enumerate(server.requests) if request.status == 429)
    assert all(outcome.image is Image.STAGED for outcome in outcomes.values())
    assert outcomes[Tile(18, 5, 0)].attempts == 2
    assert times[refused + 1] - times[refused] >= 0.9


def test_being_throttled_is_no_failure_but_does_not_go_on_for_ever(tmp_path: Path) -> None:
    outcome, _ = fetch_one(tmp_path, *[json_reply(429, "{}")] * 6, attempts=1, backoff=0.001)
    assert (outcome.image, outcome.attempts) == (Image.STAGED, 7)
    outcome, _ = fetch_one(tmp_path, *[json_reply(429, "{}", {"Retry-After": "0"})] * 99, backoff=0.0)
    assert (outcome.image, outcome.reason, outcome.attempts) == (Image.FAILED, "HTTP 429", 20)


def test_503_waits_as_it_says_but_only_its_tile_does(tmp_path: Path) -> None:
    content = {KEY: PNG, "/18/5/8.png": PNG}
    with ScriptedServer(content, script={KEY: [Reply(503, headers={"Retry-After": "1"})]}) as server:
        fetch(server.url, tmp_path, [TILE, Tile(18, 5, 8)], connections=1)
        first, second, third = server.requests
    assert (first.key, second.key, third.key) == (KEY, "/18/5/8.png", KEY)
    assert second.at - first.at < 0.9 <= third.at - first.at


def test_the_rate_is_kept_over_calls_and_connections_are_bounded(tmp_path: Path) -> None:
    tiles = [Tile(18, 5, y) for y in range(20)]
    with ScriptedServer(lambda _: PNG, latency=0.05) as server:
        limits = policy(connections=4, requests_per_second=50.0)
        with Fetcher(xyz(server.url + "/{z}/{x}/{y}.png"), limits) as fetcher:
            started = time.monotonic()
            fetcher.fetch(by_name(tiles[:10]), Staging(tmp_path), lambda _: None)
            fetcher.fetch(by_name(tiles[10:]), Staging(tmp_path), lambda _: None)
            assert time.monotonic() - started >= 19 / 50
        assert 2 <= server.max_in_flight <= 4


def test_a_server_that_is_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    tiles = [Tile(18, 5, y) for y in range(400)]
    started = time.monotonic()
    with pytest.raises(
        SourceError, match=rf"^cannot reach http://127.0.0.1:{port}: \d+ connections failed and none"
    ) as e:
        fetch(f"http://user:s3cret@127.0.0.1:{port}", tmp_path, tiles, attempts=10, backoff=0.2)
    assert time.monotonic() - started < 3
    assert "s3cret" not in str(e.value)
    with pytest.raises(SourceError, match="cannot reach"):
        fetch(f"http://127.0.0.1:{port}", tmp_path, attempts=2)  # too few tiles to fail eight times


def test_a_server_that_goes_down_later_fails_its_tiles(tmp_path: Path) -> None:
    outcomes: list[Fetched] = []
    with ExitStack() as serving:
        url = serving.enter_context(ScriptedServer({KEY: PNG})).url
        with Fetcher(xyz(url + "/{z}/{x}/{y}.png"), policy(attempts=2)) as fetcher:
            fetcher.fetch({TILE.name: TILE}, Staging(tmp_path), outcomes.extend)
            serving.close()
            fetcher.fetch(by_name([Tile(18, 5, 8)]), Staging(tmp_path), outcomes.extend)
    assert [outcome.image for outcome in outcomes] == [Image.STAGED, Image.FAILED]
    assert outcomes[1].reason in ("cannot connect: connection refused", "connection lost")


def test_a_full_disk_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.write", full)
    with ScriptedServer(lambda _: PNG) as server:
        outcomes: list[Fetched] = []
        with (
            Fetcher(xyz(server.url + "/{z}/{x}/{y}.png"), policy()) as fetcher,
            pytest.raises(DiskError, match="No space left on device"),
        ):
            fetcher.fetch(by_name([Tile(18, 5, y) for y in range(50)]), Staging(tmp_path), outcomes.extend)
    assert outcomes == []


def test_batches_come_in_the_calling_thread_every_sixty_four_tiles_or_half_second(tmp_path: Path) -> None:
    sizes: list[int] = []
    threads: set[int] = set()

    def on_batch(batch: Sequence[Fetched]) -> None:
        sizes.append(len(batch))
        threads.add(threading.get_ident())

    tiles = [Tile(18, 5, y) for y in range(200)]
    with (
        ScriptedServer(lambda key: Reply(200, PNG, delay=1.2) if key == KEY else PNG) as server,
        Fetcher(xyz(server.url + "/{z}/{x}/{y}.png"), policy()) as fetcher,
    ):
        fetcher.fetch(by_name(tiles), Staging(tmp_path), on_batch)
    assert sum(sizes) == 200
    assert max(sizes) == 64
    assert sizes[-1] == 1  # the slow one did not hold up the others
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, DiskError("ledger"), ZeroDivisionError])
def test_what_the_caller_raises_ends_the_fetch(tmp_path: Path, error: Any) -> None:
    def on_batch(_: Sequence[Fetched]) -> None:
        raise error

    tiles = [Tile(18, 5, y) for y in range(100)]
    with ScriptedServer(lambda key: Reply(200, PNG, delay=60.0) if key > "/18/5/7" else PNG) as server:
        started = time.monotonic()
        with (
            pytest.raises(error if isinstance(error, type) else type(error)),
            Fetcher(xyz(server.url + "/{z}/{x}/{y}.png"), policy()) as fetcher,
        ):
            fetcher.fetch(by_name(tiles), Staging(tmp_path), on_batch)
        assert time.monotonic() - started < 10


def test_closing_with_a_call_under_way_does_not_hang(tmp_path: Path) -> None:
    ended: list[BaseException] = []
    arrived = threading.Event()

    def answer(_: str) -> Reply:
        arrived.set()
        return Reply(200, PNG, delay=60.0)

    def call(fetcher: Fetcher) -> None:
        try:
            fetcher.fetch({TILE.name: TILE}, Staging(tmp_path), lambda _: None)
        except RuntimeError as error:
            ended.append(error)

    with ScriptedServer(answer) as server:
        with Fetcher(xyz(server.url + "/{z}/{x}/{y}.png"), policy(timeout=60.0)) as fetcher:
            thread = threading.Thread(target=call, args=[fetcher])
            thread.start()
            assert arrived.wait(10)
        thread.join(10)
    assert [str(error) for error in ended] == ["the fetcher was closed during this call"]


def test_nothing_to_fetch(tmp_path: Path) -> None:
    outcomes: list[Fetched] = []
    with Fetcher(xyz("http://127.0.0.1:9/{z}/{x}/{y}"), policy()) as fetcher:
        fetcher.fetch({}, Staging(tmp_path), outcomes.extend)
    assert (fetcher.requests, outcomes) == (0, [])
