"""The fault server, and what every case has in common."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.doors import SECRET, Visit
from tests.support.fault_server import FaultServer

OURS = ("TILES_TOKEN", "LABELS_TOKEN", "STAC_TOKEN")  # which the tests' recipes name


@pytest.fixture(scope="session")
def the_faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    with FaultServer(tmp_path_factory.mktemp("faults")) as server:
        yield server


@pytest.fixture
def faults(the_faults: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """The server as if it were new, every secret that a source takes in the environment, and pauses cut short."""
    the_faults.forget()
    for name in (*OURS, "MAPBOX_ACCESS_TOKEN", "MLHUB_API_KEY", "PC_SDK_SUBSCRIPTION_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for pause in ("tasks.imagery.mlhub.catalogue.FIRST_PAUSE", "tasks.imagery.stac.reader.FIRST_PAUSE"):
        monkeypatch.setattr(pause, 0.01)
    monkeypatch.setattr("tasks.imagery.stac.signing.BLOB_HOSTS", ("127.0.0.1",))
    return the_faults


@pytest.fixture
def visit(faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Visit:
    """A case in which nothing is wrong yet."""
    return Visit(faults, faults.url, tmp_path, monkeypatch)
