"""How a command ends that is stopped, or meets what nobody foresaw: one line, an exit code, nothing left running."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flows import ending
from infra import processes
from tasks.errors import DiskError, LabelError, TilewrightError, UnforeseenError
from tests.support.commands import tilewright_started
from tests.support.forks import REPOSITORY, Fork, Forks
from tests.support.small import SmallRegion

NEXT = "nothing is lost, run the same command again to go on"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def wait_for(condition: Callable[[], object], process: "Fork | subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Silent:
    """A server that takes connections and never says a word."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.asked = threading.Event()
        self._taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        with suppress(OSError):  # closed
            while True:
                self._taken.append(self._listening.accept()[0])
                self.asked.set()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in (self._listening, *self._taken):
            one.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


@pytest.mark.server
@pytest.mark.parametrize("number", CODES)
def test_a_build_that_is_stopped_says_so(
    tmp_path: Path, prefect_server: str, forks: Forks, silent: Silent, number: signal.Signals
) -> None:
    recipe = SmallRegion(side=4).write_recipe(tmp_path, silent.url)
    said = tmp_path / "said"
    words = ("build", str(recipe), "--store", str(tmp_path / "store"))
    process = forks.start("flows.cli:main", *words, stderr=said)
    wait_for(silent.asked.is_set, process)
    os.kill(process.pid, number)
    assert process.wait() == CODES[number]
    assert said.read_text() == f"error: stopped by {number.name}; {NEXT}\n"


@pytest.mark.parametrize("number", CODES)
def test_a_plan_that_is_stopped_says_so(tmp_path: Path, forks: Forks, silent: Silent, number: signal.Signals) -> None:
    recipe = SmallRegion(side=4).write_recipe(tmp_path, silent.url)
    labels = f"labels={{source: pbf, url: {silent.url}/a.osm.pbf}}"
    said = tmp_path / "said"
    process = forks.start(
        "flows.cli:main", "plan", str(recipe), "--store", str(tmp_path / "store"), "--set", labels, stderr=said
    )
    wait_for(silent.asked.is_set, process)
    os.kill(process.pid, number)
    assert process.wait() == CODES[number]
    assert said.read_text() == f"error: stopped by {number.name}; {NEXT}\n"


# Threads that hang keep an interpreter alive, whoever handles the signal.
_STUBBORN = """
import signal, sys, threading, time
from flows import ending
ending.GRACE_SECONDS = float(sys.argv[1])
with ending.Signals("go on"):
    signal.signal(signal.SIGTERM, lambda *_: print("taken", flush=True))  # as a library may
    print("ready", flush=True)
    while True:
        time.sleep(1)
"""


@pytest.mark.parametrize(("grace", "signals"), [("0.1", 1), ("600", 2)])
def test_nobody_waits_for_what_hangs(grace: str, signals: int) -> None:
    """The grace ends, or a second signal comes."""
    command = [sys.executable, "-c", _STUBBORN, grace]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in range(signals):
            process.send_signal(signal.SIGTERM)
            if number + 1 < signals:
                assert process.stdout.readline() == "taken\n"  # two signals at one moment are one
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (143, "error: stopped by SIGTERM; go on\n")


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As a script's background processes and nohup have it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ending.Signals("go on"):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ---- what nobody foresaw ------------------------------------------------------------------------


def traceback_file(message: str) -> Path:
    return Path(message.split("the full traceback is in ")[1].split(";")[0])


def test_the_unforeseen_is_one_line_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with (
        pytest.raises(UnforeseenError, match=r"unforeseen: ValueError: a b\?access_token=\*+; the full") as caught,
        ending.foreseen(),
    ):
        raise ValueError("a\nb?access_token=marked-value")
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__
    kept = traceback_file(str(caught.value))
    assert kept.is_relative_to(tmp_path)
    assert "Traceback" in kept.read_text()
    assert "marked-value" not in kept.read_text() + str(caught.value)


def test_a_state_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert traceback_file(str(ending.told(ValueError("x")))).parent == tmp_path
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert "could not be written anywhere" in str(ending.told(ValueError("x")))


def test_a_full_disk_is_told_as_such() -> None:
    failure = ending.told(OSError(28, "No space left on device", "some/file"))
    assert isinstance(failure, DiskError)
    assert str(failure).startswith("some/file: the disk is full")


def test_our_own_errors_go_through() -> None:
    with pytest.raises(LabelError, match="as it was"), ending.foreseen():
        raise LabelError("as it was")


@pytest.mark.parametrize(("error", "kept"), [(LabelError("told"), False), (ValueError("odd"), True)])
def test_prefects_log_has_no_traceback_of_our_errors(
    caplog: pytest.LogCaptureFixture, error: Exception, kept: bool
) -> None:
    with ending.foreseen():
        pass
    with caplog.at_level("ERROR", "prefect.flow_runs"):
        logging.getLogger("prefect.flow_runs").error("it failed: %r", error, exc_info=error)
    assert bool(caplog.records[-1].exc_info) == kept


def test_the_command_line_never_shows_a_traceback(tmp_path: Path) -> None:
    """A fault of a library, made here: GDAL's Python half is another module."""
    (tmp_path / "tasks_broken").mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import tasks.recipe.load\n"
        "def broken(*_): raise ZeroDivisionError('of a library')\n"
        "tasks.recipe.load.load_recipe = broken\n"
    )
    result = tilewright_started(
        "build", "osm-sandbox", PYTHONPATH=f"{tmp_path}:{REPOSITORY}", XDG_STATE_HOME=str(tmp_path)
    )
    assert result.returncode == UnforeseenError.exit_code
    assert result.stdout == ""
    assert result.stderr.startswith("error: something unforeseen: ZeroDivisionError: of a library; ")
    assert result.stderr.count("\n") == 1
    assert "ZeroDivisionError" in traceback_file(result.stderr).read_text()


# ---- the server of one run ----------------------------------------------------------------------

_WITH_SERVER = """
import os, time
from flows.server import prefect_api
with prefect_api():
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        print(client.api_healthcheck(), client.api_url, flush=True)
    time.sleep(600)
"""


def test_a_server_of_our_own_ends_when_we_are_killed(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment["PREFECT_HOME"] = str(tmp_path)
    command = [sys.executable, "-c", _WITH_SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment) as process:
        assert process.stdout is not None
        healthy, url = process.stdout.readline().split()
        assert healthy == "None"  # no exception
        started = processes.descendants(process.pid)
        assert started
        process.kill()
    deadline = time.monotonic() + 10
    while any(processes.is_running(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not processes.answers(f"{url}/health")


def test_a_companion_whose_parent_is_gone_does_not_begin() -> None:
    command = [sys.executable, "-m", "infra.companion", "1", "-c", "print('began')"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (result.returncode, result.stdout) == (1, "")


def test_a_command_keeps_the_exit_code_of_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert issubclass(UnforeseenError, TilewrightError)
    assert UnforeseenError.exit_code not in (0, 1, 2, *CODES.values())
