"""The synthetic OSM database as a .osm.pbf file, as an extract server would offer it."""

import hashlib
import os
from pathlib import Path

import osmium

from infra.sandbox.world.osm import GENERATOR, OSM_BASE, OsmData
from infra.sandbox.world.region import REGION_BOUNDS


def write_pbf(data: OsmData, path: Path) -> str:
    """Write all objects to ``path`` (nodes, ways, relations; by id) and return the file's MD5 in hexadecimal.

    The file's time is that of the data, so that Last-Modified and ETag are the same whenever it is written.
    """
    header = osmium.io.Header()
    header.set("generator", GENERATOR)
    header.set("osmosis_replication_timestamp", OSM_BASE.strftime("%Y-%m-%dT%H:%M:%SZ"))
    west, south, east, north = REGION_BOUNDS
    header.add_box(osmium.osm.Box(osmium.osm.Location(west, south), osmium.osm.Location(east, north)))
    with osmium.SimpleWriter(str(path), header=header, overwrite=True) as writer:
        for _, node in sorted(data.nodes.items()):
            writer.add_node(
                osmium.osm.mutable.Node(
                    id=node.id, location=node.lonlat, tags=node.tags, version=node.version, timestamp=node.timestamp
                )
            )
        for _, way in sorted(data.ways.items()):
            writer.add_way(
                osmium.osm.mutable.Way(
                    id=way.id, nodes=way.nodes, tags=way.tags, version=way.version, timestamp=way.timestamp
                )
            )
        for _, relation in sorted(data.relations.items()):
            members = [("w", ref, role) for ref, role in relation.members]
            writer.add_relation(
                osmium.osm.mutable.Relation(
                    id=relation.id,
                    members=members,
                    tags=relation.tags,
                    version=relation.version,
                    timestamp=relation.timestamp,
                )
            )
    os.utime(path, (OSM_BASE.timestamp(), OSM_BASE.timestamp()))
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
