"""An Overpass interpreter over the synthetic OSM: the part of Overpass QL that osmnx and small clients use.

Understood: settings ``[out:json] [timeout:n] [maxsize:n] [date:"..."]``; unions; ``node way rel relation nwr`` with tag
filters (``['key']``, ``['key'='value']``, ``["key"~"pattern"]``) and one area filter ``(poly:"lat lon ...")`` or
``(south,west,north,east)``; ``._``; ``>``; ``out`` with ``body``, ``meta``, ``ids``, ``skel`` or ``tags``. As in
Overpass, a way lies in a polygon when its line meets it, and a relation when a member way does. Anything else raises
``QueryError``.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely import LineString, Polygon, STRtree, box, points
from shapely.geometry.base import BaseGeometry

from infra.sandbox.world.osm import GENERATOR, OSM_BASE, Node, OsmData, Relation, Way

Key = tuple[str, int]  # ("node", id)
_ORDER = {"node": 0, "way": 1, "relation": 2}
_KINDS: dict[str, tuple[str, ...]] = {
    "node": ("node",),
    "way": ("way",),
    "rel": ("relation",),
    "relation": ("relation",),
    "nwr": ("node", "way", "relation"),
}
_TOKEN = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\._|[A-Za-z_]+|[-+]?\d+(?:\.\d+)?|[\[\]();:,=~<>])""")
_OUT_MODES = {"body", "meta", "ids", "tags", "skel", "qt", "asc"}


class QueryError(ValueError):
    """A query that is not understood; the message says where."""


@dataclass(frozen=True)
class TagFilter:
    """Asks for a key, with a value (str) or a pattern when one is given."""

    key: str
    value: str | re.Pattern[str] | None

    def accepts(self, tags: dict[str, str]) -> bool:
        """Whether an object's tags pass."""
        if self.key not in tags or self.value is None:
            return self.key in tags
        if isinstance(self.value, str):
            return tags[self.key] == self.value
        return self.value.search(tags[self.key]) is not None


class Overpass:
    """Answers queries about one database. Thread-safe once built."""

    def __init__(self, data: OsmData) -> None:
        self._data = data

    @cached_property
    def _index(self) -> dict[str, tuple[STRtree, NDArray[np.int64]]]:
        lonlat = {node.id: node.lonlat for node in self._data.nodes.values()}
        lines = [LineString([lonlat[ref] for ref in way.nodes]) for way in self._data.ways.values()]
        return {
            "node": (STRtree(points(list(lonlat.values()))), np.fromiter(lonlat, dtype=np.int64)),
            "way": (STRtree(lines), np.fromiter(self._data.ways, dtype=np.int64)),
        }

    def get(self, key: Key) -> Node | Way | Relation:
        """The object of a key."""
        tables: dict[str, Any] = {"node": self._data.nodes, "way": self._data.ways, "relation": self._data.relations}
        found: Node | Way | Relation = tables[key[0]][key[1]]
        return found

    def inside(self, kind: str, area: BaseGeometry | None) -> set[Key]:
        """The keys of all objects of a kind that meet an area (None: everywhere)."""
        if kind == "relation":
            ways = {ref for _, ref in self.inside("way", area)}
            return {("relation", r.id) for r in self._data.relations.values() if ways & {ref for ref, _ in r.members}}
        tree, ids = self._index[kind]
        found = ids if area is None else ids[tree.query(area, predicate="intersects")]
        return {(kind, ref) for ref in found.tolist()}

    def below(self, keys: set[Key]) -> set[Key]:
        """Members of relations, and nodes of ways, of what is given: Overpass's ``>``."""
        ways = {ref for kind, ref in keys if kind == "way"}
        for kind, ref in keys:
            if kind == "relation":
                ways |= {member for member, _ in self._data.relations[ref].members}
        nodes = {("node", ref) for way in ways for ref in self._data.ways[way].nodes}
        return nodes | {("way", ref) for ref in ways if ("way", ref) not in keys}

    def answer(self, query: str) -> dict[str, Any]:
        """The JSON answer to a query. Raises QueryError when the query is not understood."""
        parser = _Query(self, query)
        elements = parser.run()
        timestamp = (parser.date or OSM_BASE).strftime("%Y-%m-%dT%H:%M:%SZ")
        note = "Synthetic data of the Tilewright sandbox; not OpenStreetMap, no place on Earth."
        return {
            "version": 0.6,
            "generator": GENERATOR,
            "osm3s": {"timestamp_osm_base": timestamp, "copyright": note},
            "elements": elements,
        }


class _Query:
    """Reads a query and runs it as it goes: each statement leaves its result in the default set."""

    def __init__(self, server: Overpass, text: str) -> None:
        self._server, self._tokens, self._at = server, self._split(text), 0
        self._default: set[Key] = set()
        self.date: datetime | None = None

    @staticmethod
    def _split(text: str) -> list[str]:
        tokens, at, text = [], 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise QueryError(f"parse error: unexpected {text[at : at + 20]!r} at character {at + 1}")
            tokens.append(match.group(1))
            at = match.end()
        return tokens

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self, *expected: str) -> str:
        token = self._peek()
        if not token or (expected and token not in expected):
            wanted = " or ".join(repr(e) for e in expected) or "more"
            raise QueryError(f"parse error: {wanted} expected - {token!r} found at token {self._at + 1}")
        self._at += 1
        return token

    def _text(self) -> str:
        token = self._next()
        return re.sub(r"\\(.)", r"\1", token[1:-1]) if token[0] in "\"'" else token

    def run(self) -> list[dict[str, Any]]:
        self._settings()
        elements: list[dict[str, Any]] = []
        while self._peek():
            if self._peek() == "out":
                elements += self._out()
            else:
                self._statement()
        return elements

    def _settings(self) -> None:
        if self._peek() != "[":
            raise QueryError("encoding error: the query must begin with [out:json]")
        form = ""
        while self._peek() == "[":
            self._next("[")
            name = self._next("out", "timeout", "maxsize", "date")
            self._next(":")
            value = self._text()
            self._next("]")
            if name == "out":
                form = value
            if name == "date":
                self.date = _moment(value)
        self._next(";")
        if form != "json":
            raise QueryError("encoding error: the sandbox answers in JSON only, write [out:json]")

    def _statement(self) -> set[Key]:
        token = self._next("(", "._", ">", *_KINDS)
        if token == "(":  # noqa: S105 - a parenthesis, no password
            result: set[Key] = set()
            while self._peek() != ")":
                result |= self._statement()
            self._next(")")
        elif token == ">":  # noqa: S105
            result = {key for key in self._server.below(self._default) if self._existed(key)}
        elif token == "._":  # noqa: S105
            result = self._default
        else:
            result = self._select(_KINDS[token])
        self._next(";")
        self._default = result
        return result

    def _select(self, kinds: tuple[str, ...]) -> set[Key]:
        filters: list[TagFilter] = []
        area: BaseGeometry | None = None
        while self._peek() in ("[", "("):
            if self._next() == "[":
                filters.append(self._tag_filter())
                self._next("]")
            else:
                area = self._area()
                self._next(")")
        found = {key for kind in kinds for key in self._server.inside(kind, area)}
        return {k for k in found if self._existed(k) and all(f.accepts(self._server.get(k).tags) for f in filters)}

    def _tag_filter(self) -> TagFilter:
        key = self._text()
        if self._peek() not in ("=", "~"):
            return TagFilter(key, None)
        operator, value = self._next(), self._text()
        if operator == "=":
            return TagFilter(key, value)
        try:
            return TagFilter(key, re.compile(value))
        except re.error as error:
            raise QueryError(f"static error: {value!r} is no pattern: {error}") from error

    def _area(self) -> BaseGeometry:
        if self._peek() == "poly":
            self._next()
            self._next(":")
            numbers = self._text().split()
            try:
                lat_lon = np.array([float(number) for number in numbers]).reshape(-1, 2)
                return Polygon(lat_lon[:, ::-1])
            except ValueError as error:
                raise QueryError(f"static error: no polygon of lat lon pairs: {error}") from error
        sides = []
        while self._peek() not in (")", ""):
            sides.append(self._text())
            if self._peek() == ",":
                self._next()
        try:
            south, west, north, east = (float(side) for side in sides)
        except ValueError as error:
            raise QueryError(f"static error: no poly: and no bounding box south,west,north,east: {error}") from error
        return box(west, south, east, north)

    def _existed(self, key: Key) -> bool:
        return self.date is None or self._server.get(key).timestamp <= self.date

    def _out(self) -> list[dict[str, Any]]:
        self._next("out")
        modes = set()
        while self._peek() != ";":
            modes.add(self._next(*_OUT_MODES))
        self._next(";")
        keys = sorted(self._default, key=lambda key: (_ORDER[key[0]], key[1]))
        return [_element(self._server.get(key), key[0], modes) for key in keys]


def _moment(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise QueryError(f"static error: date must look like 2024-01-01T00:00:00Z, not {text!r}") from error


def _element(item: Node | Way | Relation, kind: str, modes: set[str]) -> dict[str, Any]:
    element: dict[str, Any] = {"type": kind, "id": item.id}
    if "ids" in modes:
        return element
    if "meta" in modes:
        element |= {"timestamp": item.timestamp.strftime("%Y-%m-%dT%H:%M:%SZ"), "version": item.version}
    if "tags" not in modes:
        if isinstance(item, Node):
            element["lon"], element["lat"] = item.lonlat
        elif isinstance(item, Way):
            element["nodes"] = item.nodes
        else:
            element["members"] = [{"type": "way", "ref": ref, "role": role} for ref, role in item.members]
    if item.tags and "skel" not in modes:
        element["tags"] = item.tags
    return element
