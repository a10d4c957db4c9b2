"""The build as a Prefect flow: what the server knows of it afterwards."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from infra.sandbox.services.scripted import ScriptedServer
from tests.support.small import SmallRegion

pytestmark = pytest.mark.server


async def _server_has(flow_name: str) -> tuple[dict[str, int], dict[str, str], str]:
    """Task runs by name, artifacts by key, and the state of the newest run of a flow."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        ArtifactFilter,
        ArtifactFilterFlowRunId,
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterId,
    )
    from prefect.client.schemas.sorting import FlowRunSort

    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])), sort=FlowRunSort.START_TIME_DESC, limit=1
        )
        run = runs[0]
        tasks = await client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
        artifacts = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
        names: dict[str, int] = {}
        for one in tasks:
            stage = one.name.split("-")[0]
            names[stage] = names.get(stage, 0) + 1
        return names, {str(a.key): str(a.data) for a in artifacts}, str(run.state_type)


def test_the_server_sees_shards_and_a_summary(tmp_path: Path, prefect_server: str) -> None:
    from flows.build import build

    region = SmallRegion(side=24)  # more tiles than a shard holds
    with ScriptedServer(region.image, content_type="image/png") as server:
        recipe = region.write_recipe(tmp_path, server.url)
        summary = build(recipe=str(recipe), store=str(tmp_path / "store"))
    assert (summary.version, summary.accepted) == ("v1", len(region.selected))
    expected = {"plan": 1, "labels": 1, "select": 2, "fetch": 2, "split": 1, "write": 3, "commit": 1}
    found: tuple[dict[str, int], dict[str, str], Any] = ({}, {}, None)
    deadline = time.monotonic() + 60  # task runs are stored by a recorder that lags behind
    while found[0] != expected and time.monotonic() < deadline:
        time.sleep(0.5)
        found = asyncio.run(_server_has("build"))
    names, artifacts, state = found
    assert names == expected
    assert state.endswith("COMPLETED")
    assert "v1" in artifacts["build-summary"]
    assert "- accepted: 432\n" in artifacts["build-summary"]
    assert {"build-splits", "progress-select", "progress-fetch", "progress-write"} <= artifacts.keys()


def test_a_refusal_fails_the_run_with_its_message(tmp_path: Path, prefect_server: str) -> None:
    from flows.build import build
    from tasks.errors import SourceError

    region = SmallRegion(side=8)
    recipe = region.write_recipe(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="cannot reach"):
        build(recipe=str(recipe), store=str(tmp_path / "store"), set=["imagery.attempts=1"])
    assert asyncio.run(_server_has("build"))[2].endswith("FAILED")
