"""The ledger: for every candidate what happened to it, and why. A candidate is a tile or a window, known by its name.

One SQLite database (WAL) in the work directory. A state is written together with its reason, one
transaction per batch, so a run can be killed anywhere and continued from what the ledger says.

States: ``planned`` (a candidate), ``rejected`` (by its labels, or too much nodata or cloud), ``selected``
(passes the label filter, imagery to be fetched), ``absent`` (the source has no such image; not asked
again), ``failed`` (every attempt went wrong; asked again by the next run), ``kept`` (good imagery on disk).
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.errors import DiskError, StoreError

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sample (
    name TEXT PRIMARY KEY,                  -- z/x/y of a tile, or a window's name
    candidate INTEGER NOT NULL DEFAULT 1,   -- 0: no longer in the recipe's area
    state TEXT NOT NULL DEFAULT 'planned',
    reason TEXT NOT NULL DEFAULT '',
    measured TEXT,                          -- key of the labels and filter that the shares are from
    building_fraction REAL,                 -- share of the sample's pixels, 0 to 1; null without such a class
    shares TEXT,                            -- JSON: share of every class, in the recipe's order
    mask_sha256 TEXT,
    nodata_fraction REAL,                   -- share of the image's pixels, 0 to 1
    cloud_fraction REAL,                    -- the same; null where nobody knows
    attempts INTEGER NOT NULL DEFAULT 0,    -- requests sent for the image, over all runs
    bytes INTEGER,                          -- length of the image file
    etag TEXT,
    sha256 TEXT,                            -- of the image file
    fetched_at INTEGER,                     -- Unix seconds
    acquired_at INTEGER,                    -- Unix seconds; when the image was taken
    origin TEXT NOT NULL DEFAULT '',        -- item or scene that the image is from
    note TEXT NOT NULL DEFAULT '',          -- how its values were made
    unit TEXT NOT NULL DEFAULT '',          -- what the split keeps together with it
    split TEXT                              -- never changes once given
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sample_state ON sample (state);
CREATE TABLE IF NOT EXISTS mask (
    name TEXT PRIMARY KEY,
    bits BLOB NOT NULL                      -- zlib of one bit a pixel (tiles) or one byte a pixel (windows), rows first
);
CREATE TABLE IF NOT EXISTS fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_FROM_SCHEMA_1 = """
INSERT INTO sample (name, candidate, state, reason, measured, building_fraction, mask_sha256, nodata_fraction, attempts,
                    bytes, etag, sha256, fetched_at, split)
    SELECT z || '/' || x || '/' || y, candidate, state, reason, measured, building_fraction, mask_sha256,
           nodata_fraction, attempts, bytes, etag, sha256, fetched_at, split FROM tile;
INSERT INTO mask (name, bits) SELECT z || '/' || x || '/' || y, bits FROM tile_mask;
DROP TABLE tile;
DROP TABLE tile_mask;
"""


UNREAD = "label cannot be read"
LABEL_REASONS = ("density", "ignored labels", "no label", UNREAD)  # of rejections that labels decide, before imagery
_BY_LABELS = f"reason IN ({', '.join(repr(reason) for reason in LABEL_REASONS)})"
_ANSWERED = f"(state IN ('kept', 'absent', 'failed') OR (state = 'rejected' AND NOT {_BY_LABELS}))"


class State(StrEnum):
    """What became of a candidate."""

    PLANNED = "planned"
    REJECTED = "rejected"
    SELECTED = "selected"
    ABSENT = "absent"
    FAILED = "failed"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Density:
    """What the labels of a sample said. ``mask`` (packed as the build packs it) is given for samples that pass."""

    name: str
    building_fraction: float | None  # None where the dataset has no class for buildings
    mask_sha256: str
    mask: bytes | None
    shares: tuple[float, ...] = ()  # of every class, in the recipe's order
    reason: str = "density"  # of the rejection

    @property
    def passes(self) -> bool:
        """Whether the sample is selected."""
        return self.mask is not None


@dataclass(frozen=True, slots=True)
class Fetched:
    """What asking for a sample's image came to. ``state`` is kept, rejected, absent or failed."""

    name: str
    state: State
    reason: str = ""
    attempts: int = 0
    bytes: int | None = None
    etag: str | None = None
    sha256: str | None = None
    nodata_fraction: float | None = None
    fetched_at: int | None = None  # Unix seconds
    cloud_fraction: float | None = None
    acquired_at: int | None = None  # Unix seconds
    origin: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample with a good image: what a version is made of."""

    name: str
    building_fraction: float | None
    mask_sha256: str
    nodata_fraction: float
    sha256: str
    fetched_at: int
    split: str | None
    shares: tuple[float, ...] = ()
    cloud_fraction: float | None = None
    acquired_at: int | None = None
    origin: str = ""
    note: str = ""


class Ledger:
    """An open ledger. Use it as a context manager; one per thread."""

    def __init__(self, path: Path) -> None:
        """Open or make the ledger at ``path``. Raises StoreError when it is damaged or of another schema."""
        self.path = path
        with self._guard():
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, 1, SCHEMA_VERSION):
                raise StoreError(
                    f"{path}: a ledger of schema {version}, this program reads {SCHEMA_VERSION}; "
                    "use the program that wrote it, or another work directory"
                )
            if version < SCHEMA_VERSION:
                renamed = "ALTER TABLE mask RENAME TO tile_mask;" if version == 1 else ""
                moved = _FROM_SCHEMA_1 if version == 1 else ""
                self._db.executescript(
                    f"BEGIN IMMEDIATE;{renamed}{_SCHEMA}{moved}PRAGMA user_version={SCHEMA_VERSION};COMMIT"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

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

    def _rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._guard():
            return self._db.execute(query, parameters).fetchall()

    def set_candidates(self, names: Iterable[str]) -> None:
        """Make exactly these the candidates. What is known of others stays, out of sight."""
        with self._transaction() as db:
            db.execute("UPDATE sample SET candidate = 0")
            db.executemany(
                "INSERT INTO sample (name) VALUES (?) ON CONFLICT DO UPDATE SET candidate = 1",
                ((name,) for name in names),
            )

    def record_densities(self, densities: Sequence[Density], measured: str) -> None:
        """Record what the labels said, and the masks of samples that pass, as ``measured`` for a key.

        A sample whose image is already settled stays so while it passes.
        """
        with self._transaction() as db:
            db.executemany(
                f"""UPDATE sample SET building_fraction = ?1, mask_sha256 = ?2, measured = ?3, shares = ?4,
                     state = CASE WHEN ?5 = 0 THEN 'rejected'
                                  WHEN state IN ('absent', 'failed', 'kept') THEN state
                                  WHEN sha256 IS NOT NULL AND {_BY_LABELS} THEN 'kept'
                                  WHEN state = 'rejected' AND NOT {_BY_LABELS} THEN state
                                  ELSE 'selected' END,
                     reason = CASE WHEN ?5 = 0 THEN ?6
                                   WHEN {_BY_LABELS} THEN ''
                                   ELSE reason END
                   WHERE name = ?7""",  # noqa: S608 - _BY_LABELS is ours
                (
                    (
                        d.building_fraction,
                        d.mask_sha256,
                        measured,
                        json.dumps(d.shares) if d.shares else None,
                        int(d.passes),
                        d.reason,
                        d.name,
                    )
                    for d in densities
                ),
            )
            db.executemany("DELETE FROM mask WHERE name = ?", ((d.name,) for d in densities))
            db.executemany(
                "INSERT INTO mask (name, bits) VALUES (?, ?)",
                ((d.name, zlib.compress(d.mask, 1)) for d in densities if d.mask is not None),
            )

    def record_fetched(self, outcomes: Iterable[Fetched]) -> None:
        """Record what became of requested images; attempts add up over runs."""
        with self._transaction() as db:
            db.executemany(
                """UPDATE sample SET state = ?, reason = ?, attempts = attempts + ?, bytes = ?, etag = ?, sha256 = ?,
                          nodata_fraction = ?, fetched_at = ?, cloud_fraction = ?, acquired_at = ?, origin = ?, note = ?
                   WHERE name = ?""",
                (
                    (
                        *(o.state, o.reason, o.attempts, o.bytes, o.etag, o.sha256, o.nodata_fraction, o.fetched_at),
                        *(o.cloud_fraction, o.acquired_at, o.origin, o.note, o.name),
                    )
                    for o in outcomes
                ),
            )

    def forget_images(self, names: Iterable[str]) -> None:
        """Put samples back to ``selected`` because their image file is gone or damaged."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE sample SET state = 'selected', reason = '', sha256 = NULL WHERE name = ?",
                ((name,) for name in names),
            )

    def forget_answers(self, names: Iterable[str]) -> None:
        """Put samples that have had an answer back to ``selected``: what is asked for has changed."""
        with self._transaction() as db:
            db.executemany(
                f"""UPDATE sample SET sha256 = NULL,
                     state = CASE WHEN {_ANSWERED} THEN 'selected' ELSE state END,
                     reason = CASE WHEN {_ANSWERED} THEN '' ELSE reason END
                   WHERE name = ?""",  # noqa: S608 - _ANSWERED is ours
                ((name,) for name in names),
            )

    def known(self) -> list[str]:
        """Every sample there ever was, sorted; candidates or not."""
        return [str(row[0]) for row in self._rows("SELECT name FROM sample ORDER BY name")]

    def retry_failed(self) -> None:
        """Put failed samples back to ``selected``, to be asked for again."""
        with self._transaction() as db:
            db.execute("UPDATE sample SET state = 'selected', reason = '' WHERE state = 'failed' AND candidate")

    def assign_splits(self, splits: Mapping[str, str], units: Mapping[str, str]) -> None:
        """Record splits, and what they keep together, of samples that have none yet."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE sample SET split = ?, unit = ? WHERE name = ? AND split IS NULL",
                ((split, units.get(name, ""), name) for name, split in splits.items()),
            )

    def names(self, *states: State) -> list[str]:
        """Candidates in any of ``states``, sorted."""
        marks = ",".join("?" * len(states))
        rows = self._rows(
            f"SELECT name FROM sample WHERE candidate AND state IN ({marks}) ORDER BY name",  # noqa: S608 - marks only
            states,
        )
        return [str(row[0]) for row in rows]

    def unmeasured(self, measured: str) -> set[str]:
        """Candidates whose labels were not measured for this key."""
        rows = self._rows("SELECT name FROM sample WHERE candidate AND measured IS NOT ?", (measured,))
        return {str(row[0]) for row in rows}

    def mask(self, name: str) -> bytes:
        """The packed mask of a sample that passed. Raises StoreError when the ledger has none."""
        rows = self._rows("SELECT bits FROM mask WHERE name = ?", (name,))
        if not rows:
            raise StoreError(f"{self.path}: no mask of {name}; move the ledger away, the next run makes it anew")
        return zlib.decompress(rows[0][0])

    def samples(self) -> list[Sample]:
        """Every kept candidate, sorted by name."""
        rows = self._rows(
            """SELECT name, building_fraction, mask_sha256, nodata_fraction, sha256, fetched_at, split, shares,
                      cloud_fraction, acquired_at, origin, note
               FROM sample WHERE candidate AND state = 'kept' ORDER BY name"""
        )
        return [
            Sample(
                row[0],
                row[1],
                row[2],
                row[3],
                row[4],
                row[5],
                row[6],
                _shares(row[7]),
                row[8],
                row[9],
                row[10],
                row[11],
            )
            for row in rows
        ]

    def splits(self) -> dict[str, str]:
        """Every split ever given, also of samples that are no candidates now."""
        return dict(self._rows("SELECT name, split FROM sample WHERE split IS NOT NULL"))

    def units(self) -> dict[str, str]:
        """The split of every unit that was ever given one. Tiles have no units here: their names say it."""
        return dict(
            self._rows("SELECT unit, min(split) FROM sample WHERE split IS NOT NULL AND unit != '' GROUP BY unit")
        )

    def counts(self) -> dict[State, int]:
        """Number of candidates in each state."""
        found: dict[str, int] = dict(self._rows("SELECT state, count(*) FROM sample WHERE candidate GROUP BY state"))
        return {state: found.get(state.value, 0) for state in State}

    def reasons(self, state: State) -> dict[str, int]:
        """Number of candidates in ``state`` by reason, most frequent first."""
        rows = self._rows(
            "SELECT reason, count(*) FROM sample WHERE candidate AND state = ? GROUP BY reason ORDER BY 2 DESC, 1",
            (state,),
        )
        return {str(reason): int(count) for reason, count in rows}

    def notes(self) -> dict[str, int]:
        """Number of kept candidates by how their values were made."""
        rows = self._rows(
            "SELECT note, count(*) FROM sample WHERE candidate AND state = 'kept' AND note != '' GROUP BY 1"
        )
        return {str(note): int(count) for note, count in rows}

    def measured(self) -> int:
        """Number of candidates whose labels were measured."""
        return int(self._rows("SELECT count(*) FROM sample WHERE candidate AND measured IS NOT NULL")[0][0])

    def densities(self) -> list[float]:
        """Building fraction of every measured candidate."""
        rows = self._rows("SELECT building_fraction FROM sample WHERE candidate AND building_fraction IS NOT NULL")
        return [float(row[0]) for row in rows]

    def mean_bytes(self) -> float | None:
        """Mean length of the kept images' files, None when there is none."""
        value = self._rows("SELECT avg(bytes) FROM sample WHERE state = 'kept'")[0][0]
        return None if value is None else float(value)

    def fact(self, key: str) -> str | None:
        """A fact about the run, such as the hash of the footprints that were rasterized."""
        rows = self._rows("SELECT value FROM fact WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set_fact(self, key: str, value: str) -> None:
        """Record a fact."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO fact (key, value) VALUES (?, ?)", (key, value))


def _shares(text: str | None) -> tuple[float, ...]:
    return tuple(json.loads(text)) if text else ()
