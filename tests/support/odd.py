"""Odd GeoJSON documents and odd recipes, drawn by a ``random.Random``: what people, programs and attackers write.

Each maker returns the bytes of a file. Most documents are nearly right, so that what reads them gets far.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.support.recipes import RECIPE

Maker = Callable[[Random], bytes]
STEP = 1e-3  # degrees: a building's side, near 0, 0

_NUMBERS = ("1e400", "-1e308", "1e-400", "NaN", "Infinity", "null", '"7"', "9" * 30, "0x10", "-0", "1.", "[]", "true")
_TEXTS = ("", "\u0000", "\ud800", "é" * 300, "'", '"', "{scene}", "../..", "\u202e", "\x1b[31m", "http://127.0.0.1:9/")
_KEYS = ("grid.zoom", "classes.0.name", "classes.٣.name", "a.b.c", "labels.path", "", ".", "area", "x" * 999)
_KINDS = ("Polygon",) * 8 + ("MultiPolygon", "Point", "LineString", "GeometryCollection", "Circle", "", None)
_SYNTAX = ("[", "{", "]", "}", "? ", "- ", "*a", "&a ", "!!binary ", "!!int x", "<<", "|", ">", "%", "@", "`")
_CRS = (
    {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}},
    {"type": "name", "properties": {"name": "EPSG:999999"}},
    {"type": "name", "properties": {"name": "/dev/zero"}},
    {"type": "name"},
    {"type": "link", "properties": {"href": "http://127.0.0.1:9/crs", "type": "ogcwkt"}},
    {"type": "EPSG", "properties": {"code": 32631}},
    {"type": 5},
    [],
    None,
)


def geojson(random: Random) -> bytes:
    """A document that may be GeoJSON of buildings near 0, 0."""
    features = [_feature(random) for _ in range(random.randrange(4))]
    document: Any = {"type": "FeatureCollection", "features": features}
    if random.random() < 0.2:
        document[random.choice(["crs", "CRS"])] = random.choice(_CRS)
    if random.random() < 0.1 and features:
        document = random.choice([features[0], features[0]["geometry"], features, {"features": features}])
    text = json.dumps(document)
    while random.random() < 0.3 and ("0.001" in text or "0.0," in text):
        text = text.replace(random.choice(["0.001", "0.0,"]), random.choice(_NUMBERS) + ",", 1)
    if random.random() < 0.05:
        deep = random.choice([500, 3000, 100_000])
        text = text.replace('"osm_id": ', f'"deep": {"[" * deep}{"]" * deep}, "osm_id": ', 1)
    if random.random() < 0.1:
        text = "\n".join(json.dumps(feature) for feature in features)
    return _spoilt(random, text)


def recipe(random: Random) -> bytes:
    """A text that may be a recipe."""
    lines = RECIPE.splitlines()
    for _ in range(random.randrange(3)):
        at = random.randrange(len(lines))
        key, colon, _ = lines[at].partition(":")
        lines[at] = random.choice(
            [key + colon + " " + _value(random), lines[at] + " " + _value(random), _value(random), lines[at - 1], ""]
        )
    if random.random() < 0.2:
        lines.insert(random.randrange(len(lines)), f"{_value(random)}: {_value(random)}")
    return _spoilt(random, "\n".join(lines))


def override(random: Random) -> str:
    """A ``--set`` that may be one."""
    key = random.choice(_KEYS)
    return key + random.choice(["=", "==", "", " = "]) + _value(random)


def _feature(random: Random) -> dict[str, Any]:
    x, y = random.randrange(5) * STEP, random.randrange(5) * STEP
    side = random.choice([STEP, STEP, 0.0, -STEP, 1e-12, 400.0, 1e9])
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    spoil = random.randrange(12)
    if spoil == 0:
        ring.pop()
    elif spoil == 1:
        ring = ring[: random.randrange(4)]
    elif spoil == 2:
        ring[1], ring[2] = ring[2], ring[1]
    elif spoil == 3:
        ring[random.randrange(5)] = random.choice([[], [1], [x, y, 7], [x, y, 7, 8], None, "x", [None, 1], {}])  # type: ignore[call-overload]
    coordinates: Any = [ring]
    for _ in range(random.choice([1, 2, 50]) if random.random() < 0.05 else 0):
        coordinates = [coordinates]
    kind = random.choice(_KINDS)
    geometry = None if random.random() < 0.05 else {"type": kind, "coordinates": coordinates}
    properties: Any = {"osm_id": random.choice([1, -1, 10**20, "way/5", "9" * 25, None, 1.5, [], {}, "x"])}
    properties |= {random.choice(["building", "id", "@id", "crs"]): random.choice([*_TEXTS, *_CRS, 7])}
    return {"type": "Feature", "properties": random.choice([properties] * 9 + [None, []]), "geometry": geometry}


def _value(random: Random) -> str:
    return random.choice(
        [
            json.dumps(random.choice(_TEXTS)),
            random.choice(_SYNTAX),
            random.choice(_NUMBERS),
            "&a [*a]",
            "[" * random.choice([1, 40, 3000]),
            "9" * random.choice([19, 5000]),
            ".inf",
            "{a: 1, a: 2}",
            "[&b [1, 2], *b, *b]",
            "2024-01-01",
            "x" * random.choice([300, 20_000]),
        ]
    )


def _spoilt(random: Random, text: str) -> bytes:
    raw = text.encode(random.choice(["utf-8"] * 12 + ["utf-16", "latin-1"]), errors="replace")
    spoil = random.randrange(10)
    if spoil == 0:
        return raw[: random.randrange(len(raw) + 1)]
    if spoil == 1 and raw:
        at = random.randrange(len(raw))
        return raw[:at] + random.randbytes(random.randrange(1, 9)) + raw[at + 1 :]
    return random.choice([b"\xef\xbb\xbf", b"\0", b"\x1e", b"\n\n"]) + raw if spoil == 2 else raw
