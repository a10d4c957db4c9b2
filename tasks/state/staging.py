"""Images on disk between source and version, in a folder of the work directory, by the names of their samples.

Two codecs. *Encoded* is what the source sent, ``<name>.jpg``, ``.png`` or ``.webp``, so that JPEGs stay small. *Array*
is what was read of rasters, ``<name>.npy``: NumPy arrays one after the other, read without pickle. So a version can be
written in any order and again, and a run that was killed asks for nothing twice.
"""

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.atomic import disk_error, write_bytes
from tasks.errors import DiskError
from tasks.raster.encoded import BadImageError, ImageFormat, decode_image

_ENCODED: dict[ImageFormat, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
_ARRAY = ".npy"
_SUFFIXES = (*_ENCODED.values(), _ARRAY)
_PART = ".part"  # the ending of a file that is being written
_LEFT = (*_SUFFIXES, _PART, _ARRAY + _PART)


class ImageShape(NamedTuple):
    """Type and size of an image."""

    dtype: str
    bands: int
    height: int  # pixels
    width: int


@dataclass(frozen=True, eq=False, slots=True)
class Staged:
    """A sample's image, on the pixels of its window."""

    image: NDArray[Any]  # (band, y, x)
    hidden: NDArray[np.bool_] | None = None  # (y, x): no data, or mirrored context; None where all is image
    cloud_mask: NDArray[np.bool_] | None = None  # (y, x): under clouds; None where clouds are not masked
    encoded: bool = False  # a picture of 8 bits as its source sent it


@dataclass(frozen=True)
class Staging:
    """The images in a folder. Any thread or process may use it, each sample one at a time."""

    folder: Path

    def write_encoded(self, name: str, form: ImageFormat, data: bytes) -> None:
        """Stage an image as its source sent it. Raises DiskError.

        It is not forced to the disk: after a power cut the ledger's sha256 tells a torn file from a whole one.
        """
        stem = self._stem(name)
        write_bytes(stem + _ENCODED[form], data, temporary=stem + _PART)

    def write_array(self, name: str, staged: Staged) -> tuple[int, str]:
        """Stage arrays; returns the file's length in bytes and its SHA-256. Raises DiskError."""
        hidden = staged.hidden if staged.hidden is not None else np.zeros(staged.image.shape[1:], np.bool_)
        masks = np.stack([hidden] if staged.cloud_mask is None else [hidden, staged.cloud_mask])
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(staged.image), allow_pickle=False)
        np.save(buffer, np.packbits(masks.reshape(len(masks), -1), axis=1), allow_pickle=False)
        data = buffer.getvalue()
        path = self._stem(name) + _ARRAY
        write_bytes(path, data, temporary=path + _PART)
        return len(data), hashlib.sha256(data).hexdigest()

    def path(self, name: str) -> Path | None:
        """The sample's file, None when there is none."""
        stem = self._stem(name)
        for suffix in _SUFFIXES:
            if os.path.isfile(stem + suffix):  # noqa: PTH113 - asked for every sample, and pathlib is slow
                return Path(stem + suffix)
        return None

    def read(self, name: str, sha256: str) -> Staged | None:
        """The sample's image; None when it is not there, or not the file of that SHA-256.

        An encoded one is RGB uint8, a view of an array whose channels come last.
        """
        path = self.path(name)
        try:
            data = path.read_bytes() if path is not None else b""
        except OSError:
            return None
        if path is None or hashlib.sha256(data).hexdigest() != sha256:
            return None
        if path.name.endswith(_ARRAY):
            return _arrays(data)
        try:
            return Staged(*decode_image(data), encoded=True)
        except BadImageError:
            return None

    def shape(self, name: str) -> ImageShape:
        """Of the sample's image, from the header of its file. Raises DiskError."""
        path = self.path(name)
        if path is None:
            raise DiskError(f"{self._stem(name)}: no such image; run the same command again, which asks for it again")
        try:
            if path.name.endswith(_ARRAY):
                return _header(path)
            with Image.open(path, formats=[form.upper() for form in _ENCODED]) as image:
                return ImageShape("uint8", 3, image.height, image.width)
        except (OSError, ValueError, SyntaxError) as error:
            raise DiskError(f"{path}: cannot be read ({error}); delete it and run the same command again") from None

    def remove(self, names: Iterable[str]) -> None:
        """Remove whatever an earlier run left of these samples, whole or half written. Raises DiskError."""
        folders: dict[str, list[str]] = {}
        for name in names:
            folder, _, last = self._stem(name).rpartition("/")
            folders.setdefault(folder, []).append(last)
        for folder, inside in folders.items():
            try:
                present = set(os.listdir(folder))  # noqa: PTH208 - pathlib is slow
                for file in (last + suffix for last in inside for suffix in _LEFT):
                    if file in present:
                        os.unlink(f"{folder}/{file}")  # noqa: PTH108 - as above
            except FileNotFoundError:
                continue
            except OSError as error:
                raise disk_error(folder, error) from None

    def _stem(self, name: str) -> str:
        """Where the sample's file is, less its suffix: never outside the folder."""
        return f"{self.folder}/{quote(name, safe='@/').replace('..', '%2E%2E')}"


def _arrays(data: bytes) -> Staged:
    file = io.BytesIO(data)
    image = np.load(file, allow_pickle=False)
    packed = np.load(file, allow_pickle=False)
    height, width = image.shape[1:]
    masks = np.unpackbits(packed, axis=1, count=height * width).reshape(-1, height, width).view(np.bool_)
    return Staged(image, masks[0], masks[1] if len(masks) > 1 else None)


def _header(path: Path) -> ImageShape:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        (bands, height, width), _, dtype = header(file)
    return ImageShape(str(dtype), bands, height, width)
