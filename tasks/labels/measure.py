"""From the labels of a window to what the ledger records of it: class mask, class fractions, the filter's verdict."""

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tasks.errors import LabelError, TilewrightError, WindowReadError
from tasks.labels.classes import ClassMap, Unknown, unknown_labels
from tasks.labels.protocol import Labels, RawLabels
from tasks.labels.rasters import FileLabels
from tasks.recipe.model import Recipe
from tasks.samples.window import Window
from tasks.state import masks
from tasks.state.ledger import Measured
from tasks.state.transitions import DENSITY, IGNORED, NO_LABEL, UNREAD

SURVEY_SECONDS = 60.0  # for which windows of other shards are looked at, once one has labels that nobody knows
TOLD = 3  # of many windows with the same fault, told by name

_log = logging.getLogger("tilewright")
_surveys: WeakKeyDictionary[Labels, str] = WeakKeyDictionary()  # what was found, for shards that fail beside the first
_surveying = threading.Lock()


def measure(windows: Sequence[Window], labels: Labels, classes: ClassMap, recipe: Recipe) -> list[Measured]:
    """What ``labels`` say of each window. Raises LabelError, RecipeError for what ends the run.

    Only a window that passes the filter has a mask, encoded as :mod:`tasks.state.masks` does, and its SHA-256. A
    window of which every pixel is ignored has class fractions that are all 0. Labels that the recipe does not know are
    told of all windows that the labels were prepared for, so that one run tells them all.
    """
    found, unread = list[Measured](), list[str]()
    unknown, holders = Unknown(), list[str]()
    for window, raw in zip(windows, labels.read(windows), strict=True):
        if isinstance(raw, WindowReadError):
            unread.append(str(raw))
        before = unknown.total()
        found.append(_measured(window, raw, classes, recipe, unknown))
        if unknown.total() > before:
            holders.append(_place(window, raw))
    for message in unread[:TOLD]:
        _log.warning("labels: %s", message)
    if unread[TOLD:]:
        _log.warning("labels: %d more windows of these cannot be read", len(unread) - TOLD)
    if unknown:
        raise LabelError(_survey(windows, labels, classes, unknown, holders))
    return found


def _survey(
    windows: Sequence[Window], labels: Labels, classes: ClassMap, unknown: Unknown, holders: Sequence[str]
) -> str:
    """In words the labels that the recipe does not know: those counted in ``windows``, and those of all others."""
    with _surveying:
        if labels not in _surveys:
            here = {window.name for window in windows}
            every = labels.windows if isinstance(labels, FileLabels) else ()
            rest = [window for window in every if window.name not in here]
            looked, until = 0, time.monotonic() + SURVEY_SECONDS
            while looked < len(rest) and time.monotonic() < until:
                try:
                    for raw in labels.read([rest[looked]]):
                        if isinstance(raw, RawLabels):
                            classes.apply(raw, _place(rest[looked], raw), unknown)
                except TilewrightError:  # another fault, which ends the run when this one is gone
                    pass
                looked += 1
            some, more = len(windows) + looked, len(rest) - looked
            of = f"{some:,} windows" + (f" ({more:,} others were not looked at)" if more else "")
            _surveys[labels] = f"labels of {of}, for example {', '.join(holders[:TOLD])}: {unknown_labels(unknown)}"
        return _surveys[labels]


def _place(window: Window, raw: RawLabels | WindowReadError | None) -> str:
    """A window for messages: its name, and the file of its labels."""
    return f"{window.name} ({raw.name})" if isinstance(raw, RawLabels) and raw.name else window.name


def _measured(
    window: Window, raw: RawLabels | WindowReadError | None, classes: ClassMap, recipe: Recipe, unknown: Unknown
) -> Measured:
    name = window.name
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
        mask = classes.apply(raw, _place(window, raw), unknown)
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
