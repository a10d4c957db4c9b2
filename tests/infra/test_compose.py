"""compose.yaml without a container engine: read, and its commands started as processes in its environment."""

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import processes
from tasks.versions.read import versions
from tests.support.servers import wait_until_it_answers

_REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((_REPOSITORY / "infra" / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SET_ELSEWHERE = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL"}  # by the file itself
OF_THE_MACHINE = {"TILEWRIGHT_REQUIRE_REAL", "TILEWRIGHT_SHARED_DATA"}
# What the AWS libraries in GDAL, Icechunk and ours read, without our naming it.
OF_LIBRARIES = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_NO_SIGN_REQUEST",
}
_NAME = re.compile(r"(?:AWS|MAPBOX|MLFLOW|MLHUB|PC_SDK|PREFECT_API|TILEWRIGHT)_[A-Z_0-9]*[A-Z0-9]")
# Options that the program sets for GDAL and MLflow, and the beginning of a family of names.
OURS = {"AWS_HTTPS", "AWS_S3_ENDPOINT", "AWS_VIRTUAL_HOSTING", "MLFLOW_DISABLE_TELEMETRY", "TILEWRIGHT_STAC"}
OURS |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES"}


def read_by_code() -> set[str]:
    """Environment variables that the code names, and those that the README does."""
    found = set(re.findall(rf"\b{_NAME.pattern}\b", (_REPOSITORY / "README.md").read_text()))
    for path in (path for room in ("flows", "tasks", "training") for path in (_REPOSITORY / room).rglob("*.py")):
        constants = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        found |= {value for value in constants if isinstance(value, str) and _NAME.fullmatch(value)}
    return found


def test_the_worker_gets_every_variable_there_is() -> None:
    passed = set(SERVICES["worker"]["environment"])
    assert (read_by_code() | OF_LIBRARIES) - OF_THE_MACHINE - OURS - passed == set()
    assert {name for name, value in SERVICES["worker"]["environment"].items() if value} == SET_ELSEWHERE


def test_files_fetched_by_hand_are_there_to_read() -> None:
    assert "../data:/app/data:ro" in SERVICES["worker"]["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_comes_back(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_named_volumes_exist_and_ports_are_of_this_machine() -> None:
    for service in SERVICES.values():
        named = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert {name for name in named if not name.startswith(".")} <= COMPOSE["volumes"].keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


class Engine:
    """Starts the services as processes: other names for hosts, ports and folders, and nothing else changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {port: processes.free_port(21000 + 100 * i, 21999) for i, port in enumerate((4200, 5000, 8787))}

    def told(self, text: str) -> str:
        """A word of the file as it is said here."""
        text = re.sub(r"\b(?:server|mlflow)(?=:\d)", "127.0.0.1", text).replace("0.0.0.0", "127.0.0.1")
        text = text.replace("/home/tilewright", str(self.folder))
        return re.sub(r"\b(?:4200|5000|8787)\b", lambda found: str(self.ports[int(found[0])]), text)

    def environment(self, name: str, shell: Mapping[str, str]) -> dict[str, str]:
        """Of a service: the image's, and what the file says; a name without a value is the shell's or absent."""
        said = SERVICES[name].get("environment", {})
        given = {key: self.told(value) if value else shell.get(key) for key, value in said.items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        image = {"PATH": path, "HOME": str(self.folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        return image | {"DO_NOT_TRACK": "1"} | {key: value for key, value in given.items() if value is not None}

    @contextmanager
    def up(self, name: str, shell: Mapping[str, str], *more: str) -> Iterator["subprocess.Popen[bytes]"]:
        """The service, ended in the end."""
        command = [self.told(word) for word in SERVICES[name]["command"]]
        process = processes.start([*command, *more], _REPOSITORY, self.environment(name, shell), self.log(name))
        try:
            yield process
        finally:
            processes.stop(process)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def wait_until_healthy(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        """Until the service's health check passes."""
        url = re.findall(r"http://[^']+", self.told(" ".join(SERVICES[name]["healthcheck"]["test"])))[0]
        wait_until_it_answers(url, process, self.log(name))

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """As ``docker compose exec worker COMMAND``."""
        environment = self.environment("worker", {})
        return subprocess.run(
            command, cwd=_REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=200
        )


@pytest.mark.server
def test_what_compose_starts_builds_a_dataset(tmp_path: Path) -> None:
    engine, store = Engine(tmp_path), tmp_path / "store"
    (tmp_path / "mlflow").mkdir()
    shell = {
        "MAPBOX_API_URL": f"http://127.0.0.1:{engine.ports[8787]}",
        "MAPBOX_ACCESS_TOKEN": "pk.sandbox-synthetic-token",
        "UNKNOWN_TO_COMPOSE": "stays outside",
    }
    with engine.up("mlflow", shell) as mlflow:  # for its health alone: it keeps two cores busy, and no build asks it
        engine.wait_until_healthy("mlflow", mlflow)
    with ExitStack() as stack:
        server = stack.enter_context(engine.up("server", shell))
        stack.enter_context(engine.up("sandbox", shell, "--port", str(engine.ports[8787])))
        engine.wait_until_healthy("server", server)
        worker = stack.enter_context(engine.up("worker", shell))
        while "started!" not in (said := engine.log("worker").read_text()):  # after it deployed everything
            assert worker.poll() is None, said
            time.sleep(0.1)
        changes = f'set=["labels.url=http://127.0.0.1:{engine.ports[8787]}/api"]'
        name = "build/build-osm-sandbox"
        result = engine.run(
            "prefect", "deployment", "run", name, "--watch", "--param", f"store={store}", "--param", changes
        )
        assert result.returncode == 0, result.stdout + result.stderr + processes.tail(engine.log("worker"), 60)
    assert [info.version for info in versions(str(store))] == ["v1"]
