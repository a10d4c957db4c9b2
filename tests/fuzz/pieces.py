"""What cases are made of: hand-made nasty values, and changes of bytes, texts and documents."""

import copy
import json
from collections.abc import Sequence
from random import Random
from typing import Any

# Ten digits and dots less than any address here has: the door puts in the address of a server that nobody may ask.
CANARY = "127.0.0.2:CANRY"
SECRET_FILE = "../outside/secret.txt"
NAN, INF = float("nan"), float("inf")
NUMBERS: Sequence[Any] = (
    *(
        0,
        -1,
        1,
        2,
        16,
        255,
        256,
        65_536,
        2**31 - 1,
        2**31,
        2**32,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**64,
        10**30,
        -(10**30),
    ),
    *(0.5, -0.0, 1e-300, 5e-324, 1e300, -1e308, 1.5, 89.9999999, 90.0, 180.0, 180.0000001, 360.0, 3e6, NAN, INF, -INF),
)
TEXTS: Sequence[str] = (
    *("", " ", "\t", "\n", "\0", "a\0b", "\r\n", "\x1b[31mred\x07", "\x7f", "\x85", "\u2028", "\ufeff", "\u202egnp.a"),
    *(
        "\ud800",
        "\udfff\ud800",
        "e\u0301",
        "ﬀ",
        "İ",
        "ß",
        "\U0001f600",
        "\u0663",
        "日本",
        "a" * 300,
        "é" * 5000,
        "x" * 200_000,
    ),
    *("null", "true", "NaN", "Infinity", "-0", "1e999", "0x10", "1_000", "2024-13-45", "2024-01-01T00:00:00Z", "R1"),
    *(
        "{",
        "}",
        "{}",
        "{scene}",
        "{z}/{x}/{y}",
        "{env:HOME}",
        "{env:}",
        "{token}",
        "%s%n%99999999d",
        "${HOME}",
        "*",
        "**",
    ),
    *("[", "[!", "(", "(a+)+$", "\\", "a" * 99 + "!", "'", '"', "`", ";", "|", "&", "#", ":", "- -", "---", "...", "@"),
    *(
        "/",
        "//",
        ".",
        "..",
        "../..",
        "/dev/zero",
        "/dev/null",
        "/proc/self/environ",
        "/etc/hostname",
        "~",
        "~root",
        "C:\\",
    ),
    *(
        SECRET_FILE,
        f"file://{SECRET_FILE}",
        f"http://{CANARY}/a",
        f"https://user:p@ss@{CANARY}/a?token=x",
        "http://",
        "://",
    ),
    *(
        f"/vsicurl/http://{CANARY}/a.tif",
        "/vsizip/a.zip",
        "/vsimem/",
        "s3://bucket/key",
        "http://[::1",
        "http://a:99999/",
    ),
    *(
        "EPSG:4326",
        "EPSG:0",
        "EPSG:999999",
        "urn:ogc:def:crs:EPSG::25832",
        "building",
        "train",
        "sentinel-2-l2a",
        "uint8",
    ),
)
_DEPTHS = (5, 40, 1_000, 20_000)  # of lists and mappings in one another


def value(random: Random) -> Any:
    """Any JSON value, mostly one that nobody expects."""
    kind = random.randrange(8)
    if kind < 2:
        return random.choice(NUMBERS)
    if kind < 4:
        return random.choice(TEXTS)
    if kind == 4:
        return random.choice([None, True, False, [], {}, [[]], {"": {}}, [None], {"a": None}])
    if kind == 5:
        return [value(random) for _ in range(random.choice([1, 2, 4, 5]))]
    if kind == 6:
        return {random.choice(TEXTS): value(random) for _ in range(random.randint(1, 3))}
    return random.choice([random.randint(-200, 200), random.uniform(-400, 400), random.random()])


def bent(random: Random, document: Any, times: int = 3) -> Any:
    """A copy of a document with up to ``times`` places changed."""
    root = {"": copy.deepcopy(document)}
    for _ in range(random.randint(1, times)):
        places = _places(root)
        holder, key = random.choice(places)
        how = random.randrange(10)
        if how < 5:
            holder[key] = value(random)
        elif how == 5 and key != "":
            del holder[key]
        elif how == 6:
            other, from_key = random.choice(places)
            holder[key] = copy.deepcopy(other[from_key])
        elif how == 7:
            holder[key] = random.choice(
                [[holder[key]], {"a": holder[key]}, str(holder[key])[:1000], [holder[key]] * 50]
            )
        elif how == 8 and isinstance(holder, dict):
            holder[random.choice(TEXTS)] = holder.pop(key) if key != "" and random.random() < 0.5 else value(random)
        elif isinstance(holder, list):
            holder[key:key] = [copy.deepcopy(holder[key])] * random.choice([1, 3, 200])
        if "" not in root:
            break
    return root.get("")


def _places(root: Any) -> list[tuple[Any, Any]]:
    found, waiting = [], [root]
    while waiting and len(found) < 2000:
        here = waiting.pop()
        items = here.items() if isinstance(here, dict) else enumerate(here)
        for key, inner in items:
            found.append((here, key))
            if isinstance(inner, dict | list):
                waiting.append(inner)
    return found


def json_bytes(random: Random, document: Any) -> bytes:
    """A document as JSON, half of the time changed first, at times damaged or made odd as text too."""
    if random.random() < 0.7:
        document = bent(random, document)
    text = json.dumps(document, indent=random.choice([None, None, 1]), ensure_ascii=random.random() < 0.7)
    data = text.encode("utf-8", "replace")
    chance = random.random()
    if chance < 0.06:
        return damaged_text(random, data)
    if chance < 0.09:
        return damaged(random, data)
    if chance < 0.13:
        return _replaced(random, data, nested(random))
    if chance < 0.16:
        return _replaced(random, data, b"1" * random.choice([25, 400, 5000]))
    if chance < 0.18:
        return random.choice(
            [b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), data + data, b"", b"<html></html>"]
        )
    return data


def nested(random: Random) -> bytes:
    """JSON that is nested deeply; not always closed."""
    deep = random.choice(_DEPTHS)
    opened, closed = random.choice(
        [(b"[", b"]"), (b'{"a":', b"}"), (b'{"type":"GeometryCollection","geometries":[', b"]}")]
    )
    return opened * deep + (b"1" + closed * deep if random.random() < 0.8 else b"")


def _replaced(random: Random, data: bytes, by: bytes) -> bytes:
    """``data`` with one of its numbers or texts replaced."""
    at = [i for i in range(1, len(data) - 1) if data[i - 1 : i] in b" :,[" and data[i] in b'0123456789-"'][:500]
    if not at:
        return by
    start = random.choice(at)
    end = data.find(b'"', start + 1) + 1 if data[start : start + 1] == b'"' else start
    while end == start or (
        data[end : end + 1].strip(b"0123456789.eE+-") == b"" and end < len(data) and data[end] not in b" "
    ):
        end += 1
    return data[:start] + by + data[end:]


def damaged(random: Random, data: bytes) -> bytes:
    """``data`` with bytes turned, taken out, put in or repeated, cut short, or with a word of it made huge."""
    found = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        at = random.randrange(len(found)) if found else 0
        how = random.randrange(8)
        if how == 0 and random.random() < 0.5:
            del found[at:]
        elif how <= 2 and found:
            found[at] ^= 1 << random.randrange(8)
        elif how == 3:
            found[at : at + 1] = random.randbytes(1)
        elif how == 4:
            del found[at : at + random.choice([1, 2, 8, 100])]
        elif how == 5:
            found[at:at] = random.randbytes(random.choice([1, 4, 64]))
        elif how == 6:
            part = bytes(found[at : at + random.choice([8, 64, 512])])
            found[at:at] = part * random.choice([1, 1, 50])
        else:
            size = random.choice([1, 2, 4, 8])
            found[at : at + size] = random.choice([b"\xff", b"\0", b"\x7f", b"\x80"]) * size
    return bytes(found[: 4 << 20])


def damaged_text(random: Random, data: bytes) -> bytes:
    """``data``, a text, with pieces put in or in the place of others, lines moved, repeated or taken out."""
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(data) + 1)
        how = random.randrange(6)
        if how < 2:
            piece = random.choice(TEXTS)[:5000].encode("utf-8", "surrogatepass")
            data = data[:at] + piece + data[at + random.choice([0, 1, len(piece)]) :]
        elif how == 2:
            data = data[:at] + repr(random.choice(NUMBERS)).encode() + data[at + random.choice([0, 1, 3]) :]
        elif how == 3:
            data = data[:at]
        else:
            lines = data.splitlines(keepends=True) or [b""]
            one = random.randrange(len(lines))
            lines[one:one] = [random.choice(lines)] * random.choice([1, 1, 100]) if how == 4 else []
            del lines[one + (how == 4) : one + 1]
            data = b"".join(lines)
    return data
