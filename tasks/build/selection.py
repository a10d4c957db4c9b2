"""Which samples pass the recipe's filter: a pure function of the fractions that are recorded of them.

It holds for whatever filter they were judged by before, and both ways: what a stricter filter rejects keeps its mask
and its image, and a looser one brings it back with them. Nothing is measured or asked for again, but masks that were
never drawn and images that programs before this one did not keep.
"""

import functools
import math
from collections.abc import Callable

from tasks.labels.measure import why_rejected
from tasks.recipe.model import Recipe
from tasks.state.ledger import Recorded
from tasks.state.transitions import NODATA, Event, Image, Labels, Standing, after

_HAIR = 1e-10  # far below the share of one pixel, far above what sums of class fractions are off by


Verdict = tuple[Standing, bool]  # how a sample stands, and whether it waits for a mask that was never drawn


def judge_of(recipe: Recipe) -> Callable[[Recorded], Verdict]:
    """Who says how a sample stands by the filter of a recipe.

    Verdicts of labels that were not measured, or of which there is no label, are not the filter's and stay.
    """
    limit = recipe.filter.max_nodata_fraction

    @functools.lru_cache(maxsize=65_536)  # of a million candidates most have the fractions of many others
    def reason(fractions: tuple[float, ...]) -> str | None:
        return why_rejected(fractions, _ignored(fractions), recipe)

    def judged(one: Recorded) -> Verdict:
        now, undrawn = one.standing, False
        if one.measured and one.class_fractions and now.labels is not Labels.UNKNOWN:
            why = reason(one.class_fractions)
            if why is not None:
                if now.labels_reason != why:
                    now = after(now, Event.LABELS_REJECT, why)
            elif not one.has_mask:
                undrawn = True
            elif now.labels is not Labels.PASSED:
                now = after(now, Event.LABELS_ACCEPT)
        return _judged_image(now, one, limit), undrawn

    return judged


def _judged_image(now: Standing, one: Recorded, limit: float) -> Standing:
    """As ``now``, with what the filter says of the image. One that it rejected may come back."""
    rejected = now.image is Image.REJECTED and now.image_reason == NODATA
    if one.nodata_fraction is None or not (rejected or now.image is Image.STAGED):
        return now
    if one.nodata_fraction > limit:
        return after(now, Event.IMAGE_ANSWERED, NODATA, Image.REJECTED)
    if rejected:
        return after(now, Event.IMAGE_ANSWERED, "", Image.STAGED) if one.has_image else after(now, Event.IMAGE_LOST)
    return now


def _ignored(fractions: tuple[float, ...]) -> float:
    """The share of pixels of no class, never more than it is."""
    return max(0.0, 1.0 - math.fsum(fractions) - _HAIR)
