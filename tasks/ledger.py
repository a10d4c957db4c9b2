"""The ledger: for every candidate tile what happened to it, and why.

One SQLite database (WAL) in the work directory. A state is written together with its reason, one
transaction per batch, so a run can be killed anywhere and continued from what the ledger says.

States: ``planned`` (a candidate), ``rejected`` (too little building, or too much nodata), ``selected``
(passes the density filter, imagery to be fetched), ``absent`` (the source has no such tile; not asked
again), ``failed`` (every attempt went wrong; asked again by the next run), ``kept`` (good imagery on disk).
"""

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
from tasks.grid import Tile

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tile (
    z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL,
    candidate INTEGER NOT NULL DEFAULT 1,   -- 0: no longer in the recipe's area
    state TEXT NOT NULL DEFAULT 'planned',
    reason TEXT NOT NULL DEFAULT '',
    measured TEXT,                          -- key of the footprints and filter that building_fraction is from
    building_fraction REAL,                 -- share of the tile's pixels, 0 to 1
    mask_sha256 TEXT,
    nodata_fraction REAL,                   -- share of the image's pixels, 0 to 1
    attempts INTEGER NOT NULL DEFAULT 0,    -- requests sent for the image, over all runs
    bytes INTEGER,                          -- length of the image file
    etag TEXT,
    sha256 TEXT,                            -- of the image file
    fetched_at INTEGER,                     -- Unix seconds
    split TEXT,                             -- never changes once given
    PRIMARY KEY (z, x, y)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tile_state ON tile (state);
CREATE TABLE IF NOT EXISTS mask (
    z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL,
    bits BLOB NOT NULL,                     -- zlib of one bit a pixel, rows first
    PRIMARY KEY (z, x, y)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class State(StrEnum):
    """What became of a candidate tile."""

    PLANNED = "planned"
    REJECTED = "rejected"
    SELECTED = "selected"
    ABSENT = "absent"
    FAILED = "failed"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Density:
    """What rasterizing a tile's footprints said. ``mask`` (one bit a pixel) is given for tiles that pass."""

    tile: Tile
    building_fraction: float
    mask_sha256: str
    mask: bytes | None

    @property
    def passes(self) -> bool:
        """Whether the tile has enough building to be selected."""
        return self.mask is not None


@dataclass(frozen=True, slots=True)
class Fetched:
    """What asking for a tile's image came to. ``state`` is kept, rejected, absent or failed."""

    tile: Tile
    state: State
    reason: str = ""
    attempts: int = 0
    bytes: int | None = None
    etag: str | None = None
    sha256: str | None = None
    nodata_fraction: float | None = None
    fetched_at: int | None = None  # Unix seconds


@dataclass(frozen=True, slots=True)
class Sample:
    """A tile with a good image: what a version is made of."""

    tile: Tile
    building_fraction: float
    mask_sha256: str
    nodata_fraction: float
    sha256: str
    fetched_at: int
    split: str | None


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
            if version not in (0, SCHEMA_VERSION):
                raise StoreError(
                    f"{path}: a ledger of schema {version}, this program reads {SCHEMA_VERSION}; "
                    "use the program that wrote it, or another work directory"
                )
            if version == 0:
                self._db.executescript(_SCHEMA)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

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

    def set_candidates(self, tiles: Iterable[Tile]) -> None:
        """Make exactly these tiles the candidates. What is known of other tiles stays, out of sight."""
        with self._transaction() as db:
            db.execute("UPDATE tile SET candidate = 0")
            db.executemany(
                "INSERT INTO tile (z, x, y) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET candidate = 1",
                tiles,
            )

    def record_densities(self, densities: Sequence[Density], measured: str) -> None:
        """Record rasterized densities and the masks of tiles that pass, as ``measured`` for a key.

        A tile whose image is already settled stays so while it passes.
        """
        with self._transaction() as db:
            db.executemany(
                """UPDATE tile SET building_fraction = ?1, mask_sha256 = ?2, measured = ?3,
                     state = CASE WHEN ?4 = 0 THEN 'rejected'
                                  WHEN state IN ('absent', 'failed', 'kept') THEN state
                                  WHEN sha256 IS NOT NULL AND reason = 'density' THEN 'kept'
                                  WHEN state = 'rejected' AND reason = 'nodata' THEN state
                                  ELSE 'selected' END,
                     reason = CASE WHEN ?4 = 0 THEN 'density'
                                   WHEN reason = 'density' THEN ''
                                   ELSE reason END
                   WHERE z = ?5 AND x = ?6 AND y = ?7""",
                ((d.building_fraction, d.mask_sha256, measured, int(d.passes), *d.tile) for d in densities),
            )
            db.executemany("DELETE FROM mask WHERE z = ? AND x = ? AND y = ?", (d.tile for d in densities))
            db.executemany(
                "INSERT INTO mask (z, x, y, bits) VALUES (?, ?, ?, ?)",
                ((*d.tile, zlib.compress(d.mask, 1)) for d in densities if d.mask is not None),
            )

    def record_fetched(self, outcomes: Iterable[Fetched]) -> None:
        """Record what became of requested images; attempts add up over runs."""
        with self._transaction() as db:
            db.executemany(
                """UPDATE tile SET state = ?, reason = ?, attempts = attempts + ?, bytes = ?, etag = ?, sha256 = ?,
                          nodata_fraction = ?, fetched_at = ? WHERE z = ? AND x = ? AND y = ?""",
                (
                    (o.state, o.reason, o.attempts, o.bytes, o.etag, o.sha256, o.nodata_fraction, o.fetched_at, *o.tile)
                    for o in outcomes
                ),
            )

    def forget_images(self, tiles: Iterable[Tile]) -> None:
        """Put tiles back to ``selected`` because their image file is gone or damaged."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE tile SET state = 'selected', reason = '', sha256 = NULL WHERE z = ? AND x = ? AND y = ?", tiles
            )

    def retry_failed(self) -> None:
        """Put failed tiles back to ``selected``, to be asked for again."""
        with self._transaction() as db:
            db.execute("UPDATE tile SET state = 'selected', reason = '' WHERE state = 'failed' AND candidate")

    def assign_splits(self, splits: Mapping[Tile, str]) -> None:
        """Record splits of tiles that have none yet."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE tile SET split = ? WHERE z = ? AND x = ? AND y = ? AND split IS NULL",
                ((split, *tile) for tile, split in splits.items()),
            )

    def tiles(self, *states: State) -> list[Tile]:
        """Candidates in any of ``states``, sorted."""
        marks = ",".join("?" * len(states))
        rows = self._rows(
            f"SELECT z, x, y FROM tile WHERE candidate AND state IN ({marks}) ORDER BY z, x, y",  # noqa: S608 - marks only
            states,
        )
        return [Tile(*row) for row in rows]

    def unmeasured(self, measured: str) -> set[Tile]:
        """Candidates whose density was not measured for this key."""
        return {
            Tile(*row)
            for row in self._rows("SELECT z, x, y FROM tile WHERE candidate AND measured IS NOT ?", (measured,))
        }

    def mask(self, tile: Tile) -> bytes:
        """The mask of a tile that passed, one bit a pixel. Raises StoreError when the ledger has none."""
        rows = self._rows("SELECT bits FROM mask WHERE z = ? AND x = ? AND y = ?", tile)
        if not rows:
            raise StoreError(
                f"{self.path}: no mask of tile {tile.name}; move the ledger away, the next run makes it anew"
            )
        return zlib.decompress(rows[0][0])

    def samples(self) -> list[Sample]:
        """Every kept candidate, sorted by tile."""
        rows = self._rows(
            """SELECT z, x, y, building_fraction, mask_sha256, nodata_fraction, sha256, fetched_at, split
               FROM tile WHERE candidate AND state = 'kept' ORDER BY z, x, y"""
        )
        return [Sample(Tile(*row[:3]), *row[3:]) for row in rows]

    def splits(self) -> dict[Tile, str]:
        """Every split ever given, also of tiles that are no candidates now."""
        rows = self._rows("SELECT z, x, y, split FROM tile WHERE split IS NOT NULL")
        return {Tile(*row[:3]): str(row[3]) for row in rows}

    def counts(self) -> dict[State, int]:
        """Number of candidates in each state."""
        found: dict[str, int] = dict(self._rows("SELECT state, count(*) FROM tile WHERE candidate GROUP BY state"))
        return {state: found.get(state.value, 0) for state in State}

    def reasons(self, state: State) -> dict[str, int]:
        """Number of candidates in ``state`` by reason, most frequent first."""
        rows = self._rows(
            "SELECT reason, count(*) FROM tile WHERE candidate AND state = ? GROUP BY reason ORDER BY 2 DESC, 1",
            (state,),
        )
        return {str(reason): int(count) for reason, count in rows}

    def densities(self) -> list[float]:
        """Building fraction of every measured candidate."""
        rows = self._rows("SELECT building_fraction FROM tile WHERE candidate AND building_fraction IS NOT NULL")
        return [float(row[0]) for row in rows]

    def mean_bytes(self) -> float | None:
        """Mean length of the kept images' files, None when there is none."""
        value = self._rows("SELECT avg(bytes) FROM tile WHERE state = 'kept'")[0][0]
        return None if value is None else float(value)

    def fact(self, key: str) -> str | None:
        """A fact about the run, such as the hash of the footprints that were rasterized."""
        rows = self._rows("SELECT value FROM fact WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def set_fact(self, key: str, value: str) -> None:
        """Record a fact."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO fact (key, value) VALUES (?, ?)", (key, value))
