"""The ground plan of the region: water, zones of land use, streets and the blocks between them.

All geometry is in local metres (see ``infra.sandbox.world.region``).
"""

from dataclasses import dataclass

import numpy as np
from shapely import LineString, MultiLineString, Polygon, box, get_parts, intersection, line_merge, unary_union
from shapely.affinity import rotate, scale, translate
from shapely.geometry.base import BaseGeometry

from infra.sandbox.world.region import SIZE, FloatArray, rng

MARGIN = 120.0  # the landscape goes on so far beyond the tiles, for what is cut by their edge
EXTENT = box(-MARGIN, -MARGIN, SIZE + MARGIN, SIZE + MARGIN)
TOWN_CENTRE = (1130.0, 1290.0)
SIDEWALK = 1.6  # metres on each side of a street


@dataclass(frozen=True)
class Road:
    """A carriageway: its centre line, its width in metres and its OSM class."""

    line: LineString
    width: float
    highway: str
    name: str


@dataclass(frozen=True)
class Zone:
    """A piece of land between the streets, and the land use of which it is a part."""

    polygon: Polygon
    kind: str  # old_town, suburb, industrial, field, forest, park


@dataclass(frozen=True)
class Landscape:
    """Everything that lies flat on the ground and is no house."""

    roads: list[Road]
    zones: list[Zone]
    river: Polygon
    lake: Polygon
    forests: list[Polygon]


def polygons_of(geometry: BaseGeometry, min_area: float = 0.0) -> list[Polygon]:
    """The polygons among the parts of a geometry that are larger than ``min_area`` square metres."""
    return [part for part in get_parts(geometry) if isinstance(part, Polygon) and part.area > min_area]


def smooth(points: FloatArray, rounds: int = 3) -> FloatArray:
    """An open line (n, 2) with its corners cut by Chaikin's rule; the ends stay."""
    for _ in range(rounds):
        quarter, three_quarters = (points[:-1] * 3 + points[1:]) / 4, (points[:-1] + points[1:] * 3) / 4
        middle = np.stack([quarter, three_quarters], axis=1).reshape(-1, 2)
        points = np.concatenate([points[:1], middle, points[-1:]])
    return points


def _blob(random: np.random.Generator, centre: tuple[float, float], radius: float, roughness: float = 0.10) -> Polygon:
    """A round patch whose radius wavers."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    reach = np.full_like(angle, radius)
    for harmonic in (2, 3, 5):
        reach += radius * roughness * random.uniform(0.4, 1.0) * np.sin(harmonic * angle + random.uniform(0, 2 * np.pi))
    return Polygon(np.stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)], axis=1))


def _grid_lines(
    random: np.random.Generator, centre: tuple[float, float], angle: float, spacing: tuple[float, float], jitter: float
) -> list[LineString]:
    """The lines of a turned and perturbed grid over the whole extent; ``angle`` in degrees, the rest in metres."""
    reach = SIZE + 2 * MARGIN
    columns, rows = int(reach / spacing[0]) + 1, int(reach / spacing[1]) + 1
    x = (np.arange(-columns, columns + 1) * spacing[0])[None, :].repeat(2 * rows + 1, axis=0)
    y = (np.arange(-rows, rows + 1) * spacing[1])[:, None].repeat(2 * columns + 1, axis=1)
    nodes = np.stack([x, y], axis=-1) + random.uniform(-jitter, jitter, (*x.shape, 2))
    lines = [LineString(nodes[row]) for row in range(nodes.shape[0])]
    lines += [LineString(nodes[:, column]) for column in range(nodes.shape[1])]
    return [translate(rotate(line, angle, origin=(0, 0)), *centre) for line in lines]


def _clip_lines(lines: list[LineString], area: BaseGeometry, min_length: float) -> list[LineString]:
    pieces: list[LineString] = []
    for part in get_parts(intersection(lines, area)).tolist():
        merged = line_merge(part) if isinstance(part, MultiLineString) else part
        pieces += [line for line in get_parts(merged) if isinstance(line, LineString) and line.length >= min_length]
    return pieces


def build_landscape(seed: int) -> Landscape:
    """The ground plan for a seed. Zones do not overlap one another, the streets or the water."""
    random = rng(seed, "landscape")
    shift = random.uniform(-40, 40, 2)
    centre = (TOWN_CENTRE[0] + shift[0], TOWN_CENTRE[1] + shift[1])

    old_town = _blob(random, centre, 380, 0.06)
    suburb = _blob(random, centre, 800, 0.08)
    industrial = rotate(box(1560, -MARGIN, SIZE + MARGIN, 640), random.uniform(2, 6), origin=(2000, 300))
    lake = scale(_blob(random, (2080, 1960), 190), 1.0, 0.75)
    woods = [_blob(random, (330, 2120), 350, 0.14), _blob(random, (200, 330), 210, 0.14)]

    river_points = np.array([[-200, 900], [250, 780], [600, 800], [950, 690], [1350, 770], [1800, 1010], [2250, 940]])
    river_points = np.concatenate([river_points + random.uniform(-50, 50, river_points.shape), [[2700, 1050]]])
    river = LineString(smooth(river_points)).buffer(15.0)
    water = unary_union([river, lake])
    banks = water.buffer(9.0)

    roads = _main_roads(random, centre, old_town)
    streets = [
        ("residential", 6.0, old_town, (78.0, 66.0), 7.0, random.uniform(8, 20)),
        ("residential", 5.6, suburb.difference(old_town), (128.0, 74.0), 6.0, random.uniform(-32, -20)),
        ("service", 8.0, industrial.difference(suburb), (170.0, 120.0), 3.0, random.uniform(2, 6)),
        ("track", 3.2, EXTENT.difference(unary_union([suburb, industrial, *woods])), (330.0, 240.0), 25.0, 11.0),
    ]
    dry = EXTENT.difference(banks)
    for highway, width, area, spacing, jitter, angle in streets:
        lines = _clip_lines(_grid_lines(random, centre, angle, spacing, jitter), area.intersection(dry), 25.0)
        roads += [Road(line, width, highway, f"Synthetic {highway} {n}") for n, line in enumerate(lines, start=1)]

    # Tracks end in a field; only paved streets part the blocks by a sidewalk too.
    corridors = [
        r.line.buffer(r.width / 2 + (0.6 if r.highway == "track" else SIDEWALK), cap_style="flat") for r in roads
    ]
    free = dry.difference(unary_union(corridors))
    forests = [polygon for wood in woods for polygon in polygons_of(wood.difference(suburb).intersection(free), 400)]
    kinds = {
        "old_town": old_town,
        "suburb": suburb.difference(old_town),
        "industrial": industrial.difference(suburb),
        "field": EXTENT.difference(unary_union([suburb, industrial, *woods])),
    }
    zones = [Zone(polygon, "forest") for polygon in forests]
    for kind, area in kinds.items():
        for polygon in polygons_of(area.intersection(free), 250):
            park = kind in ("old_town", "suburb") and random.random() < 0.05
            zones.append(Zone(polygon, "park" if park else kind))
    return Landscape(roads, zones, river, lake, forests)


def _main_roads(random: np.random.Generator, centre: tuple[float, float], old_town: Polygon) -> list[Road]:
    """Two curved roads through the town, one diagonal, and the ring around the old town."""
    far = SIZE + 2 * MARGIN
    bend = random.uniform(-60, 60, 6)
    north_south = [[900, -200], [1000 + bend[0], 500], [centre[0] - 40, centre[1]], [1300 + bend[1], 1900], [1200, far]]
    west_east = [[-200, 1500], [500, 1350 + bend[2]], [centre[0], centre[1] - 30], [1700, 1420 + bend[3]], [far, 1300]]
    diagonal = [[centre[0] + 20, centre[1] - 10], [1500 + bend[4], 900], [1900, 480 + bend[5]], [far, -150]]
    courses = [
        (north_south, "Synthetic North Road"),
        (west_east, "Synthetic West Road"),
        (diagonal, "Synthetic Mill Road"),
    ]
    roads = [Road(LineString(smooth(np.array(c, dtype=float))), 9.0, "primary", name) for c, name in courses]
    ring = LineString(old_town.exterior.simplify(4.0).coords)
    return [*roads, Road(ring, 8.0, "secondary", "Synthetic Ring")]
