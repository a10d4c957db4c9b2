"""Bodies of answers, bounded: in bytes as they were sent, and in bytes after a Content-Encoding is undone."""

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

MAX_VALUES = 10_000_000  # of a JSON document: a gigabyte of memory, some 200 MB of Overpass's answers
_PIECE = 1 << 16  # bytes that come out of the decompressor at a time
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class BodyError(Exception):
    """A body that cannot be taken as it is. The text is a short reason, fit for the ledger."""


class LongBodyError(BodyError):
    """More bytes than were asked for, as sent or as decompressed."""


def decoded(chunks: Iterable[bytes], encoding: str, most: int) -> Iterator[bytes]:
    """A body in pieces, without the Content-Encoding ``encoding``.

    ``chunks`` are the bytes as they were sent. Raises LongBodyError as soon as there are more than ``most`` bytes,
    sent or decompressed, and BodyError for an encoding that is unknown, broken or cut short.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        yield from _bounded(chunks, most)
    elif encoding in ("gzip", "x-gzip", "deflate"):
        yield from _bounded(_inflated(_bounded(chunks, most)), most)
    else:
        raise BodyError("unknown content encoding")


def parsed(body: bytes) -> Any:
    """A body as JSON. Raises ValueError whose text says in a few words why it is none, or none to be held in memory."""
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"JSON of more than {MAX_VALUES:,} values")
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    except ValueError:
        what = "a web page (HTML)" if is_markup(body) else "JSON cut short, or something else"
        raise ValueError(f"{what}, where JSON was expected") from None


def is_markup(body: bytes) -> bool:
    """Whether a body is a web page: what proxies, log-in pages and servers in trouble send in place of data."""
    start = body[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _bounded(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise LongBodyError(f"body over {most:,} bytes")
        yield chunk


def _inflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Without gzip (of one member or several) or zlib, in pieces of at most _PIECE bytes."""
    inflater = None
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                if inflater is None or inflater.eof:
                    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
                while piece := inflater.decompress(rest, _PIECE):
                    yield piece
                    rest = inflater.unconsumed_tail
                rest = inflater.unused_data
    except zlib.error:
        raise BodyError("broken content encoding") from None
    if inflater is not None and not inflater.eof:
        raise BodyError("short body")
