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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from benchmarks import machine
from infra import processes
from tasks.build import line
from tasks.build.commit import BuildSummary
from tasks.build.job import Job
from tasks.build.runner import OnThreads, Runner
from tasks.recipe.load import load_recipe

Item = TypeVar("Item")
Result = TypeVar("Result")

STAGES = ("plan", "labels", "select", "fetch", "split", "write", "commit")
SERVER_SECONDS = 120.0


class Timed:
    """A runner that notes when the steps of another began and ended."""

    steps: ClassVar[list[tuple[str, float, float]]] = []

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def once(self, stage: str, step: Callable[[], Result], retries: int = 0) -> Result:
        return self._runner.once(stage, lambda: self._timed(stage, step), retries)

    def each(self, stage: str, step: Callable[[Item], Result], items: Sequence[Item], retries: int = 0) -> list[Result]:
        return self._runner.each(stage, lambda item: self._timed(stage, lambda: step(item)), items, retries)

    def tell(self, message: str) -> None:
        self._runner.tell(message)

    def _timed(self, stage: str, step: Callable[[], Result]) -> Result:
        began = time.monotonic()
        try:
            return step()
        finally:
            self.steps.append((stage, began, time.monotonic()))


@dataclass(frozen=True)
class BuildTime:
    """Seconds of one build. A stage runs from its first start to its last end, ``steps`` from plan to commit."""

    total: float
    loading: float  # imports, before the build
    steps: float
    stages: dict[str, float]
    accepted: int
    shards: int

    @property
    def around(self) -> float:
        """What the build takes before its first and after its last step."""
        return self.total - self.steps


def build_bare(recipe: Path, store: Path, workers: int) -> BuildSummary:
    """The line of the flow on ``workers`` threads."""
    return line.build(Job.of(load_recipe(recipe), str(store)), Timed(OnThreads(workers)))


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
    from flows.runner import WORKERS, PrefectRunner

    loading = time.monotonic() - began
    began = time.monotonic()
    if arguments.how == "bare":
        summary = build_bare(arguments.recipe, arguments.store, WORKERS)
    else:
        vars(flows)["PrefectRunner"] = lambda stages: Timed(PrefectRunner(stages))
        summary = flows.build(recipe=str(arguments.recipe), store=str(arguments.store))
    total = time.monotonic() - began
    spans = {stage: [(a, b) for name, a, b in Timed.steps if name == stage] for stage in STAGES}
    stages = {stage: max(b for _, b in span) - min(a for a, _ in span) for stage, span in spans.items()}
    steps = spans["commit"][0][1] - spans["plan"][0][0]
    figures = {"total": total, "loading": loading, "steps": steps, "stages": stages}
    print(json.dumps({**figures, "accepted": summary.accepted, "shards": len(spans["select"])}))


if __name__ == "__main__":
    main()
