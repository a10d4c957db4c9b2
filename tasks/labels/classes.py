"""Class masks: what the values of a label source stand for in the recipe's classes."""

from collections import Counter
from collections.abc import Collection, Iterable
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
COUNTED = 10_000  # at most that many different ones are kept; a photograph taken for labels has millions
_INT64 = np.iinfo(np.int64)
Unknown = Counter[tuple[str, int]]  # pixels by "values" or "colors" and the code that no class has
_Claim = tuple[int, ClassEntry, bool]  # a code, its class, and whether that class reads it from label rasters


@dataclass(frozen=True, eq=False)
class _Table:
    """Source codes and the class values that they become."""

    kind: str  # "values", or "colors" as 0xrrggbb
    codes: NDArray[np.int64]  # sorted; the last is the largest number there is
    values: NDArray[np.uint8]  # of each code
    lut: NDArray[np.uint8]  # the same by code
    unknown: int  # stands there for unknown: a value that none has

    @classmethod
    def of(cls, kind: str, claims: Iterable[_Claim], ignored: Collection[int], ignore: int) -> Self:
        """``ignored`` codes become ``ignore``. Raises RecipeError when a code is claimed twice, or fits no raster."""
        owners: dict[int, ClassEntry] = {}
        for code, entry, meant in claims:
            other = owners.setdefault(code, entry)
            if other is not entry:
                raise RecipeError(
                    f"classes: {_text(kind, code)} is claimed by both {other.name} and {entry.name}; let one of the "
                    "two have it (a class without source_values or source_colors stands for its own value and color)"
                )
            if meant and code in ignored:
                raise RecipeError(
                    f"ignore_{kind}: {_text(kind, code)} is claimed by class {entry.name} too; let one of the two have "
                    "it (a class without source_values stands for its own value)"
                )
        pairs = {code: entry.value for code, entry in owners.items()} | dict.fromkeys(ignored, ignore)
        outside = [code for code in pairs if not _INT64.min <= code <= _INT64.max]
        if outside:
            raise RecipeError(f"source_{kind}, ignore_{kind}: {outside[0]} fits no raster; expected 64-bit integers")
        unknown = min(set(range(256)) - set(pairs.values()))
        codes, values = np.array([*sorted(pairs.items()), (_INT64.max, unknown)], dtype=np.int64).T
        short = (codes >= 0) & (codes < LUT_SIZE)
        lut = np.full(LUT_SIZE, unknown, dtype=np.uint8)
        lut[codes[short]] = values[short]
        return cls(kind, np.ascontiguousarray(codes), values.astype(np.uint8), lut, unknown)

    def look_up(self, codes: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The class value of every code (any where unknown), and where the code is known."""
        if codes.dtype == np.uint8 or codes.size == 0 or (codes.min() >= 0 and codes.max() < LUT_SIZE):
            values = np.take(self.lut, codes)
        else:
            at = np.searchsorted(self.codes, codes)
            values = np.where(self.codes[at] == codes, self.values[at], np.uint8(self.unknown))
        return values, values != self.unknown


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
        values, colors = list[_Claim](), list[_Claim]()
        for entry in recipe.classes:
            codes = [entry.value] if entry.source_values is None else entry.source_values
            texts = [entry.color] if entry.source_colors is None else entry.source_colors
            values += [(code, entry, True) for code in codes]
            colors += [(_color(text), entry, entry.source_colors is not None) for text in texts]
        ignored_colors = {_color(text) for text in recipe.ignore_colors}
        # Printed colours may be alike as long as nobody reads them back from a label raster.
        alike = len({code for code, *_ in colors}) < len(colors)
        unread = alike and not ignored_colors and not any(meant for *_, meant in colors)
        return cls(
            _Table.of("values", values, recipe.ignore_values, ignore),
            None if unread else _Table.of("colors", colors, ignored_colors, ignore),
            recipe.ignore_index,
            recipe.labels.min_consensus if isinstance(recipe.labels, ProvidedLabels) else None,
            recipe.building_value if recipe.draws_footprints else None,
        )

    def apply(self, raw: RawLabels, window: str, unknown: Unknown | None = None) -> NDArray[np.uint8]:
        """The class mask (y, x) of the labels of ``window`` (its name, for messages).

        Drawn footprints become the building class, and 0 elsewhere. Pixels without a label, below the minimum
        consensus, or of an ignored value get the ignore index. Pixels of values and colours that the recipe does not
        know are counted into ``unknown``; the mask is of no use then. Raises LabelError for labels that are no classes,
        and for unknown ones where nobody counts them; RecipeError where there is no ignore index to use.
        """
        ignored = raw.missing
        if self.building is None:
            counts = Unknown() if unknown is None else unknown
            mask, ignored = self._translated(raw, window, counts)
            if unknown is None and counts:
                raise LabelError(f"{window}: {unknown_labels(counts)}")
        else:
            mask = raw.values.view(np.uint8) * np.uint8(self.building)  # the values are bool
        if ignored is not None and ignored.any():
            if self.ignore_index is None:
                raise RecipeError(f"ignore_index: is null, but {window} has pixels without a label; give it a value")
            mask[ignored] = self.ignore_index
        return mask

    def _translated(self, raw: RawLabels, window: str, unknown: Unknown) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The class value of every pixel, and where it is to be ignored."""
        values = np.asarray(raw.values)
        ignored = np.zeros(values.shape[-2:], dtype=np.bool_) if raw.missing is None else raw.missing
        if self.min_consensus is not None:
            if raw.consensus is None:
                raise LabelError(
                    f"{window}: labels.min_consensus is {self.min_consensus}, but the labels have no consensus band; "
                    "take min_consensus out of the recipe"
                )
            ignored = ignored | (raw.consensus < self.min_consensus)
        if values.ndim == 3 and len(values) == 3:
            if self.colors is None:
                raise RecipeError(
                    f"{window}: its labels are RGB colours, and two of the recipe's classes have the same color; give "
                    "them source_colors"
                )
            codes = values[0].astype(np.int64) << 16 | values[1].astype(np.int64) << 8 | values[2].astype(np.int64)
            table = self.colors
        elif values.ndim == 2:
            codes, table = _whole(values, ignored, window), self.integers
        else:
            raise LabelError(
                f"{window}: labels of shape {values.shape}; expected one band of class values, or three of RGB colours"
            )
        mask, known = table.look_up(codes)
        strange = ~(known | ignored)
        if strange.any():
            found, counts = np.unique(codes[strange], return_counts=True)
            for code, count in zip(found[:COUNTED].tolist(), counts[:COUNTED].tolist(), strict=True):
                if len(unknown) < COUNTED or (table.kind, code) in unknown:
                    unknown[table.kind, code] += count
        return mask, ignored


def unknown_labels(unknown: Unknown) -> str:
    """Labels that the recipe does not know, in words; those with the lowest numbers where there are many."""
    listed = ", ".join(f"{_text(*code)} ({unknown[code]})" for code in sorted(unknown)[:LISTED])
    more = f" and {len(unknown) - LISTED} more" if len(unknown) > LISTED else ""
    kinds = sorted({kind for kind, _ in unknown}, reverse=True)
    put = ", ".join(f"the source_{kind} of a class, or to ignore_{kind} where they mean no label" for kind in kinds)
    return f"labels that the recipe does not know, with their counts of pixels: {listed}{more}; add them to {put}"


def _color(text: str) -> int:
    return int(text.removeprefix("#"), 16)


def _text(kind: str, code: int) -> str:
    return f"#{code:06x}" if kind == "colors" else str(code)


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
