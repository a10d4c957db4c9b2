"""kill -9 at random moments of a build: the version is the one of an undisturbed run, byte for byte."""

import random
import shutil
import time
from pathlib import Path

import pytest

from infra.sandbox.services.scripted import ScriptedServer
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import State
from tasks.state.workdir import WorkDir
from tasks.versions.read import versions
from tests.support.builds import contents, run_build
from tests.support.forks import Fork, Forks
from tests.support.small import SmallRegion

FLOW, LINE = "flows.cli:main", "tests.support.builds:main"  # through Prefect, and without it
KILLS = {FLOW: 4, LINE: 16}
# Few connections and a slow rate, so that fetching lasts as long as the rest.
SLOW = {
    FLOW: ["imagery.connections=4", "imagery.requests_per_second=80"],
    LINE: ["imagery.connections=4", "imagery.requests_per_second=150"],
}


class Begun:
    """A store with a version of some columns of a region; builds that go on from it have the rest to do."""

    def __init__(self, folder: Path, url: str, region: SmallRegion, forks: Forks) -> None:
        self.folder, self.store, self.forks = folder, folder / "start", forks
        self.recipe = region.write_recipe(folder, url, "limits: {max_failed_fraction: 0}")
        run_build(self.recipe, self.store, [f"area.bbox={region.bbox(columns=6)}"])
        self.candidates, self.staged = self._found(self.store)

    def copy(self, name: str) -> Path:
        """The store and its work directory under another name."""
        target = self.folder / name
        shutil.copytree(self.store, target)
        shutil.copytree(WorkDir.of(str(self.store)).root, WorkDir.of(str(target)).root)
        return target

    def start(self, call: str, store: Path) -> Fork:
        """A build that holds its lock: before that a process only imports."""
        flow = call == FLOW
        overrides = [word for change in SLOW[call] for word in (("--set", change) if flow else (change,))]
        words = ["build", str(self.recipe), "--store"] if flow else [str(self.recipe)]
        process = self.forks.start(call, *words, str(store), *overrides)
        lock = WorkDir.of(str(store)).root / "lock"
        while process.poll() is None:
            if f'"pid": {process.pid}' in lock.read_text():
                return process
            time.sleep(0.005)
        raise AssertionError(f"the build ended with {process.wait()} before its lock was seen")

    def lasts(self, call: str) -> float:
        """Seconds from the lock to the end of an undisturbed build."""
        process = self.start(call, self.copy(f"timed-{call}"))
        started = time.monotonic()
        assert process.wait() == 0
        return time.monotonic() - started

    def stage(self, store: Path) -> str:
        """The stage that a build of a copy had come to."""
        if len(versions(str(store))) > 1:
            return "committed"
        candidates, staged = self._found(store)
        if sum(candidates.values()) == sum(self.candidates.values()):
            return "finding candidates"
        if candidates[State.PLANNED]:
            return "measuring"
        if candidates[State.SELECTED]:
            return "fetching" if staged > self.staged else "before imagery"
        chunks = [len(list((one / "chunks").iterdir())) for one in (self.store, store)]
        return "writing" if chunks[1] > chunks[0] else "before writing"

    def _found(self, store: Path) -> tuple[dict[State, int], int]:
        with open_ledger(WorkDir.of(str(store)).ledger) as ledger:
            counts = ledger.counts()
        return counts, counts[State.STAGED]


@pytest.mark.server
@pytest.mark.timeout(900)
def test_kills_at_random_moments_and_one_rerun_each(tmp_path: Path, prefect_server: str, forks: Forks) -> None:
    region = SmallRegion(side=16)
    with ScriptedServer(region.image, latency=0.02, content_type="image/png") as server:
        begun = Begun(tmp_path, server.url, region, forks)
        good = contents(begun.store, "v1")
        undisturbed = begun.copy("undisturbed")
        run_build(begun.recipe, undisturbed)
        expected = contents(undisturbed, "v2")

        random.seed(20)
        stages = []
        for call, kills in KILLS.items():
            lasts = begun.lasts(call)
            for number in range(kills):
                store = begun.copy(f"store-{call}-{number}")
                process = begun.start(call, store)
                time.sleep((number + random.random()) / kills * lasts)  # at any moment, and in every part of the build
                process.kill()
                process.wait()
                assert contents(store, "v1") == good
                stages.append(begun.stage(store))
                run_build(begun.recipe, store)
                assert [info.version for info in versions(str(store))] == ["v1", "v2"]
                assert contents(store, "v2") == expected
                shutil.rmtree(store)
                shutil.rmtree(WorkDir.of(str(store)).root)
    assert len(stages) == 20
    assert len(set(stages)) >= 4, f"the kills fell into too few stages: {stages}"
