"""Image bytes: told by their first bytes, checked to be whole, decoded to RGB.

Tile servers answer with whatever format they like under any name, cut bodies short, and send error
pages with status 200. Nothing is kept before :func:`check_image` has read it to its last byte.
"""

import io
import struct
import zlib
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

ImageFormat = Literal["jpeg", "png", "webp"]

MAX_PIXELS = 8192 * 8192  # of any image, whatever side was expected

_JPEG_END = b"\xff\xd9"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB\x60\x82"
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error)


class BadImageError(Exception):
    """The bytes are no whole image. The text is a short reason, fit for the ledger."""


class WrongSizeError(BadImageError):
    """A whole header, of an image with other sides than expected."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(f"{width} x {height} pixels")
        self.width, self.height = width, height


def sniff(data: bytes) -> ImageFormat | None:
    """The image format that the first bytes tell, or None."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def check_image(data: bytes, pixels: int) -> float:
    """Read the image to its end; the share (0 to 1) of its pixels that are nodata, which is alpha 0.

    A JPEG is decoded at an eighth of its size: every coded block is read, only most of the inverse transform is
    spared. A PNG's checksums are verified. Raises WrongSizeError before anything is decoded when the
    header does not say ``pixels`` x ``pixels``, BadImageError when the image is cut short or broken.
    """
    if _plain_jpeg(data, pixels):
        _decode_jpeg(data, least=max(1, pixels // 8))
        return 0.0
    image = _open(data, pixels)
    try:
        if image.format == "PNG":
            image.verify()
            image = _open(data, pixels)
        image.load()
        if not image.has_transparency_data:
            return 0.0
        return image.convert("RGBA").getchannel("A").histogram()[0] / (pixels * pixels)
    except _BROKEN as error:
        raise _bad(error) from None


def decode_image(data: bytes, pixels: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Decode to (3, height, width) uint8, red first, and which pixels (height, width) are hidden, that is of alpha 0;
    None where the image has no transparency.

    Alpha is dropped, not blended; of 16 bits the upper 8 are kept. The image is a view of one whose channels come
    last, to be copied where it goes.
    Raises BadImageError, or WrongSizeError when ``pixels`` is given and is not the side.
    """
    if _plain_jpeg(data, pixels):
        return _decode_jpeg(data).transpose(2, 0, 1), None
    image = _open(data, pixels)
    try:
        if image.mode.startswith("I"):  # 16-bit gray, which Pillow's own conversion would clip
            gray = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
            return np.repeat(gray[np.newaxis], 3, axis=0), None
        if not image.has_transparency_data:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1), None
        bands = np.asarray(image.convert("RGBA")).transpose(2, 0, 1)
        return bands[:3], bands[3] == 0
    except _BROKEN as error:
        raise _bad(error) from None


def _plain_jpeg(data: bytes, pixels: int | None) -> bool:
    """Whether this is a JPEG in gray or colour, its sides checked and its end seen.

    simplejpeg decodes those as Pillow does, bit for bit, and lets go of the interpreter meanwhile, which Pillow
    does not. CMYK, and headers it cannot read, are left to Pillow.
    """
    if sniff(data) != "jpeg":
        return False
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a colour space that simplejpeg has no name for
        return False
    if colours not in ("YCbCr", "RGB", "Gray"):
        return False
    _check_sides(width, height, pixels)
    if not _has_end(data, "jpeg"):
        raise BadImageError("truncated image")
    return True


def _decode_jpeg(data: bytes, least: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3) uint8; with ``least``, at the smallest of libjpeg's scales that leaves that many rows."""
    try:
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, min_height=least, min_width=least, min_factor=1)
    except ValueError as error:
        raise BadImageError("truncated image" if "Premature end" in str(error) else "broken image") from None
    return decoded


def _check_sides(width: int, height: int, pixels: int | None) -> None:
    if width * height > MAX_PIXELS:
        raise BadImageError("image far too large")
    if pixels is not None and (width, height) != (pixels, pixels):
        raise WrongSizeError(width, height)


def _open(data: bytes, pixels: int | None) -> Image.Image:
    """The image with its header read, its sides checked and its end seen; no pixel is decoded yet."""
    form = sniff(data)
    if form is None:
        raise BadImageError("not an image")
    ended = _has_end(data, form)
    try:
        image = Image.open(io.BytesIO(data), formats=(form.upper(),))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError("image far too large") from None
    except _BROKEN as error:
        raise _bad(error) if ended else BadImageError("truncated image") from None
    _check_sides(*image.size, pixels)
    if not ended:
        raise BadImageError("truncated image")
    return image


def _has_end(data: bytes, form: ImageFormat) -> bool:
    """Whether the mark that ends an image of this format is there."""
    if form == "webp":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return data.rfind(_PNG_END if form == "png" else _JPEG_END) > 0


def _bad(error: Exception) -> BadImageError:
    """The reason in our words: Pillow's differ from format to format and may show bytes of the body."""
    short = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return BadImageError("truncated image" if short else "broken image")
