import gzip
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.sandbox.services.scripted import Reply, ScriptedServer, json_reply
from tasks.errors import SourceError
from tasks.imagery.slippy.fetch import Fetcher, image_path
from tasks.state.ledger import Fetched, State
from tasks.web import exchange
from tests.tasks.imagery.slippy.fetching import JPEG, KEY, PNG, TILE, fetch, fetch_one, policy, source


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
