"""From the labels of a window to what the ledger records of it: class mask, class fractions, the filter's verdict."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.errors import WindowReadError
from tasks.labels.classes import ClassMap
from tasks.labels.protocol import Labels, RawLabels
from tasks.recipe.model import Recipe
from tasks.samples.window import Window
from tasks.state import masks
from tasks.state.ledger import Measured
from tasks.state.transitions import DENSITY, IGNORED, NO_LABEL, UNREAD


def measure(windows: Sequence[Window], labels: Labels, classes: ClassMap, recipe: Recipe) -> list[Measured]:
    """What ``labels`` say of each window. Raises LabelError, RecipeError for what ends the run.

    Only a window that passes the filter has a mask, encoded as :mod:`tasks.state.masks` does, and its SHA-256.
    """
    found = zip(windows, labels.read(windows), strict=True)
    return [_measured(window.name, raw, classes, recipe) for window, raw in found]


def _measured(name: str, raw: RawLabels | WindowReadError | None, classes: ClassMap, recipe: Recipe) -> Measured:
    if raw is None:
        return Measured(name, NO_LABEL)
    if isinstance(raw, WindowReadError):
        return Measured(name, UNREAD)
    mask, ignored = None, 0.0
    if classes.building is not None and raw.missing is None:
        # Of thousands of tiles most are rejected: one count says it all, and only those that pass get a class mask.
        size, drawn = raw.values.size, int(np.count_nonzero(raw.values))
        counts = {classes.building: drawn, 0: size - drawn}
        fractions = tuple(counts.get(entry.value, 0) / size for entry in recipe.classes)
    else:
        mask = classes.apply(raw, name)
        fractions, ignored = class_fractions(mask, recipe), ignored_fraction(mask, recipe)
    building = next((f for entry, f in zip(recipe.classes, fractions, strict=True) if entry.name == "building"), None)
    reason = why_rejected(fractions, ignored, recipe)
    if reason is not None:
        return Measured(name, reason, fractions, building)
    data = masks.encode(classes.apply(raw, name) if mask is None else mask)
    return Measured(name, "", fractions, building, data, hashlib.sha256(data).hexdigest())


def class_fractions(mask: NDArray[np.uint8], recipe: Recipe) -> tuple[float, ...]:
    """Of every class, in the recipe's order, its part of all pixels of a class mask, ignored ones included.

    All pixels, so that a minimum of buildings means the same whether a dataset ignores pixels or not.
    """
    return tuple(float(np.count_nonzero(mask == entry.value) / mask.size) for entry in recipe.classes)


def ignored_fraction(mask: NDArray[np.uint8], recipe: Recipe) -> float:
    """The part of the pixels of a class mask that have the ignore index."""
    return 0.0 if recipe.ignore_index is None else float(np.count_nonzero(mask == recipe.ignore_index) / mask.size)


def why_rejected(fractions: Sequence[float], ignored: float, recipe: Recipe) -> str | None:
    """The reason for which the recipe's filter rejects a mask of these class fractions, None when it passes."""
    limits = recipe.filter
    by_name = dict(zip((entry.name for entry in recipe.classes), fractions, strict=True))
    if limits.min_building_fraction is not None and by_name["building"] < limits.min_building_fraction:
        return DENSITY
    if any(by_name[name] < minimum for name, minimum in limits.min_fraction.items()):
        return DENSITY
    return IGNORED if ignored > limits.max_ignore_fraction else None
