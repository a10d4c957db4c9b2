import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web.bodies import BodyError, LongBodyError, decoded, is_markup, parsed

BODY = bytes(range(256)) * 2000


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        ("", BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY)),
        (" GZip ", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY[:1000]) + gzip.compress(BODY[1000:])),
        ("deflate", zlib.compress(BODY)),
    ],
)
@pytest.mark.parametrize("size", [1 << 20, 1000, 7])
def test_what_was_packed_is_unpacked(encoding: str, sent: bytes, size: int) -> None:
    assert b"".join(decoded(cut(sent, size), encoding, len(BODY))) == BODY


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_bodies_end_where_they_are_too_long(encoding: str) -> None:
    pieces: list[bytes] = []
    sent = [gzip.compress(bytes(50_000_000)) if encoding else BODY] * 2
    with pytest.raises(LongBodyError):
        pieces.extend(decoded(sent, encoding, 600_000))
    assert sum(map(len, pieces)) <= 600_000


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        ("br", b"x"),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(BODY)[:-20]),
        ("gzip", gzip.compress(BODY) + b"more"),
    ],
)
def test_what_cannot_be_unpacked(encoding: str, sent: bytes) -> None:
    with pytest.raises(BodyError, match=r"content encoding|short body"):
        b"".join(decoded([sent], encoding, 1 << 20))


def test_nothing_is_nothing() -> None:
    assert [*decoded([], "gzip", 10)] == []


@given(st.lists(st.binary(max_size=60), max_size=5), st.sampled_from(["", "gzip", "deflate", "x"]), st.integers(0, 99))
def test_whatever_comes_is_bounded(chunks: list[bytes], encoding: str, most: int) -> None:
    size = 0
    try:
        for piece in decoded(chunks, encoding, most):
            size += len(piece)
    except BodyError:
        pass
    assert size <= most


@pytest.mark.parametrize(
    ("body", "page"),
    [
        (b"<!DOCTYPE HTML><p>", True),
        (b"\xef\xbb\xbf\n <html lang=fr>", True),
        (b"<osm version='0.6'>", False),
        (b"{}", False),
        (b"", False),
    ],
)
def test_web_pages_are_known_by_their_start(body: bytes, page: bool) -> None:
    assert is_markup(body) is page


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"[" + b"[]," * 5_000_000 + b"[]]", "JSON of more than 10,000,000 values"),
        (b"[" * 100_000, "JSON that is nested too deeply"),
        (b"<!DOCTYPE html><p>", r"a web page \(HTML\), where JSON was expected"),
        (b'{"a": ', "JSON cut short, or something else, where JSON was expected"),
        (b"\xff\xfe\x00", "where JSON was expected"),
    ],
)
def test_what_is_no_json_to_be_held_in_memory(body: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parsed(body)
    assert parsed(b'{"a": [1, null]}') == {"a": [1, None]}
