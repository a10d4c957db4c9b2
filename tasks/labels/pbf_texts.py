"""A look into an .osm.pbf file before libosmium reads it, for what would make that crash and not complain.

libosmium keeps tags, roles and names as texts that end with NUL; one with a NUL inside makes it read beyond them. Only
the texts of each block are unpacked, which come first in it, so the look takes a small part of the time of the reading.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAX_HEADER = 64 << 10  # bytes of a blob's header, as the format has it
MAX_BLOB = 32 << 20  # bytes of a blob, packed and unpacked
_PIECE = 1 << 14  # bytes of a blob that are read at once
_VARINT, _LENGTH = 0, 2  # kinds of fields in Protocol Buffers
_FIXED = {1: 8, 5: 4}  # bytes of the others
_RAW, _ZLIB = 1, 3  # fields of a blob that hold its content
_TEXTS = 1  # field of a block
_EMPTY = b"\x0a\x00"  # the first text of all writers, whose length is no character


def check_texts(path: Path) -> None:
    """See that no text in the .osm.pbf file at ``path`` holds a NUL. Raises ValueError when one does, or it is broken.

    A file that ends early passes: libosmium says so. Blobs that are not packed with zlib are not looked into.
    """
    with path.open("rb") as file:
        while len(start := file.read(4)) == 4:
            kind, size = _blob_header(file.read(_limited(int.from_bytes(start, "big"), MAX_HEADER)))
            end = file.tell() + _limited(size, MAX_BLOB)
            if kind == b"OSMData" and b"\0" in _texts(_content(file, size)):
                raise ValueError("a text in it holds a NUL character")
            file.seek(end)


def _limited(size: int, most: int) -> int:
    if size > most:
        raise ValueError(f"a part of it has {size:,} bytes, the format allows {most:,}")
    return size


def _blob_header(header: bytes) -> tuple[bytes, int]:
    """The type of a blob, and its bytes."""
    kind, size = b"", 0
    for number, value in _fields(header):
        if number == 1 and isinstance(value, bytes):
            kind = value
        elif number == 3 and isinstance(value, int):
            size = value
    return kind, size


def _content(file: BinaryIO, size: int) -> Iterator[bytes]:
    """What is in the blob of ``size`` bytes that begins where ``file`` is, unpacked, piece by piece."""
    piece = file.read(min(size, _PIECE))
    left, at = size - len(piece), 0
    while at < len(piece):
        key, at = _varint(piece, at)
        if key & 7 == _LENGTH:
            length, at = _varint(piece, at)
            if key >> 3 in (_RAW, _ZLIB):
                break
            at += length
        elif key & 7 == _VARINT:
            _, at = _varint(piece, at)
        else:
            at += _fixed(key)
    else:
        return  # packed in another way, or nothing
    inflater = zlib.decompressobj() if key >> 3 == _ZLIB else None
    piece = piece[at:]
    try:
        while piece:
            yield inflater.decompress(piece) if inflater else piece
            piece = file.read(min(left, _PIECE))
            left -= len(piece)
    except zlib.error as error:
        raise ValueError(f"a part of it cannot be unpacked ({error})") from None


def _texts(pieces: Iterator[bytes]) -> bytes:
    """The texts of a block, one behind the other; those of a table without a NUL byte are left out."""
    block, needed = bytearray(), 0
    for piece in pieces:
        block += piece
        if not needed and len(block) > 10:
            key, at = _varint(block, 0)
            first = key == _TEXTS << 3 | _LENGTH
            length, at = _varint(block, at) if first else (MAX_BLOB, at)  # in another order: all of it
            needed = at + _limited(length, MAX_BLOB)
        _limited(len(block), 2 * MAX_BLOB)
        if needed and len(block) >= needed:
            return _parts(bytes(block[at:needed]))
    found = [value for number, value in _fields(bytes(block)) if number == _TEXTS and isinstance(value, bytes)]
    return b"".join(map(_parts, found))


def _parts(table: bytes) -> bytes:
    if b"\0" not in table.removeprefix(_EMPTY):
        return b""  # nothing to be found, quickly
    return b"".join(value for _, value in _fields(table) if isinstance(value, bytes))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif key & 7 == _LENGTH:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a part of it ends early")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            at += _fixed(key)


def _fixed(key: int) -> int:
    if key & 7 not in _FIXED:
        raise ValueError("a part of it is no Protocol Buffers message")
    return _FIXED[key & 7]


def _varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A number of variable length at ``at``, and where it ends."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a part of it is no Protocol Buffers message")
