"""The sandbox as a process and in a thread: what it says, what it counts, how it stops."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import requests

from infra.sandbox.services.app import Settings
from infra.sandbox.services.mapbox import SANDBOX_TOKEN
from infra.sandbox.services.server import Running, running, serve
from infra.sandbox.world.region import FIRST_TILE_Z18
from tasks.errors import SandboxError

TILE = f"/v4/synthetic.satellite/18/{FIRST_TILE_Z18[0] + 8}/{FIRST_TILE_Z18[1] + 8}.jpg"


def test_stats_requests_and_reset() -> None:
    with running() as server:
        requests.get(server.url + TILE, params={"access_token": SANDBOX_TOKEN}, timeout=10)
        requests.get(server.url + TILE, timeout=10)
        requests.get(server.url + "/nothing/here", timeout=10)
        stats = requests.get(server.url + "/_stats", timeout=10).json()
        assert stats == {
            "synthetic": True,
            "requests": 3,
            "by_endpoint": {"tiles": {"200": 1, "401": 1}, "unknown": {"404": 1}},
        }
        assert server.stats() == stats
        assert [(r.key, r.status) for r in server.requests] == [(TILE, 200), (TILE, 401), ("/nothing/here", 404)]
        assert requests.post(server.url + "/_reset", timeout=10).json() == {"reset": True}
        assert server.stats()["requests"] == 0


def tile_bytes(url: str) -> bytes:
    answer = requests.get(url + TILE, params={"access_token": SANDBOX_TOKEN}, timeout=10)
    assert answer.status_code == 200
    return answer.content


def test_other_seed_other_bytes(sandbox: Running) -> None:
    with running(Settings(seed=1)) as server:
        assert tile_bytes(server.url) != tile_bytes(sandbox.url)
        names = [
            requests.get(url + "/synthetic-latest.osm.pbf.md5", timeout=10).text for url in (server.url, sandbox.url)
        ]
        assert names[0] != names[1]


def test_page_says_synthetic_and_shows_tiles() -> None:
    with running() as server:
        page = requests.get(server.url + "/", timeout=10)
        assert "synthetic region" in page.text
        pictures = re.findall(r'<img src="([^"]+)"', page.text)
        assert len(pictures) >= 4
        assert requests.get(server.url + pictures[0], timeout=10).status_code == 200


def test_latency_delays_tiles() -> None:
    with running(Settings(latency=0.5)) as server:
        answer = requests.get(server.url + TILE, params={"access_token": SANDBOX_TOKEN}, timeout=10)
        assert answer.elapsed.total_seconds() >= 0.5
        assert requests.get(server.url + "/api/status", timeout=10).elapsed.total_seconds() < 0.5


def test_taken_port_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SandboxError, match=rf"port {port} .*is taken.*--port"):
            serve(port=port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_process_says_how_to_use_it_and_stops_cleanly(sandbox: Running, number: signal.Signals) -> None:
    code = "from infra.sandbox.services.server import serve; serve(port=0)"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        lines = list(iter(process.stdout.readline, "Ctrl-C stops it.\n"))
        url = lines[0].split()[-1]
        assert tile_bytes(url) == tile_bytes(sandbox.url)  # the same bytes from another process
        process.send_signal(number)
        out, err = process.communicate(timeout=15)
    text = "".join(lines) + out
    assert "synthetic" in text
    assert f"export MAPBOX_API_URL={url}\n" in text
    assert f"export MAPBOX_ACCESS_TOKEN={SANDBOX_TOKEN}\n" in text
    assert f"tilewright build sentinel2-buildings --set imagery.api={url}/stac --set labels.url={url}/api" in text
    assert (process.returncode, err) == (0, "")
