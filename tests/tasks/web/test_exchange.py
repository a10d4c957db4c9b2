import asyncio
import gzip
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.sandbox.services.scripted import Reply, ScriptedServer, json_reply
from tasks.errors import SourceError
from tasks.imagery.slippy.fetch import Fetcher, FetchPolicy
from tasks.state.ledger import Fetched
from tasks.state.staging import Staging
from tasks.state.transitions import Image
from tasks.web import exchange
from tasks.web.exchange import Pacer
from tests.tasks.imagery.slippy.fetching import JPEG, KEY, PNG, TILE, fetch, fetch_one, policy, xyz


def test_a_timeout_is_tried_again(tmp_path: Path) -> None:
    with ScriptedServer({KEY: PNG}, script={KEY: [Reply(delay=2.0)]}) as server:
        outcomes = fetch(server.url, tmp_path, timeout=0.2)
    assert (outcomes[TILE].image, outcomes[TILE].attempts) == (Image.STAGED, 2)
    with ScriptedServer({KEY: PNG}, script={KEY: [Reply(delay=2.0)] * 2}) as server:
        outcomes = fetch(server.url, tmp_path, timeout=0.2, attempts=2)
    assert (outcomes[TILE].image, outcomes[TILE].reason) == (Image.FAILED, "timeout")


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


def test_the_token_stays_with_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    imagery = {"token_env": "MY_TOKEN", "headers": {"Authorization": "Bearer {token}"}}
    targets = [KEY, "/elsewhere?again=s3cret"]
    outcomes: list[Fetched] = []
    with (
        ScriptedServer({KEY: PNG}) as other,
        ScriptedServer(lambda _: Reply(302, headers={"Location": other.url + targets.pop(0)})) as home,
        Fetcher(xyz(home.url + "/{z}/{x}/{y}.png?k={token}", **imagery), policy()) as fetcher,
    ):
        fetcher.fetch({TILE.name: TILE}, Staging(tmp_path), outcomes.extend)
        assert outcomes[0].image is Image.STAGED
        assert fetcher.requests == outcomes[0].attempts == 2
        assert home.requests[0].headers["Authorization"] == "Bearer s3cret"
        assert "s3cret" not in str(other.requests[0].headers) + other.requests[0].key
        assert other.requests[0].headers["User-Agent"].startswith("tilewright/")
        with pytest.raises(SourceError, match=f"{home.url} redirects to {other.url} and would hand it the") as caught:
            fetcher.fetch({TILE.name: TILE}, Staging(tmp_path), outcomes.extend)
        assert "s3cret" not in str(caught.value)
        assert len(other.requests) == 1


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
        outcomes = fetch(url, tmp_path, attempts=5)
    assert (outcomes[TILE].image, outcomes[TILE].attempts) == (Image.STAGED, 5)


def test_no_outcome_shows_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    echo = Reply(200, json.dumps({"token": "s3cret"}).encode(), content_type="application/json")
    outcomes: list[Fetched] = []
    with ScriptedServer(lambda _: echo) as server:
        asked = xyz(server.url + "/{z}/{x}/{y}.png?k={token}", token_env="MY_TOKEN")
        with Fetcher(asked, policy(attempts=1)) as fetcher:
            fetcher.fetch({TILE.name: TILE}, Staging(tmp_path), outcomes.extend)
    assert outcomes[0].image is Image.FAILED
    assert "s3cret" not in repr(outcomes)


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
    assert healed.image is Image.STAGED
    assert healed.attempts == 2
    failed, _ = fetch_one(tmp_path, *[reply] * 50, attempts=3)
    assert (failed.image, failed.reason) == (Image.FAILED, reason)
    if reason == "too many redirects":
        assert failed.attempts == 3 * (1 + exchange.MAX_REDIRECTS)
    elif reason == "connection lost":
        assert 3 <= failed.attempts <= 6  # aiohttp sends a second time by itself, which is counted
    else:
        assert failed.attempts == 3
    assert Staging(tmp_path).path(TILE.name) is None


@given(st.floats(0.001, 10), st.integers(1, 1000))
def test_pauses_of_tiles_are_spread_to_both_sides(first: float, failures: int) -> None:
    middle = min(first * 2.0 ** (failures - 1), 60.0)
    assert 0.5 * middle <= FetchPolicy(backoff=first).retry.pause(failures) <= 1.5 * middle


def test_a_pause_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.imagery.slippy.fetch.MAX_PAUSE", 0.05)
    endless = {"Retry-After": "1000000000"}
    outcome, _ = fetch_one(tmp_path, Reply(503, headers=endless), Reply(429, headers=endless))
    assert (outcome.image, outcome.attempts) == (Image.STAGED, 3)


def timed(pacer: Pacer, turns: int) -> float:
    async def take_all() -> float:
        started = time.monotonic()
        await asyncio.gather(*(pacer.turn() for _ in range(turns)))
        return time.monotonic() - started

    return asyncio.run(take_all())


def test_turns_come_at_the_rate() -> None:
    assert timed(Pacer(100.0), 21) >= 0.19
    assert timed(Pacer(None), 1000) < 1.0


def test_a_pause_holds_everybody_also_those_who_had_their_turn_given() -> None:
    async def run() -> list[float]:
        pacer = Pacer(100.0)
        started = time.monotonic()
        ends: list[float] = []

        async def take() -> None:
            await pacer.turn()
            ends.append(time.monotonic() - started)

        waiting = [asyncio.create_task(take()) for _ in range(5)]
        await waiting[0]
        pacer.pause(0.2)
        await asyncio.gather(*waiting)
        return sorted(ends)

    first, *others = asyncio.run(run())
    assert first < 0.1  # went out before the pause
    assert all(end >= 0.2 + 0.01 * turn for turn, end in enumerate(others))  # and at the rate again after it
