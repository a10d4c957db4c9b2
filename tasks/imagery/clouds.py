"""Which pixels of an acquisition hide the ground: clouds, their shadows and what else a recipe drops."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SourceError
from tasks.imagery.protocol import Acquisition
from tasks.recipe.parts import Clouds

LAYERS = {"provided": "cloudmask", "cld": "CLD", "scl": "SCL"}  # by clouds.mask, in the order that auto tries


def needed_layers(clouds: Clouds) -> tuple[str, ...]:
    """The layers without which an item is of no use: those that ``clouds.mask`` names."""
    named = clouds.mask if isinstance(clouds.mask, list) else [clouds.mask]
    return tuple(dict.fromkeys(LAYERS[mask] for mask in named if mask in LAYERS))


def cloud_mask(item: Acquisition, clouds: Clouds) -> NDArray[np.bool_] | None:
    """The pixels (y, x) of an item that hide the ground, None when there is nothing to tell them by.

    ``provided`` takes every pixel of the cloud mask that is not 0, ``cld`` those of at least ``threshold`` percent
    (the layer's nodata value 255 is over any threshold), ``scl`` the scene classes of ``drop``. A list takes what any
    of its layers marks, all of which must be there. ``union`` does so with every layer that the item has, ``auto``
    takes the first of them alone; without any there is no mask, as ever with ``none``. What is found is grown by
    ``dilate`` pixels (:func:`grown`).

    Raises SourceError when a layer asked for is not there, and what :meth:`Acquisition.layer` raises.
    """
    if clouds.mask == "none":
        return None
    needed = needed_layers(clouds)
    marked: NDArray[np.bool_] | None = None
    for mask, name in LAYERS.items():
        if needed and name not in needed:
            continue
        if (layer := item.layer(name)) is not None:
            found = _marked(mask, layer, clouds)
            marked = found if marked is None else marked | found
            if clouds.mask == "auto":
                break
        elif needed:
            raise _missing(item, name, clouds)
    return None if marked is None else grown(marked, clouds.dilate)


def _missing(item: Acquisition, name: str, clouds: Clouds) -> SourceError:
    """What to say of a layer that is not there."""
    there = [mask for mask, other in LAYERS.items() if other != name and item.layer(other) is not None]
    asked = clouds.mask if isinstance(clouds.mask, str) else f"[{', '.join(clouds.mask)}]"
    return SourceError(
        f"{item.id}: has no {name} layer, which clouds.mask: {asked} needs; it has "
        f"{' and '.join(LAYERS[mask] for mask in there) or 'no other cloud layer either'}; choose clouds.mask: "
        + (" or ".join([*there, "auto", "union"]) if there else "none")
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
