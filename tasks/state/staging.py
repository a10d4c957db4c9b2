"""Images of windows on disk: ``images/<name>.npy``, NumPy arrays one after the other, read without pickle.

What a source gave is kept as it was read, so that a version can be written in any order and again, and a run that
was killed reads nothing twice.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.errors import DiskError

_PART = ".part"  # the ending of a file that is being written


class Kept(NamedTuple):
    """What was read of a window."""

    image: NDArray[Any]  # (band, y, x)
    hidden: NDArray[np.bool_]  # (y, x): no data, or mirrored context
    unusable: NDArray[np.bool_] | None  # (y, x): under clouds; None where clouds are not masked


def file_of(folder: Path, name: str) -> Path:
    """Where the window of that name is kept."""
    safe = "/".join(quote(part, safe="@").replace("..", "%2E%2E") for part in name.split("/"))
    return folder / f"{safe}.npy"


def write(folder: Path, name: str, kept: Kept) -> tuple[int, str]:
    """Write a window under a temporary name, then rename it; returns bytes and SHA-256. Raises DiskError."""
    path = file_of(folder, name)
    buffer = io.BytesIO()
    masks = np.stack([kept.hidden, kept.unusable] if kept.unusable is not None else [kept.hidden])
    np.save(buffer, np.ascontiguousarray(kept.image), allow_pickle=False)
    np.save(buffer, np.packbits(masks.reshape(len(masks), -1), axis=1), allow_pickle=False)
    data = buffer.getbuffer()
    temporary = path.with_name(path.name + _PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)  # noqa: PTH105 - a rename for every window
    except OSError as error:
        raise DiskError(
            f"{path}: cannot write the image ({error.strerror or error}); free space and run the same command again"
        ) from None
    return len(data), hashlib.sha256(data).hexdigest()


def read(path: Path, sha256: str) -> Kept | None:
    """The window in a file; None when it is not there or not the one of that SHA-256."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    file = io.BytesIO(data)
    image = np.load(file, allow_pickle=False)
    packed = np.load(file, allow_pickle=False)
    side = image.shape[1:]
    masks = np.unpackbits(packed, axis=1, count=side[0] * side[1]).reshape(-1, *side).astype(np.bool_)
    return Kept(image, masks[0], masks[1] if len(masks) > 1 else None)


def kind(path: Path) -> tuple[str, int, int, int]:
    """dtype, bands, height and width of the image in a file, from its header. Raises DiskError."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
    except (OSError, ValueError) as error:
        raise DiskError(f"{path}: cannot be read ({error}); delete it and run the same command again") from None
    bands, height, width = shape
    return str(dtype), bands, height, width


def resize_image(image: NDArray[Any], side: int) -> NDArray[Any]:
    """An image (band, y, x) at ``side`` x ``side`` pixels, dtype kept: averaged down or interpolated up."""
    whole = image.dtype.kind in "ui"
    limits = np.iinfo(image.dtype) if whole else None
    bands = []
    for band in image:
        picture = Image.fromarray(band.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
        values = np.asarray(picture)
        if limits is not None:
            values = np.clip(np.rint(values), limits.min, limits.max)
        bands.append(values.astype(image.dtype))
    return np.stack(bands)
