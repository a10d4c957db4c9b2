"""Which format a vector file is in, told by its content, and what it may not hold.

GDAL asks all its drivers whether a file is theirs, and some make requests or read other files: a VRT, a GDAL pipeline
or a WFS description may be named ``x.geojson``. pyogrio takes no list of allowed drivers. So a file is looked at here
first, and is given to GDAL under a name that one driver alone takes.
"""

import json
import mmap
import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import LabelError
from tasks.recipe.document import shown

HEAD_BYTES = 64 << 10  # that are looked at to tell a format
PROMISED = "GeoJSON, GeoPackage, GeoParquet, FlatGeobuf or a Shapefile"
GEOJSON, LINES, GEOPACKAGE, SHAPEFILE, PARQUET = "GeoJSON", "GeoJSONSeq", "GPKG", "ESRI Shapefile", "Parquet"
_MAGIC = (  # first bytes, format, ending of the name
    (b"SQLite format 3\0", GEOPACKAGE, ".gpkg"),
    (b"\x00\x00\x27\x0a", SHAPEFILE, ".shp"),
    (b"fgb\x03fgb", "FlatGeobuf", ".fgb"),
)
_BESIDE = {  # files that a driver opens too
    GEOPACKAGE: ("{path}-wal", "{path}-shm", "{path}-journal"),
    SHAPEFILE: tuple("{stem}." + ending for ending in ("shx", "dbf", "prj", "cpg", "qix", "sbn", "sbx", "idm")),
}
_LINES_NAMES = (".geojsonl", ".geojsons", ".geojsonseq", ".ndjson", ".jsonl")
_LINES = re.compile(rb"\x1e|\}[ \t\r]*\n\s*\{")  # between features of one line each; no JSON text has either
# A key as JSON may spell it, in the quotes that GDAL takes.
_CRS_KEY = re.compile(rb"""["'](?:[cC]|\\u00[46]3)(?:[rR]|\\u00[57]2)(?:[sS]|\\u00[57]3)["']\s*""")
_CRS_NAME = re.compile(r"(?i)urn:(?:x-)?ogc:def:crs:\S+|https?://(?:www\.)?opengis\.net/def/crs/\S+|\w+:\w+")
_QUOTED = r"""(?:"(?:[^"]|"")*"|'(?:[^']|'')*'|`[^`]*`|\[[^\]]*\]|\w+)"""
_INDEX = re.compile(rf"(?i)CREATE VIRTUAL TABLE\s+{_QUOTED}\s+USING\s+(?:rtree|fts[345])\b")
_AS_TABLES = "write its layer as a plain table with ogr2ogr OUT.gpkg IN.gpkg LAYER"
_NAMED_CRS = "give the code of the data's CRS, as in urn:ogc:def:crs:EPSG::25832"


@dataclass(frozen=True)
class VectorFile:
    """A file in one of the promised formats."""

    path: Path
    format: str
    opened_as: str  # the name for GDAL that this format's driver alone takes


def identify(path: Path) -> VectorFile:
    """The format, of those promised, of the file at ``path``. Raises LabelError for others and for what is no file."""
    _check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise unreadable(path, error) from None
    if head.startswith(b"PAR1"):
        return VectorFile(path, PARQUET, str(path))
    for magic, kind, ending in _MAGIC:
        if head.startswith(magic):
            _check_name(path, kind, ending)
            for beside in _BESIDE.get(kind, ()):
                found = Path(beside.format(path=path, stem=path.with_suffix("")))
                if found.exists():
                    _check_regular(found)
            return VectorFile(path, kind, str(path))
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\x1e \t\r\n")
    if not start.startswith(b"{"):
        raise LabelError(f"{path}: {'is empty' if not head else 'is of another format'}; expected {PROMISED}")
    _check_crs(path)
    kind = LINES if path.suffix.lower() in _LINES_NAMES or _LINES.search(head) else GEOJSON
    return VectorFile(path, kind, f"{kind}:{path}")


def unreadable(path: Path, error: Exception) -> LabelError:
    """What a library's exception about the file becomes."""
    told = getattr(error, "strerror", None) or shown(" ".join(str(error).split())) or type(error).__name__
    told = "its text is not UTF-8" if isinstance(error, UnicodeDecodeError) else told
    return LabelError(f"{path}: cannot be read as a vector file, it may be damaged ({told}); replace it")


def geopackage_layers(path: Path) -> list[tuple[str, str]]:
    """Name and geometry type of every layer. Raises LabelError for what can make GDAL do more than read tables.

    Views may never end, and virtual tables may read other files.
    """
    try:
        with closing(_sqlite(path)) as database:
            entries = database.execute("SELECT type, name, rootpage, sql FROM sqlite_master").fetchall()
            tables = {str(name).lower() for kind, name, page, _ in entries if kind == "table" and page}
            for kind, name, page, sql in entries:
                if kind == "table" and not page and not _INDEX.match(str(sql)):
                    raise LabelError(f"{path}: {name} is a virtual table, which may read other files; {_AS_TABLES}")
                if kind == "view" and str(name).lower().startswith(("gpkg_", "rtree_")):
                    raise LabelError(f"{path}: {name} is a view in the place of a table; {_AS_TABLES}")
            if not {"gpkg_contents", "gpkg_geometry_columns"} <= tables:
                raise LabelError(f"{path}: is an SQLite database and no GeoPackage; expected {PROMISED}")
            layers = database.execute(
                "SELECT table_name, geometry_type_name FROM gpkg_contents JOIN gpkg_geometry_columns USING (table_name)"
                " ORDER BY gpkg_contents.rowid"
            ).fetchall()
            for name, _ in layers:
                if str(name).lower() not in tables:
                    raise LabelError(f"{path}: the layer {name} is a view or missing; {_AS_TABLES}")
            return [(str(name), str(kind)) for name, kind in layers]
    except (sqlite3.Error, ValueError) as error:
        raise unreadable(path, error) from None


def _sqlite(path: Path) -> sqlite3.Connection:
    """The database, for reading alone; where that takes writing beside it, as GDAL opens it then."""
    url = path.as_uri()
    database = sqlite3.connect(f"{url}?mode=ro", uri=True)
    try:
        database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        database.close()
        return sqlite3.connect(f"{url}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _check_regular(path: Path) -> None:
    """Raise LabelError unless ``path`` leads to a plain file; opening another kind may wait for ever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise LabelError(f"{path}: no such file; correct labels.path (it is relative to the recipe)") from None
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise LabelError(f"{shown(str(path))}: cannot be opened ({told}); correct labels.path") from None
    if not stat.S_ISREG(mode):
        what = "a folder; name the file in it, or use *" if stat.S_ISDIR(mode) else "no plain file; give one"
        raise LabelError(f"{path}: is {what} in labels.path")


def _check_name(path: Path, kind: str, ending: str) -> None:
    """Refuse names by which GDAL, or pyogrio on the way to it, would take a file for something else."""
    if path.suffix.lower() != ending:
        raise LabelError(f"{path}: looks like {kind} inside; rename it so that it ends in {ending}")
    if re.search("[!;]", str(path)):
        raise LabelError(f"{path}: a path with ! or ; cannot be opened; rename the file or its folder")


def _check_crs(path: Path) -> None:
    """Refuse GeoJSON whose CRS is a link, which GDAL would ask for, or unknown, which GDAL would take for degrees."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for key in _CRS_KEY.finditer(text):
            told = bytes(text[key.end() : key.end() + HEAD_BYTES]).decode(errors="replace")
            if told[:1] in ":/":
                for name in _crs_names(path, told.removeprefix(":").lstrip()):
                    _check_crs_name(path, name)


def _crs_names(path: Path, value: str) -> Iterator[str]:
    """The name in a ``crs`` member, given the text from its value on."""
    if not value.startswith(("{", "/")):
        return  # a property of that name
    try:
        crs, _ = json.JSONDecoder(object_pairs_hook=_lower_keys).raw_decode(value)
        kind, properties = str(crs.get("type", "")).lower(), crs.get("properties") or {}
        name = properties.get("name") if kind.startswith("name") else properties.get("code")
    except (ValueError, RecursionError, AttributeError):
        raise LabelError(f"{path}: its crs member makes no sense; {_NAMED_CRS}") from None
    if kind.startswith(("link", "url")):
        raise LabelError(f"{path}: its crs is a link to somewhere else, which is not followed; {_NAMED_CRS}")
    if kind.startswith("name"):
        yield str(name)
    elif kind.startswith("epsg"):
        yield f"EPSG:{name}"


def _lower_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {key.lower(): value for key, value in pairs}
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _check_crs_name(path: Path, name: str) -> None:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        if _CRS_NAME.fullmatch(name):
            CRS.from_user_input(name)
            return
    except CRSError:
        pass
    raise LabelError(f"{path}: its crs {name[:100]!r} is not known; {_NAMED_CRS}")
