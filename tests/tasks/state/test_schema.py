import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import DiskError, StoreError
from tasks.state.ledger import Fetched, Measured, RunState, Sample
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import Image, State
from tests.tasks.state.old_ledgers import SAMPLES, write_ledger

NAMES = [name for name, *_ in SAMPLES]


@pytest.fixture(params=[1, 2], ids=["schema 1", "schema 2"])
def schema(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def path(tmp_path: Path, schema: int) -> Path:
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, schema)
    return path


def test_an_older_ledger_is_carried_over(path: Path, schema: int) -> None:
    for _ in range(2):
        with open_ledger(path) as ledger:
            assert ledger.known() == NAMES
            assert {state: ledger.names(state) for state in State} == {
                State.PLANNED: ["18/5/1"],
                State.REJECTED: ["18/5/2", "18/5/3", "18/5/4"],
                State.SELECTED: ["18/5/5"],
                State.ABSENT: ["18/5/6"],
                State.FAILED: ["18/5/9"],
                State.STAGED: ["18/5/7"],
            }
            assert ledger.reasons(State.REJECTED) == {"density": 2, "nodata": 1}
            assert ledger.reasons(State.ABSENT) == {"Tile not found": 1}
            unit = "u" if schema == 2 else ""
            assert ledger.splits() == dict.fromkeys(["18/5/3", "18/5/7", "18/5/8"], (unit, "test"))
            more: dict[str, Any] = (
                {"class_fractions": (0.5, 0.5), "cloud_fraction": 0.1, "acquired_at": 7, "origin": "item", "note": "n"}
                if schema == 2
                else {}
            )
            assert ledger.samples() == [Sample("18/5/7", "m", "s", 0.25, 11, building_fraction=0.5, **more)]
            assert ledger.run_state() == RunState(
                {"grid.zoom": 18}, "imagery of then", {"a": "as it was"}, "labels-of-then", 1_700_000_000.0
            )


def test_labels_are_measured_again_before_a_mask_is_read(path: Path) -> None:
    with open_ledger(path) as ledger:
        assert ledger.unmeasured("key of then") == set(NAMES) - {"18/5/8"}
        assert ledger.measured() == 0
        with pytest.raises(StoreError, match="no mask of 18/5/7"):
            ledger.mask("18/5/7")


def test_a_run_goes_on_from_there(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.record_measured([Measured(name, mask=b"\x01", mask_sha256="new") for name in NAMES], "key of now")
        assert ledger.names(State.STAGED) == ["18/5/3", "18/5/7"]
        assert ledger.names(State.ABSENT) == ["18/5/6"]
        assert ledger.reasons(State.REJECTED) == {"nodata": 1}
        assert ledger.names(State.SELECTED) == ["18/5/1", "18/5/2", "18/5/5"]
        ledger.retry_failed()
        ledger.record_fetched([Fetched("18/5/9", Image.STAGED, attempts=1, sha256="t")])
        assert ledger.names(State.STAGED) == ["18/5/3", "18/5/7", "18/5/9"]


def test_what_no_run_left_is_an_empty_run_state(tmp_path: Path, schema: int) -> None:
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, schema, facts={"labels_asked": ""})
    with open_ledger(path) as ledger:
        assert ledger.run_state() == RunState()


class Watched(sqlite3.Connection):
    """Copies the database's files before each statement: what there is on disk when the process is killed then."""

    path: Path
    copies: list[Path]

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        copy = self.path.with_name(f"copy{len(self.copies)}.sqlite")
        for ending in ("", "-wal"):
            if (found := self.path.with_name(self.path.name + ending)).exists():
                shutil.copyfile(found, copy.with_name(copy.name + ending))
        self.copies.append(copy)
        return super().execute(statement, *parameters)


def test_killed_anywhere_it_is_the_old_one(path: Path, schema: int, monkeypatch: pytest.MonkeyPatch) -> None:
    many = 2000
    with sqlite3.connect(path) as db:
        table, columns = ("tile", "z, x, y") if schema == 1 else ("sample", "name")
        for y in range(many):
            db.execute(
                f"INSERT INTO {table} ({columns}, state) VALUES ({'18, 6, ?' if schema == 1 else '?'}, 'absent')",
                (y if schema == 1 else f"18/6/{y}",),
            )
    db.close()
    connect = sqlite3.connect
    Watched.path, Watched.copies = path, []

    def watched(*given: Any, **more: Any) -> sqlite3.Connection:
        db = connect(*given, factory=Watched, **more)
        db.execute("PRAGMA cache_size=10")  # pages; the others are on disk before the transaction ends
        return db

    with monkeypatch.context() as patch:
        patch.setattr("tasks.state.sqlite.sqlite3.connect", watched)
        open_ledger(path).__exit__(None, None, None)
    assert len(Watched.copies) > 10  # the last before COMMIT, which alone makes it the new one
    begun = {copy.with_name(copy.name + "-wal").stat().st_size for copy in Watched.copies[5:]}
    assert len(begun) > 3
    for copy in Watched.copies:
        with closing(connect(copy)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (schema,)
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (len(NAMES) + many,)
            assert db.execute("SELECT count(*) FROM mask").fetchone() == (len(NAMES),)
        with open_ledger(copy) as ledger:
            assert ledger.names(State.STAGED) == ["18/5/7"]
            assert ledger.counts()[State.ABSENT] == 1 + many


def test_a_disk_that_fills_meanwhile_leaves_the_old_one(
    path: Path, schema: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def small(*given: Any, **more: Any) -> sqlite3.Connection:
        db = connect(*given, **more)
        db.execute("PRAGMA max_page_count=1")  # no more than it has
        return db

    with monkeypatch.context() as patch:
        patch.setattr("tasks.state.sqlite.sqlite3.connect", small)
        with pytest.raises(DiskError, match=r"ledger\.sqlite: database or disk is full; free space and run the same"):
            open_ledger(path)
    with closing(connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema,)
    with open_ledger(path) as ledger:
        assert ledger.known() == NAMES


def test_several_that_open_it_at_once_carry_it_over_once(path: Path) -> None:
    together = threading.Barrier(4)
    found: list[list[str]] = []

    def read() -> None:
        together.wait()
        with open_ledger(path) as ledger:
            found.append(ledger.known())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [NAMES] * 4
