"""Bare deployment names, typed to the real command line against a live server."""

import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

_REPOSITORY = Path(__file__).resolve().parents[2]
_PREFECT = Path(sys.executable).parent / "prefect"

pytestmark = pytest.mark.server


def _prefect(*arguments: str, cwd: Path = _REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(_PREFECT), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def deployments(prefect_server: str) -> dict[str, str]:
    """Full names and ids of three deployments on the server; two of them share a name."""
    made = {}
    with get_client(sync_client=True) as client:
        for flow, name in [("first", "plugin-alone"), ("first", "plugin-twice"), ("second", "plugin-twice")]:
            made[f"{flow}/{name}"] = str(client.create_deployment(client.create_flow_from_name(flow), name))
    return made


def _runs_of(deployment_id: str) -> int:
    with get_client(sync_client=True) as client:
        return sum(str(run.deployment_id) == deployment_id for run in client.read_flow_runs())


@pytest.mark.parametrize("name", ["plugin-alone", "first/plugin-alone"])
def test_one_match_runs(name: str, deployments: dict[str, str]) -> None:
    before = _runs_of(deployments["first/plugin-alone"])

    answer = _prefect("deployment", "run", name)

    assert answer.returncode == 0, answer.stderr
    assert "Creating flow run for deployment 'first/plugin-alone'" in answer.stdout
    assert answer.stderr == ""
    assert _runs_of(deployments["first/plugin-alone"]) == before + 1


def test_several_matches_are_listed(deployments: dict[str, str]) -> None:
    answer = _prefect("deployment", "run", "plugin-twice")

    assert answer.returncode == 1
    assert answer.stderr.splitlines() == [
        "2 deployments are called 'plugin-twice'. Name the flow too:",
        "  first/plugin-twice",
        "  second/plugin-twice",
    ]
    assert _runs_of(deployments["first/plugin-twice"]) == _runs_of(deployments["second/plugin-twice"]) == 0


def test_no_match_lists_the_nearest(deployments: dict[str, str]) -> None:
    answer = _prefect("deployment", "run", "plugin-alnoe")

    assert answer.returncode == 1
    assert answer.stderr.splitlines()[:2] == [
        "No deployment is called 'plugin-alnoe'. The nearest names are:",
        "  first/plugin-alone",
    ]
    assert "Traceback" not in answer.stdout + answer.stderr


@pytest.mark.parametrize("name", ["xyzzy", "first/plugin-alone/again"])
def test_nothing_near(name: str, deployments: dict[str, str]) -> None:
    answer = _prefect("deployment", "run", name)

    assert answer.returncode == 1
    assert answer.stderr.startswith(f"No deployment is called '{name}'.")
    assert "Traceback" not in answer.stdout + answer.stderr


def test_server_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")

    answer = _prefect("deployment", "run", "plugin-alone")

    assert answer.returncode == 1
    assert answer.stderr.startswith("No Prefect server answers at http://127.0.0.1:9/api")
    assert "Traceback" not in answer.stdout + answer.stderr


def test_off_outside_the_checkout(deployments: dict[str, str], tmp_path: Path) -> None:
    answer = _prefect("deployment", "run", "plugin-alone", cwd=tmp_path)

    assert answer.returncode == 1
    assert "Invalid deployment name format: plugin-alone" in answer.stderr


def test_other_commands_stay_quiet(deployments: dict[str, str]) -> None:
    answer = _prefect("work-pool", "ls")

    assert answer.returncode == 0
    assert answer.stderr == ""
    assert "plug" not in answer.stdout
