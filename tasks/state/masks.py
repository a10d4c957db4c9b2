"""Class masks as bytes: one mask, one string of bytes, so that their hashes tell whether two masks are equal.

The first byte is a header. After a 0, one byte a pixel follows, rows first. Any other is the one value that there is in
the mask besides 0, and one bit a pixel follows.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.errors import StoreError

_RAW = b"\x00"


def encode(mask: NDArray[np.uint8]) -> bytes:
    """A uint8 mask (y, x) as bytes."""
    value = int(mask.max(initial=0)) or 1
    there = mask == value
    if bool((there | (mask == 0)).all()):
        return bytes((value,)) + np.packbits(there).tobytes()
    return _RAW + mask.tobytes()


def decode(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The uint8 mask (height, width) that :func:`encode` made ``data`` from. Raises StoreError for other sides."""
    count = height * width
    rest = np.frombuffer(data[1:], dtype=np.uint8)
    if len(rest) != (count if data[:1] == _RAW else (count + 7) // 8):
        raise StoreError(
            f"a mask of {len(data)} bytes in the ledger is none of {width} x {height} pixels; "
            "move the ledger away, the next run makes it anew"
        )
    if data[:1] == _RAW:
        return rest.reshape(height, width).copy()
    mask = np.unpackbits(rest, count=count).reshape(height, width)
    mask *= data[0]
    return mask
