"""What the demonstration promises whatever its flows do: clear steps, clear failures, nothing left running."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from infra import demo, processes
from tasks.errors import SandboxError, TilewrightError

_SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def played(tmp_path: Path) -> demo.Demo:
    """A demonstration in an empty folder, with its console in memory."""
    return demo.Demo(tmp_path, Console(file=io.StringIO(), width=200), port=4200)


def _shown(played: demo.Demo) -> str:
    assert isinstance(played.console.file, io.StringIO)
    return played.console.file.getvalue()


def test_a_step_is_one_line_with_its_time(played: demo.Demo) -> None:
    with played.step("Sandbox"):
        pass
    with pytest.raises(KeyboardInterrupt), played.step("Worker"):
        raise KeyboardInterrupt

    first, second = _shown(played).splitlines()
    assert first.startswith("✓ Sandbox  0.")
    assert second.startswith("✗ Worker  0.")


def test_a_failing_command_shows_its_log_and_the_workers(played: demo.Demo) -> None:
    worker = (sys.executable, "-uc", "import time; print('no such tileset'); time.sleep(600)")
    with played.background("worker", *worker):
        played.wait(lambda: "tileset" in played.log("worker").read_text())
        with pytest.raises(TilewrightError) as caught:
            played.run("build", sys.executable, "-c", "import sys; print('refused'); sys.exit(3)")

    assert str(caught.value).splitlines()[1:] == [
        "The end of demo/logs/build.log:",
        "refused",
        "The end of demo/logs/worker.log:",
        "no such tileset",
    ]


def test_a_command_that_succeeds_is_quiet(played: demo.Demo) -> None:
    played.run("deploy", sys.executable, "-c", "print('deployed')")
    assert played.log("deploy").read_text() == "deployed\n"
    assert _shown(played) == ""


def test_a_dead_worker_ends_the_wait(played: demo.Demo) -> None:
    dying = played.background("worker", sys.executable, "-c", "print('no route')")
    with dying, pytest.raises(TilewrightError, match=r"(?s)worker ended by itself.*worker\.log:\nno route"):
        played.run("build", *_SLEEP)


def test_waiting_has_an_end(played: demo.Demo) -> None:
    with played.background("server", *_SLEEP), pytest.raises(TilewrightError, match=r"(?s)Not ready.*server\.log"):
        played.wait(lambda: False, seconds=0.1)


def test_the_background_ends_with_the_block(played: demo.Demo) -> None:
    pids: list[int] = []

    def fail_inside() -> None:
        with played.background("worker", *_SLEEP):
            pids.append(played.running["worker"].pid)
            assert processes.is_running(pids[0])
            raise ValueError("anything")

    with pytest.raises(ValueError, match="anything"):
        fail_inside()
    assert not processes.is_running(pids[0])


def test_the_environment_is_the_demos_own(played: demo.Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPBOX_ACCESS_TOKEN", "pk.somebodys-own-token")
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")

    environment = played.environment()

    assert environment["MAPBOX_API_URL"] == "http://127.0.0.1:8787"
    assert environment["MAPBOX_ACCESS_TOKEN"] == "pk.sandbox-synthetic-token"
    assert environment["MLFLOW_TRACKING_URI"] == "sqlite:///demo/mlflow.db"
    assert "PREFECT_API_KEY" not in environment
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_the_recipe_names_the_sandbox() -> None:
    recipe = yaml.safe_load((demo.ROOT / "datasets" / "osm-sandbox.yaml").read_text())
    assert recipe["labels"]["url"] == f"http://127.0.0.1:{demo.SANDBOX_PORT}/api"
    assert f"stores/{recipe['name']}" == demo.STORE


def test_a_taken_sandbox_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(demo, "SANDBOX_PORT", server.getsockname()[1])
        with pytest.raises(SandboxError, match=f"Port {demo.SANDBOX_PORT} of 127.0.0.1 is taken"):
            demo.check_sandbox_port()


# The real `main`, with a play that only starts a process and waits.
_INTERRUPTED = """
import sys
from pathlib import Path
from infra import demo

def play(played):
    with played.background("worker", sys.executable, "-c", "import time; time.sleep(600)"):
        print(played.running["worker"].pid, flush=True)
        played.wait(lambda: False, seconds=None)

demo.ROOT, demo.play, demo.check_sandbox_port = Path(sys.argv[1]), play, lambda: None
demo.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing_running(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.send_signal(number)
        rest = process.stdout.read()

    assert process.returncode == 128 + number
    assert "Interrupted; nothing is left running." in rest
    deadline = time.monotonic() + 10
    while processes.is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
