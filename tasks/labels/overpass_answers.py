"""What Overpass answered, as osmnx keeps it: the facts that osmnx's frames no longer show."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from tasks.labels.cover import TileCover
from tasks.labels.tags import TAG_KEYS

# osmnx needs the first two: it takes multipolygons for areas, and not what says area=no.
_KEPT_TAGS = frozenset({"type", "area", *TAG_KEYS})
_AREA_RELATIONS = ("multipolygon", "boundary")


def slim(answer: dict[str, Any]) -> dict[str, Any]:
    """``answer`` with only the tags that footprints need.

    osmnx makes a column of every key, and a key such as ``id`` or ``nodes`` would overwrite the element's own.
    """
    for element in answer["elements"]:
        if "tags" in element:
            element["tags"] = {key: value for key, value in element["tags"].items() if key in _KEPT_TAGS}
    return answer


@dataclass(frozen=True)
class Answers:
    """All answers of one fetch together."""

    timestamp: str  # of the server's data, the oldest of the answers', else the time of reading
    tags: dict[tuple[str, int], dict[str, str]]  # of ways and area relations with a building tag
    invalid_rings: dict[int, Any]  # way id -> the polygon of its nodes, where that is invalid
    _outlines: dict[tuple[str, int], list[tuple[float, float]]]  # their known nodes

    @staticmethod
    def discard_broken(folder: Path) -> None:
        """Remove kept answers that cannot be used: osmnx writes them in place, and a kill may cut one short."""
        for path in folder.glob("*.json"):
            try:
                whole = isinstance(json.loads(path.read_text(encoding="utf-8"))["elements"], list)
            except (KeyError, TypeError, ValueError):
                whole = False
            if not whole:
                path.unlink()

    @classmethod
    def read(cls, folder: Path) -> "Answers":
        """The answers in ``folder``, all of them whole."""
        nodes: dict[int, tuple[float, float]] = {}
        ways: dict[int, dict[str, Any]] = {}
        relations: dict[int, dict[str, Any]] = {}
        stamps = []
        for path in sorted(folder.glob("*.json")):
            answer = json.loads(path.read_text(encoding="utf-8"))
            stamps.append(answer.get("osm3s", {}).get("timestamp_osm_base"))
            for element in answer["elements"]:
                if element["type"] == "node":
                    nodes[element["id"]] = (element["lon"], element["lat"])
                elif element["type"] == "way":
                    ways[element["id"]] = element
                elif element.get("tags", {}).get("type") in _AREA_RELATIONS:
                    relations[element["id"]] = element
        tags = {
            (kind, number): element["tags"]
            for kind, elements in (("way", ways), ("relation", relations))
            for number, element in elements.items()
            if "building" in element.get("tags", {})
        }
        outlines = {(kind, number): _known(nodes, _rings_of(kind, number, ways, relations)) for kind, number in tags}
        dated = [stamp for stamp in stamps if stamp]
        return cls(
            timestamp=min(dated) if dated else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            tags=tags,
            invalid_rings=_invalid_rings(nodes, (ways[number] for kind, number in tags if kind == "way")),
            _outlines=outlines,
        )

    def incomplete(self, found: set[tuple[str, int]], cover: TileCover) -> int:
        """How many outlines on the tiles (or of unknown place) are not among ``found``: osmnx could not build them."""
        lost = [points for key, points in self._outlines.items() if key not in found]
        unknown = sum(not points for points in lost)
        boxes = [(*np.min(points, axis=0), *np.max(points, axis=0)) for points in lost if points]
        return unknown + int(cover.touches(np.array(boxes, dtype=np.float64).reshape(-1, 4)).sum())


def _rings_of(
    kind: str, number: int, ways: dict[int, dict[str, Any]], relations: dict[int, dict[str, Any]]
) -> list[int]:
    """Node ids of a way, or of the member ways of a relation."""
    if kind == "way":
        return list(ways[number]["nodes"])
    members = [member["ref"] for member in relations[number]["members"] if member["type"] == "way"]
    return [node for ref in members if ref in ways for node in ways[ref]["nodes"]]


def _known(nodes: dict[int, tuple[float, float]], numbers: Iterable[int]) -> list[tuple[float, float]]:
    return [nodes[number] for number in numbers if number in nodes]


def _invalid_rings(nodes: dict[int, tuple[float, float]], ways: Iterable[dict[str, Any]]) -> dict[int, Any]:
    rings = {}
    for way in ways:
        numbers = way["nodes"]
        if way["tags"].get("area") == "no" or len(numbers) < 4 or numbers[0] != numbers[-1]:
            continue
        points = _known(nodes, numbers)
        if len(points) == len(numbers):
            rings[way["id"]] = shapely.Polygon(points)
    return {number: ring for number, ring in rings.items() if not ring.is_valid}
