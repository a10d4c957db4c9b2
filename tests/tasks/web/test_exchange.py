import asyncio
import gzip
import hashlib
import json
import logging
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
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.fetch import Fetcher, FetchPolicy
from tasks.state.ledger import Fetched
from tasks.state.staging import Staging
from tasks.state.transitions import Image
from tasks.web import exchange
from tasks.web.exchange import Pacer
from tasks.web.reach import Reach
from tests.support.fault_server import FaultServer
from tests.support.memory import Peak
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


ENDLESS = {"Retry-After": "1000000000"}


def test_a_wait_without_end_ends_the_fetch_and_is_told(tmp_path: Path) -> None:
    tiles = [Tile(18, 5, y) for y in range(200)]
    with (
        ScriptedServer(lambda _: Reply(429, headers=ENDLESS)) as server,
        pytest.raises(
            SourceError,
            match=r"^http://127.*: answered 429, .* asks to wait 1,000,000,000 s, more .* \(1,800 s in all\); run",
        ),
    ):
        fetch(server.url, tmp_path, tiles)
    assert len(server.requests) <= 2 * policy().connections  # those under way


def test_waits_are_told_once_and_end_the_fetch_when_they_sum_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.web.retry.TOLD", 0.1)
    tiles = [Tile(18, 5, y) for y in range(100)]
    wait = {"Retry-After": "0.3"}
    with (
        ScriptedServer(lambda _: Reply(429, headers=wait)) as server,
        caplog.at_level(logging.WARNING, "tilewright"),
        pytest.raises(SourceError, match=r"limits\.patience \(1 s in all\); run the same command again later"),
    ):
        fetch(server.url, tmp_path, tiles, patience=1.0)
    assert 2 <= len(caplog.messages) <= 4
    assert caplog.messages[0].endswith("HTTP 429, too many requests; waiting 0.3 s as it asks")


def test_one_tile_with_a_wait_without_end_costs_itself_alone(tmp_path: Path) -> None:
    other = Tile(18, 5, 8)
    content = {KEY: PNG, "/18/5/8.png": PNG}
    with ScriptedServer(content, script={KEY: [Reply(503, headers=ENDLESS)]}) as server:
        outcomes = fetch(server.url, tmp_path, [TILE, other])
    assert (outcomes[TILE].image, outcomes[TILE].attempts) == (Image.FAILED, 1)
    assert outcomes[TILE].reason == "HTTP 503, with a wait beyond limits.patience"
    assert outcomes[other].image is Image.STAGED


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            "tls-self-signed",
            r"^https://127.*: TLS failed: self-signed certificate; if the server is yours, .*SSL_CERT_FILE",
        ),
        ("http-for-tls", r"^https://127.*: TLS failed: "),
        ("refused", r"^cannot reach http://127.0.0.1:9: .* \(cannot connect: connection refused\)"),
    ],
)
def test_why_there_is_no_connection_is_told(faults: FaultServer, tmp_path: Path, fault: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        fetch(faults.at(fault), tmp_path, attempts=2)


@pytest.mark.parametrize("fault", ["never", "drip-status", "drip-headers", "drip-body", "drip-chunks"])
def test_a_tile_that_drips_is_given_up_in_time(faults: FaultServer, tmp_path: Path, fault: str) -> None:
    started = time.monotonic()
    outcomes = fetch(faults.at(fault), tmp_path, attempts=2, timeout=0.2)
    assert outcomes[TILE].reason == "timeout"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("fault", ["endless-close", "endless-chunks", "length-absurd", "bomb-gzip"])
def test_tiles_without_end_take_little_memory(faults: FaultServer, tmp_path: Path, fault: str) -> None:
    tiles, peak = [Tile(18, 5, y) for y in range(12)], Peak()
    outcomes = fetch(faults.at(fault), tmp_path, tiles, attempts=1, connections=12)
    assert {one.reason for one in outcomes.values()} == {"body over 4 MiB"}
    assert peak.mib() < 250


def test_redirects_share_the_time_of_one_request(tmp_path: Path) -> None:
    started = time.monotonic()
    slow = Reply(302, headers={"Location": KEY}, delay=0.25)
    with ScriptedServer(lambda _: slow) as server:
        outcomes = fetch(server.url, tmp_path, attempts=1, timeout=0.4)
    assert outcomes[TILE].reason == "timeout"
    assert time.monotonic() - started < 2


def test_redirects_to_private_addresses_are_refused(faults: FaultServer, tmp_path: Path) -> None:
    named = Reach(frozenset({"127.0.0.1"}))
    for target in faults.canary.unnamed:
        if any(host in target for host in ("2130706434", "127.2:")):  # no addresses, says aiohttp
            outcomes = fetch(faults.redirect(target), tmp_path, attempts=1, reach=named)
            assert outcomes[TILE].reason == "redirect to an invalid URL"
            continue
        with pytest.raises(SourceError, match="leads to a private address"):
            fetch(faults.redirect(target), tmp_path, reach=named)
    assert faults.canary.asked == []


def test_any_secret_of_the_request_stays_at_home(faults: FaultServer, tmp_path: Path) -> None:
    url = f"{faults.at('redirect-elsewhere')}/{{z}}/{{x}}/{{y}}.png?key=s3cret-value"
    with (
        Fetcher(xyz(url), policy()) as fetcher,
        pytest.raises(SourceError, match="would hand it the token"),
    ):
        fetcher.fetch({TILE.name: TILE}, Staging(tmp_path), lambda _: None)
    assert not faults.canary.asked


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
