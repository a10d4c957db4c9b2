"""Images and masks at other numbers of pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resize_image(image: NDArray[Any], side: int) -> NDArray[Any]:
    """An image (band, y, x) at ``side`` x ``side`` pixels, dtype kept: averaged down or interpolated up."""
    bands = (Image.fromarray(band.astype(np.float32)) for band in image)
    resized = np.stack([np.asarray(band.resize((side, side), Image.Resampling.BILINEAR)) for band in bands])
    if image.dtype.kind in "ui":
        limits = np.iinfo(image.dtype)
        resized = np.clip(np.rint(resized), limits.min, limits.max)
    return resized.astype(image.dtype)


def resize_rgb(array: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize (3, height, width) uint8 to (3, side, side), bilinear, antialiased when it shrinks."""
    if array.shape[1:] == (side, side):
        return array
    image = Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))
    resized = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def resize_mask(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A class mask (y, x) at ``side`` x ``side`` pixels by nearest neighbour, so that no new value appears."""
    rows = ((np.arange(side) + 0.5) * mask.shape[0] / side).astype(np.intp)
    columns = ((np.arange(side) + 0.5) * mask.shape[1] / side).astype(np.intp)
    return mask[np.ix_(rows, columns)]
