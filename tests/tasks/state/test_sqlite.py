import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import DiskError, StoreError
from tasks.state.ledger import Fetched, Ledger, Measured, RunState
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import DENSITY, UNREAD, Image, State

NAMES = [f"10/{x}/5" for x in range(6)]


def measured(name: str, fraction: float, passes: bool = True) -> Measured:
    reason, mask = ("", b"\x01") if passes else (DENSITY, None)
    return Measured(name, reason, (1 - fraction, fraction), fraction, mask, f"mask of {name}")


def staged(name: str) -> Fetched:
    return Fetched(name, Image.STAGED, attempts=1, bytes=100, etag='"e"', sha256="s", nodata_fraction=0.0, fetched_at=5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_sample_s_way(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES)
        assert ledger.unmeasured("k") == set(NAMES)
        ledger.record_measured([measured(name, 0.1 * i, i >= 2) for i, name in enumerate(NAMES)], "k")
        assert ledger.unmeasured("k") == set()
        assert ledger.measured() == 6
        assert ledger.building_fractions() == pytest.approx([0.1 * i for i in range(6)])
        assert ledger.names(State.SELECTED) == NAMES[2:]
        assert ledger.reasons(State.REJECTED) == {"density": 2}
        ledger.record_fetched(
            [
                staged(NAMES[2]),
                Fetched(NAMES[3], Image.ABSENT, "Tile not found", attempts=1),
                Fetched(NAMES[4], Image.FAILED, "HTTP 503", attempts=5),
                Fetched(NAMES[5], Image.REJECTED, "nodata", attempts=1, nodata_fraction=0.4),
            ]
        )
    with open_ledger(path) as ledger:
        assert ledger.counts() == {
            State.PLANNED: 0,
            State.REJECTED: 3,
            State.SELECTED: 0,
            State.ABSENT: 1,
            State.FAILED: 1,
            State.STAGED: 1,
        }
        assert list(ledger.reasons(State.REJECTED).items()) == [("density", 2), ("nodata", 1)]
        assert ledger.names(State.FAILED, State.ABSENT) == NAMES[3:5]
        assert ledger.names() == []
        (sample,) = ledger.samples()
        assert (sample.name, sample.sha256, sample.building_fraction) == (NAMES[2], "s", 0.2)
        assert sample.class_fractions == (0.8, 0.2)
        assert ledger.mask(NAMES[2]) == b"\x01"
        assert ledger.mean_bytes() == 100


def test_an_empty_ledger_has_an_answer_to_everything(path: Path) -> None:
    with open_ledger(path) as ledger:
        assert ledger.counts() == dict.fromkeys(State, 0)
        assert ledger.names(*State) == ledger.known() == ledger.samples() == ledger.building_fractions() == []
        assert ledger.reasons(State.REJECTED) == ledger.notes() == ledger.splits() == {}
        assert ledger.mean_bytes() is None
        assert ledger.measured() == 0
        assert ledger.run_state() == RunState()


def test_what_an_image_is_from_comes_back(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES[:2])
        ledger.record_measured([measured(name, 0.5) for name in NAMES[:2]], "k")
        about = {"cloud_fraction": 0.25, "acquired_at": 9, "origin": "item 1", "note": "offset -1000"}
        ledger.record_fetched(
            Fetched(name, Image.STAGED, sha256="s", nodata_fraction=0.5, fetched_at=5, **about)  # type: ignore[arg-type]
            for name in NAMES[:2]
        )
        for sample in ledger.samples():
            assert {key: getattr(sample, key) for key in about} == about
            assert (sample.nodata_fraction, sample.fetched_at) == (0.5, 5)
        assert ledger.notes() == {"offset -1000": 2}


def test_what_a_source_said_is_recorded_without_secrets(path: Path) -> None:
    url = "https://example.org/a.tif?access_token=hunter2hunter2"
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES[:2])
        ledger.record_measured([measured(name, 0.5) for name in NAMES[:2]], "k")
        said = Fetched(NAMES[0], Image.FAILED, url)
        ledger.record_fetched([said, replace(staged(NAMES[1]), origin=url, note=url)])
        (reason,) = ledger.reasons(State.FAILED)
        (sample,) = ledger.samples()
    assert reason == sample.origin == sample.note == url.replace("hunter2hunter2", "***")
    assert b"hunter2" not in path.read_bytes()


def test_new_labels_move_samples_both_ways_and_keep_their_images(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES)
        ledger.record_measured([measured(name, 0.5) for name in NAMES], "k1")
        ledger.record_fetched([staged(NAMES[0]), staged(NAMES[1]), Fetched(NAMES[2], Image.ABSENT, "Tile not found")])
        assert ledger.unmeasured("k2") == set(NAMES)
        now = [measured(NAMES[0], 0.1, False), measured(NAMES[1], 0.6), measured(NAMES[2], 0.6)]
        ledger.record_measured(now, "k2")
        assert ledger.names(State.STAGED) == [NAMES[1]]
        assert ledger.names(State.ABSENT) == [NAMES[2]]
        with pytest.raises(StoreError, match="no mask of 10/0/5"):
            ledger.mask(NAMES[0])
        ledger.record_measured([measured(NAMES[0], 0.7)], "k3")
        assert ledger.names(State.STAGED) == NAMES[:2]


def test_labels_that_could_not_be_read_are_read_again(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES[:1])
        ledger.record_measured([Measured(NAMES[0], UNREAD)], "")
        assert ledger.reasons(State.REJECTED) == {UNREAD: 1}
        assert ledger.unmeasured("k") == {NAMES[0]}
        assert ledger.building_fractions() == []


def test_failed_samples_are_retried_absent_ones_are_not(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES[:2])
        ledger.record_measured([measured(name, 0.5) for name in NAMES[:2]], "k")
        ledger.record_fetched([Fetched(NAMES[0], Image.FAILED, "timeout", 3), Fetched(NAMES[1], Image.ABSENT, "x", 1)])
        ledger.retry_failed()
        assert ledger.names(State.SELECTED) == [NAMES[0]]
        assert ledger.names(State.ABSENT) == [NAMES[1]]


def test_a_candidate_that_leaves_and_comes_back_keeps_its_image_and_split(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES[:2])
        ledger.record_measured([measured(name, 0.5) for name in NAMES[:2]], "k")
        ledger.record_fetched([staged(NAMES[0]), staged(NAMES[1])])
        ledger.assign_splits({NAMES[0]: "test", NAMES[1]: "train"}, {})
        ledger.set_candidates(NAMES[1:3])
        assert [sample.name for sample in ledger.samples()] == [NAMES[1]]
        assert ledger.splits() == {NAMES[0]: ("", "test"), NAMES[1]: ("", "train")}
        ledger.assign_splits({NAMES[0]: "train"}, {})
        ledger.set_candidates(NAMES[:1])
        assert [sample.name for sample in ledger.samples()] == [NAMES[0]]
        assert ledger.splits()[NAMES[0]] == ("", "test")
        assert ledger.known() == NAMES[:3]


def test_a_lost_image_is_selected_again(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES[:1])
        ledger.record_measured([measured(NAMES[0], 0.5)], "k")
        ledger.record_fetched([staged(NAMES[0])])
        ledger.forget_images(NAMES[:1])
        assert ledger.names(State.SELECTED) == NAMES[:1]


def test_another_question_forgets_answers_but_not_labels(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES)
        ledger.record_measured([measured(name, 0.5, name != NAMES[0]) for name in NAMES], "k")
        ledger.record_fetched(
            [staged(NAMES[1]), Fetched(NAMES[2], Image.REJECTED, "clouds"), Fetched(NAMES[3], Image.ABSENT, "x")]
        )
        ledger.forget_answers(ledger.known())
        assert ledger.names(State.SELECTED) == NAMES[1:]
        assert ledger.reasons(State.REJECTED) == {"density": 1}


def test_units_remember_their_split(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES[:3])
        ledger.assign_splits(dict.fromkeys(NAMES[:2], "test"), dict.fromkeys(NAMES[:2], "austin1"))
        ledger.assign_splits({NAMES[2]: "train"}, {NAMES[2]: "austin2"})
        ledger.set_candidates([])
        assert set(ledger.splits().values()) == {("austin1", "test"), ("austin2", "train")}


def test_what_a_run_leaves_is_what_the_next_finds(path: Path) -> None:
    left = RunState({"grid.zoom": 18, "bands": ["red"]}, "imagery", {"scene": "as it is"}, "labels", 1_700_000_000.5)
    with open_ledger(path) as ledger:
        ledger.set_run_state(RunState(labels_key="earlier"))
        ledger.set_run_state(left)
    with open_ledger(path) as ledger:
        assert ledger.run_state() == left


def test_a_long_list_of_names_is_forgotten_whole(path: Path) -> None:
    names = [f"18/{x}/5" for x in range(20_500)]
    with open_ledger(path) as ledger:
        ledger.set_candidates(names)
        ledger.record_measured([Measured(name) for name in names], "k")
        ledger.record_fetched(Fetched(name, Image.STAGED, sha256="s") for name in names)
        ledger.forget_answers(iter(names))
        assert ledger.counts()[State.SELECTED] == len(names)


def test_a_batch_that_breaks_off_leaves_nothing(path: Path) -> None:
    def names() -> Iterator[str]:
        yield NAMES[2]
        raise KeyboardInterrupt

    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES[:2])
        with pytest.raises(KeyboardInterrupt):
            ledger.set_candidates(names())
        assert ledger.known() == ledger.names(State.PLANNED) == NAMES[:2]
        ledger.record_measured([measured(NAMES[0], 0.5)], "k")  # no transaction is left open
        assert ledger.names(State.SELECTED) == NAMES[:1]


# ---- files -------------------------------------------------------------------------------------


def test_a_damaged_ledger_is_told(path: Path) -> None:
    path.write_bytes(b"not a database, certainly not one" * 100)
    with pytest.raises(StoreError, match="the ledger is damaged"):
        open_ledger(path)


def test_a_ledger_damaged_inside_is_told(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(f"18/{x}/5" for x in range(2000))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    with pytest.raises(StoreError, match="the ledger is damaged"), open_ledger(path) as ledger:
        ledger.known()


@pytest.mark.parametrize("schema", [4, 99])
def test_a_ledger_of_a_newer_schema_is_told(path: Path, schema: int) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={schema}")
    db.close()
    with pytest.raises(StoreError, match=f"a ledger of schema {schema}, this program reads 3; use the program that"):
        open_ledger(path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"ledger\.sqlite: unable to open database file; check that the folder"):
        open_ledger(tmp_path / "missing" / "ledger.sqlite")


def test_a_ledger_that_cannot_be_written_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES)
    with opened_with("PRAGMA query_only=1", path, monkeypatch) as ledger:
        assert ledger.known() == NAMES
        with pytest.raises(StoreError, match=r"ledger\.sqlite: attempt to write a readonly database; check that"):
            ledger.set_candidates([])


def test_a_full_disk_is_told_and_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(path) as ledger:
        ledger.set_candidates(NAMES)
    with opened_with("PRAGMA max_page_count=1", path, monkeypatch) as ledger:  # no more pages than it has
        with pytest.raises(DiskError, match=r"ledger\.sqlite: database or disk is full; free space and run the same"):
            ledger.record_measured([Measured(NAMES[0], mask=os.urandom(100_000))], "k")
        assert ledger.unmeasured("k") == set(NAMES)
    with open_ledger(path) as ledger:
        ledger.record_measured([Measured(NAMES[0], mask=b"\0")], "k")
        assert ledger.names(State.SELECTED) == NAMES[:1]


def opened_with(pragma: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger whose connection was given ``pragma`` first."""
    connect = sqlite3.connect

    def connected(*given: Any, **more: Any) -> sqlite3.Connection:
        db = connect(*given, **more)
        db.execute(pragma)
        return db

    with monkeypatch.context() as patch:
        patch.setattr("tasks.state.sqlite.sqlite3.connect", connected)
        return open_ledger(path)


# ---- processes and threads ---------------------------------------------------------------------


def test_threads_with_ledgers_of_their_own_wait_for_each_other(path: Path) -> None:
    names = [f"18/{x}/5" for x in range(800)]
    with open_ledger(path) as ledger:
        ledger.set_candidates(names)
        ledger.record_measured([Measured(name, mask=b"\0") for name in names], "k")

    def record(part: list[str]) -> None:
        with open_ledger(path) as ledger:
            for first in range(0, len(part), 10):
                ledger.record_fetched(Fetched(name, Image.STAGED, sha256="s") for name in part[first : first + 10])

    threads = [threading.Thread(target=record, args=(names[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_ledger(path) as ledger:
        assert ledger.names(State.STAGED) == sorted(names)


@pytest.mark.parametrize("batches", [1, 7, 40])
def test_a_killed_writer_leaves_whole_batches(path: Path, batches: int) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from tasks.state.ledger import *; from tasks.state.sqlite import *; from tasks.state.transitions import *\n"
        "ledger = open_ledger(Path(sys.argv[1])); names = [f'20/{x}/5' for x in range(50_000)]\n"
        "ledger.set_candidates(names); ledger.record_measured([Measured(n, mask=b'') for n in names], 'k')\n"
        "for i in range(0, 50_000, 50):\n"
        "    ledger.record_fetched(Fetched(n, Image.STAGED, sha256='s') for n in names[i:i + 50])\n"
        "    print(i, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(batches):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.stdout.read()
    with open_ledger(path) as ledger:
        counts = ledger.counts()
    assert counts[State.STAGED] >= 50 * batches
    assert counts[State.STAGED] % 50 == 0
    assert counts[State.STAGED] + counts[State.SELECTED] == 50_000
