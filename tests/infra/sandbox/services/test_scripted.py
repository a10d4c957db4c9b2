"""The scripted server: each kind of answer, as a client meets it."""

import time

import pytest
import requests

from infra.sandbox.services.faults import Fault, FaultMix
from infra.sandbox.services.scripted import Reply, ScriptedServer, json_reply


def statuses(server: ScriptedServer, path: str, times: int) -> list[int]:
    return [requests.get(server.url + path, timeout=5).status_code for _ in range(times)]


def test_content_from_a_mapping() -> None:
    with ScriptedServer({"/a": b"one", "/w?ROW=1": b"two"}, content_type="image/png") as server:
        assert requests.get(server.url + "/a?access_token=secret", timeout=5).content == b"one"
        answer = requests.get(server.url + "/w?ROW=1&access_token=secret", timeout=5)
        assert (answer.content, answer.headers["Content-Type"]) == (b"two", "image/png")
        missing = requests.get(server.url + "/b", timeout=5)
        assert (missing.status_code, missing.json()) == (404, {"message": "Tile not found"})
        assert server.counts() == {"/a": 1, "/w?ROW=1": 1, "/b": 1}
        assert "secret" not in repr([request.key for request in server.requests])


def test_content_from_a_function_and_posted_bodies() -> None:
    def content(key: str) -> bytes | Reply | None:
        return {"/bytes": b"x", "/reply": json_reply(200, '{"remark": "timed out"}')}.get(key)

    with ScriptedServer(content) as server:
        assert requests.get(server.url + "/bytes", timeout=5).content == b"x"
        assert requests.post(server.url + "/reply", data={"data": "q"}, timeout=5).json() == {"remark": "timed out"}
        assert [(r.method, r.body) for r in server.requests] == [("GET", b""), ("POST", b"data=q")]


def test_script_comes_first_then_content() -> None:
    script = {"/a": [Reply(503), Reply(429, headers={"Retry-After": "0"})], "*": [Reply(500)]}
    with ScriptedServer({"/a": b"x", "/b": b"y"}, script=script) as server:
        assert statuses(server, "/a", 3) == [503, 429, 200]
        assert statuses(server, "/b", 2) == [500, 200]
        assert [request.status for request in server.requests] == [503, 429, 200, 500, 200]
        server.reset()
        assert server.requests == []
        assert statuses(server, "/a", 1) == [503]


def test_reset_and_cut() -> None:
    script = {"/a": [Reply(reset=True), Reply(body=b"0123456789", cut=True)]}
    with ScriptedServer({"/a": b"x"}, script=script) as server:
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(server.url + "/a", timeout=5)
        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
            requests.get(server.url + "/a", timeout=5)
        with requests.get(server.url + "/a", timeout=5) as answer:
            assert answer.content == b"x"


def test_cut_promises_the_whole_length() -> None:
    with (
        ScriptedServer({}, script={"/a": [Reply(body=b"0123456789", cut=True)]}) as server,
        requests.get(server.url + "/a", timeout=5, stream=True) as answer,
    ):
        assert answer.headers["Content-Length"] == "10"
        assert answer.raw.read(5) == b"01234"


def test_delay_makes_a_client_time_out() -> None:
    with ScriptedServer({"/a": b"x"}, script={"/a": [Reply(delay=30)]}) as server:
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.get(server.url + "/a", timeout=0.2)
        assert statuses(server, "/a", 1) == [200]


def test_latency() -> None:
    with ScriptedServer({"/a": b"x"}, latency=0.1) as server:
        started = time.monotonic()
        assert statuses(server, "/a", 1) == [200]
        assert time.monotonic() - started >= 0.1


def test_reset_fault_of_a_mix() -> None:
    mix = FaultMix({Fault.RESET: 1024})
    with ScriptedServer({"/a": b"x"}, faults=mix) as server:
        for _ in range(2):
            with pytest.raises(requests.exceptions.ConnectionError):
                requests.get(server.url + "/a", timeout=5)
        assert statuses(server, "/a", 1) == [200]
        assert server.max_in_flight == 1
