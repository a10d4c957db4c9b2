"""Background processes that end when they are told to, with everything they started.

Prefect's worker puts each flow run in a session of its own and lets it run on when the worker is asked to stop, so
signalling one process group is not enough: ``stop`` follows the tree of children.
"""

import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.errors import TilewrightError

_POLL_SECONDS = 0.1
# Loopback is never reached through a proxy that the environment may name.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def start(command: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``command`` in its own session, where no Ctrl-C typed here reaches it; all it says goes to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """End ``process`` and all its descendants: asked first (SIGTERM), killed after ``patience`` seconds."""
    known = {process.pid} | descendants(process.pid)
    _signal(known, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and _alive(known, process):
        time.sleep(_POLL_SECONDS)
        # What was started meanwhile is asked as well.
        born = set().union(*(descendants(pid) for pid in known)) - known
        _signal(born, signal.SIGTERM)
        known |= born
    left = _alive(known, process)
    _signal(left, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> set[int]:
    """Process ids of the children of ``pid``, their children and so on."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    front = [pid]
    while front:
        front = [child for parent in front for child in children.get(parent, [])]
        found.update(front)
    return found


def is_running(pid: int) -> bool:
    """Whether a process of this id runs; a zombie does not."""
    return pid in _parents()


def free_port(first: int, last: int) -> int:
    """The first port from ``first`` to ``last`` that nothing listens to on 127.0.0.1. Raises TilewrightError."""
    for port in range(first, last + 1):
        if is_free(port):
            return port
    raise TilewrightError(f"Ports {first} to {last} of 127.0.0.1 are all taken; end a program that holds one.")


def is_free(port: int) -> bool:
    """Whether a server could listen to ``port`` on 127.0.0.1."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def answers(url: str) -> bool:
    """Whether ``url``, on this machine, answers a GET with status 200 within five seconds."""
    try:
        with _OPENER.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # a refusal, an error status (HTTPError) or half an answer
        return False


def comes_up(url: str, process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait until ``url`` answers; False when the process ends or that many seconds pass before."""
    deadline = time.monotonic() + seconds
    while not answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def tail(log: Path, lines: int = 20) -> str:
    """The last ``lines`` lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _parents() -> dict[int, int]:
    """The parent of every living process; zombies are left out."""
    proc = Path("/proc")
    if not (proc / "self" / "stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
        rows = [line.split() for line in listed.stdout.splitlines()]
        return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}
    found = {}
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            # "pid (name) state ppid ...", where the name may hold spaces and brackets.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended since the listing
            continue
        if state != "Z":
            found[int(entry.name)] = int(parent)
    return found


def _alive(pids: set[int], process: subprocess.Popen[bytes]) -> set[int]:
    process.poll()  # reaps it, so that it does not count as a zombie
    return pids & _parents().keys()


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
