"""prefect.yaml against a live server: every entry deploys, and what it says can be read back."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule

_REPOSITORY = Path(__file__).resolve().parents[2]
_ENTRIES: list[dict[str, Any]] = yaml.safe_load((_REPOSITORY / "prefect.yaml").read_text())["deployments"]
_RECIPES = sorted(path.stem for path in (_REPOSITORY / "datasets").glob("*.yaml"))


def _prefect(*arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "prefect"), "--no-prompt", *arguments]
    answer = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, timeout=180)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def deployed(prefect_server: str) -> dict[str, DeploymentResponse]:
    """What ``prefect deploy --all`` left on the server, by deployment name."""
    _prefect("work-pool", "create", "tilewright", "--type", "process", "--overwrite")
    _prefect("deploy", "--all")
    with get_client(sync_client=True) as client:
        return {d.name: d for d in client.read_deployments() if d.work_pool_name == "tilewright"}


def test_recipes_are_shipped() -> None:
    assert {"osm-france", "osm-france-ign", "osm-sandbox"} < set(_RECIPES)


# What the one network there is now cannot train on: no class for buildings, no published test labels (inria), or a
# window that it cannot halve three times (emergency).
_NOT_TRAINED = {"landcovernet-africa", "crop-type-ghana", "crop-type-kenya", "inria", "emergency"}


@pytest.mark.parametrize("recipe", _RECIPES)
def test_each_recipe_has_its_deployments(recipe: str) -> None:
    entries = {entry["name"]: entry for entry in _ENTRIES}
    assert entries[f"build-{recipe}"]["parameters"] == {"recipe": f"datasets/{recipe}.yaml"}
    if recipe not in _NOT_TRAINED:
        assert entries[f"train-{recipe}"]["parameters"]["store"] == f"stores/{recipe}"


def test_no_deployment_without_a_recipe() -> None:
    trained = {f"train-{name}" for name in _RECIPES if name not in _NOT_TRAINED}
    assert {entry["name"] for entry in _ENTRIES} == {f"build-{name}" for name in _RECIPES} | trained


@pytest.mark.server
def test_every_entry_deploys(deployed: dict[str, DeploymentResponse]) -> None:
    assert {name: d.parameters for name, d in deployed.items()} == {e["name"]: e["parameters"] for e in _ENTRIES}
    for deployment in deployed.values():
        assert deployment.pull_steps == [
            {"prefect.deployments.steps.set_working_directory": {"directory": str(_REPOSITORY)}}
        ]
        known = deployment.parameter_openapi_schema["properties"]
        assert set(deployment.parameters) <= set(known), "the flow does not take what prefect.yaml passes"


@pytest.mark.server
def test_france_is_built_every_night_one_at_a_time(deployed: dict[str, DeploymentResponse]) -> None:
    france = deployed["build-osm-france"]

    (schedule,) = france.schedules
    assert schedule.active
    assert schedule.schedule == CronSchedule(cron="0 2 * * *", timezone="Europe/Paris")
    assert france.global_concurrency_limit is not None
    assert france.global_concurrency_limit.limit == 1
    assert france.concurrency_options is not None
    assert france.concurrency_options.collision_strategy is ConcurrencyLimitStrategy.CANCEL_NEW
    assert not any(d.schedules for name, d in deployed.items() if name != "build-osm-france")
