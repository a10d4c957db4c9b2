"""Fixtures that every test can ask for, and the clean environment that every test gets."""

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from infra import processes
from tasks.secrets import Remembered
from tests.support.servers import wait_until_it_answers

_REPOSITORY = Path(__file__).resolve().parent.parent
_KEPT = {"TILEWRIGHT_REQUIRE_REAL", "TILEWRIGHT_SHARED_DATA"}


def pytest_configure(config: pytest.Config) -> None:
    """Keep Prefect out of the user's profile, in this process and its children, from its first import on."""
    # A loaded machine is no failure; and what CI draws, it draws again.
    hypothesis.settings.register_profile("tilewright", deadline=None, derandomize=os.environ.get("CI") == "true")
    hypothesis.settings.load_profile("tilewright")
    folder = tempfile.TemporaryDirectory(prefix="tilewright-tests-")
    config.add_cleanup(folder.cleanup)
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ |= {
        "PREFECT_HOME": folder.name,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_COLORS": "false",
        # The worker that sends logs would go on trying for a minute after the tests' server has stopped.
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several processes share the tests module by module; those with a Prefect server all go to the same one."""
    for item in items if config.pluginmanager.hasplugin("xdist") else ():
        server = "prefect_server" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("prefect" if server else item.location[0]))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No token, no setting of the person who runs the tests, and a home folder and caches of the tests' own.

    What one test's tokens were, the next one's messages may say.
    """
    monkeypatch.setattr("tasks.secrets.REMEMBERED", Remembered())
    for name in list(os.environ):
        if name.startswith(("MAPBOX_", "MLHUB_", "PC_SDK_", "TILEWRIGHT_", "AWS_", "MLFLOW_")) and name not in _KEPT:
            monkeypatch.delenv(name)
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; without it the test is skipped, or fails when ``TILEWRIGHT_REQUIRE_REAL=1``."""
    path = Path(os.environ.get("TILEWRIGHT_SHARED_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        message = f"no real data at {path}; set TILEWRIGHT_SHARED_DATA to the folder that holds xyz/ and osm/"
        if os.environ.get("TILEWRIGHT_REQUIRE_REAL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API URL of one Prefect server with its own SQLite database, for the whole session.

    ``PREFECT_API_URL`` and ``PREFECT_HOME`` point at it while the session lasts, for this process and its children.
    """
    from prefect.context import refresh_global_settings_context

    home = tmp_path_factory.mktemp("prefect")
    with socket.create_server(("127.0.0.1", 0)) as chosen_by_the_system:
        port = chosen_by_the_system.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_API_URL", url)
        refresh_global_settings_context()
        server = processes.start(command, cwd=home, env=os.environ, log=log)
        try:
            wait_until_it_answers(f"{url}/health", server, log)
            yield url
        finally:
            processes.stop(server)
    refresh_global_settings_context()
