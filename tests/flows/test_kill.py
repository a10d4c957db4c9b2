"""kill -9 at random moments of a build: the version is the one of an undisturbed run, byte for byte."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.sandbox.scripted import ScriptedServer
from tasks.ledger import Ledger, State
from tasks.store import versions
from tests.support.builds import contents, run_build
from tests.support.small import SmallRegion

KILLS = 20


@pytest.mark.server
@pytest.mark.timeout(900)
def test_twenty_kills_and_one_rerun(tmp_path: Path, prefect_server: str) -> None:
    region = SmallRegion(side=20)
    with ScriptedServer(region.image, latency=0.02, content_type="image/png") as server:
        recipe = region.write_recipe(tmp_path, server.url, "limits: {max_failed_fraction: 0}")
        first = [f"area.bbox={region.bbox(columns=8)}"]
        # Few connections, so that fetching lasts as long as the rest and kills fall into every stage.
        slow = ["--set", "imagery.connections=4", "--set", "imagery.requests_per_second=60"]
        undisturbed = tmp_path / "undisturbed"
        run_build(recipe, undisturbed, first)
        run_build(recipe, undisturbed, slow[1::2])

        store = tmp_path / "store"
        run_build(recipe, store, first)
        good = contents(store, "v1")
        command = [sys.executable, "-m", "flows.cli", "build", str(recipe), "--store", str(store), "--json", *slow]
        random.seed(20)
        finished = 0
        fetched: set[int] = set()
        for moment in range(KILLS):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until_started(process, store.with_name("store.work") / "lock")
            try:
                process.wait(timeout=random.uniform(0.2, 2.5))
                finished += 1
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            assert contents(store, "v1") == good
            with Ledger(store.with_name("store.work") / "ledger.sqlite") as ledger:
                fetched.add(ledger.counts()[State.KEPT]); print('XX',moment,process.returncode,dict(ledger.counts()),[v.version for v in versions(str(store))])
        assert finished < KILLS / 2
        assert len(fetched) >= 4, "the kills all fell into the same stage"
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    assert [info.version for info in versions(str(store))] == ["v1", "v2"]
    assert contents(store, "v2") == contents(undisturbed, "v2")


def wait_until_started(process: "subprocess.Popen[bytes]", lock: Path) -> None:
    """Until the build holds its lock: before that it only imports."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if f'"pid": {process.pid}' in lock.read_text():
            return
        time.sleep(0.005)
