import random
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.errors import LabelError
from tasks.labels.pbf import PbfSource
from tasks.labels.pbf_texts import check_texts
from tests.tasks.labels.conftest import TILE


def number(value: int) -> bytes:
    """A varint."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + number(value >> 7)


def field(index: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return number(index << 3) + number(value)
    return number(index << 3 | 2) + number(len(value)) + value


def blob(content: bytes, kind: bytes = b"OSMData", *, packed: bool = True) -> bytes:
    body = field(2, len(content)) + field(3, zlib.compress(content)) if packed else field(1, content)
    head = field(1, kind) + field(3, len(body))
    return struct.pack(">I", len(head)) + head + body


def table(*texts: bytes) -> bytes:
    return field(1, b"".join(field(1, text) for text in (b"", *texts)))


GROUP = field(2, b"\0" * 300_000)  # of objects, whose bytes may be anything
HEADER = blob(field(4, b"OsmSchema-V0.6"), b"OSMHeader")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("texts", [[b"building", b"yes"], [b"x" * 200_000], [b"", b"\n"], []])
def test_texts_without_a_nul_pass(tmp_path: Path, texts: list[bytes], packed: bool) -> None:
    path = tmp_path / "a.osm.pbf"
    path.write_bytes(HEADER + blob(table(*texts) + GROUP, packed=packed) * 2)
    check_texts(path)
    path.write_bytes(path.read_bytes()[:-100_000])
    check_texts(path)


@pytest.mark.parametrize(
    "content",
    [
        table(b"build\0ing") + GROUP,
        table(b"x" * 100_000, b"\n\0") + GROUP,
        field(17, 100) + GROUP + table(b"yes\0"),
        table(b"yes\0"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_nul_is_found_wherever_the_texts_are(tmp_path: Path, content: bytes, packed: bool) -> None:
    path = tmp_path / "a.osm.pbf"
    path.write_bytes(HEADER + blob(table(b"yes") + GROUP) + blob(content, packed=packed))
    with pytest.raises(ValueError, match="NUL"):
        check_texts(path)
    with pytest.raises(LabelError, match=r"a\.osm\.pbf: cannot be read as an OSM extract, .*NUL character"):
        PbfSource(path).fetch([TILE], tmp_path)


def test_what_is_broken_is_refused_or_left_to_libosmium(pbf: Path, tmp_path: Path) -> None:
    """Bytes anywhere: it never hangs, nor fails in another way. What passed, libosmium has to live with."""
    drawn, whole = random.Random(8), pbf.read_bytes()
    for _ in range(60):
        spoiled = bytearray(whole)
        for _ in range(drawn.randint(1, 4)):
            spoiled[drawn.randrange(len(whole))] = drawn.randrange(256)
        pbf.write_bytes(spoiled)
        with suppress(LabelError):
            PbfSource(pbf).fetch([TILE], tmp_path)
    pbf.write_bytes(struct.pack(">I", 1 << 30) + b"x")
    with pytest.raises(ValueError, match=r"the format allows 65,536"):
        check_texts(pbf)
