"""One build of the made-up town in a process of its own, with or without Prefect, and when each step ran.

The steps without Prefect are the flow's, in the same order and on as many threads.
"""

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import machine
from infra import processes
from tasks.build.base import Build, BuildSummary
from tasks.build.tiles import TileBuild
from tasks.geo.tiles import Shard
from tasks.labels.footprints import LabelReport
from tasks.recipe.load import load_recipe
from tasks.versions.write import Block

STAGES = ("plan", "labels", "select", "fetch", "split", "write", "commit")
SERVER_SECONDS = 120.0


class TimedBuild(TileBuild):
    """A build that notes when its steps began and ended."""

    steps: ClassVar[list[tuple[str, float, float]]] = []

    def _timed(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        began = time.monotonic()
        try:
            return step(*arguments)
        finally:
            self.steps.append((name, began, time.monotonic()))

    def plan(self) -> list[Shard]:
        found: list[Shard] = self._timed("plan", super().plan)
        return found

    def take_labels(self) -> LabelReport:
        report: LabelReport = self._timed("labels", super().take_labels)
        return report

    def measure(self, shard: Shard) -> int:
        return int(self._timed("select", super().measure, shard))

    def fetch(self, shard: Shard) -> None:
        self._timed("fetch", super().fetch, shard)

    def start_version(self) -> list[Block]:
        blocks: list[Block] = self._timed("split", super().start_version)
        return blocks

    def write(self, block: Block) -> int:
        return int(self._timed("write", super().write, block))

    def finish(self) -> BuildSummary:
        summary: BuildSummary = self._timed("commit", super().finish)
        return summary


@dataclass(frozen=True)
class BuildTime:
    """Seconds of one build. A stage runs from its first start to its last end, ``steps`` from plan to commit."""

    total: float
    loading: float  # imports, before the build
    steps: float
    stages: dict[str, float]
    kept: int
    shards: int

    @property
    def around(self) -> float:
        """What the build takes before its first and after its last step."""
        return self.total - self.steps


def build_bare(recipe: Path, store: Path, workers: int) -> BuildSummary:
    """The steps of the flow on ``workers`` threads."""
    with TimedBuild(load_recipe(recipe), str(store)) as run, ThreadPoolExecutor(workers) as pool:
        summary = take_steps(run, pool)
        run.draw_preview()
        return summary


def take_steps(run: Build, pool: ThreadPoolExecutor) -> BuildSummary:
    """The steps of the flow, each by shard on the pool's threads."""
    run.check_imagery()
    shards = run.plan()
    run.take_labels()
    list(pool.map(run.measure, run.to_measure(shards)))
    run.funnel()
    list(pool.map(run.fetch, run.to_fetch(shards)))
    run.check_failures()
    list(pool.map(run.write, run.start_version()))
    return run.finish()


def time_build(how: str, recipe: Path, env: Mapping[str, str]) -> BuildTime:
    """Build into a fresh store in a fresh process; ``how`` is ``bare`` or ``flow``. The store is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(dir=recipe.parent))
    try:
        return BuildTime(
            **machine.run_child([sys.executable, "-m", "benchmarks.timed", how, recipe, folder / "store"], env)
        )
    finally:
        shutil.rmtree(folder)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment without the caller's settings of Prefect, and with a home for it in ``folder``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    ours = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    return inherited | ours | more


@contextmanager
def prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a client of a Prefect server that runs, with a database in ``folder``, inside the block."""
    with socket.create_server(("127.0.0.1", 0)) as chosen_by_the_system:
        port = chosen_by_the_system.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    env = environment(folder, PREFECT_API_URL=url)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    server = processes.start(command, cwd=folder, env=env, log=log)
    try:
        if not processes.comes_up(f"{url}/health", server, SERVER_SECONDS):
            raise SystemExit(f"the Prefect server did not start; its log ends:\n{processes.tail(log)}")
        yield env
    finally:
        processes.stop(server)


def main() -> None:
    """One build, in this process; prints a BuildTime as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["bare", "flow"])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("store", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    from flows import build as flows

    loading = time.monotonic() - began
    began = time.monotonic()
    if arguments.how == "bare":
        summary = build_bare(arguments.recipe, arguments.store, flows.WORKERS)
    else:
        vars(flows)["open_build"] = TimedBuild
        summary = flows.build(recipe=str(arguments.recipe), store=str(arguments.store))
    total = time.monotonic() - began
    spans = {stage: [(a, b) for name, a, b in TimedBuild.steps if name == stage] for stage in STAGES}
    stages = {stage: max(b for _, b in span) - min(a for a, _ in span) for stage, span in spans.items()}
    steps = spans["commit"][0][1] - spans["plan"][0][0]
    figures = {"total": total, "loading": loading, "steps": steps, "stages": stages}
    print(json.dumps({**figures, "kept": summary.kept, "shards": len(spans["select"])}))


if __name__ == "__main__":
    main()
