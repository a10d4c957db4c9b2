"""The tables of the ledger's database, and how those of older programs become them.

Samples, their splits and their staged images are carried over. Masks are not, nor what they were measured for: labels
are measured again before any mask is read.
"""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import StoreError
from tasks.state.ledger import RunState
from tasks.state.transitions import from_state

SCHEMA_VERSION = 3

_TABLES = (
    """CREATE TABLE sample (
    name TEXT PRIMARY KEY,
    candidate INTEGER NOT NULL DEFAULT 1,    -- 0: no longer in what the recipe asks for
    labels TEXT NOT NULL DEFAULT '',         -- what they said: passed or rejected
    labels_reason TEXT NOT NULL DEFAULT '',
    image TEXT NOT NULL DEFAULT '',          -- what asking for it came to: staged, rejected, absent or failed
    image_reason TEXT NOT NULL DEFAULT '',
    measured TEXT,                           -- key of the labels and filter that the fractions are from
    class_fractions TEXT,                    -- JSON: of the sample's pixels, in the recipe's order of classes
    building_fraction REAL,                  -- null where there is no such class
    mask_sha256 TEXT NOT NULL DEFAULT '',
    nodata_fraction REAL,                    -- of the image's pixels
    cloud_fraction REAL,                     -- the same; null where nobody knows
    attempts INTEGER NOT NULL DEFAULT 0,     -- requests sent for the image, over all runs
    bytes INTEGER,                           -- length of the staged file
    etag TEXT,
    sha256 TEXT,                             -- of the staged file
    fetched_at INTEGER,                      -- Unix seconds
    acquired_at INTEGER,                     -- Unix seconds; when the image was taken
    origin TEXT NOT NULL DEFAULT '',         -- item or scene that the image is from
    note TEXT NOT NULL DEFAULT '',           -- how its values were made
    unit TEXT NOT NULL DEFAULT '',           -- what the split keeps together with it
    split TEXT                               -- never changes once given
) WITHOUT ROWID""",
    "CREATE TABLE mask (name TEXT PRIMARY KEY, bits BLOB NOT NULL)",  # zlib of what tasks.state.masks makes
    """CREATE TABLE run_state (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    identity TEXT NOT NULL,                  -- JSON
    imagery_key TEXT NOT NULL,
    fingerprints TEXT NOT NULL,              -- JSON: by scene
    labels_key TEXT NOT NULL,
    labels_since REAL NOT NULL
)""",
    f"PRAGMA user_version={SCHEMA_VERSION}",
)

# Of older ledgers, by schema: what makes room, a query of all samples as schema 2 had them, and what goes at the end.
_OLD = {
    1: (
        ("DROP TABLE mask",),
        """SELECT z || '/' || x || '/' || y AS name, candidate, state, reason, building_fraction, NULL AS shares,
                  mask_sha256, nodata_fraction, NULL AS cloud_fraction, attempts, bytes, etag, sha256, fetched_at,
                  NULL AS acquired_at, '' AS origin, '' AS note, '' AS unit, split FROM tile""",
        ("DROP TABLE tile", "DROP TABLE fact"),
    ),
    2: (
        ("DROP TABLE mask", "ALTER TABLE sample RENAME TO older"),
        "SELECT * FROM older",
        ("DROP TABLE older", "DROP TABLE fact"),
    ),
}
_FROM_OLD = """INSERT INTO sample (name, candidate, labels, labels_reason, image, image_reason, class_fractions,
                    building_fraction, mask_sha256, nodata_fraction, cloud_fraction, attempts, bytes, etag, sha256,
                    fetched_at, acquired_at, origin, note, unit, split)
    SELECT name, candidate, verdict('labels', state, reason, sha256), verdict('labels_reason', state, reason, sha256),
           verdict('image', state, reason, sha256), verdict('image_reason', state, reason, sha256), shares,
           building_fraction, coalesce(mask_sha256, ''), nodata_fraction, cloud_fraction, attempts, bytes, etag, sha256,
           fetched_at, acquired_at, origin, note, unit, split FROM """


def schema_of(db: sqlite3.Connection, path: Path) -> int:
    """The schema that a database has, 0 for an empty one. Raises StoreError when this program does not know it."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version not in (0, *_OLD, SCHEMA_VERSION):
        raise StoreError(
            f"{path}: a ledger of schema {version}, this program reads {SCHEMA_VERSION}; "
            "use the program that wrote it, or another work directory"
        )
    return version


def make_tables(db: sqlite3.Connection, version: int) -> None:
    """Make the tables, within a transaction, and fill them with what those of the older schema ``version`` hold."""
    room, samples, end = _OLD.get(version, ((), "", ()))
    for statement in (*room, *_TABLES):
        db.execute(statement)
    if samples:
        db.create_function("verdict", 4, _verdict, deterministic=True)
        db.execute(f"{_FROM_OLD} ({samples})")
        set_run_state(db, _old_run_state(dict(db.execute("SELECT key, value FROM fact"))))
    for statement in end:
        db.execute(statement)


def run_state(db: sqlite3.Connection) -> RunState:
    """The run state in a database; an empty one when there is none."""
    row = db.execute("SELECT identity, imagery_key, fingerprints, labels_key, labels_since FROM run_state").fetchone()
    if row is None:
        return RunState()
    identity, imagery_key, fingerprints, labels_key, labels_since = row
    return RunState(json.loads(identity), imagery_key, json.loads(fingerprints), labels_key, labels_since)


def set_run_state(db: sqlite3.Connection, state: RunState) -> None:
    """Put the run state into a database."""
    identity, fingerprints = json.dumps(dict(state.identity)), json.dumps(dict(state.fingerprints))
    db.execute(
        "INSERT OR REPLACE INTO run_state VALUES (1, ?, ?, ?, ?, ?)",
        (identity, state.imagery_key, fingerprints, state.labels_key, state.labels_since),
    )


def _verdict(column: str, state: str, reason: str, sha256: str | None) -> str:
    return str(getattr(from_state(state, reason, sha256 is not None), column))


def _old_run_state(facts: Mapping[str, str]) -> RunState:
    asked, _, since = facts.get("labels_asked", "").partition(" ")
    return RunState(
        identity=json.loads(facts.get("identity") or "{}"),
        imagery_key=facts.get("imagery_key", ""),
        fingerprints=json.loads(facts.get("scene_states") or "{}"),
        labels_key=asked,
        labels_since=float(since or 0),
    )
