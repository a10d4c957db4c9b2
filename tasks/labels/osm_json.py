"""What an Overpass server answers, as a file that the reader of extracts reads: every value looked at on the way."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_MEMBERS = {"node": "n", "way": "w", "relation": "r"}
_HIGHEST_ID = 1 << 62  # of an object; OSM is at 2^34


def write_extract(answers: Sequence[dict[str, Any]], path: Path) -> str:
    """Write the objects of all answers to ``path`` (.osm.pbf, in a folder that is there), each once and sorted.

    answers: each with a list ``elements``. Returns the timestamp of the server's data: the oldest of the answers', or
    the present time where none has one. Raises ValueError, naming the object, for one that is none, and what libosmium
    raises when it cannot write.
    """
    import osmium

    objects: dict[str, dict[int, Any]] = {"node": {}, "way": {}, "relation": {}}
    for element in (element for answer in answers for element in answer["elements"]):
        if not isinstance(element, dict):
            raise ValueError(f"an element is {str(element)[:40]!r}, expected an object")
        kind = element.get("type")
        if not isinstance(kind, str):
            raise ValueError(f"an element has the type {str(kind)[:40]!r}")
        if kind in _MEMBERS:
            number = _id(element.get("id"), f"a {kind}")
            objects[kind][number] = _READ[kind](element, f"{kind} {number}")
    mutable = osmium.osm.mutable
    with osmium.SimpleWriter(str(path), overwrite=True) as writer:
        for number, location in sorted(objects["node"].items()):
            writer.add_node(mutable.Node(id=number, location=location))
        for number, (nodes, tags) in sorted(objects["way"].items()):
            writer.add_way(mutable.Way(id=number, nodes=nodes, tags=tags))
        for number, (members, tags) in sorted(objects["relation"].items()):
            writer.add_relation(mutable.Relation(id=number, members=members, tags=tags))
    return min(filter(None, map(_stamp, answers)), default=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")


def _node(element: dict[str, Any], name: str) -> tuple[float, float]:
    return _degrees(element.get("lon"), 180, name), _degrees(element.get("lat"), 90, name)


def _way(element: dict[str, Any], name: str) -> tuple[list[int], dict[str, str]]:
    return [_id(ref, f"{name}: a node") for ref in _list(element.get("nodes"), name)], _tags(element, name)


def _relation(element: dict[str, Any], name: str) -> tuple[list[tuple[str, int, str]], dict[str, str]]:
    members = []
    for member in _list(element.get("members"), name):
        kind = member.get("type") if isinstance(member, dict) else None
        if not isinstance(kind, str) or kind not in _MEMBERS or not isinstance(role := member.get("role", ""), str):
            raise ValueError(f"{name} has the member {str(member)[:80]!r}")
        members.append((_MEMBERS[kind], _id(member.get("ref"), f"{name}: a member"), _text(role, name)))
    return members, _tags(element, name)


_READ = {"node": _node, "way": _way, "relation": _relation}


def _id(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _HIGHEST_ID:
        raise ValueError(f"{name} has the id {str(value)[:40]}, expected a whole number of OSM")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} has no list of its parts")
    return value


def _tags(element: dict[str, Any], name: str) -> dict[str, str]:
    tags = element.get("tags", {})
    if not isinstance(tags, dict) or not all(isinstance(text, str) for pair in tags.items() for text in pair):
        raise ValueError(f"{name} has the tags {str(tags)[:80]}")
    return {_text(key, name): _text(value, name) for key, value in tags.items()}


def _text(value: str, name: str) -> str:
    if "\0" in value:  # which ends a text in libosmium, and leads it astray
        raise ValueError(f"{name} has a text with a NUL character")
    return value


def _degrees(value: Any, most: int, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= most:  # NaN is not, either
        raise ValueError(f"{name} lies at {str(value)[:40]}, expected degrees")
    return float(value)


def _stamp(answer: dict[str, Any]) -> str:
    """The time of the server's data, empty where it says none."""
    head = answer.get("osm3s")
    stamp = head.get("timestamp_osm_base") if isinstance(head, dict) else None
    return stamp if isinstance(stamp, str) and is_time(stamp) else ""


def is_time(text: str) -> bool:
    """Whether ``text`` is an ISO 8601 time."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
