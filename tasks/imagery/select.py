"""Choosing what a sample shows: of all items over a window, the one (or the composite) that the recipe asks for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.imagery.clouds import cloud_mask, fraction
from tasks.imagery.protocol import Acquisition, Chip
from tasks.recipe.parts import Clouds
from tasks.recipe.sources import Dates
from tasks.state.transitions import CLOUDS, Image

UNCOVERED = "no item covers it"


@dataclass(frozen=True, eq=False)
class Selected(Chip):
    """The pixels of a sample."""

    cloud_mask: NDArray[np.bool_] | None = None  # (y, x); with on_cloud: mask always there, otherwise never
    cloud_fraction: float | None = None  # of all pixels of the window; None where no layer tells
    origin: str = ""  # the item's id, or "median of 5: first..last"
    acquired_at: int | None = None  # Unix seconds; None for a median


@dataclass(frozen=True)
class Refusal:
    """Why a window gives no sample."""

    image: Image  # REJECTED for clouds; ABSENT where there is nothing to see, or too few items
    reason: str
    cloud_fraction: float | None = None


def select(items: Sequence[Acquisition], dates: Dates, clouds: Clouds, rank: int = 0) -> Selected | Refusal:
    """The sample of a window's ``items``, which come best guess first.

    ``least-cloudy`` reads the cloud layers of the items one after the other, until ``rank`` + 1 without any cloud are
    found, and takes the ``rank``-th least cloudy; among equals the better guess. An item that no layer tells of stands
    behind those that the recipe accepts, and before the others. ``latest`` takes the ``rank``-th newest (undated items
    are the oldest), ``all`` the one item given, ``median`` the per-pixel median of all (:func:`_median`).

    Bands are read of the chosen item only. The exception are items that no cloud layer tells of: they are read up to
    the chosen one, and those without any data are passed over, as they do not cover the window.

    ``clouds.on_cloud`` says what becomes of an item with a cloud fraction over ``max_fraction``. With ``reject`` there
    is no sample. With ``next-date`` the next item takes its place, and ``rank`` counts accepted items only (the next
    of ``least-cloudy`` is cloudier still, so there it is the same as ``reject``). With ``mask`` there is no limit, for
    it is the mask that keeps clouds out of the training; only a window without one clear pixel is rejected.

    Raises what the items raise.
    """
    if not items:
        return Refusal(Image.ABSENT, UNCOVERED)
    if dates.pick == "median":
        return _median(items, clouds)
    if dates.pick == "least-cloudy":
        return _first_accepted(_least_cloudy_first(items, clouds, rank), clouds, rank)
    order = items[:1] if dates.pick == "all" else sorted(items, key=_age)
    return _first_accepted((_measured(item, clouds) for item in order), clouds, rank)


class _Candidate(NamedTuple):
    item: Acquisition
    mask: NDArray[np.bool_] | None  # of clouds
    fraction: float | None
    refused: bool


def _measured(item: Acquisition, clouds: Clouds) -> _Candidate:
    mask = cloud_mask(item, clouds)
    clouded = None if mask is None else fraction(mask)
    return _Candidate(item, mask, clouded, _refused(clouded, clouds))


def _refused(clouded: float | None, clouds: Clouds) -> bool:
    return clouded is not None and (clouded == 1.0 if clouds.on_cloud == "mask" else clouded > clouds.max_fraction)


def _age(item: Acquisition) -> float:
    return np.inf if item.acquired_at is None else -item.acquired_at


def _least_cloudy_first(items: Sequence[Acquisition], clouds: Clouds, rank: int) -> list[_Candidate]:
    """As many items as must be known to name the ``rank``-th least cloudy, in that order."""
    found: list[_Candidate] = []
    for item in items:
        found.append(_measured(item, clouds))
        if sum(one.fraction == 0.0 for one in found) > rank:
            break
    return sorted(found, key=lambda one: (1 if one.fraction is None else 2 * one.refused, one.fraction or 0.0))


def _first_accepted(candidates: Iterable[_Candidate], clouds: Clouds, rank: int) -> Selected | Refusal:
    """The ``rank``-th of the candidates that count."""
    counted, passed_over = 0, []
    for candidate in candidates:
        # What no cloud layer tells of is read to see whether it covers the window.
        chip = candidate.item.read() if candidate.mask is None else None
        if chip is not None and not _has_data(chip):
            continue
        if candidate.refused and candidate.fraction is not None and clouds.on_cloud == "next-date":
            passed_over.append(candidate.fraction)
        elif counted < rank:
            counted += 1
        elif candidate.refused:
            return Refusal(Image.REJECTED, CLOUDS, candidate.fraction)
        else:
            return _selected(candidate, chip or candidate.item.read(), clouds)
    if passed_over:
        return Refusal(Image.REJECTED, CLOUDS, min(passed_over))
    if counted:
        return Refusal(Image.ABSENT, f"only {counted} acquisition{'s' if counted > 1 else ''}")
    return Refusal(Image.ABSENT, UNCOVERED)


def _has_data(chip: Chip) -> bool:
    return not (chip.nodata if chip.padded is None else chip.nodata | chip.padded).all()


def _selected(candidate: _Candidate, chip: Chip, clouds: Clouds) -> Selected:
    item, mask = candidate.item, None
    if clouds.on_cloud == "mask":
        mask = np.zeros_like(chip.nodata) if candidate.mask is None else candidate.mask
    return Selected(
        chip.image, chip.nodata, chip.note, chip.padded, mask, candidate.fraction, item.id, item.acquired_at
    )


def _median(items: Sequence[Acquisition], clouds: Clouds) -> Selected | Refusal:
    """The median of what is clear, band by band and pixel by pixel.

    Every item is read that has a clear pixel, and held until the median is made. A pixel that is never clear is 0 and
    nodata; the cloud fraction is the share of these pixels, and ``max_fraction`` holds for it.
    """
    told = clouded = False
    used: list[tuple[Acquisition, Chip, NDArray[np.bool_]]] = []
    for item in items:
        mask = cloud_mask(item, clouds)
        told, clouded = told or mask is not None, clouded or (mask is not None and bool(mask.any()))
        if mask is not None and mask.all():
            continue
        chip = item.read()
        clear = ~chip.nodata if mask is None else ~(chip.nodata | mask)
        if _has_data(chip) and clear.any():
            used.append((item, chip, clear))
    if not used:
        return Refusal(Image.REJECTED, CLOUDS, 1.0) if clouded else Refusal(Image.ABSENT, UNCOVERED)
    image, seen = clear_median([chip.image for _, chip, _ in used], [clear for _, _, clear in used])
    unseen = fraction(~seen) if told else None
    if _refused(unseen, clouds):
        return Refusal(Image.REJECTED, CLOUDS, unseen)
    by_date = sorted((item for item, _, _ in used), key=_age, reverse=True)
    names = f"{by_date[0].id}..{by_date[-1].id}" if len(used) > 1 else by_date[0].id
    note = "; ".join(dict.fromkeys(chip.note for _, chip, _ in used if chip.note))
    mask = ~seen if clouds.on_cloud == "mask" else None
    return Selected(image, ~seen, note, used[0][1].padded, mask, unseen, f"median of {len(used)}: {names}")


def clear_median(
    images: Sequence[NDArray[Any]], clear: Sequence[NDArray[np.bool_]]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The median of images (band, y, x) over the pixels that are ``clear`` (y, x) in each, and where there is one.

    Of an even number of values it is the mean of the middle two; integers are rounded, a half to the even number.
    Values that are not finite do not count. The result has the images' dtype, and 0 in every band where a band has no
    value.
    """
    dtype = np.result_type(*images)
    exact = np.result_type(dtype, np.float32)  # holds every value: of uint16 as well as of float32
    result = np.empty(images[0].shape, dtype=dtype)
    seen = np.ones(images[0].shape[1:], dtype=np.bool_)
    for band in range(len(result)):  # one after the other: sorting widens what it sorts
        values = np.stack([image[band].astype(exact) for image in images])
        valid = np.stack(clear) & np.isfinite(values)
        values[~valid] = np.inf
        values.sort(axis=0)
        count = valid.sum(axis=0)
        seen &= count > 0
        values[0, count == 0] = 0.0
        both = np.stack((np.maximum(count - 1, 0) // 2, count // 2))  # where the middle two stand
        low, high = np.take_along_axis(values, both, axis=0).astype(np.float64)
        middle = low / 2 + high / 2
        result[band] = middle if np.issubdtype(dtype, np.floating) else np.rint(middle)
    result[:, ~seen] = 0
    return result, seen
