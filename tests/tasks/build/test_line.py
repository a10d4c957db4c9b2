"""The line: what stages return goes to any process, and what runs them changes nothing."""

import functools
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from infra.sandbox.services.scripted import ScriptedServer
from tasks.build import line, stages
from tasks.build.assign import assign
from tasks.build.runner import InTurn, OnThreads
from tests.support.builds import contents, job_of
from tests.support.small import SmallRegion

Item = TypeVar("Item")
Result = TypeVar("Result")


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    region = SmallRegion(side=6)
    with ScriptedServer(region.image, content_type="image/png") as server:
        yield region.write_recipe(tmp_path, server.url)


class Noted(InTurn):
    """What ran, in order."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []

    def once(self, stage: str, step: Callable[[], Result], retries: int = 0, /) -> Result:
        self.stages.append((stage, 1))
        return super().once(stage, step, retries)

    def each(
        self, stage: str, step: Callable[[Item], Result], items: Sequence[Item], retries: int = 0, /
    ) -> list[Result]:
        self.stages.append((stage, len(items)))
        return super().each(stage, step, items, retries)


class Elsewhere(InTurn):
    """Shards in a process that was handed nothing but values, except for what only the store's one writer does."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def each(
        self, stage: str, step: Callable[[Item], Result], items: Sequence[Item], retries: int = 0, /
    ) -> list[Result]:
        return super().each(stage, step, items, retries) if stage == "write" else list(self._pool.map(step, items))


def test_the_stages_come_in_their_order(recipe: Path, tmp_path: Path) -> None:
    runner = Noted()
    line.plan(job_of(recipe, tmp_path / "store"), runner)
    assert [stage for stage, _ in runner.stages] == ["plan", "labels", "select"]
    again = Noted()
    line.build(job_of(recipe, tmp_path / "store"), again)
    assert [stage for stage, _ in again.stages] == ["plan", "labels", "select", "fetch", "split", "write", "commit"]
    assert dict(again.stages)["select"] == 0  # the plan has measured them all


def test_threads_and_other_processes_come_to_the_same(recipe: Path, tmp_path: Path) -> None:
    line.build(job_of(recipe, tmp_path / "in-turn"))
    line.build(job_of(recipe, tmp_path / "on-threads"), OnThreads(3))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        line.build(job_of(recipe, tmp_path / "elsewhere"), Elsewhere(pool))
    expected = contents(tmp_path / "in-turn")
    assert len(expected) > 20
    assert contents(tmp_path / "on-threads") == expected
    assert contents(tmp_path / "elsewhere") == expected


def test_everything_that_stages_hand_on_is_a_value(recipe: Path, tmp_path: Path) -> None:
    job = job_of(recipe, tmp_path / "store")
    with line.running(job):
        found = stages.candidates(job)
        report = stages.labels(job, found)
        for shard in stages.to_measure(job, found, report):
            stages.measure(job, report, shard)
        for shard in stages.to_fetch(job, found):
            stages.fetch(job, shard)
        plan = assign(job, found)
        written = [stages.write(job, plan, block) for block in plan.blocks]
        handed_on = (job, found, report, plan, plan.blocks, written, functools.partial(stages.fetch, job))
        for value in handed_on[:-1]:
            assert pickle.loads(pickle.dumps(value)) == value
        assert pickle.loads(pickle.dumps(handed_on[-1])).args == (job,)


def test_a_failing_stage_lets_go_of_the_store(recipe: Path, tmp_path: Path) -> None:
    job = job_of(recipe, tmp_path / "store")
    with pytest.raises(ZeroDivisionError), line.running(job):
        raise ZeroDivisionError
    line.build(job)
