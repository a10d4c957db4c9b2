"""Ledgers as older programs made them, with a sample of every kind."""

import sqlite3
import zlib
from pathlib import Path

_SCHEMA_1 = """
CREATE TABLE tile (z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL, candidate INTEGER NOT NULL
    DEFAULT 1, state TEXT NOT NULL DEFAULT 'planned', reason TEXT NOT NULL DEFAULT '', measured TEXT,
    building_fraction REAL, mask_sha256 TEXT, nodata_fraction REAL, attempts INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER, etag TEXT, sha256 TEXT, fetched_at INTEGER, split TEXT, PRIMARY KEY (z, x, y))
    WITHOUT ROWID;
CREATE INDEX tile_state ON tile (state);
CREATE TABLE mask (z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL, bits BLOB NOT NULL,
    PRIMARY KEY (z, x, y)) WITHOUT ROWID;
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version=1;
"""
_SCHEMA_2 = """
CREATE TABLE sample (name TEXT PRIMARY KEY, candidate INTEGER NOT NULL DEFAULT 1, state TEXT NOT NULL
    DEFAULT 'planned', reason TEXT NOT NULL DEFAULT '', measured TEXT, building_fraction REAL, shares TEXT,
    mask_sha256 TEXT, nodata_fraction REAL, cloud_fraction REAL, attempts INTEGER NOT NULL DEFAULT 0, bytes INTEGER,
    etag TEXT, sha256 TEXT, fetched_at INTEGER, acquired_at INTEGER, origin TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '', unit TEXT NOT NULL DEFAULT '', split TEXT) WITHOUT ROWID;
CREATE INDEX sample_state ON sample (state);
CREATE TABLE mask (name TEXT PRIMARY KEY, bits BLOB NOT NULL);
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version=2;
"""
# Name, candidate, state, reason, and whether an image is on disk.
SAMPLES = [
    ("18/5/1", 1, "planned", "", False),
    ("18/5/2", 1, "rejected", "density", False),
    ("18/5/3", 1, "rejected", "density", True),
    ("18/5/4", 1, "rejected", "nodata", False),
    ("18/5/5", 1, "selected", "", False),
    ("18/5/6", 1, "absent", "Tile not found", False),
    ("18/5/7", 1, "kept", "", True),
    ("18/5/8", 0, "kept", "", True),
    ("18/5/9", 1, "failed", "HTTP 503", False),
]
FACTS = {
    "identity": '{"grid.zoom": 18}',
    "imagery_key": "imagery of then",
    "scene_states": '{"a": "as it was"}',
    "labels_asked": "labels-of-then 1700000000",
}


def write_ledger(path: Path, schema: int, facts: dict[str, str] | None = None) -> None:
    """A ledger of schema 1 or 2."""
    with sqlite3.connect(path) as db:
        db.executescript(_SCHEMA_1 if schema == 1 else _SCHEMA_2)
        for name, candidate, state, reason, has_image in SAMPLES:
            measured = None if state == "planned" else "key of then"
            image = {"bytes": 9, "etag": "e", "sha256": "s", "fetched_at": 11, "nodata_fraction": 0.25, "split": "test"}
            row = {
                **dict(zip("zxy", map(int, name.split("/")), strict=True)),
                **{"name": name, "candidate": candidate, "state": state, "reason": reason, "measured": measured},
                **({"building_fraction": 0.5, "mask_sha256": "m"} if measured else {}),
                **(image if has_image else {}),
                **({"shares": "[0.5, 0.5]"} if measured else {}),
                **({"cloud_fraction": 0.1, "acquired_at": 7, "origin": "item", "note": "n", "unit": "u"}),
                "attempts": 2,
            }
            known = [column for _, column, *_ in db.execute("SELECT * FROM pragma_table_info(?)", (_TABLE[schema],))]
            columns = [column for column in row if column in known]
            db.execute(
                f"INSERT INTO {_TABLE[schema]} ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})",
                [row[column] for column in columns],
            )
            key = (name,) if schema == 2 else tuple(map(int, name.split("/")))
            db.execute(f"INSERT INTO mask VALUES ({'?,' * len(key)}?)", (*key, zlib.compress(b"bits of then" * 50)))
        db.executemany("INSERT INTO fact VALUES (?, ?)", (FACTS if facts is None else facts).items())
    db.close()


_TABLE = {1: "tile", 2: "sample"}
