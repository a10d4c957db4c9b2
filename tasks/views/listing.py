"""``samples.csv`` of an export: what a version knows of each sample besides its pixels."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from tasks.versions.read import SplitArrays
from tasks.versions.schema import NOT_KNOWN

FIRST = ("split", "name", "sample_id")
_EDGES = ("west", "south", "east", "north")  # degrees, EPSG:4326
_PLAIN = ("nodata_fraction", "cloud_fraction", "origin", "group")
_TIMES = ("acquired_at", "fetched_at")  # UTC


def header(classes: Sequence[str]) -> list[str]:
    """The columns' names; ``classes``: names, in the order of a version's class fractions."""
    return [*FIRST, *_EDGES, *_TIMES, *_PLAIN, *(f"fraction_{name}" for name in classes)]


def rows(split: str, arrays: SplitArrays, names: Sequence[str], classes: Sequence[str]) -> Iterator[list[str]]:
    """A row for each sample; ``names``: of its files. What nobody knows, or the version does not hold, is empty."""
    count = len(arrays)
    columns: list[Sequence[Any]] = [[split] * count, names, arrays.sample_id]
    columns += _several(arrays, "bounds", len(_EDGES))
    columns += [[_time(value) for value in _one(arrays, name)] for name in _TIMES]
    columns += [_one(arrays, name) for name in _PLAIN]
    columns += _several(arrays, "class_fraction", len(classes))
    for row in zip(*columns, strict=True):
        yield [_text(value) for value in row]


def _one(arrays: SplitArrays, name: str) -> Sequence[Any]:
    return arrays.array(name).tolist() if name in arrays else [""] * len(arrays)


def _several(arrays: SplitArrays, name: str, width: int) -> list[Sequence[Any]]:
    """The columns of an array (sample, width)."""
    return arrays.array(name).T.tolist() if name in arrays else [[""] * len(arrays)] * width


def _time(value: int | str) -> str:
    """An RFC 3339 time of Unix seconds."""
    if value in ("", NOT_KNOWN):
        return ""
    return datetime.fromtimestamp(int(value), UTC).isoformat().replace("+00:00", "Z")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return str(value)
