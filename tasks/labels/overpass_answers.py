"""The answers of an Overpass server, as osmnx keeps them, turned into an extract."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def count_whole(folder: Path) -> int:
    """How many answers are kept, the broken ones removed: osmnx writes in place, and a kill may cut one short."""
    count = 0
    for path in folder.glob("*.json"):
        try:
            whole = isinstance(json.loads(path.read_text(encoding="utf-8"))["elements"], list)
        except (KeyError, TypeError, ValueError):
            whole = False
        if whole:
            count += 1
        else:
            path.unlink()
    return count


def write_extract(folder: Path, path: Path) -> str:
    """Write the objects of all answers in ``folder`` to ``path`` (.osm.pbf), each once and sorted.

    Returns the timestamp of the server's data: the oldest of the answers', or the present time where none has one.
    Raises KeyError, TypeError or ValueError for an answer with objects that are none.
    """
    import osmium

    objects: dict[str, dict[int, dict[str, Any]]] = {"node": {}, "way": {}, "relation": {}}
    stamps = []
    for file in sorted(folder.glob("*.json")):
        answer = json.loads(file.read_text(encoding="utf-8"))
        if stamp := answer.get("osm3s", {}).get("timestamp_osm_base"):
            stamps.append(str(stamp))
        for element in answer["elements"]:
            if element["type"] in objects:
                objects[element["type"]][element["id"]] = element
    mutable = osmium.osm.mutable
    path.parent.mkdir(parents=True, exist_ok=True)
    with osmium.SimpleWriter(str(path), overwrite=True) as writer:
        for number, node in sorted(objects["node"].items()):
            writer.add_node(mutable.Node(id=number, location=(node["lon"], node["lat"])))
        for number, way in sorted(objects["way"].items()):
            writer.add_way(mutable.Way(id=number, nodes=way["nodes"], tags=way.get("tags", {})))
        for number, relation in sorted(objects["relation"].items()):
            members = [(one["type"][0], one["ref"], one["role"]) for one in relation["members"]]
            writer.add_relation(mutable.Relation(id=number, members=members, tags=relation.get("tags", {})))
    return min(stamps) if stamps else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
