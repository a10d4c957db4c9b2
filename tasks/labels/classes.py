"""Class masks: what the values of a label source stand for in the recipe's classes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import LabelError, RecipeError
from tasks.labels.protocol import RawLabels
from tasks.recipe.model import Recipe
from tasks.recipe.parts import ClassEntry
from tasks.recipe.sources import ProvidedLabels

LUT_SIZE = 65536  # values from 0 to this one are looked up in a table, others are searched
LISTED = 20  # at most that many unknown values in a message
_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True, eq=False)
class _Table:
    """Source codes and the class values that they become."""

    codes: NDArray[np.int64]  # sorted
    values: NDArray[np.uint8]
    lut: NDArray[np.int16]  # by code; -1 where unknown
    bytes_lut: NDArray[np.uint8]  # the same for codes of one byte
    unknown_byte: int  # what stands there for unknown: a value that none has

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Self:
        ordered = sorted(pairs)
        lut = np.full(LUT_SIZE, -1, dtype=np.int16)
        for code, value in ordered:
            if 0 <= code < LUT_SIZE:
                lut[code] = value
        codes = np.array([code for code, _ in ordered], dtype=np.int64)
        unknown = min(set(range(256)) - {value for _, value in ordered})
        short = np.where(lut[:256] < 0, unknown, lut[:256]).astype(np.uint8)
        return cls(codes, np.array([value for _, value in ordered], dtype=np.uint8), lut, short, unknown)

    def look_up(self, codes: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The class value of every code (any where unknown), and where the code is known."""
        if codes.dtype == np.uint8:
            values = np.take(self.bytes_lut, codes)
            return values, values != self.unknown_byte
        if codes.size == 0 or (codes.min() >= 0 and codes.max() < LUT_SIZE):
            found = self.lut[codes]
            known = found >= 0
            return np.where(known, found, 0).astype(np.uint8), known
        if not len(self.codes):
            return np.zeros(codes.shape, dtype=np.uint8), np.zeros(codes.shape, dtype=np.bool_)
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        known = self.codes[at] == codes
        return np.where(known, self.values[at], 0).astype(np.uint8), known


@dataclass(frozen=True, eq=False)
class ClassMap:
    """From a source's values or colours to class values; read-only, so threads may share it."""

    integers: _Table
    colors: _Table | None  # None where two classes share a printed colour
    ignore_index: int | None
    min_consensus: int | None
    building: int | None  # the value of drawn footprints; None where labels are rasters

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The recipe's map. Raises RecipeError when a value or colour is claimed twice."""
        ignore = recipe.ignore_index or 0  # where it is None, nothing of the recipe is to be ignored
        integers = [(code, entry) for entry in recipe.classes for code in _codes(entry)]
        colors = [(_color_code(text), entry) for entry in recipe.classes for text in _colors(entry)]
        claimed = dict(_once(integers, _value_text))
        for code in recipe.ignore_values:
            if code in claimed:
                raise RecipeError(
                    f"ignore_values: {code} is claimed by class {claimed[code].name} too, which without source_values "
                    "stands for its own value; let one of the two have it"
                )
        outside = [code for code in (*claimed, *recipe.ignore_values) if not _INT64.min <= code <= _INT64.max]
        if outside:
            raise RecipeError(f"source_values, ignore_values: {outside[0]} fits no raster; expected 64-bit integers")
        ignored_colors = {_color_code(text) for text in recipe.ignore_colors}
        for code, entry in colors:
            if entry.source_colors is not None and code in ignored_colors:
                raise RecipeError(
                    f"ignore_colors: {_color_text(code)} is claimed by class {entry.name} too; let one of them have it"
                )
        # Printed colours may be alike as long as nobody reads them back from a label raster.
        read_back = bool(ignored_colors) or any(entry.source_colors is not None for entry in recipe.classes)
        if read_back or len({code for code, _ in colors}) == len(colors):
            owned = [(code, entry.value) for code, entry in _once(colors, _color_text) if code not in ignored_colors]
            color_table = _Table.of([*owned, *((code, ignore) for code in ignored_colors)])
        else:
            color_table = None
        values = [(code, entry.value) for code, entry in integers]
        return cls(
            _Table.of([*values, *((code, ignore) for code in set(recipe.ignore_values))]),
            color_table,
            recipe.ignore_index,
            recipe.labels.min_consensus if isinstance(recipe.labels, ProvidedLabels) else None,
            recipe.building_value if recipe.draws_footprints else None,
        )

    def apply(self, raw: RawLabels, window: str) -> NDArray[np.uint8]:
        """The class mask (y, x) of the labels of ``window`` (its name, for messages).

        Drawn footprints become the building class, and 0 elsewhere. Pixels without a label, below the minimum
        consensus, or of an ignored value get the ignore index. Raises LabelError when another pixel has a value or
        colour that the recipe does not know, with all of these; RecipeError where there is no ignore index to use.
        """
        ignored = raw.missing
        if self.building is None:
            mask, ignored = self._translated(raw, window)
        else:
            mask = raw.values.view(np.uint8) * np.uint8(self.building)  # the values are bool
        if ignored is not None and ignored.any():
            if self.ignore_index is None:
                raise RecipeError(f"ignore_index: is null, but {window} has pixels without a label; give it a value")
            mask[ignored] = self.ignore_index
        return mask

    def _translated(self, raw: RawLabels, window: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The class value of every pixel, and where it is to be ignored."""
        values = np.asarray(raw.values)
        ignored = self._ignored(raw, values.shape[-2:], window)
        if values.ndim == 3 and len(values) == 3:
            codes = values[0].astype(np.int64) << 16 | values[1].astype(np.int64) << 8 | values[2].astype(np.int64)
            if self.colors is None:
                raise RecipeError(
                    f"{window}: its labels are RGB colours, and two of the recipe's classes have the same color; give "
                    "them source_colors"
                )
            table, text, remedy = (
                self.colors,
                _color_text,
                "the source_colors of a class, or to ignore_colors where they mean no label",
            )
        elif values.ndim == 2:
            codes, table, text = _whole(values, ignored, window), self.integers, _value_text
            remedy = "the source_values of a class, or to ignore_values where they mean no label"
        else:
            raise LabelError(
                f"{window}: labels of shape {values.shape}; expected one band of class values, or three of RGB colours"
            )
        mask, known = table.look_up(codes)
        unknown = ~(known | ignored)
        if unknown.any():
            found, counts = np.unique(codes[unknown], return_counts=True)
            listed = [f"{text(code)} ({n})" for code, n in zip(found[:LISTED].tolist(), counts, strict=False)]
            more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
            raise LabelError(
                f"{window}: labels that the recipe does not know, with their counts of pixels: "
                f"{', '.join(listed)}{more}; add them to {remedy}"
            )
        return mask, ignored

    def _ignored(self, raw: RawLabels, shape: tuple[int, ...], window: str) -> NDArray[np.bool_]:
        ignored = np.zeros(shape, dtype=np.bool_) if raw.missing is None else raw.missing.copy()
        if self.min_consensus is not None:
            if raw.consensus is None:
                raise LabelError(
                    f"{window}: labels.min_consensus is {self.min_consensus}, but the labels have no consensus band; "
                    "take min_consensus out of the recipe"
                )
            ignored |= raw.consensus < self.min_consensus
        return ignored


def _codes(entry: ClassEntry) -> list[int]:
    return [entry.value] if entry.source_values is None else list(dict.fromkeys(entry.source_values))


def _colors(entry: ClassEntry) -> list[str]:
    colors = [entry.color] if entry.source_colors is None else entry.source_colors
    return list(dict.fromkeys(text.lower() for text in colors))


def _color_code(text: str) -> int:
    return int(text.removeprefix("#"), 16)


def _value_text(code: int) -> str:
    return str(code)


def _color_text(code: int) -> str:
    return f"#{code:06x}"


def _once(pairs: list[tuple[int, ClassEntry]], text: Callable[[int], str]) -> list[tuple[int, ClassEntry]]:
    """``pairs``. Raises RecipeError when two classes claim one code."""
    owners: dict[int, ClassEntry] = {}
    for code, entry in pairs:
        other = owners.setdefault(code, entry)
        if other is not entry:
            raise RecipeError(
                f"classes: {text(code)} is claimed by both {other.name} and {entry.name}; let one of the two have it "
                "(a class without source_values or source_colors stands for its own value and color)"
            )
    return pairs


def _whole(values: NDArray[Any], ignored: NDArray[np.bool_], window: str) -> NDArray[Any]:
    """``values`` as integers that can be looked up. Raises LabelError when they are none."""
    if values.dtype.kind == "f":
        values = np.where(ignored, 0, values)  # NaN is what many a float raster has where it has no label
        if not np.all(np.isfinite(values)) or np.any(values != np.rint(values)):
            raise LabelError(f"{window}: labels are {values.dtype} and not whole numbers; expected class values")
        values = np.clip(values, -(2.0**62), 2.0**62)
    elif values.dtype.kind not in "iub":
        raise LabelError(f"{window}: labels of type {values.dtype}; expected integer class values")
    elif values.dtype == np.uint64:
        values = np.minimum(values, np.uint64(_INT64.max))
    return values if values.dtype.kind in "iu" and values.dtype.itemsize < 8 else values.astype(np.int64)
