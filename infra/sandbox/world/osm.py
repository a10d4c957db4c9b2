"""The synthetic region as OpenStreetMap objects: nodes, ways and relations, and the footprints that they make.

Coordinates are kept in OSM's own units of 1e-7 degree, so that every reader gets the very same numbers. A building
with courtyards, or of several parts, is a multipolygon relation with untagged member ways; any other is a closed way.
A few building objects are odd, as they are in the real database:

- ``building_no``: ``building=no``, and no house stands there
- ``underground``: a car park with ``location=underground``
- ``demolished``: ``demolished:building=yes``, one beside a ``building=yes`` that was left; the ground is bare
- ``unclosed``: a house whose way does not close, so that it is no area
- ``bow_tie``: a house whose way crosses itself
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from shapely import MultiPolygon, Polygon, get_parts, transform
from shapely.geometry.base import BaseGeometry

from infra.sandbox.world.houses import House, rings_of
from infra.sandbox.world.region import ORIGIN_X, ORIGIN_Y, FloatArray, from_lonlat, rng, to_lonlat
from infra.sandbox.world.world import World, build_world

if TYPE_CHECKING:
    import geopandas

GENERATOR = "Tilewright sandbox, synthetic data, not OpenStreetMap"
OSM_BASE = datetime(2026, 11, 1, 0, 0, tzinfo=UTC)
"""The moment that the whole synthetic database describes; no object is younger."""

UNITS = 1e7  # OSM's coordinate units in a degree
_FIRST_ID = 1_000_001
_LANDUSE = {
    "old_town": ("landuse", "residential"),
    "suburb": ("landuse", "residential"),
    "industrial": ("landuse", "industrial"),
    "field": ("landuse", "farmland"),
    "forest": ("landuse", "forest"),
    "park": ("leisure", "park"),
}


@dataclass
class Node:
    """A point; ``x`` and ``y`` are longitude and latitude in 1e-7 degree."""

    id: int
    x: int
    y: int
    timestamp: datetime
    version: int
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def lonlat(self) -> tuple[float, float]:
        """Degrees of EPSG:4326."""
        return self.x / UNITS, self.y / UNITS


@dataclass
class Way:
    """A line or, when closed, perhaps an area."""

    id: int
    nodes: list[int]
    timestamp: datetime
    version: int
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Relation:
    """A multipolygon; members are (way id, role)."""

    id: int
    members: list[tuple[int, str]]
    timestamp: datetime
    version: int
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Footprint:
    """A building object of the synthetic OSM, and its geometry as a reader of OSM should make it (EPSG:4326).

    ``oddity`` is None for a sound building; the geometry of an odd one is where it stands or stood.
    """

    osm_type: str  # way or relation
    osm_id: int
    geometry: Polygon | MultiPolygon
    tags: dict[str, str]
    oddity: str | None


@dataclass
class OsmData:
    """All objects by id, and the building objects among them with their geometry."""

    nodes: dict[int, Node] = field(default_factory=dict)
    ways: dict[int, Way] = field(default_factory=dict)
    relations: dict[int, Relation] = field(default_factory=dict)
    footprints: list[Footprint] = field(default_factory=list)


class _Editor:
    """Adds objects to a database; points at the same place are one node."""

    def __init__(self, random: np.random.Generator) -> None:
        self.data, self._random = OsmData(), random
        self._at: dict[tuple[int, int], int] = {}

    def moment(self) -> tuple[datetime, int]:
        """A time of the last edit and a version."""
        days = int(self._random.integers(1, 3900))
        return OSM_BASE - timedelta(days=days, minutes=int(self._random.integers(1440))), int(
            self._random.integers(1, 6)
        )

    def points(self, local: FloatArray, timestamp: datetime) -> list[int]:
        """The nodes at places in local metres, made where there is none yet."""
        ids = []
        for x, y in np.rint(to_lonlat(local) * UNITS).astype(int).tolist():
            node_id = self._at.setdefault((x, y), _FIRST_ID + len(self._at))
            node = self.data.nodes.setdefault(node_id, Node(node_id, x, y, timestamp, 1))
            node.timestamp = min(node.timestamp, timestamp)
            ids.append(node_id)
        return ids

    def way(self, nodes: list[int], tags: dict[str, str], timestamp: datetime, version: int) -> int:
        way_id = _FIRST_ID + len(self.data.ways)
        self.data.ways[way_id] = Way(way_id, nodes, timestamp, version, tags)
        return way_id

    def building(self, house: House) -> None:
        timestamp, version = self.moment()
        rings = [self.points(ring, timestamp) for ring in rings_of(house.footprint)]
        geometry = self._geometry(house.footprint, rings)
        if len(rings) == 1:
            nodes = rings[0]
            order = {"unclosed": nodes, "bow_tie": [nodes[0], nodes[2], nodes[1], nodes[3], nodes[0]]}
            written = order.get(house.oddity or "", [*nodes, nodes[0]])
            osm_type, osm_id = "way", self.way(written, house.tags, timestamp, version)
        else:
            parts = get_parts(house.footprint).tolist()
            roles = [role for part in parts for role in ("outer", *["inner"] * len(part.interiors))]
            osm_type, osm_id = "relation", self._relation(rings, roles, house.tags, timestamp, version)
        self.data.footprints.append(Footprint(osm_type, osm_id, geometry, house.tags, house.oddity))

    def _relation(
        self, rings: list[list[int]], roles: list[str], tags: dict[str, str], timestamp: datetime, version: int
    ) -> int:
        relation_id = _FIRST_ID + len(self.data.relations)
        members: list[tuple[int, str]] = []
        for ring, role in zip(rings, roles, strict=True):
            closed = [*ring, ring[0]]
            half = len(ring) // 2
            # Every third relation has its outer ring in two ways, which a reader has to join.
            pieces = [closed[: half + 1], closed[half:]] if role == "outer" and relation_id % 3 == 0 else [closed]
            members += [(self.way(piece, {}, timestamp, version), role) for piece in pieces]
        tags = {"type": "multipolygon", **tags}
        self.data.relations[relation_id] = Relation(relation_id, members, timestamp, version, tags)
        return relation_id

    def _geometry(self, footprint: Polygon | MultiPolygon, rings: list[list[int]]) -> Polygon | MultiPolygon:
        """The footprint on the nodes that were written."""
        coordinates = iter([[self.data.nodes[node].lonlat for node in ring] for ring in rings])
        parts = [
            Polygon(next(coordinates), [next(coordinates) for _ in part.interiors])
            for part in get_parts(footprint).tolist()
        ]
        return parts[0] if len(parts) == 1 else MultiPolygon(parts)


@lru_cache(maxsize=4)
def build_osm(seed: int = 0) -> OsmData:
    """The synthetic OSM database of a seed; the same seed gives the same objects."""
    world = build_world(seed)
    editor = _Editor(rng(seed, "osm"))
    for house in world.houses:
        editor.building(house)
    _add_surroundings(editor, world)
    return editor.data


def _add_surroundings(editor: _Editor, world: World) -> None:
    """Roads, land use, water and single trees: what a reader of buildings has to leave out."""
    for road in world.landscape.roads:
        timestamp, version = editor.moment()
        nodes = editor.points(np.asarray(road.line.coords), timestamp)
        editor.way(nodes, {"highway": road.highway, "name": road.name}, timestamp, version)
    areas = [(zone.polygon, _LANDUSE[zone.kind]) for zone in world.landscape.zones if not zone.polygon.interiors]
    areas += [(water, ("natural", "water")) for water in (world.landscape.river, world.landscape.lake)]
    for polygon, (key, value) in areas:
        timestamp, version = editor.moment()
        nodes = editor.points(np.asarray(polygon.exterior.coords)[:-1], timestamp)
        editor.way([*nodes, nodes[0]], {key: value}, timestamp, version)
    for position in world.trees.position[::12]:
        timestamp, version = editor.moment()
        node = editor.data.nodes[editor.points(position[None], timestamp)[0]]
        node.tags, node.version = {"natural": "tree"}, version


def to_mercator(geometry: BaseGeometry) -> BaseGeometry:
    """A geometry of EPSG:4326 in metres of EPSG:3857."""
    return transform(geometry, lambda lonlat: from_lonlat(lonlat) + np.array([ORIGIN_X, ORIGIN_Y]))


def sound_footprints(footprints: Iterable[Footprint]) -> list[Footprint]:
    """The buildings that every careful reader must find, unchanged."""
    return [footprint for footprint in footprints if footprint.oddity is None]


def footprints_frame(seed: int = 0) -> "geopandas.GeoDataFrame":
    """Ground truth: all building objects, EPSG:4326, columns osm_type, osm_id, building, oddity (None: sound)."""
    import geopandas

    rows = build_osm(seed).footprints
    columns = {
        "osm_type": [row.osm_type for row in rows],
        "osm_id": [row.osm_id for row in rows],
        "building": [row.tags.get("building") for row in rows],
        "oddity": [row.oddity for row in rows],
    }
    return geopandas.GeoDataFrame(columns, geometry=[row.geometry for row in rows], crs="EPSG:4326")
