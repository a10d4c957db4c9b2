"""Which pixels of an acquisition hide the ground: clouds, their shadows and what else a recipe drops."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SourceError
from tasks.imagery.protocol import Acquisition
from tasks.recipe.parts import Clouds

LAYERS = {"provided": "cloudmask", "cld": "CLD", "scl": "SCL"}  # by clouds.mask, in the order that auto tries


def cloud_mask(item: Acquisition, clouds: Clouds) -> NDArray[np.bool_] | None:
    """The pixels (y, x) of an item that hide the ground, None when there is nothing to tell them by.

    ``provided`` takes every pixel of the cloud mask that is not 0, ``cld`` those of at least ``threshold`` percent
    (the layer's nodata value 255 is over any threshold), ``scl`` the scene classes of ``drop``. ``auto`` takes the
    first of these layers that the item has, and None when it has none, as ``none`` always does. What is found is
    grown by ``dilate`` pixels (:func:`grown`).

    Raises SourceError when the layer asked for is not there, and what :meth:`Acquisition.layer` raises.
    """
    if clouds.mask == "none":
        return None
    for mask in LAYERS if clouds.mask == "auto" else (clouds.mask,):
        layer = item.layer(LAYERS[mask])
        if layer is not None:
            return grown(_marked(mask, layer, clouds), clouds.dilate)
    if clouds.mask == "auto":
        return None
    others = [name for name in LAYERS.values() if name != LAYERS[clouds.mask] and item.layer(name) is not None]
    raise SourceError(
        f"{item.id}: has no {LAYERS[clouds.mask]} layer, which clouds.mask: {clouds.mask} needs; it has "
        f"{' and '.join(others) or 'no other cloud layer either'}; choose clouds.mask: "
        + (" or ".join([*(mask for mask, name in LAYERS.items() if name in others), "auto"]) if others else "none")
    )


def fraction(mask: NDArray[np.bool_]) -> float:
    """Share of a cloud mask among all pixels of the window, those without data included.

    So it can be told from the cloud layer alone, before any band is read. Pixels that no scene covers count as far
    as the layer marks them: an SCL of 0, a CLD of 255.
    """
    return float(np.count_nonzero(mask) / mask.size) if mask.size else 0.0


def grown(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """``mask`` (y, x) and every pixel whose centre is at most ``radius`` pixels from that of a marked one: a disc."""
    if not radius or not mask.any():
        return mask
    height, width = mask.shape
    # How many marked pixels stand left of each column's edge: a span of a row is marked when the two ends differ.
    before = np.zeros((height, width + 1), dtype=np.int32)
    np.cumsum(mask, axis=1, out=before[:, 1:])
    columns = np.arange(width)
    result = np.zeros_like(mask)
    for away in range(min(radius, height - 1) + 1):
        half = math.isqrt(radius * radius - away * away)
        first, end = np.maximum(columns - half, 0), np.minimum(columns + half + 1, width)
        spread = before[:, end] > before[:, first]
        result[away:] |= spread[: height - away]
        result[: height - away] |= spread[away:]
    return result


def _marked(mask: str, layer: NDArray[Any], clouds: Clouds) -> NDArray[np.bool_]:
    if mask == "provided":
        return np.asarray(layer != 0)
    if mask == "cld":
        return np.asarray(~(layer < clouds.threshold))  # so that NaN is cloud too
    return np.isin(layer, clouds.drop)
