"""Footprints from vector files: GeoJSON, GeoPackage, GeoParquet, FlatGeobuf and Shapefiles, in any CRS they declare."""

import bisect
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from tasks.errors import LabelError
from tasks.geo.tiles import Tile
from tasks.labels.cover import TileCover
from tasks.labels.footprints import Footprints, clean
from tasks.labels.formats import identify
from tasks.labels.placed import check_far, extent, in_degrees
from tasks.labels.rows import Box, read_rows, reading
from tasks.labels.tags import TAG_KEYS
from tasks.raster.found import matching as files_of
from tasks.recipe.document import shown

NO_ID = (1 << 63) - 1  # what a larger number becomes, here as in GDAL; OSM's own stay far below
_COLUMNS = ("osm_id", "osm_type", "@id", "id", *TAG_KEYS)
_TYPED_ID = re.compile(r"(way|relation|w|r)/?(\d*[1-9]\d*)")
_TYPES = {"w": "way", "r": "relation", "way": "way", "relation": "relation"}


@dataclass(frozen=True)
class VectorSource:
    """The polygons of one layer of a file."""

    path: Path
    layer: str | None = None

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:  # noqa: ARG002
        """Polygons on ``tiles``, their OSM ids and tags taken from columns of that name. Raises LabelError."""
        source = f"vector {self.path.name}" + (f" ({self.layer})" if self.layer else "")
        found = _fetch([self.path], self.layer, tiles, source)
        if not found.report.timestamp:
            raise LabelError(f"{self.path}: holds no feature; labels need a file with building polygons")
        return found


@dataclass(frozen=True)
class VectorFiles:
    """The polygons of many files, as where every scene has its own."""

    folder: Path
    pattern: str  # of their paths from there, with {scene} or *
    layer: str | None = None

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:  # noqa: ARG002
        """As :meth:`VectorSource.fetch`, of all files; a polygon with an OSM id that stands in several comes once.

        A file may have no feature at all, as a scene without buildings has.
        """
        files = matching(self.folder, self.pattern)
        if not files:
            pattern = shown(str(self.folder / self.pattern))
            raise LabelError(f"{pattern}: matches no file; correct labels.path (it is relative to the recipe)")
        return _fetch(files, self.layer, tiles, f"vector {Path(self.pattern).name} ({len(files)} files)")


def is_pattern(path: str) -> bool:
    """Whether a recipe's path stands for the files of many scenes."""
    return "*" in path or "{scene}" in path


def matching(folder: Path, path: str) -> list[Path]:
    """The file of a recipe's path from ``folder``, there or not, or those that match when it is a pattern, sorted.

    A Mac's ``._name`` matches no pattern. Raises LabelError for what is no path.
    """
    try:
        if is_pattern(path):
            return sorted(files_of((folder / path).absolute()))
        found = (folder / path).resolve()
        found.exists()  # or says why nobody can tell
        return [found]
    except (OSError, RuntimeError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise LabelError(f"{shown(path)}: is no path that can be opened ({told}); correct labels.path") from None


def _fetch(files: Sequence[Path], layer: str | None, tiles: Sequence[Tile], source: str) -> Footprints:
    """The polygons of files on ``tiles``; the report's timestamp is "" when no file has any feature."""
    cover, newest, held = TileCover(tiles), "", 0
    shapes: list[Any] = []
    ids: list[tuple[str, int]] = []
    tags: list[dict[str, str]] = []
    parts: list[tuple[int, Callable[[int], str]]] = []  # of each file: the first of its shapes, and their names
    boxes: list[Box | None] = []
    for path in files:
        file = identify(path)
        rows = read_rows(file, layer, _COLUMNS, cover)
        if rows is None:
            continue
        with reading(path):
            placed = in_degrees(file, rows)
            near = np.flatnonzero(cover.touches(shapely.bounds(placed).reshape(-1, 4))).tolist()
            if not near:
                check_far(file, rows)
            boxes.append(extent(rows, placed))
            newest = max(newest, f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}")
        columns = {column: [values[row] for row in near] for column, values in rows.columns.items()}
        name = functools.partial(_name, path, rows.name, near)
        parts.append((len(shapes), name))
        shapes.extend(placed[near])
        tags += _tags(columns, len(near))
        ids += _osm_ids(columns, len(near), name)
        held += rows.held
    types, numbers = [kind for kind, _ in ids], [number for _, number in ids]
    return clean(
        shapes,
        osm_type=types,
        osm_id=numbers,
        tags=tags,
        source=source,
        timestamp=newest,
        name=functools.partial(_name_in, parts),
        held=held,
        bounds=_union(boxes),
    )


def _name(path: Path, name: Callable[[int], str], near: Sequence[int], row: int) -> str:
    return f"{path}: {name(near[row])}"


def _name_in(parts: Sequence[tuple[int, Callable[[int], str]]], row: int) -> str:
    first, name = parts[bisect.bisect_right(parts, row, key=lambda part: part[0]) - 1]
    return name(row - first)


def _union(boxes: Sequence[Box | None]) -> Box | None:
    """The box round all; None where one is not known, or there is none."""
    known = np.array([box for box in boxes if box is not None]).reshape(-1, 4)
    if not len(known) or len(known) < len(boxes):
        return None
    (west, south), (east, north) = known[:, :2].min(axis=0), known[:, 2:].max(axis=0)
    return float(west), float(south), float(east), float(north)


def _osm_ids(columns: Mapping[str, list[Any]], count: int, name: Callable[[int], str]) -> Iterator[tuple[str, int]]:
    """Type and id of every row, ("", 0) where there is none. Raises LabelError for a number that no id can be.

    A bare number counts as an OSM id in ``osm_id`` and ``@id``, not in ``id``, where most files number their rows.
    """
    told = [(columns[column], column) for column in ("osm_id", "@id", "id") if column in columns]
    types = columns.get("osm_type", [""] * count)
    for row in range(count):
        kind, number = "", 0
        for values, column in told:
            if not number:
                kind, number = _parse_id(values[row], bare=column != "id")
                if number == NO_ID:
                    raise LabelError(
                        f"{name(row)}: its {column} {shown(str(values[row]))} is no OSM id, which is below 2^63; "
                        "correct or rename the column"
                    )
        yield kind or (_TYPES.get(str(types[row]).lower(), "") if number else ""), number


def _parse_id(value: Any, *, bare: bool) -> tuple[str, int]:
    """Type and id in a value; NO_ID stands for any number that is larger."""
    if isinstance(value, int | float):
        whole = bare and value == value and value > 0 and float(value).is_integer()
        return ("", min(int(value), NO_ID)) if whole else ("", 0)
    text = str(value).strip()
    if typed := _TYPED_ID.fullmatch(text):
        return _TYPES[typed[1]], _number(typed[2])
    return ("", _number(text)) if bare and text.isascii() and text.isdigit() else ("", 0)


def _number(digits: str) -> int:
    return min(int(digits), NO_ID) if len(digits.lstrip("0")) < 20 else NO_ID


def _tags(columns: Mapping[str, list[Any]], count: int) -> list[dict[str, str]]:
    """The tag columns as one mapping a row; what is no text (missing values) is no tag."""
    told = [(key, columns[key]) for key in TAG_KEYS if key in columns]
    return [{key: values[row] for key, values in told if isinstance(values[row], str)} for row in range(count)]
