"""Choosing what a sample shows: of all the looks at a window, the one (or the median) that the recipe asks for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.imagery.clouds import fraction, unusable
from tasks.recipe.windows import Clouds, Dates
from tasks.samples.window import Chip, Look
from tasks.state.ledger import State

CLOUDS = "clouds"
UNCOVERED = "no item covers it"


@dataclass(frozen=True, eq=False)
class Observation:
    """The pixels of a sample."""

    image: NDArray[Any]  # (band, y, x), of the looks' dtype
    nodata: NDArray[np.bool_]  # (y, x)
    unusable: NDArray[np.bool_] | None  # (y, x); with on_cloud: mask always there, otherwise never
    cloud_fraction: float | None  # of all pixels of the window; None where no layer tells
    origin: str  # the look's id, or "median of 5: first..last"
    acquired_at: int | None  # Unix seconds; None for a median
    padded: NDArray[np.bool_] | None = None  # (y, x): as in the looks' chips
    note: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a window gives no sample."""

    state: State  # REJECTED for clouds; ABSENT where there is nothing to see, or too few looks
    reason: str
    cloud_fraction: float | None = None


def observe(looks: Sequence[Look], dates: Dates, clouds: Clouds, rank: int = 0) -> Observation | Refusal:
    """The sample of a window's ``looks``, which come best guess first.

    ``least-cloudy`` reads the cloud layers of the looks one after the other, until ``rank`` + 1 without any cloud are
    found, and takes the ``rank``-th least cloudy; among equals the better guess. A look that no layer tells of stands
    behind those that the recipe accepts, and before the others. ``latest`` takes the ``rank``-th newest (undated looks
    are the oldest), ``all`` the one look given, ``median`` the per-pixel median of all (:func:`_median`).

    Bands are read of the chosen look only. The exception are looks that no cloud layer tells of: they are read up to
    the chosen one, and those without any data are passed over, as they do not cover the window.

    ``clouds.on_cloud`` says what becomes of a look with a cloud fraction over ``max_fraction``. With ``reject`` there
    is no sample. With ``next-date`` the next look takes its place, and ``rank`` counts accepted looks only (the next
    of ``least-cloudy`` is cloudier still, so there it is the same as ``reject``). With ``mask`` there is no limit, for
    it is the mask that keeps clouds out of the training; only a window without one usable pixel is rejected.

    Raises what the looks raise.
    """
    if not looks:
        return Refusal(State.ABSENT, UNCOVERED)
    if dates.pick == "median":
        return _median(looks, clouds)
    if dates.pick == "least-cloudy":
        return _first_accepted(_least_cloudy_first(looks, clouds, rank), clouds, rank)
    order = looks[:1] if dates.pick == "all" else sorted(looks, key=_age)
    return _first_accepted((_measured(look, clouds) for look in order), clouds, rank)


class _Candidate(NamedTuple):
    look: Look
    unusable: NDArray[np.bool_] | None
    fraction: float | None  # of clouds


def _measured(look: Look, clouds: Clouds) -> _Candidate:
    mask = unusable(look, clouds)
    return _Candidate(look, mask, None if mask is None else fraction(mask))


def _refused(share: float | None, clouds: Clouds) -> bool:
    if share is None:
        return False
    return share == 1.0 if clouds.on_cloud == "mask" else share > clouds.max_fraction


def _age(look: Look) -> float:
    return np.inf if look.acquired_at is None else -look.acquired_at


def _least_cloudy_first(looks: Sequence[Look], clouds: Clouds, rank: int) -> list[_Candidate]:
    """As many looks as must be known to name the ``rank``-th least cloudy, in that order."""
    found: list[_Candidate] = []
    cloudless = 0
    for look in looks:
        found.append(_measured(look, clouds))
        cloudless += found[-1].fraction == 0.0
        if cloudless > rank:
            break

    def order(candidate: _Candidate) -> tuple[int, float]:
        if candidate.fraction is None:
            return 1, 0.0
        return 2 if _refused(candidate.fraction, clouds) else 0, candidate.fraction

    return sorted(found, key=order)


def _first_accepted(candidates: Iterable[_Candidate], clouds: Clouds, rank: int) -> Observation | Refusal:
    """The ``rank``-th of the candidates that count."""
    counted, passed_over = 0, []
    for candidate, chip in _covering(candidates):
        refused = _refused(candidate.fraction, clouds)
        if refused and candidate.fraction is not None and clouds.on_cloud == "next-date":
            passed_over.append(candidate.fraction)
        elif counted < rank:
            counted += 1
        elif refused:
            return Refusal(State.REJECTED, CLOUDS, candidate.fraction)
        else:
            return _seen(candidate, chip or candidate.look.read(), clouds)
    if passed_over:
        return Refusal(State.REJECTED, CLOUDS, min(passed_over))
    if counted:
        return Refusal(State.ABSENT, f"only {counted} look{'s' if counted > 1 else ''}")
    return Refusal(State.ABSENT, UNCOVERED)


def _covering(candidates: Iterable[_Candidate]) -> Iterator[tuple[_Candidate, Chip | None]]:
    """The candidates that may have data, each with its pixels where they had to be read to know it."""
    for candidate in candidates:
        chip = candidate.look.read() if candidate.unusable is None else None
        if chip is None or _has_data(chip):
            yield candidate, chip


def _has_data(chip: Chip) -> bool:
    return not (chip.nodata if chip.padded is None else chip.nodata | chip.padded).all()


def _seen(candidate: _Candidate, chip: Chip, clouds: Clouds) -> Observation:
    mask = None
    if clouds.on_cloud == "mask":
        mask = np.zeros_like(chip.nodata) if candidate.unusable is None else candidate.unusable
    look = candidate.look
    return Observation(
        chip.image, chip.nodata, mask, candidate.fraction, look.id, look.acquired_at, chip.padded, chip.note
    )


def _median(looks: Sequence[Look], clouds: Clouds) -> Observation | Refusal:
    """The median of what is clear, band by band and pixel by pixel.

    Every look is read that has a usable pixel, and held until the median is made. A pixel that is never clear is 0 and
    nodata; the cloud fraction is the share of these pixels, and ``max_fraction`` holds for it.
    """
    told = clouded = False
    used: list[tuple[Look, Chip, NDArray[np.bool_]]] = []
    for look in looks:
        mask = unusable(look, clouds)
        told, clouded = told or mask is not None, clouded or (mask is not None and bool(mask.any()))
        if mask is not None and mask.all():
            continue
        chip = look.read()
        clear = ~chip.nodata if mask is None else ~(chip.nodata | mask)
        if _has_data(chip) and clear.any():
            used.append((look, chip, clear))
    if not used:
        return Refusal(State.REJECTED, CLOUDS, 1.0) if clouded else Refusal(State.ABSENT, UNCOVERED)
    image, seen = clear_median([chip.image for _, chip, _ in used], [clear for _, _, clear in used])
    share = fraction(~seen) if told else None
    if _refused(share, clouds):
        return Refusal(State.REJECTED, CLOUDS, share)
    by_date = sorted((look for look, _, _ in used), key=_age, reverse=True)
    names = by_date[0].id if len(used) == 1 else f"{by_date[0].id}..{by_date[-1].id}"
    return Observation(
        image,
        ~seen,
        ~seen if clouds.on_cloud == "mask" else None,
        share,
        f"median of {len(used)}: {names}",
        None,
        used[0][1].padded,
        "; ".join(dict.fromkeys(chip.note for _, chip, _ in used if chip.note)),
    )


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
        low, high = (
            np.take_along_axis(values, middle[np.newaxis], axis=0)[0].astype(np.float64)
            for middle in (np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(images) - 1))
        )
        seen &= count > 0
        middle = np.where(count > 0, low, 0.0) / 2 + np.where(count > 0, high, 0.0) / 2
        result[band] = middle if np.issubdtype(dtype, np.floating) else np.rint(middle)
    result[:, ~seen] = 0
    return result, seen
