"""Faults: exact in number, the same each time, and real on the wire."""

from collections import Counter

import pytest
import requests

from infra.sandbox.services.app import Settings
from infra.sandbox.services.faults import MIX_TOTAL, PEER_MIX, Fault, FaultMix
from infra.sandbox.services.mapbox import SANDBOX_TOKEN
from infra.sandbox.services.scripted import ScriptedServer
from infra.sandbox.services.server import running
from infra.sandbox.world.region import FIRST_TILE_Z18
from tasks.errors import SandboxError

KEYS = [f"/18/{x}/{y}.jpg" for x in range(32) for y in range(32)]


def test_exact_mix_over_1024_tiles() -> None:
    mix = FaultMix.exact(KEYS)
    assert Counter(mix.fault_of(key) for key in KEYS) == {**PEER_MIX, None: 1024 - 162}
    assert mix.fault_of("/18/99/99.jpg") is None


def test_exact_mix_of_another_size_is_scaled() -> None:
    counts = Counter(FaultMix.exact(KEYS[:512]).fault_of(key) for key in KEYS[:512])
    assert counts == {Fault.ABSENT: 11, Fault.RATE_LIMITED: 25, Fault.UNAVAILABLE: 17, Fault.ERROR_BODY: 17,
                      Fault.TRUNCATED: 10, None: 432}  # fmt: skip


def test_mix_depends_on_the_seed_alone() -> None:
    mixes = FaultMix.exact(KEYS), FaultMix.exact(reversed(KEYS)), FaultMix.exact(KEYS, seed=1)
    first, backwards, other = ([mix.fault_of(key) for key in KEYS] for mix in mixes)
    assert first == backwards
    assert first != other


def test_open_mix_is_near_its_shares() -> None:
    keys = [f"/v4/a/20/{x}/{y}.jpg" for x in range(128) for y in range(128)]
    counts = Counter(FaultMix().fault_of(key) for key in keys)
    for fault, count in PEER_MIX.items():
        expected = count * len(keys) / MIX_TOTAL
        assert abs(counts[fault] - expected) < 4 * expected**0.5


def test_passing_faults_pass_after_two_attempts() -> None:
    mix = FaultMix.exact(KEYS)
    faults = {mix.fault_of(key): key for key in KEYS}
    for fault, key in faults.items():
        attempts = [mix.attempt(key) for _ in range(4)]
        assert attempts == ([fault] * 4 if fault in (None, Fault.ABSENT) else [fault, fault, None, None])
    mix.reset()
    assert mix.attempt(faults[Fault.TRUNCATED]) is Fault.TRUNCATED


def test_twice_the_same_request_is_refused() -> None:
    with pytest.raises(SandboxError, match="twice"):
        FaultMix.exact(["/a", "/a"])


def test_unknown_mix_names_the_known() -> None:
    with pytest.raises(SandboxError, match=r"'gremlins'.*peers"), running(Settings(faults="gremlins")):
        pass


def test_faults_on_the_wire_over_1024_tiles() -> None:
    """A patient client of the mix gets 1,001 tiles whole, misses 23, and sees each fault as often as it should."""
    body = bytes(range(256)) * 8
    statuses: Counter[str] = Counter()
    outcome: Counter[str] = Counter()
    with ScriptedServer(dict.fromkeys(KEYS, body), faults=FaultMix.exact(KEYS, retry_after=7)) as server:
        with requests.Session() as session:
            for key in KEYS:
                for _ in range(3):
                    try:
                        answer = session.get(server.url + key, timeout=10)
                    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
                        statuses["cut"] += 1
                        continue
                    if answer.status_code == 429:
                        assert answer.headers["Retry-After"] == "7"
                    wrong = answer.status_code == 200 and answer.content != body
                    statuses["error body" if wrong else str(answer.status_code)] += 1
                    if wrong:
                        assert answer.json() == {"message": "Internal error"}
                    elif answer.status_code in (200, 404):
                        outcome[str(answer.status_code)] += 1
                        break
        assert len(server.requests) == sum(statuses.values())
    assert outcome == {"200": 1001, "404": 23}
    assert statuses == {"200": 1001, "404": 23, "429": 100, "503": 68, "error body": 70, "cut": 40}


def test_sandbox_with_the_mix_keeps_real_errors_and_serves_in_the_end() -> None:
    x, y = FIRST_TILE_Z18
    with running(Settings(faults="peers")) as server:
        mix = FaultMix.named("peers")
        paths = [f"/v4/synthetic.satellite/18/{x + i}/{y + j}.jpg" for i in range(16) for j in range(15)]
        rate_limited = next(path for path in paths if mix.fault_of(path) is Fault.RATE_LIMITED)
        absent = next(path for path in paths if mix.fault_of(path) is Fault.ABSENT)
        refused = requests.get(server.url + rate_limited, timeout=10)
        good = {"access_token": SANDBOX_TOKEN}
        answers = [requests.get(server.url + rate_limited, params=good, timeout=10) for _ in range(3)]
        gone = [requests.get(server.url + absent, params=good, timeout=10) for _ in range(3)]
    assert refused.status_code == 401
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert [answer.json() for answer in gone] == [{"message": "Tile not found"}] * 3
