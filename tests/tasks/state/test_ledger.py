import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from tasks.errors import StoreError
from tasks.state.ledger import Density, Fetched, Ledger, State

NAMES = [f"10/{x}/5" for x in range(6)]


def density(name: str, fraction: float, passes: bool = True) -> Density:
    return Density(name, fraction, f"mask of {name}", b"\x01" if passes else None)


def kept(name: str) -> Fetched:
    return Fetched(name, State.KEPT, attempts=1, bytes=100, etag='"e"', sha256="s", nodata_fraction=0.0, fetched_at=5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_tile_s_way(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(NAMES)
        assert ledger.unmeasured("k") == set(NAMES)
        ledger.record_densities([density(name, 0.1 * i, i >= 2) for i, name in enumerate(NAMES)], "k")
        assert ledger.unmeasured("k") == set()
        assert ledger.names(State.SELECTED) == NAMES[2:]
        assert ledger.reasons(State.REJECTED) == {"density": 2}
        ledger.record_fetched(
            [
                kept(NAMES[2]),
                Fetched(NAMES[3], State.ABSENT, "Tile not found", attempts=1),
                Fetched(NAMES[4], State.FAILED, "HTTP 503", attempts=5),
                Fetched(NAMES[5], State.REJECTED, "nodata", attempts=1, nodata_fraction=0.4),
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
        assert (sample.name, sample.sha256, sample.building_fraction, sample.split) == (NAMES[2], "s", 0.2, None)
        assert ledger.mask(NAMES[2]) == b"\x01"
        assert ledger.mean_bytes() == 100


def test_new_labels_move_tiles_both_ways_and_keep_their_images(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(NAMES)
        ledger.record_densities([density(name, 0.5) for name in NAMES], "k1")
        ledger.record_fetched([kept(NAMES[0]), kept(NAMES[1]), Fetched(NAMES[2], State.ABSENT, "Tile not found")])
        assert ledger.unmeasured("k2") == set(NAMES)
        ledger.record_densities([density(NAMES[0], 0.1, False), density(NAMES[1], 0.6), density(NAMES[2], 0.6)], "k2")
        assert ledger.names(State.KEPT) == [NAMES[1]]
        assert ledger.names(State.ABSENT) == [NAMES[2]]
        with pytest.raises(StoreError, match="no mask of 10/0/5"):
            ledger.mask(NAMES[0])
        ledger.record_densities([density(NAMES[0], 0.7)], "k3")
        assert ledger.names(State.KEPT) == NAMES[:2]


def test_failed_tiles_are_retried_absent_ones_are_not(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(NAMES[:2])
        ledger.record_densities([density(name, 0.5) for name in NAMES[:2]], "k")
        ledger.record_fetched([Fetched(NAMES[0], State.FAILED, "timeout", 3), Fetched(NAMES[1], State.ABSENT, "x", 1)])
        ledger.retry_failed()
        assert ledger.names(State.SELECTED) == [NAMES[0]]
        assert ledger.names(State.ABSENT) == [NAMES[1]]


def test_a_candidate_that_leaves_and_comes_back_keeps_its_image_and_split(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(NAMES[:2])
        ledger.record_densities([density(name, 0.5) for name in NAMES[:2]], "k")
        ledger.record_fetched([kept(NAMES[0]), kept(NAMES[1])])
        ledger.assign_splits({NAMES[0]: "test", NAMES[1]: "train"}, {})
        ledger.set_candidates(NAMES[1:3])
        assert [sample.name for sample in ledger.samples()] == [NAMES[1]]
        assert ledger.splits() == {NAMES[0]: "test", NAMES[1]: "train"}
        ledger.assign_splits({NAMES[0]: "train"}, {})
        ledger.set_candidates(NAMES[:1])
        assert [(sample.name, sample.split) for sample in ledger.samples()] == [(NAMES[0], "test")]


def test_a_lost_image_is_selected_again(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(NAMES[:1])
        ledger.record_densities([density(NAMES[0], 0.5)], "k")
        ledger.record_fetched([kept(NAMES[0])])
        ledger.forget_images(NAMES[:1])
        assert ledger.names(State.SELECTED) == NAMES[:1]


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
        "import sys; from pathlib import Path; from tasks.state.ledger import *\n"
        "ledger = Ledger(Path(sys.argv[1])); tiles = [f'20/{x}/5' for x in range(50_000)]\n"
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


def test_a_ledger_of_the_first_schema_is_carried_over(path: Path) -> None:
    import sqlite3

    with sqlite3.connect(path) as db:
        db.executescript(
            """
            CREATE TABLE tile (z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL, candidate INTEGER NOT NULL
                DEFAULT 1, state TEXT NOT NULL DEFAULT 'planned', reason TEXT NOT NULL DEFAULT '', measured TEXT,
                building_fraction REAL, mask_sha256 TEXT, nodata_fraction REAL, attempts INTEGER NOT NULL DEFAULT 0,
                bytes INTEGER, etag TEXT, sha256 TEXT, fetched_at INTEGER, split TEXT, PRIMARY KEY (z, x, y))
                WITHOUT ROWID;
            CREATE INDEX tile_state ON tile (state);
            CREATE TABLE mask (z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL, bits BLOB NOT NULL,
                PRIMARY KEY (z, x, y)) WITHOUT ROWID;
            CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
            INSERT INTO tile VALUES (18, 5, 7, 1, 'kept', '', 'k', 0.3, 'm', 0.0, 2, 9, 'e', 's', 11, 'test');
            INSERT INTO fact VALUES ('identity', '{}');
            PRAGMA user_version=1;
            """
        )
        db.execute("INSERT INTO mask VALUES (18, 5, 7, ?)", (zlib.compress(b"bits"),))
    db.close()
    for _ in range(2):
        with Ledger(path) as ledger:
            (sample,) = ledger.samples()
            assert (sample.name, sample.sha256, sample.split, sample.shares) == ("18/5/7", "s", "test", ())
            assert ledger.mask("18/5/7") == b"bits"
            assert ledger.fact("identity") == "{}"
            assert ledger.unmeasured("k") == set()


def test_another_question_forgets_answers_but_not_labels(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(NAMES)
        ledger.record_densities([density(name, 0.5, name != NAMES[0]) for name in NAMES], "k")
        ledger.record_fetched(
            [kept(NAMES[1]), Fetched(NAMES[2], State.REJECTED, "clouds"), Fetched(NAMES[3], State.ABSENT, "x")]
        )
        ledger.forget_answers(ledger.known())
        assert ledger.names(State.SELECTED) == NAMES[1:]
        assert ledger.reasons(State.REJECTED) == {"density": 1}


def test_units_remember_their_split(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_candidates(NAMES[:3])
        ledger.assign_splits(dict.fromkeys(NAMES[:2], "test"), dict.fromkeys(NAMES[:2], "austin1"))
        ledger.assign_splits({NAMES[2]: "train"}, {NAMES[2]: "austin2"})
        ledger.set_candidates([])
        assert ledger.units() == {"austin1": "test", "austin2": "train"}
