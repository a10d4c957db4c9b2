"""What an aerial picture shows besides houses: ground patches, markings, furrows, cars and trees. In local metres."""

from dataclasses import dataclass

import numpy as np
import shapely
from shapely import LineString, Polygon, STRtree, get_parts, unary_union
from shapely.affinity import rotate, scale
from shapely.ops import substring

from infra.sandbox.world import palette
from infra.sandbox.world.houses import House
from infra.sandbox.world.landscape import SIDEWALK, Landscape, Road, Zone, polygons_of
from infra.sandbox.world.palette import Colour
from infra.sandbox.world.region import FloatArray, rng

ROUGH = {"old_town": 45, "suburb": 120, "industrial": 45, "park": 120, "forest": 170, "field": 95, "wild": 120}
ROUGH_PAVED, ROUGH_WATER, ROUGH_BARE = 30, 22, 80


@dataclass(frozen=True)
class Patch:
    """A flat coloured thing: a polygon (``width`` 0) or a line of ``width`` metres; ``rough`` 0..255 is its texture."""

    points: FloatArray
    colour: Colour
    rough: int
    width: float = 0.0


@dataclass(frozen=True)
class Trees:
    """Trees as arrays: position (n, 2), crown radius (n,) in metres and colour (n, 3)."""

    position: FloatArray
    radius: FloatArray
    colour: FloatArray


def build_ground(seed: int, landscape: Landscape, houses: list[House]) -> list[Patch]:
    """The flat things of the region, in the order in which they are painted."""
    random = rng(seed, "ground")
    patches: list[Patch] = []
    for zone in sorted(landscape.zones, key=lambda z: Polygon(z.polygon.exterior).area, reverse=True):
        patches += _zone_patches(random, zone)
    water = unary_union([landscape.river, landscape.lake])
    patches += [_area(part, palette.BANK, ROUGH["wild"]) for part in polygons_of(water.buffer(7.0))]
    patches += [_area(part, palette.WATER, ROUGH_WATER) for part in polygons_of(water)]
    for road in landscape.roads:
        if road.highway != "track":
            patches.append(_line(road.line, palette.SIDEWALK, road.width + 2 * SIDEWALK))
    ordered = sorted(landscape.roads, key=lambda road: road.width)
    for road in ordered:
        patches.append(_line(road.line, palette.ROADS[road.highway], road.width))
    for road in ordered:
        patches += _markings(road)
    for house in houses:
        if house.oddity == "demolished":
            patches.append(_area(house.footprint.buffer(1.5), palette.BARE, ROUGH_BARE))
    patches += _pools(random, landscape.zones, houses)
    return patches + _cars(random, landscape, houses)


def _area(polygon: Polygon, colour: Colour, rough: int) -> Patch:
    return Patch(np.asarray(polygon.exterior.coords)[:-1], colour, rough)


def _line(line: LineString, colour: Colour, width: float, rough: int = ROUGH_PAVED) -> Patch:
    return Patch(np.asarray(line.coords), colour, rough, width)


def _zone_patches(random: np.random.Generator, zone: Zone) -> list[Patch]:
    """The ground of a zone; gardens differ from lot to lot, and fields are ploughed."""
    if zone.kind == "field":
        colour = palette.pick(random, palette.FIELDS)
        return [_area(zone.polygon, colour, ROUGH["field"]), *_furrows(random, zone.polygon, colour)]
    patches = [_area(zone.polygon, palette.pick(random, [palette.GROUND[zone.kind]]), ROUGH[zone.kind])]
    if zone.kind == "suburb":
        for strip in _stripes(zone.polygon, float(random.uniform(14, 20)), _long_side(zone.polygon) + np.pi / 2):
            if random.random() < 0.8:
                ground = [palette.GROUND["suburb"], palette.GROUND["park"], palette.BARE]
                colour = palette.pick(random, [ground[int(random.choice(3, p=[0.6, 0.3, 0.1]))]])
                patches.append(_area(strip, colour, ROUGH["suburb"]))
    return patches


def _long_side(polygon: Polygon) -> float:
    """Direction of the longer side of the smallest rectangle around a polygon, radians."""
    corners = np.asarray(polygon.minimum_rotated_rectangle.exterior.coords)
    sides = np.diff(corners[:3], axis=0)
    longer = sides[int(np.argmax(np.hypot(sides[:, 0], sides[:, 1])))]
    return float(np.arctan2(longer[1], longer[0]))


def _stripes(polygon: Polygon, width: float, angle: float) -> list[Polygon]:
    """The polygon cut into parallel strips ``width`` metres wide that run at ``angle``."""
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    offset = np.asarray(polygon.exterior.coords) @ across
    reach = 2 * float(np.sqrt(polygon.envelope.area) + np.ptp(offset))
    centre = np.asarray(polygon.centroid.coords[0])
    centre = centre - (centre @ across) * across
    strips: list[Polygon] = []
    for start in np.arange(offset.min(), offset.max(), width):
        low, high = centre + start * across, centre + (start + width) * across
        quad = Polygon([low - reach * along, low + reach * along, high + reach * along, high - reach * along])
        strips += polygons_of(polygon.intersection(quad), 20)
    return strips


def _furrows(random: np.random.Generator, polygon: Polygon, colour: Colour) -> list[Patch]:
    """Lines across a field, lighter or darker than it."""
    spacing, contrast = float(random.uniform(2.6, 6.0)), int(random.choice([-14, -9, 8, 12]))
    angle = _long_side(polygon) + float(random.choice([0.0, np.pi / 2]))
    red, green, blue = (int(np.clip(value + contrast, 0, 255)) for value in colour)
    direction, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    points = np.asarray(polygon.exterior.coords)
    reach = points @ direction
    starts = np.arange((points @ across).min(), (points @ across).max(), spacing)
    lines = [LineString([s * across + reach.min() * direction, s * across + reach.max() * direction]) for s in starts]
    cut = get_parts(shapely.intersection(lines, polygon.buffer(-2.0)))
    pieces = [piece for piece in cut if isinstance(piece, LineString) and piece.length > 3]
    return [_line(piece, (red, green, blue), spacing * 0.42, ROUGH["field"]) for piece in pieces]


def _markings(road: Road) -> list[Patch]:
    """A broken centre line on the main roads."""
    if road.highway not in ("primary", "secondary"):
        return []
    dashes = np.arange(0, road.line.length - 3, 9.0)
    pieces = [substring(road.line, start, start + 3.0) for start in dashes]
    return [_line(piece, palette.MARKING, 0.3) for piece in pieces if piece.length > 1]


def _pools(random: np.random.Generator, zones: list[Zone], houses: list[House]) -> list[Patch]:
    """Swimming pools in the gardens, clear of the houses."""
    tree = STRtree([house.footprint for house in houses])
    patches: list[Patch] = []
    for zone in zones:
        if zone.kind != "suburb":
            continue
        west, south, east, north = zone.polygon.bounds
        for _ in range(3):
            spot = shapely.Point(random.uniform(west, east), random.uniform(south, north))
            pool = spot.buffer(1.0, cap_style="square")
            length, turn = float(random.uniform(2.5, 5)), float(random.uniform(0, 180))
            pool = rotate(scale(pool, length, 2.2), turn)
            if (
                random.random() < 0.5
                and zone.polygon.contains(pool)
                and not len(tree.query(pool.buffer(2), "intersects"))
            ):
                patches.append(_area(pool.buffer(0.9, join_style="mitre"), palette.SIDEWALK, ROUGH_PAVED))
                patches.append(_area(pool, palette.pick(random, [palette.POOL]), ROUGH_WATER))
    return patches


def _cars(random: np.random.Generator, landscape: Landscape, houses: list[House]) -> list[Patch]:
    """Cars along the streets and in the yards of the halls."""
    patches: list[Patch] = []
    for road in landscape.roads:
        if road.highway == "track":
            continue
        for at in np.arange(8, road.line.length - 8, 7.0):
            if random.random() < 0.16:
                here, ahead = (np.asarray(road.line.interpolate(at + step).coords[0]) for step in (0.0, 1.0))
                along = (ahead - here) / np.hypot(*(ahead - here))
                across = np.array([-along[1], along[0]])
                side = float(random.choice([-1, 1])) * (road.width / 2 - 1.1)
                patches.append(_car(random, here + across * side, along))
    tree = STRtree([house.footprint for house in houses])
    for zone in landscape.zones:
        if zone.kind != "industrial":
            continue
        angle = _long_side(zone.polygon)
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        centre, inside = np.asarray(zone.polygon.centroid.coords[0]), zone.polygon.buffer(-5)
        share = float(random.choice([0.05, 0.25, 0.5]))
        for u in np.arange(-90, 90, 2.7):
            for v in np.arange(-70, 70, 16.0):
                spot = centre + u * along + v * across
                point = shapely.Point(spot)
                if random.random() < share and inside.contains(point) and not len(tree.query(point, "dwithin", 4.0)):
                    patches.append(_car(random, spot, across))
    return patches


def _car(random: np.random.Generator, centre: FloatArray, along: FloatArray) -> Patch:
    across = np.array([-along[1], along[0]])
    length, width = 2.2 * along, 0.92 * across
    ring = np.array(
        [centre - length - width, centre + length - width, centre + length + width, centre - length + width]
    )
    return Patch(ring, palette.CARS[int(random.integers(len(palette.CARS)))], ROUGH_PAVED)


TREES_PER_HECTARE = {"suburb": 78, "park": 130, "old_town": 35, "industrial": 10, "field": 0.8, "forest": 270}


def build_trees(seed: int, landscape: Landscape, houses: list[House]) -> Trees:
    """Trees in gardens, parks, woods, along streets, tracks and water; none stands in a house or on a road."""
    random = rng(seed, "trees")
    spots: list[FloatArray] = []
    radii: list[FloatArray] = []
    for zone in landscape.zones:
        west, south, east, north = zone.polygon.bounds
        count = int(TREES_PER_HECTARE[zone.kind] * (east - west) * (north - south) / 1e4)
        points = random.uniform((west, south), (east, north), (count, 2))
        points = points[shapely.contains_xy(zone.polygon, points)]
        low, high = (2.6, 5.4) if zone.kind == "forest" else (1.3, 4.2)
        spots.append(points)
        radii.append(random.uniform(low, high, len(points)))
    for road in landscape.roads:
        share = {"track": 0.35, "service": 0.1}.get(road.highway, 0.3)
        at = np.arange(5, max(road.line.length - 5, 5), 8.0)
        if len(at) == 0:
            continue
        here = shapely.get_coordinates(shapely.line_interpolate_point(road.line, at))
        ahead = shapely.get_coordinates(shapely.line_interpolate_point(road.line, at + 1.0))
        along = ahead - here
        across = np.stack([-along[:, 1], along[:, 0]], axis=1) * random.choice([-1, 1], (len(at), 1))
        keep = random.random(len(at)) < share * random.choice([0.0, 1.0, 2.0])
        spots.append((here + across * (road.width / 2 + 1.0))[keep])
        radii.append(random.uniform(1.5, 3.4, int(keep.sum())))
    shore = unary_union([landscape.river, landscape.lake])
    at = np.arange(0, shore.boundary.length, 7.0)
    shoreline = shapely.get_coordinates(shapely.line_interpolate_point(shore.buffer(4.5).boundary, at))
    keep = random.random(len(shoreline)) < 0.45
    spots.append(shoreline[keep])
    radii.append(random.uniform(1.8, 4.6, int(keep.sum())))

    position, radius = np.concatenate(spots), np.concatenate(radii)
    free = np.ones(len(position), dtype=bool)
    points = shapely.points(position)
    blocked = [house.footprint for house in houses if house.oddity != "underground"]
    blocked += [road.line.buffer(road.width / 2 + 0.3) for road in landscape.roads]
    free[STRtree(points).query(blocked, predicate="dwithin", distance=0.7)[1]] = False
    tone = (
        np.array([62.0, 80.0, 46.0]) + random.normal(0, 9, (len(position), 1)) + random.normal(0, 5, (len(position), 3))
    )
    return Trees(position[free], radius[free], np.clip(tone, 15, 160)[free])
