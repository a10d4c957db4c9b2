"""The ledger as one SQLite database (WAL) in the work directory.

The two verdicts on a sample are what is stored; its state follows from them. They change only by
:func:`tasks.state.transitions.after`, and every batch is one transaction.
"""

import functools
import json
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from tasks.errors import DiskError, StoreError
from tasks.secrets import redact
from tasks.state.ledger import Fetched, Ledger, Measured, Recorded, RunState, Sample
from tasks.state.schema import SCHEMA_VERSION, make_tables, run_state, schema_of, set_run_state
from tasks.state.transitions import Event, Image, Labels, Standing, State, after

BUSY_SECONDS = 60  # that a write waits for another process's

_STANDINGS = [Standing(labels, "", image, "") for labels in Labels for image in Image]
_SAID = (Event.LABELS_REJECT, Event.LABELS_ACCEPT)
_ANSWER = attrgetter("attempts", "bytes", "etag", "sha256", "nodata_fraction", "fetched_at")
_ABOUT = attrgetter("cloud_fraction", "acquired_at")
_STAND = "UPDATE sample SET labels = ?, labels_reason = ?, image = ?, image_reason = ? WHERE name = ?"
_BATCH = 20_000  # names looked up at once


class SqliteLedger:
    """An open ledger, whose methods are told in :class:`tasks.state.ledger.Ledger`."""

    def __init__(self, path: Path) -> None:
        """Open or make the ledger at ``path``; one of an older schema is carried over (:mod:`tasks.state.schema`).

        Raises StoreError when it is damaged or of a newer schema, DiskError.
        """
        self.path = path
        with self._guard():
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with self._guard():
                _let_readers_in(self._db)
                self._db.execute("PRAGMA synchronous=NORMAL")
                if schema_of(self._db, path) < SCHEMA_VERSION:
                    with self._transaction() as db:
                        if (found := schema_of(db, path)) < SCHEMA_VERSION:  # no other process did it meanwhile
                            make_tables(db, found)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    # ---- what runs write -----------------------------------------------------------------------

    def set_candidates(self, names: Iterable[str]) -> None:
        with self._transaction() as db:
            db.execute("UPDATE sample SET candidate = 0")
            db.executemany(
                "INSERT INTO sample (name) VALUES (?) ON CONFLICT DO UPDATE SET candidate = 1",
                ((name,) for name in names),
            )

    def record_measured(self, found: Sequence[Measured], key: str) -> None:
        with self._transaction() as db:
            before = _verdicts(db, [one.name for one in found])
            db.executemany(
                """UPDATE sample SET labels = ?, labels_reason = ?, image = ?, image_reason = ?, measured = ?,
                          class_fractions = ?, building_fraction = ?, mask_sha256 = ? WHERE name = ?""",
                [
                    (
                        *_after(before[one.name], _SAID[one.passes], _public(one.reason)),
                        key,
                        json.dumps(one.class_fractions) if one.class_fractions else None,
                        *(one.building_fraction, one.mask_sha256, one.name),
                    )
                    for one in found
                    if one.name in before
                ],
            )
            db.executemany("DELETE FROM mask WHERE name = ?", ((one.name,) for one in found if one.mask is None))
            db.executemany(
                "INSERT OR REPLACE INTO mask (name, bits) VALUES (?, ?)",
                ((one.name, zlib.compress(one.mask, 1)) for one in found if one.mask is not None),
            )

    def record_fetched(self, outcomes: Iterable[Fetched]) -> None:
        found = list(outcomes)
        with self._transaction() as db:
            before = _verdicts(db, [one.name for one in found])
            db.executemany(
                """UPDATE sample SET labels = ?, labels_reason = ?, image = ?, image_reason = ?,
                          attempts = attempts + ?, bytes = ?, etag = ?, sha256 = ?, nodata_fraction = ?, fetched_at = ?,
                          cloud_fraction = ?, acquired_at = ?, origin = ?, note = ? WHERE name = ?""",
                [
                    (
                        *_after(then, Event.IMAGE_ANSWERED, _public(one.reason), one.image),
                        *_ANSWER(one),
                        *_ABOUT(one),
                        *(_public(one.origin), _public(one.note), one.name),
                    )
                    for one in found
                    if (then := before.get(one.name)) is not None
                ],
            )

    def judge(self, standings: Mapping[str, Standing]) -> None:
        with self._transaction() as db:
            db.executemany(_STAND, ((*_columns(standing), name) for name, standing in standings.items()))

    def measure_again(self, names: Iterable[str]) -> None:
        with self._transaction() as db:
            db.executemany("UPDATE sample SET measured = '' WHERE name = ?", ((name,) for name in names))

    def rename_key(self, former: str, key: str) -> None:
        with self._transaction() as db:
            db.execute("UPDATE sample SET measured = ? WHERE measured = ?", (key, former))

    def forget_images(self, names: Iterable[str]) -> None:
        with self._transaction() as db:
            _happen(db, Event.IMAGE_LOST, names)

    def forget_answers(self, names: Iterable[str]) -> None:
        with self._transaction() as db:
            _happen(db, Event.IMAGERY_CHANGED, names)

    def retry_failed(self) -> None:
        with self._transaction() as db:
            failed = db.execute("SELECT name FROM sample WHERE candidate AND image = ?", (Image.FAILED.value,))
            _happen(db, Event.RETRY, [name for (name,) in failed])

    def assign_splits(self, splits: Mapping[str, str], units: Mapping[str, str]) -> None:
        with self._transaction() as db:
            db.executemany(
                "UPDATE sample SET split = ?, unit = ? WHERE name = ? AND split IS NULL",
                ((split, units.get(name, ""), name) for name, split in splits.items()),
            )

    def set_run_state(self, state: RunState) -> None:
        with self._transaction() as db:
            set_run_state(db, state)

    # ---- what runs ask -------------------------------------------------------------------------

    def names(self, *states: State) -> list[str]:
        rows = self._rows(f"SELECT name FROM sample WHERE candidate AND {_in(*states)} ORDER BY name")  # noqa: S608
        return [str(name) for (name,) in rows]

    def names_by_reason(self, state: State, reason: str) -> list[str]:
        rows = self._rows(
            f"""SELECT name, labels, labels_reason, image, image_reason FROM sample
                WHERE candidate AND {_in(state)} ORDER BY name"""  # noqa: S608
        )
        return [name for name, *verdicts in rows if _standing(*verdicts).reason.startswith(reason)]

    def known(self) -> list[str]:
        return [str(name) for (name,) in self._rows("SELECT name FROM sample ORDER BY name")]

    def answered(self) -> bool:
        none = (Image.UNKNOWN.value, Image.FAILED.value)
        return bool(self._rows("SELECT 1 FROM sample WHERE image NOT IN (?, ?) LIMIT 1", *none))

    def unmeasured(self, key: str) -> set[str]:
        rows = self._rows("SELECT name FROM sample WHERE candidate AND measured IS NOT ?", key)
        return {str(name) for (name,) in rows}

    def recorded(self, key: str) -> Iterator[Recorded]:
        with self._guard():
            for name, labels, why, image, reason, measured, fractions, mask, nodata, sha256 in self._db.execute(
                """SELECT name, labels, labels_reason, image, image_reason, measured IS ?, class_fractions,
                          mask_sha256 != '', nodata_fraction, sha256 IS NOT NULL
                   FROM sample WHERE candidate ORDER BY name""",
                (key,),
            ):
                standing = _standing(labels, why, image, reason)
                yield Recorded(name, standing, bool(measured), _fractions(fractions), bool(mask), nodata, bool(sha256))

    def class_fractions(self, *states: State) -> list[tuple[str, tuple[float, ...]]]:
        rows = self._rows(
            f"SELECT name, class_fractions FROM sample WHERE candidate AND {_in(*states)} ORDER BY name"  # noqa: S608
        )
        return [(name, _fractions(fractions)) for name, fractions in rows]

    def mask(self, name: str) -> bytes:
        rows = self._rows("SELECT bits FROM mask WHERE name = ?", name)
        if not rows:
            raise StoreError(f"{self.path}: no mask of {name}; move the ledger away, the next run makes it anew")
        return zlib.decompress(rows[0][0])

    def samples(self) -> list[Sample]:
        rows = self._rows(
            f"""SELECT name, mask_sha256, sha256, nodata_fraction, fetched_at, class_fractions, building_fraction,
                       cloud_fraction, acquired_at, origin, note
                FROM sample WHERE candidate AND {_in(State.STAGED)} ORDER BY name"""  # noqa: S608
        )
        return [
            Sample(name, mask, image, nodata, fetched, _fractions(fractions), *rest)
            for name, mask, image, nodata, fetched, fractions, *rest in rows
        ]

    def splits(self) -> dict[str, tuple[str, str]]:
        rows = self._rows("SELECT name, unit, split FROM sample WHERE split IS NOT NULL")
        return {name: (unit, split) for name, unit, split in rows}

    def counts(self) -> dict[State, int]:
        found = dict.fromkeys(State, 0)
        for standing, count in self._standings():
            found[standing.state] += count
        return found

    def reasons(self, state: State) -> dict[str, int]:
        found: dict[str, int] = {}
        for standing, count in self._standings():
            if standing.state is state:
                found[standing.reason] = found.get(standing.reason, 0) + count
        return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))

    def notes(self) -> dict[str, int]:
        return dict(
            self._rows(
                f"""SELECT note, count(*) FROM sample
                    WHERE candidate AND {_in(State.STAGED)} AND note != '' GROUP BY 1"""  # noqa: S608
            )
        )

    def measured(self) -> int:
        return int(self._rows("SELECT count(*) FROM sample WHERE candidate AND measured IS NOT NULL")[0][0])

    def building_fractions(self) -> list[float]:
        rows = self._rows("SELECT building_fraction FROM sample WHERE candidate AND building_fraction IS NOT NULL")
        return [float(value) for (value,) in rows]

    def mean_bytes(self) -> float | None:
        value = self._rows(f"SELECT avg(bytes) FROM sample WHERE {_in(State.STAGED)}")[0][0]  # noqa: S608
        return None if value is None else float(value)

    def run_state(self) -> RunState:
        with self._guard():
            return run_state(self._db)

    # ---- the database --------------------------------------------------------------------------

    def _standings(self) -> list[tuple[Standing, int]]:
        """How candidates stand, and how many stand so."""
        rows = self._rows(
            """SELECT labels, labels_reason, image, image_reason, count(*) FROM sample WHERE candidate
               GROUP BY 1, 2, 3, 4"""
        )
        return [(_standing(*row[:4]), row[4]) for row in rows]

    def _rows(self, query: str, *parameters: str) -> list[tuple[Any, ...]]:
        with self._guard():
            return self._db.execute(query, parameters).fetchall()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "I/O" in str(error):
                raise DiskError(f"{self.path}: {error}; free space and run the same command again") from None
            raise StoreError(f"{self.path}: {error}; check that the folder exists and can be written") from None
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path}: the ledger is damaged ({error}); move it away, the next run will make it anew"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def open_ledger(path: Path) -> Ledger:
    """Open or make the ledger at ``path``. Raises StoreError, DiskError."""
    return SqliteLedger(path)


def _let_readers_in(db: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite does not wait while others do so at the same moment, so this does."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


_Verdicts = tuple[str, str, str, str]  # a Standing as its four columns


def _in(*states: State) -> str:
    """The condition that a sample is in any of ``states``."""
    verdicts = (f"'{one.labels}/{one.image}'" for one in _STANDINGS if one.state in states)
    return f"labels || '/' || image IN ({', '.join(verdicts)})"


def _verdicts(db: sqlite3.Connection, names: Sequence[str]) -> dict[str, _Verdicts]:
    """Of these samples, as far as they are known."""
    rows = db.execute(
        """SELECT name, labels, labels_reason, image, image_reason
           FROM json_each(?) CROSS JOIN sample ON name = value""",  # in this order, which CROSS says
        (json.dumps(names),),
    )
    return {row[0]: row[1:] for row in rows}


def _happen(db: sqlite3.Connection, event: Event, names: Iterable[str]) -> None:
    """Let ``event`` happen to samples."""
    rest = list(names)
    for first in range(0, len(rest), _BATCH):
        before = _verdicts(db, rest[first : first + _BATCH])
        changes = ((name, then, _after(then, event)) for name, then in before.items())
        db.executemany(_STAND, ((*now, name) for name, then, now in changes if now != then))


@functools.lru_cache(maxsize=4096)
def _after(then: _Verdicts, event: Event, reason: str = "", image: Image = Image.UNKNOWN) -> _Verdicts:
    return _columns(after(_standing(*then), event, reason, image))


def _columns(now: Standing) -> _Verdicts:
    return now.labels.value, now.labels_reason, now.image.value, now.image_reason


def _public(text: str) -> str:
    """What a server or a file said, without secrets."""
    return redact(text) if text else ""


@functools.lru_cache(maxsize=4096)
def _fractions(told: str | None) -> tuple[float, ...]:
    """Class fractions as the database has them: most candidates have those of many others."""
    return tuple(json.loads(told)) if told else ()


@functools.lru_cache(maxsize=4096)
def _standing(labels: str, labels_reason: str, image: str, image_reason: str) -> Standing:
    return Standing(Labels(labels), labels_reason, Image(image), image_reason)
