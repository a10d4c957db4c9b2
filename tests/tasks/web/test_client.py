import gzip
import logging
import socket
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from urllib3.util.connection import create_connection

from infra.sandbox.services.scripted import ScriptedServer
from tasks.errors import LabelError, SourceError
from tasks.recipe.parts import Limits
from tasks.web.client import Bounds, Client
from tasks.web.reach import Reach
from tasks.web.retry import RetryPolicy, TransientError
from tests.support.fault_server import FaultServer
from tests.support.memory import Peak
from tests.tasks.labels.conftest import Answer, Scripted

QUICK = RetryPolicy(3, 5, 0.01)
TOKEN = "s3cr3t-t0ken"
SMALL = Bounds(answer_bytes=1_000_000, download_bytes=2_000_000)


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(QUICK, 5.0, LabelError, "correct it") as made:
        yield made


@pytest.fixture
def hasty() -> Iterator[Client]:
    with Client(QUICK, 0.3, LabelError, "correct it", limits=SMALL) as made:
        yield made


def test_answers_are_plain_counted_and_of_whatever_status(server: Scripted, client: Client) -> None:
    server.on("/a", Answer(404, b"none"))
    answer = client.get(server.url + "/a", query={"q": "1"}, headers={"X-Some": "thing"})
    assert (answer.status, answer.reason, answer.body, answer.text) == (404, "Not Found", b"none", "none")
    assert answer.url == server.url + "/a?q=1"
    assert server.asked[0].headers["X-Some"] == "thing"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: client.get(server.url + "/a"), range(20)))
    assert client.requests == len(server.asked) == 21


def test_a_body_is_sent_and_a_compressed_one_unpacked(server: Scripted, client: Client) -> None:
    packed = gzip.compress(b"[1, 2]")
    server.on("/a", Answer(200, packed, {"Content-Encoding": "gzip"}))
    assert client.post(server.url + "/a", data=b"query", headers={"Content-Type": "text/x"}).json() == [1, 2]
    asked = server.asked[0]
    assert (asked.method, asked.body, asked.headers["Content-Type"]) == ("POST", "query", "text/x")
    assert asked.headers["Accept-Encoding"] == "gzip"
    with client.stream(server.url + "/a") as stream:
        assert b"".join(stream.chunks()) == b"[1, 2]"
    assert server.asked[1].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<!doctype html><p>Log in</p>", "a web page"),
        (b'{"a": ', "cut short"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "cut short, or something else"),
        (b"\xff\xfe", "cut short, or something else"),
    ],
)
def test_what_is_no_json_is_told_in_words(server: Scripted, client: Client, body: bytes, said: str) -> None:
    server.on("/a", Answer(200, body))
    with pytest.raises(ValueError, match=said):
        client.get(server.url + "/a").json()


@pytest.mark.parametrize("follow", [False, True])
def test_redirects_are_followed_when_told_to(server: Scripted, client: Client, follow: bool) -> None:
    server.on("/a", Answer(302, b"", {"Location": "/b"}))
    server.on("/b", Answer(200, b"there"))
    answer = client.get(server.url + "/a", follow=follow)
    assert answer.status == (200 if follow else 302)
    assert answer.url == server.url + ("/b" if follow else "/a")


def test_what_may_pass_says_how_long_to_wait(server: Scripted, client: Client) -> None:
    server.on("/a", Answer(503, b"busy", {"Retry-After": "7"}))
    with pytest.raises(TransientError, match=r"/a\?key=\*\*\*: the server answered 503 Service Unavailable$") as caught:
        client.get(server.url + f"/a?key={TOKEN}")
    assert caught.value.pause == 7
    assert client.get(server.url + "/a", transient=()).body == b"busy"
    with pytest.raises(TransientError, match=r"^the file: the server answered 503"):
        client.get(server.url + "/a", shown="the file")


def test_attempts_are_the_policys(server: Scripted, client: Client) -> None:
    server.on("/a", Answer(500), Answer(200, b"0123456789", claimed=20), Answer(200, b"good"))
    assert client.persist(lambda: client.get(server.url + "/a")).body == b"good"
    server.on("/a", Answer(200, b"0123456789", claimed=20))
    with pytest.raises(TransientError, match=r"/a: the answer broke off \(it ended early\)$") as caught:
        client.persist(lambda: client.get(server.url + "/a"))
    assert (client.requests, caught.value.attempts, caught.value.tried) == (6, 3, "3 attempts")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("never", "no answer .not whole within 0.3 s"),
        ("drip-status", "no answer .not whole within 0.3 s"),
        ("drip-headers", "no answer .not whole within 0.3 s"),
        ("drip-continue", "no answer .not whole within 0.3 s"),
        ("drip-body", "broke off .not whole within 0.3 s"),
        ("drip-chunks", "broke off .not whole within 0.3 s"),
        ("endless-headers", "no answer .the answer is no HTTP"),
        ("endless-trailers", "broke off"),
        ("tls-silent", "not whole within 0.3 s"),
        ("refused", "no connection .the connection was refused"),
        ("reset-first", "no answer .the connection was reset"),
        ("closed", "no answer .the server hung up without an answer"),
        ("no-http", "no answer .the answer is no HTTP"),
        ("length-twice", "no answer .the answer is no HTTP"),
        ("length-long", "broke off .it ended early"),
        ("gzip-broken", "cannot be unpacked .broken content encoding"),
        ("gzip-short", "cannot be unpacked .short body"),
        ("encoding-unknown", "cannot be unpacked .unknown content encoding"),
    ],
)
def test_what_another_attempt_may_not_meet_ends_in_time_and_in_words(
    faults: FaultServer, hasty: Client, fault: str, said: str
) -> None:
    began = time.monotonic()
    with pytest.raises(TransientError, match=said):
        hasty.get(f"{faults.at(fault)}/x")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("fault", ["endless-close", "endless-chunks", "length-absurd", "bomb-gzip", "bomb-deflate"])
def test_bodies_without_end_are_refused_at_once_in_little_memory(
    faults: FaultServer, hasty: Client, fault: str
) -> None:
    peak = Peak()
    with pytest.raises(LabelError, match=r"more than 1 MB, limits\.max_answer_mb; raise it if .* or correct it"):
        hasty.persist(lambda: hasty.get(f"{faults.at(fault)}/x"))
    with (
        pytest.raises(LabelError, match=r"more than 2 MB, limits\.max_download_gb"),
        hasty.stream(f"{faults.at(fault)}/x") as stream,
    ):
        for _ in stream.chunks():
            pass
    assert hasty.requests == 2
    assert peak.mib() < 50


def test_a_stream_may_take_long_as_long_as_something_comes(faults: FaultServer) -> None:
    with Client(QUICK, 0.2, limits=SMALL) as client:
        with client.stream(f"{faults.at('drip-body')}/x") as stream, pytest.raises(TransientError, match="bytes a sec"):
            for _ in stream.chunks():
                pass
        assert stream.is_late


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("redirect-self", r"redirects in a circle \(5 times, at last to http://127.*; correct it"),
        ("redirect-loop", "redirects in a circle"),
        ("redirect-chain", "redirects on and on"),
        ("redirect-file", r"redirects to what is no http\(s\) URL \(file:///etc/hostname"),
        ("redirect-invalid", r"redirects to what is no http\(s\) URL"),
        ("endless-redirect", "no answer|redirects|hung up"),
    ],
)
def test_redirects_that_lead_nowhere(faults: FaultServer, hasty: Client, fault: str, said: str) -> None:
    with pytest.raises((LabelError, TransientError), match=said):
        hasty.get(f"{faults.at(fault)}/x", follow=True)
    assert hasty.requests <= 6


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("tls-self-signed", "TLS failed: self-signed certificate; if the server is yours, name .*REQUESTS_CA_BUNDLE"),
        ("http-for-tls", "TLS failed: .*correct it"),
    ],
)
def test_tls_that_fails_is_told_as_that_and_is_final(faults: FaultServer, hasty: Client, fault: str, said: str) -> None:
    with pytest.raises(LabelError, match=said):
        hasty.persist(lambda: hasty.get(f"{faults.at(fault)}/x"))
    assert hasty.requests == 1


def test_a_host_that_is_none(hasty: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(TransientError, match=r"no connection \(no such host, says the name service: Name or service"):
        hasty.get("http://nowhere.example/x")


@pytest.mark.parametrize("fault", ["redirect-elsewhere", "redirect-keeping"])
def test_no_secret_goes_to_another_origin(faults: FaultServer, client: Client, fault: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Api-Key": TOKEN, "Cookie": f"a={TOKEN}", "If-Match": "x"}
    answer = client.get(f"{faults.at(fault)}/x?token={TOKEN}&layer=roads", headers=headers, follow=True)
    assert answer.body == b"what nobody may have"
    assert faults.canary.asked[0].target == f"/{fault}/x?layer=roads"
    assert faults.canary.asked[0].headers["if-match"] == "x"
    assert TOKEN not in faults.canary.heard


@pytest.mark.parametrize("path", [f"/{TOKEN}/x", f"/x#{TOKEN}", f"/x?url=http%3A%2F%2Fhost%2F{TOKEN}"])
def test_a_target_with_the_token_in_its_path_is_refused(faults: FaultServer, client: Client, path: str) -> None:
    target = f"{faults.canary.url}{path}"
    ask = {"headers": {"X-Api-Key": TOKEN}, "follow": True}
    if "?" in path:
        client.get(faults.redirect(target), **ask)  # type: ignore[arg-type]
        assert faults.canary.asked[0].target == "/x"
    else:
        with pytest.raises(LabelError, match=r"redirects to http://127\.0\.0\.1:\d+ and would hand it the token; if"):
            client.get(faults.redirect(target), **ask)  # type: ignore[arg-type]
    assert TOKEN not in faults.canary.heard


def test_the_users_login_stays_at_home(faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Client(QUICK, 5.0, login=True) as client:
        client.get(f"{faults.at('redirect-bare')}/x", follow=True)
    assert "authorization" in faults.asked[0].headers
    assert "authorization" not in faults.canary.asked[0].headers


def test_private_addresses_that_nobody_named_are_not_asked(faults: FaultServer) -> None:
    named = Reach(frozenset({"127.0.0.1"}))
    with Client(QUICK, 1.0, limits=SMALL, reach=named) as client:
        for target in faults.canary.unnamed:
            with pytest.raises(SourceError, match=r"leads to a private address \(.*, which the recipe does not name"):
                client.get(faults.redirect(target), follow=True)
            with pytest.raises(SourceError, match=r"if it is meant, add .* to limits\.private_hosts"):
                client.get(target)
        assert faults.canary.asked == []
        assert client.get(faults.canary.url).status == 200
    with Client(QUICK, 1.0, reach=Reach(allowed=frozenset({"localhost"}))) as client:
        assert client.get(f"http://localhost:{faults.canary.port}/").status == 200


def test_a_name_is_looked_up_once_and_cannot_change_its_meaning(
    faults: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, asked = socket.getaddrinfo, list[str]()

    def rebinding(host: str, *args: object, **more: object) -> object:
        asked.append(host)
        meant = {"rebind.example": "127.0.0.1" if asked.count(host) < 2 else "127.0.0.2"}.get(host, host)
        return look_up(meant, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with Client(QUICK, 2.0, reach=Reach(allowed=frozenset({"127.0.0.1"}))) as client:
        assert client.get(f"http://rebind.example:{faults.canary.port}/x").status == 200
        assert asked.count("rebind.example") == 1
        with pytest.raises(SourceError, match=r"private address \(127\.0\.0\.2\)"):
            client.get(f"http://rebind.example:{faults.canary.port}/x")  # the server ends each connection
    assert len(faults.canary.asked) == 1


def test_no_secret_is_told_or_logged(server: Scripted, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.get(server.url + f"/a?token={TOKEN}", query={"key": TOKEN})
    assert "key=***" in caplog.text
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransientError, match=r"no connection \(the connection was refused\)$") as lost:
        client.get(f"http://127.0.0.1:{port}/a?token={TOKEN}")
    server.on("/round", Answer(302, b"", {"Location": f"/round?token={TOKEN}"}))
    with pytest.raises(LabelError, match=r"redirects in a circle .*token=\*\*\*") as loop:
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
        client.get(server.url + "/a")
    assert ("Authorization" in server.asked[0].headers) is login


def test_a_connection_is_used_again_when_the_body_has_come(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def counted(*args: object) -> socket.socket:
        made.append(args)
        return create_connection(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("tasks.web.connection.create_connection", counted)
    with ScriptedServer({"/a": b"x" * 100_000}) as server:
        for _ in range(3):
            assert len(client.get(server.url + "/a").body) == 100_000
            with client.stream(server.url + "/a") as stream:
                assert sum(map(len, stream.chunks())) == 100_000
    assert len(made) == 1


def test_bounds_are_the_recipes() -> None:
    assert Bounds.of(Limits()) == Bounds()
    assert Bounds.of(Limits(max_answer_mb=0.5, max_download_gb=2, patience=7)) == Bounds(500_000, 2_000_000_000, 7)
