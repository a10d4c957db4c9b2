import logging
import socket
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.errors import LabelError
from tasks.web.client import Client
from tasks.web.retry import RetryPolicy, TransientError
from tests.tasks.labels.conftest import Answer, Scripted

QUICK = RetryPolicy(3, 5, 0.01)
TOKEN = "s3cr3t"


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(QUICK, 5.0, LabelError, "correct it") as made:
        yield made


def test_answers_are_plain_counted_and_of_whatever_status(server: Scripted, client: Client) -> None:
    server.on("/a", Answer(404, b"none"))
    answer = client.get(server.url + "/a", query={"q": "1"}, headers={"X-Some": "thing"}, whole=True)
    assert (answer.status_code, answer.content) == (404, b"none")
    assert (server.asked[0].headers["Accept-Encoding"], server.asked[0].headers["X-Some"]) == ("identity", "thing")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: client.get(server.url + "/a", whole=True), range(20)))
    assert client.requests == len(server.asked) == 21


@pytest.mark.parametrize("follow", [False, True])
def test_redirects_are_followed_when_told_to(server: Scripted, client: Client, follow: bool) -> None:
    server.on("/a", Answer(302, b"", {"Location": "/b"}))
    server.on("/b", Answer(200, b"there"))
    assert client.get(server.url + "/a", follow=follow, whole=True).status_code == (200 if follow else 302)


def test_what_may_pass_says_how_long_to_wait(server: Scripted, client: Client) -> None:
    server.on("/a", Answer(503, b"busy", {"Retry-After": "7"}))
    with pytest.raises(TransientError, match=r"/a\?key=\*\*\*: the server answered 503 Service Unavailable$") as caught:
        client.get(server.url + f"/a?key={TOKEN}")
    assert caught.value.pause == 7
    assert client.get(server.url + "/a", transient=(), whole=True).content == b"busy"
    with pytest.raises(TransientError, match=r"^the file: the server answered 503"):
        client.get(server.url + "/a", shown="the file")


def test_attempts_are_the_policys(server: Scripted, client: Client) -> None:
    server.on("/a", Answer(500), Answer(200, b"0123456789", claimed=20), Answer(200, b"good"))
    assert client.persist(lambda: client.get(server.url + "/a", whole=True)).content == b"good"
    server.on("/a", Answer(200, b"0123456789", claimed=20))
    with pytest.raises(TransientError, match=r"/a: the answer broke off \("):
        client.persist(lambda: client.get(server.url + "/a", whole=True))
    assert client.requests == 6


def test_no_secret_is_told_or_logged(server: Scripted, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.get(server.url + f"/a?token={TOKEN}", query={"key": TOKEN}, whole=True)
    assert "key=***" in caplog.text
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransientError, match=r"no connection \(ConnectionError\)$") as lost:
        client.get(f"http://127.0.0.1:{port}/a?token={TOKEN}")
    server.on("/round", Answer(302, b"", {"Location": f"/round?token={TOKEN}"}))
    with pytest.raises(LabelError, match=r"no URL that can be asked \(TooManyRedirects\); correct it$") as loop:
        client.get(server.url + "/round", follow=True)
    with pytest.raises(
        LabelError, match=r"^htp://x/\?token=\*\*\*: is no URL that can be asked \(InvalidSchema\)"
    ) as odd:
        client.get(f"htp://x/?token={TOKEN}")
    for caught in (lost, loop, odd):
        assert TOKEN not in "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("login", [False, True])
def test_login_of_the_user_is_sent_when_told_to(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: bool
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Client(QUICK, 5.0, login=login) as client:
        client.get(server.url + "/a", whole=True)
    assert ("Authorization" in server.asked[0].headers) is login
