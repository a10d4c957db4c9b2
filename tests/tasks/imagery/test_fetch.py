import email.utils
import errno
import gzip
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.sandbox.faults import PEER_MIX, Fault, FaultMix
from infra.sandbox.scripted import Reply, ScriptedServer, json_reply
from tasks.errors import CredentialError, DiskError, SourceError
from tasks.grid import Tile
from tasks.imagery import exchange
from tasks.imagery.decode import check_image
from tasks.imagery.fetch import WINDOW, Fetcher, FetchPolicy, FetchSummary, image_path
from tasks.imagery.xyz import XyzSource
from tasks.ledger import Fetched, Ledger, State
from tasks.recipe import XyzImagery
from tests.tasks.imagery.pictures import SIDE, encode, picture, transparent

JPEG = encode(picture(1), "JPEG")
PNG = encode(picture(2), "PNG")
WEBP = encode(picture(3), "WEBP")
TILE = Tile(18, 5, 7)
KEY = "/18/5/7.png"


def policy(**changes: Any) -> FetchPolicy:
    return FetchPolicy(**{"connections": 8, "attempts": 4, "timeout": 5.0, "backoff": 0.01} | changes)


def source(url: str, pixels: int = SIDE, **imagery: Any) -> XyzSource:
    return XyzSource(XyzImagery(source="xyz", url=url, **imagery), pixels)


def fetch(
    url: str, folder: Path, tiles: list[Tile] | None = None, pixels: int = SIDE, **changes: Any
) -> tuple[dict[Tile, Fetched], FetchSummary]:
    """Fetch the tiles from ``url`` and return their outcomes; each comes once."""
    outcomes: list[Fetched] = []
    with Fetcher(source(url + "/{z}/{x}/{y}.png", pixels), policy(**changes), folder) as fetcher:
        summary = fetcher.fetch([TILE] if tiles is None else tiles, outcomes.extend)
    by_tile = {outcome.tile: outcome for outcome in outcomes}
    assert len(by_tile) == len(outcomes)
    assert summary.requests == sum(outcome.attempts for outcome in outcomes) == fetcher.requests
    return by_tile, summary


def fetch_one(folder: Path, *replies: Reply, content: bytes = PNG, **changes: Any) -> tuple[Fetched, ScriptedServer]:
    """Fetch one tile that is answered with ``replies``, then with ``content``."""
    with ScriptedServer({KEY: content}, script={KEY: replies}, content_type="image/png") as server:
        outcomes, summary = fetch(server.url, folder, **changes)
        assert summary.counts == {outcomes[TILE].state: 1}
        assert len(server.requests) == outcomes[TILE].attempts
        return outcomes[TILE], server


def test_a_good_image_is_kept_and_described(tmp_path: Path) -> None:
    before = int(time.time())
    outcome, server = fetch_one(tmp_path, Reply(200, PNG, {"ETag": '"abc"'}))
    path = image_path(tmp_path, TILE)
    assert path == tmp_path / "18" / "5" / "7.png"
    assert path.read_bytes() == PNG
    assert outcome.fetched_at is not None
    assert before <= outcome.fetched_at <= time.time()
    assert outcome == Fetched(
        TILE, State.KEPT, "", 1, len(PNG), '"abc"', hashlib.sha256(PNG).hexdigest(), 0.0, outcome.fetched_at
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


def test_too_much_nodata_is_rejected(tmp_path: Path) -> None:
    outcome, _ = fetch_one(tmp_path, content=transparent(0.25), max_nodata_fraction=0.2)
    assert (outcome.state, outcome.reason, outcome.nodata_fraction) == (State.REJECTED, "nodata", 0.25)
    assert outcome.sha256 is None
    assert image_path(tmp_path, TILE) is None
    kept, _ = fetch_one(tmp_path, content=transparent(0.25), max_nodata_fraction=0.25)
    assert (kept.state, kept.nodata_fraction) == (State.KEPT, 0.25)


def test_a_tile_that_does_not_exist_is_absent(tmp_path: Path) -> None:
    outcome, _ = fetch_one(tmp_path, json_reply(404, '{"message":"Tile not found"}'))
    assert (outcome.state, outcome.reason, outcome.attempts) == (State.ABSENT, "HTTP 404", 1)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(503), "HTTP 503"),
        (Reply(500), "HTTP 500"),
        (Reply(408), "HTTP 408"),
        (Reply(304), "HTTP 304"),
        (Reply(reset=True), "connection lost"),
        (Reply(body=PNG, cut=True), "short body"),
        (Reply(body=PNG[:-30]), "truncated image"),
        (Reply(body=JPEG[: len(JPEG) // 2]), "truncated image"),
        (Reply(body=PNG[:100] + b"x" + PNG[101:]), "broken image"),
        (json_reply(200, '{"message":"sorry"}'), "not an image (application/json)"),
        (Reply(body=b"", content_type="image/png"), "not an image (image/png)"),
        (Reply(body=gzip.compress(PNG)[:-20], headers={"Content-Encoding": "gzip"}), "short body"),
        (Reply(body=PNG, headers={"Content-Encoding": "gzip"}), "broken content encoding"),
        (Reply(body=PNG, headers={"Content-Encoding": "br"}), "unknown content encoding"),
        (Reply(302, headers={"Location": KEY}), "too many redirects"),
        (Reply(302, headers={"Location": "http://[nowhere"}), "invalid HTTP answer"),
        (Reply(302, headers={"Location": "ftp://127.0.0.1/tile.png"}), "redirect to an invalid URL"),
    ],
)
def test_what_may_pass_is_tried_again_and_then_failed(tmp_path: Path, reply: Reply, reason: str) -> None:
    healed, _ = fetch_one(tmp_path, reply)
    assert healed.state is State.KEPT
    assert healed.attempts == 2
    failed, _ = fetch_one(tmp_path, *[reply] * 50, attempts=3)
    assert (failed.state, failed.reason) == (State.FAILED, reason)
    if reason == "too many redirects":
        assert failed.attempts == 3 * (1 + exchange.MAX_REDIRECTS)
    elif reason == "connection lost":
        assert 3 <= failed.attempts <= 6  # aiohttp sends a second time by itself, which is counted
    else:
        assert failed.attempts == 3
    assert image_path(tmp_path, TILE) is None


def test_a_timeout_is_tried_again(tmp_path: Path) -> None:
    with ScriptedServer({KEY: PNG}, script={KEY: [Reply(delay=2.0)]}) as server:
        outcomes, _ = fetch(server.url, tmp_path, timeout=0.2)
    assert (outcomes[TILE].state, outcomes[TILE].attempts) == (State.KEPT, 2)
    with ScriptedServer({KEY: PNG}, script={KEY: [Reply(delay=2.0)] * 2}) as server:
        outcomes, _ = fetch(server.url, tmp_path, timeout=0.2, attempts=2)
    assert (outcomes[TILE].state, outcomes[TILE].reason) == (State.FAILED, "timeout")


def test_an_image_that_was_compressed_on_top_is_kept_as_it_was_meant(tmp_path: Path) -> None:
    outcome, server = fetch_one(tmp_path, Reply(200, gzip.compress(PNG), {"Content-Encoding": "gzip"}))
    assert outcome.sha256 == hashlib.sha256(PNG).hexdigest()
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_bodies_are_bounded_as_sent_and_as_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_BODY", 1 << 20)
    bomb = Reply(200, gzip.compress(b"\0" * (4 << 20)), {"Content-Encoding": "gzip"})
    outcome, _ = fetch_one(tmp_path, bomb, bomb, attempts=2)
    assert outcome.reason == "body over 1 MiB"
    long = Reply(200, b"\0" * (2 << 20))
    outcome, _ = fetch_one(tmp_path, long, long, attempts=2)
    assert outcome.reason == "body over 1 MiB"


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
        Fetcher(source(server.url + "/{z}/{x}/{y}.png"), policy(), tmp_path) as fetcher,
    ):
        with pytest.raises(SourceError, match=r"Tileset a\.b does not exist"):
            fetcher.fetch(tiles, outcomes.extend)
        assert time.monotonic() - started < 10
        assert 90 - WINDOW * 8 <= len(outcomes) <= 99  # an image that waits to be checked is not done
        assert {outcome.state for outcome in outcomes} == {State.KEPT}
        assert all(image_path(tmp_path, outcome.tile) for outcome in outcomes)
        rest: list[Fetched] = []
        fetcher.fetch(tiles[:2], rest.extend)  # the fetcher itself goes on
        assert len(rest) == 2


def test_a_refusal_stops_the_other_calls_as_well(tmp_path: Path) -> None:
    def answer(key: str) -> Reply:
        return json_reply(403, "{}") if key == KEY else Reply(200, PNG, delay=60.0)

    caught: list[BaseException] = []

    def slow(fetcher: Fetcher) -> None:
        try:
            fetcher.fetch([Tile(18, 6, 1)], lambda _: None)
        except CredentialError as error:
            caught.append(error)

    with (
        ScriptedServer(answer) as server,
        Fetcher(source(server.url + "/{z}/{x}/{y}.png"), policy(), tmp_path) as fetcher,
    ):
        other = threading.Thread(target=slow, args=[fetcher])
        other.start()
        time.sleep(0.2)
        with pytest.raises(CredentialError):
            fetcher.fetch([TILE], lambda _: None)
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
        outcomes, _ = fetch(server.url, tmp_path, tiles, connections=1)
        times = [request.at for request in server.requests]
        assert [request.status for request in server.requests].count(429) == 1
        refused = next(index for index, request in enumerate(server.requests) if request.status == 429)
    assert all(outcome.state is State.KEPT for outcome in outcomes.values())
    assert outcomes[Tile(18, 5, 0)].attempts == 2
    assert times[refused + 1] - times[refused] >= 0.9


def test_being_throttled_is_no_failure_but_does_not_go_on_for_ever(tmp_path: Path) -> None:
    outcome, _ = fetch_one(tmp_path, *[json_reply(429, "{}")] * 6, attempts=1, backoff=0.001)
    assert (outcome.state, outcome.attempts) == (State.KEPT, 7)
    outcome, _ = fetch_one(tmp_path, *[json_reply(429, "{}", {"Retry-After": "0"})] * 99, backoff=0.0)
    assert (outcome.state, outcome.reason, outcome.attempts) == (State.FAILED, "HTTP 429", 20)


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
        with Fetcher(source(server.url + "/{z}/{x}/{y}.png"), limits, tmp_path) as fetcher:
            started = time.monotonic()
            fetcher.fetch(tiles[:10], lambda _: None)
            fetcher.fetch(tiles[10:], lambda _: None)
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
        with Fetcher(source(url + "/{z}/{x}/{y}.png"), policy(attempts=2), tmp_path) as fetcher:
            fetcher.fetch([TILE], outcomes.extend)
            serving.close()
            fetcher.fetch([Tile(18, 5, 8)], outcomes.extend)
    assert [outcome.state for outcome in outcomes] == [State.KEPT, State.FAILED]
    assert outcomes[1].reason in ("cannot connect", "connection lost")


def test_a_full_disk_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tasks.imagery.files.os.write", full)
    with ScriptedServer(lambda _: PNG) as server:
        outcomes: list[Fetched] = []
        with (
            Fetcher(source(server.url + "/{z}/{x}/{y}.png"), policy(), tmp_path) as fetcher,
            pytest.raises(DiskError, match="No space left on device"),
        ):
            fetcher.fetch([Tile(18, 5, y) for y in range(50)], outcomes.extend)
    assert outcomes == []


def test_the_token_stays_with_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    imagery = {"token_env": "MY_TOKEN", "headers": {"Authorization": "Bearer {token}"}}
    targets = [KEY, "/elsewhere?again=s3cret"]
    outcomes: list[Fetched] = []
    with (
        ScriptedServer({KEY: PNG}) as other,
        ScriptedServer(lambda _: Reply(302, headers={"Location": other.url + targets.pop(0)})) as home,
        Fetcher(source(home.url + "/{z}/{x}/{y}.png?k={token}", **imagery), policy(), tmp_path) as fetcher,
    ):
        summary = fetcher.fetch([TILE], outcomes.extend)
        assert outcomes[0].state is State.KEPT
        assert summary.requests == outcomes[0].attempts == 2
        assert home.requests[0].headers["Authorization"] == "Bearer s3cret"
        assert "s3cret" not in str(other.requests[0].headers) + other.requests[0].key
        assert other.requests[0].headers["User-Agent"].startswith("tilewright/")
        with pytest.raises(SourceError, match=f"{home.url} redirects to {other.url} and would hand it the") as caught:
            fetcher.fetch([TILE], outcomes.extend)
        assert "s3cret" not in str(caught.value)
        assert len(other.requests) == 1


def test_batches_come_in_the_calling_thread_every_sixty_four_tiles_or_half_second(tmp_path: Path) -> None:
    sizes: list[int] = []
    threads: set[int] = set()

    def on_batch(batch: list[Fetched]) -> None:
        sizes.append(len(batch))
        threads.add(threading.get_ident())

    tiles = [Tile(18, 5, y) for y in range(200)]
    with (
        ScriptedServer(lambda key: Reply(200, PNG, delay=1.2) if key == KEY else PNG) as server,
        Fetcher(source(server.url + "/{z}/{x}/{y}.png"), policy(), tmp_path) as fetcher,
    ):
        fetcher.fetch(tiles, on_batch)
    assert sum(sizes) == 200
    assert max(sizes) == 64
    assert sizes[-1] == 1  # the slow one did not hold up the others
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("error", [KeyboardInterrupt, DiskError("ledger"), ZeroDivisionError])
def test_what_the_caller_raises_ends_the_fetch(tmp_path: Path, error: Any) -> None:
    def on_batch(_: list[Fetched]) -> None:
        raise error

    tiles = [Tile(18, 5, y) for y in range(100)]
    with ScriptedServer(lambda key: Reply(200, PNG, delay=60.0) if key > "/18/5/7" else PNG) as server:
        started = time.monotonic()
        with (
            pytest.raises(error if isinstance(error, type) else type(error)),
            Fetcher(source(server.url + "/{z}/{x}/{y}.png"), policy(), tmp_path) as fetcher,
        ):
            fetcher.fetch(tiles, on_batch)
        assert time.monotonic() - started < 10


def test_closing_with_a_call_under_way_does_not_hang(tmp_path: Path) -> None:
    ended: list[BaseException] = []

    def call(fetcher: Fetcher) -> None:
        try:
            fetcher.fetch([TILE], lambda _: None)
        except RuntimeError as error:
            ended.append(error)

    with ScriptedServer({}, script={KEY: [Reply(delay=60.0)]}) as server:
        with Fetcher(source(server.url + "/{z}/{x}/{y}.png"), policy(timeout=60.0), tmp_path) as fetcher:
            thread = threading.Thread(target=call, args=[fetcher])
            thread.start()
            time.sleep(0.2)
        thread.join(10)
    assert [str(error) for error in ended] == ["the fetcher was closed during this call"]


def test_nothing_to_fetch(tmp_path: Path) -> None:
    with Fetcher(source("http://127.0.0.1:9/{z}/{x}/{y}"), policy(), tmp_path) as fetcher:
        summary = fetcher.fetch([], lambda _: None)
    assert (summary.requests, summary.bytes, summary.counts) == (0, 0, {})


@contextmanager
def raw_server(*answers: bytes) -> Iterator[str]:
    """Accepts connections one after the other, reads what is sent, answers with the next of ``answers`` and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


def test_answers_that_are_no_http(tmp_path: Path) -> None:
    good = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(PNG), PNG)
    cut_without_a_length = b"HTTP/1.0 200 OK\r\n\r\n" + PNG[:-20]
    endless_header = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000
    with raw_server(b"SSH-2.0-OpenSSH\r\n", endless_header, cut_without_a_length, b"", good) as url:
        outcomes, _ = fetch(url, tmp_path, attempts=5)
    assert (outcomes[TILE].state, outcomes[TILE].attempts) == (State.KEPT, 5)


def test_the_fault_mix_over_1024_tiles(tmp_path: Path) -> None:
    tiles = [Tile(18, 131072 + index // 32, 90112 + index % 32) for index in range(1024)]
    bodies = {f"/{tile.name}.png": encode(picture(index % 7), "JPEG") for index, tile in enumerate(tiles)}
    mix = FaultMix.exact(bodies, retry_after=0)
    with ScriptedServer(bodies, faults=mix) as server, Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.set_candidates(tiles)
        with Fetcher(source(server.url + "/{z}/{x}/{y}.png"), policy(connections=64), tmp_path / "images") as fetcher:
            summary = fetcher.fetch(tiles, ledger.record_fetched)
        counts = server.counts()
        assert ledger.counts() | {State.PLANNED: 0} == {
            State.KEPT: 1001,
            State.ABSENT: 23,
            **dict.fromkeys((State.PLANNED, State.REJECTED, State.SELECTED, State.FAILED), 0),
        }
        samples = ledger.samples()
    faulty = sum(count for fault, count in PEER_MIX.items() if fault is not Fault.ABSENT)
    assert summary.counts == {State.KEPT: 1001, State.ABSENT: 23}
    assert summary.requests == sum(counts.values()) == 1024 + 2 * faulty
    for tile in tiles:
        spoiled = mix.fault_of(f"/{tile.name}.png")
        assert counts[f"/{tile.name}.png"] == (1 if spoiled in (None, Fault.ABSENT) else 3)
    assert len(samples) == 1001
    for sample in samples:
        path = image_path(tmp_path / "images", sample.tile)
        assert path is not None
        data = path.read_bytes()
        assert hashlib.sha256(data).hexdigest() == sample.sha256
        assert data == bodies[f"/{sample.tile.name}.png"]
        check_image(data, SIDE)
    assert summary.bytes == sum(len(bodies[f"/{sample.tile.name}.png"]) for sample in samples)
    assert sum(1 for path in (tmp_path / "images").rglob("*") if path.is_file()) == 1001


def test_no_outcome_shows_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    echo = Reply(200, json.dumps({"token": "s3cret"}).encode(), content_type="application/json")
    outcomes: list[Fetched] = []
    with ScriptedServer(lambda _: echo) as server:
        asked = source(server.url + "/{z}/{x}/{y}.png?k={token}", token_env="MY_TOKEN")
        with Fetcher(asked, policy(attempts=1), tmp_path) as fetcher:
            fetcher.fetch([TILE], outcomes.extend)
    assert outcomes[0].state is State.FAILED
    assert "s3cret" not in repr(outcomes)
