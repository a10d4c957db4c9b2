"""A Prefect server for one run, where none is configured: it ends with the run, also when that is killed."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra import processes
from tasks.errors import DeploymentError

START_SECONDS = 120.0
_PORTS = (8100, 8999)
_ATTEMPTS = 3  # another run may take a port between its choice and its use


@contextmanager
def prefect_api() -> Iterator[None]:
    """Flows run against the configured Prefect API, or against a server of our own for as long as this lasts.

    Its database is the one in the user's Prefect home. Raises DeploymentError when it does not start.
    """
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="tilewright-server-") as folder:
        log = Path(folder) / "log"
        for _ in range(_ATTEMPTS):
            port = processes.free_port(*_PORTS)
            url = f"http://127.0.0.1:{port}/api"
            server = processes.start(_command(port), cwd=Path.cwd(), env=_environment(), log=log)
            try:
                if not processes.comes_up(f"{url}/health", server, START_SECONDS):
                    continue
                with _named(url):
                    yield
                return
            finally:
                processes.stop(server)
        raise DeploymentError(
            "no Prefect server could be started for this run; start one (prefect server start) and name it in "
            f"PREFECT_API_URL. It said: {processes.tail(log, 5)}"
        )


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Name the API for the whole process: Prefect's threads for events and logs take it from there."""
    from prefect.context import refresh_global_settings_context

    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
    try:
        yield
    finally:
        del os.environ["PREFECT_API_URL"]
        refresh_global_settings_context()


def _command(port: int) -> list[str]:
    """As Prefect starts its own, with which it would leave us alone if we were killed."""
    import prefect

    app = ["--app-dir", str(prefect.__module_path__.parent), "--factory", "prefect.server.api.server:create_app"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    return [sys.executable, "-m", "infra.companion", str(os.getpid()), "-m", "uvicorn", *app, *where]


def _environment() -> dict[str, str]:
    from prefect.settings import get_current_settings

    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    ephemeral = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return {**os.environ, **ephemeral, **settings}
