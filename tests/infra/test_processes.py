"""Processes end with everything they started, and ports and addresses are told apart."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from infra import processes
from tasks.errors import TilewrightError

# A parent that ignores SIGTERM, and a child in a session of its own that does too.
_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 1:
    child = subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True)
    print(child.pid, flush=True)
time.sleep(600)
"""


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_stop_ends_a_stubborn_family(tmp_path: Path) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(_STUBBORN)
    log = tmp_path / "log"
    parent = processes.start([sys.executable, str(script)], tmp_path, os.environ, log)
    _until(lambda: log.read_text().endswith("\n"))
    child = int(log.read_text())
    assert processes.descendants(parent.pid) == {child}

    processes.stop(parent, patience=0.3)

    assert parent.returncode == -9
    _until(lambda: not processes.is_running(child))


def test_stop_asks_first(tmp_path: Path) -> None:
    polite = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(600)"
    )
    log = tmp_path / "log"
    process = processes.start([sys.executable, "-c", polite], tmp_path, os.environ, log)
    _until(lambda: log.read_text() == "up\n")

    processes.stop(process)

    assert process.returncode == 7


def test_stop_of_an_ended_process(tmp_path: Path) -> None:
    process = processes.start([sys.executable, "-c", ""], tmp_path, os.environ, tmp_path / "log")
    process.wait()

    processes.stop(process)

    assert process.returncode == 0


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not processes.is_free(port)
        with pytest.raises(TilewrightError, match=f"Ports {port} to {port} of 127.0.0.1 are all taken"):
            processes.free_port(port, port)
    assert processes.free_port(port, port) == port


def test_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ready" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not asked for what is on this machine
        assert processes.answers(f"{address}/ready")
        assert not processes.answers(f"{address}/starting")
        server.shutdown()
        thread.join()
    assert not processes.answers(f"{address}/ready")


def test_tail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\n\xff three\n")
    assert processes.tail(log, 2) == "two\n\ufffd three"
