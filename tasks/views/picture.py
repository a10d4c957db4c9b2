"""Pictures for people of images of any bands and type."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRETCH = (2.0, 98.0)  # percentiles that become black and white

_COLOURS = (("red", "green", "blue"), ("r", "g", "b"), ("b04", "b03", "b02"), ("b4", "b3", "b2"))
_QUAD_POL = ("hh", "hv", "vh", "vv")


def viewable(image: NDArray[Any], bands: Sequence[str], nodata: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """A picture (3, y, x) uint8 of ``image`` (band, y, x) with these band names.

    Red, green and blue where bands are called so (or B04, B03, B02); the span as grey where they are the four of
    quad-pol SAR; else the first three bands, or the first as grey. Values other than uint8 are stretched between
    percentiles: of all three where they are colours, which so stay what they are, else of each band. ``nodata`` (y, x)
    counts for none of them and becomes black.
    """
    colours = None
    names = [band.lower() for band in bands]
    if sorted(names) == sorted(_QUAD_POL):
        chosen = span_picture(image)[None]
    else:
        colours = next((one for one in _COLOURS if set(one) <= set(names)), None)
        picks = [names.index(name) for name in colours] if colours else [0, 1, 2] if len(names) >= 3 else [0]
        chosen = image[picks]
    if chosen.dtype != np.uint8:
        usable = np.ones(chosen.shape[1:], dtype=bool) if nodata is None else ~nodata
        together = [chosen] if colours else [band[None] for band in chosen]
        chosen = np.concatenate([_stretched(bands_of_one, usable) for bands_of_one in together])
    if nodata is not None:
        chosen = np.where(nodata, np.uint8(0), chosen)
    return np.ascontiguousarray(np.broadcast_to(chosen, (3, *chosen.shape[1:])))


def span_picture(image: NDArray[Any]) -> NDArray[np.float32]:
    """The root of the span |HH|^2 + |HV|^2 + |VH|^2 + |VV|^2, (y, x) float32, of amplitudes (4, y, x).

    The root shows more than the span itself, which few bright points would turn black but for themselves.
    """
    amplitudes = image.astype(np.float64)
    return np.asarray(np.sqrt((amplitudes * amplitudes).sum(axis=0)), dtype=np.float32)


def _stretched(bands: NDArray[Any], usable: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bands (band, y, x) stretched alike; ``usable`` (y, x) says which pixels count."""
    values = bands.astype(np.float32)
    counted = values[usable & np.isfinite(values)]
    if counted.size == 0:
        return np.zeros(bands.shape, dtype=np.uint8)
    low, high = np.percentile(counted, STRETCH)
    if high <= low:  # one value all over, but for outliers
        low, high = float(counted.min()), float(counted.max())
    if high <= low:
        return np.full(bands.shape, 128, dtype=np.uint8)
    scaled = np.clip((np.nan_to_num(values) - low) / (high - low), 0.0, 1.0)
    return np.asarray(np.rint(scaled * 255), dtype=np.uint8)
