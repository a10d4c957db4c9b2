"""kill -9 at random moments of a build: the version is the one of an undisturbed run, byte for byte."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.sandbox.services.scripted import ScriptedServer
from tasks.state.ledger import Ledger, State
from tasks.versions.read import versions
from tests.support.builds import contents, run_build
from tests.support.small import SmallRegion

KILLS = 20
# Few connections and a slow rate, so that fetching lasts as long as the rest.
SLOW = ["imagery.connections=4", "imagery.requests_per_second=150"]


@pytest.mark.server
@pytest.mark.timeout(900)
def test_kills_at_random_moments_and_one_rerun_each(tmp_path: Path, prefect_server: str) -> None:
    region = SmallRegion(side=20)
    with ScriptedServer(region.image, latency=0.02, content_type="image/png") as server:
        recipe = region.write_recipe(tmp_path, server.url, "limits: {max_failed_fraction: 0}")
        start = tmp_path / "start"
        run_build(recipe, start, [*SLOW[:1], f"area.bbox={region.bbox(columns=8)}"])
        good = contents(start, "v1")
        undisturbed = copy_store(start, tmp_path / "undisturbed")
        run_build(recipe, undisturbed, SLOW)
        expected = contents(undisturbed, "v2")
        lasts = time_of_a_build(recipe, copy_store(start, tmp_path / "timed"))

        random.seed(20)
        states: set[tuple[int, int]] = set()
        for number in range(KILLS):
            store = copy_store(start, tmp_path / f"store-{number}")
            process = start_build(recipe, store)
            time.sleep(random.uniform(0.0, lasts))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert contents(store, "v1") == good
            with Ledger(store.with_name(f"{store.name}.work") / "ledger.sqlite") as ledger:
                states.add((ledger.counts()[State.KEPT], len(versions(str(store)))))
            run_build(recipe, store, SLOW)
            assert [info.version for info in versions(str(store))] == ["v1", "v2"]
            assert contents(store, "v2") == expected
            shutil.rmtree(store)
            shutil.rmtree(store.with_name(f"{store.name}.work"))
    assert len(states) >= 4, f"the kills all fell into the same stage: {states}"


def copy_store(source: Path, target: Path) -> Path:
    """A store and its work directory under another name."""
    shutil.copytree(source, target)
    shutil.copytree(source.with_name(f"{source.name}.work"), target.with_name(f"{target.name}.work"))
    return target


def start_build(recipe: Path, store: Path) -> "subprocess.Popen[bytes]":
    """A build that holds its lock: before that a process only imports."""
    overrides = [word for override in SLOW for word in ("--set", override)]
    command = [sys.executable, "-m", "flows.cli", "build", str(recipe), "--store", str(store), "--json", *overrides]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lock = store.with_name(f"{store.name}.work") / "lock"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if f'"pid": {process.pid}' in lock.read_text():
            return process
        time.sleep(0.005)
    raise AssertionError("the build did not take its lock")


def time_of_a_build(recipe: Path, store: Path) -> float:
    """Seconds from the lock to the end of an undisturbed build."""
    process = start_build(recipe, store)
    started = time.monotonic()
    assert process.wait(timeout=120) == 0
    return time.monotonic() - started
