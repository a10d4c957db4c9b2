import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.errors import StoreError
from tasks.grid import Tile
from tasks.ledger import Density, Fetched, Ledger, State

TILES = [Tile(10, x, 5) for x in range(6)]


def density(tile: Tile, fraction: float, passes: bool = True) -> Density:
    return Density(tile, fraction, f"mask of {tile.name}", b"\x01" if passes else None)


def kept(tile: Tile) -> Fetched:
    return Fetched(tile, State.KEPT, attempts=1, bytes=100, etag='"e"', sha256="s", nodata_fraction=0.0, fetched_at=5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_tile_s_way(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(TILES)
        assert ledger.unmeasured("k") == set(TILES)
        ledger.record_densities([density(tile, 0.1 * i, i >= 2) for i, tile in enumerate(TILES)], "k")
        assert ledger.unmeasured("k") == set()
        assert ledger.tiles(State.SELECTED) == TILES[2:]
        assert ledger.reasons(State.REJECTED) == {"density": 2}
        ledger.record_fetched(
            [
                kept(TILES[2]),
                Fetched(TILES[3], State.ABSENT, "Tile not found", attempts=1),
                Fetched(TILES[4], State.FAILED, "HTTP 503", attempts=5),
                Fetched(TILES[5], State.REJECTED, "nodata", attempts=1, nodata_fraction=0.4),
            ]
        )
    with Ledger(path) as ledger:
        counts = ledger.counts()
        assert {s: counts[s] for s in State} == {
            "planned": 0,
            "rejected": 3,
            "selected": 0,
            "absent": 1,
            "failed": 1,
            "kept": 1,
        }
        (sample,) = ledger.samples()
        assert (sample.tile, sample.sha256, sample.building_fraction, sample.split) == (TILES[2], "s", 0.2, None)
        assert ledger.mask(TILES[2]) == b"\x01"
        assert ledger.mean_bytes() == 100


def test_new_labels_move_tiles_both_ways_and_keep_their_images(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(TILES)
        ledger.record_densities([density(tile, 0.5) for tile in TILES], "k1")
        ledger.record_fetched([kept(TILES[0]), kept(TILES[1]), Fetched(TILES[2], State.ABSENT, "Tile not found")])
        assert ledger.unmeasured("k2") == set(TILES)
        ledger.record_densities([density(TILES[0], 0.1, False), density(TILES[1], 0.6), density(TILES[2], 0.6)], "k2")
        assert ledger.tiles(State.KEPT) == [TILES[1]]
        assert ledger.tiles(State.ABSENT) == [TILES[2]]
        with pytest.raises(StoreError, match="no mask of tile"):
            ledger.mask(TILES[0])
        ledger.record_densities([density(TILES[0], 0.7)], "k3")
        assert ledger.tiles(State.KEPT) == TILES[:2]


def test_failed_tiles_are_retried_absent_ones_are_not(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(TILES[:2])
        ledger.record_densities([density(tile, 0.5) for tile in TILES[:2]], "k")
        ledger.record_fetched([Fetched(TILES[0], State.FAILED, "timeout", 3), Fetched(TILES[1], State.ABSENT, "x", 1)])
        ledger.retry_failed()
        assert ledger.tiles(State.SELECTED) == [TILES[0]]
        assert ledger.tiles(State.ABSENT) == [TILES[1]]


def test_a_candidate_that_leaves_and_comes_back_keeps_its_image_and_split(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(TILES[:2])
        ledger.record_densities([density(tile, 0.5) for tile in TILES[:2]], "k")
        ledger.record_fetched([kept(TILES[0]), kept(TILES[1])])
        ledger.assign_splits({TILES[0]: "test", TILES[1]: "train"})
        ledger.set_candidates(TILES[1:3])
        assert [sample.tile for sample in ledger.samples()] == [TILES[1]]
        assert ledger.splits() == {TILES[0]: "test", TILES[1]: "train"}
        ledger.assign_splits({TILES[0]: "train"})
        ledger.set_candidates(TILES[:1])
        assert [(sample.tile, sample.split) for sample in ledger.samples()] == [(TILES[0], "test")]


def test_a_lost_image_is_selected_again(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(TILES[:1])
        ledger.record_densities([density(TILES[0], 0.5)], "k")
        ledger.record_fetched([kept(TILES[0])])
        ledger.forget_images(TILES[:1])
        assert ledger.tiles(State.SELECTED) == TILES[:1]


def test_a_damaged_ledger_is_told(path: Path) -> None:
    path.write_bytes(b"not a database, certainly not one" * 100)
    with pytest.raises(StoreError, match="the ledger is damaged"):
        Ledger(path)


def test_a_ledger_of_another_schema_is_told(path: Path) -> None:
    import sqlite3

    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match="a ledger of schema 99"):
        Ledger(path)


def test_a_killed_writer_leaves_whole_batches(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tasks.ledger import *; from tasks.grid import Tile\n"
        "ledger = Ledger(Path(sys.argv[1])); tiles = [Tile(20, x, 5) for x in range(50_000)]\n"
        "ledger.set_candidates(tiles); print('ready', flush=True)\n"
        "for i in range(0, 50_000, 50):\n"
        "    ledger.record_fetched(Fetched(t, State.KEPT, sha256='s') for t in tiles[i:i + 50])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Ledger(path) as ledger:
        counts = ledger.counts()
    assert counts[State.KEPT] % 50 == 0
    assert counts[State.KEPT] + counts[State.PLANNED] == 50_000
