"""Which house stands where: one way of building for each kind of zone. All in local metres."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from shapely import MultiPolygon, Polygon
from shapely.geometry.polygon import orient

from infra.sandbox.world import palette
from infra.sandbox.world.houses import (
    Frame,
    House,
    RoofFace,
    along_longer,
    flat,
    gable,
    plan,
    rectangle,
    rings_of,
    rooftop_units,
)
from infra.sandbox.world.landscape import Landscape, Zone, polygons_of
from infra.sandbox.world.palette import Colour
from infra.sandbox.world.region import FloatArray, rng

PITCH = 0.61  # radians, 35 degrees
COURTYARD_SHARE = 0.22  # of the old town's blocks are one building around a court


def build_settlement(seed: int, landscape: Landscape) -> list[House]:
    """All houses of the region for a seed. Attached houses share the ends of their common wall exactly."""
    random = rng(seed, "settlement")
    builders = {"old_town": _old_town, "suburb": _suburb, "industrial": _industrial, "field": _farm}
    houses: list[House] = []
    for zone in landscape.zones:
        if zone.kind in builders:
            houses += builders[zone.kind](random, zone)
    return _with_oddities(random, landscape, houses)


def _corners(polygon: Polygon, tolerance: float) -> FloatArray:
    """The corners of a block (n, 2), counter-clockwise."""
    return np.asarray(orient(polygon.simplify(tolerance)).exterior.coords)[:-1]


def _cross(first: FloatArray, second: FloatArray) -> FloatArray:
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]


def _inset(corners: FloatArray, depth: float) -> FloatArray | None:
    """Each side of a convex polygon moved in by ``depth``; None when it is not convex or a side gets under 5 m."""
    following = np.roll(corners, -1, axis=0)
    side = following - corners
    length = np.hypot(side[:, 0], side[:, 1])[:, None]
    unit = side / length
    turn = _cross(np.roll(unit, 1, axis=0), unit)
    if len(corners) > 8 or turn.min() < 0.08:
        return None
    inward = np.stack([-unit[:, 1], unit[:, 0]], axis=1)
    before = np.roll(inward, 1, axis=0)
    inner: FloatArray = corners + depth * (inward + before) / (1 + (inward * before).sum(axis=1, keepdims=True))
    inner_side = np.roll(inner, -1, axis=0) - inner
    if ((inner_side * unit).sum(axis=1) < 5.0).any():
        return None
    return inner


def _old_town(random: np.random.Generator, zone: Zone) -> list[House]:
    """A closed block: lots side by side along the street, their walls shared, around a yard."""
    corners = _corners(zone.polygon.buffer(-0.4, join_style="mitre"), 2.5)
    depth = float(random.uniform(9.5, 12.5))
    inner = _inset(corners, depth)
    if inner is None:
        return _rows(random, zone.polygon.buffer(-0.4), palette.ROOFS_OLD, setback=0.3, share=0.75)
    if random.random() < COURTYARD_SHARE:
        return [_court_house(random, corners, inner)]
    lots: list[list[FloatArray]] = []  # each lot is one quadrilateral, or two at a corner of the block
    for n in range(len(corners)):
        outer_side = np.stack([corners[n], corners[(n + 1) % len(corners)]])
        inner_side = np.stack([inner[n], inner[(n + 1) % len(corners)]])
        pieces = max(2, round(float(np.hypot(*(inner_side[1] - inner_side[0]))) / random.uniform(8, 13)))
        t = np.linspace(0, 1, pieces + 1)[:, None]
        front = outer_side[0] + t * (outer_side[1] - outer_side[0])
        rear = inner_side[0] + t * (inner_side[1] - inner_side[0])
        side = [np.stack([front[k], front[k + 1], rear[k + 1], rear[k]]) for k in range(pieces)]
        if lots:
            lots[-1].append(side[0])
            lots += [[quad] for quad in side[1:]]
        else:
            lots += [[quad] for quad in side]
    lots[0].insert(0, lots.pop()[0])
    houses = []
    for lot in lots:
        if random.random() < 0.06:
            continue  # a gap in the street front
        outline = lot[0] if len(lot) == 1 else np.concatenate([lot[0][:2], lot[1][1:], lot[0][3:]])
        roof = [face for quad in lot for face in gable(quad, PITCH)]
        colour = palette.pick(random, palette.ROOFS_OLD)
        height = float(random.uniform(8, 13))
        tags = {
            "building": str(random.choice(["apartments", "yes", "retail"])),
            "building:levels": str(int(height / 3)),
        }
        houses.append(House(Polygon(outline), tuple(roof), colour, height, tags))
    return houses


def _court_house(random: np.random.Generator, corners: FloatArray, inner: FloatArray) -> House:
    """One building around a court: a polygon with a hole."""
    roof: list[RoofFace] = []
    for n in range(len(corners)):
        following = (n + 1) % len(corners)
        roof += gable(np.stack([corners[n], corners[following], inner[following], inner[n]]), PITCH)
    colour = palette.pick(random, palette.ROOFS_OLD)
    tags = {"building": str(random.choice(["apartments", "civic", "yes"]))}
    return House(Polygon(corners, [inner]), tuple(roof), colour, float(random.uniform(10, 14)), tags)


def _sides(polygon: Polygon) -> list[tuple[FloatArray, FloatArray, FloatArray, float]]:
    """(start, unit along, unit inwards, length) of a block's sides over 20 m."""
    corners = _corners(polygon, 1.5)
    sides = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = float(np.hypot(*(end - start)))
        if length > 20:
            along = (end - start) / length
            sides.append((start, along, np.array([-along[1], along[0]]), length))
    return sides


class _Plot:
    """The free ground of a block: a footprint is accepted when it lies inside and clear of those before it."""

    def __init__(self, polygon: Polygon, gap: float) -> None:
        self.polygon, self.gap, self.taken = polygon, gap, list[Polygon]()

    def take(self, footprint: Polygon) -> bool:
        if not self.polygon.contains(footprint) or any(footprint.dwithin(other, self.gap) for other in self.taken):
            return False
        self.taken.append(footprint)
        return True


def _rows(
    random: np.random.Generator, polygon: Polygon, colours: list[Colour], setback: float, share: float
) -> list[House]:
    """Rows of attached houses along the sides of a block; each row is one strip cut into units."""
    plot, houses = _Plot(polygon, 3.0), []
    for start, along, inwards, length in _sides(polygon):
        depth = float(random.uniform(8.5, 10.5))
        at = depth + 1.0
        while at < length - depth - 16:
            units, width = int(random.integers(3, 7)), float(random.uniform(6.0, 8.0))
            corner = start + along * at + inwards * setback
            frame = Frame(corner, along, inwards)
            if random.random() < share and plot.take(Polygon(frame.place(rectangle(0, 0, units * width, depth)))):
                colour, height = palette.pick(random, colours), float(random.uniform(6, 9))
                cuts = [frame.place([(k * width, 0), (k * width, depth)]) for k in range(units + 1)]
                for left, right in pairwise(cuts):
                    quad = np.stack([left[0], right[0], right[1], left[1]])
                    own = palette.pick(random, [colour], 5.0)
                    houses.append(House(Polygon(quad), tuple(gable(quad, PITCH)), own, height, {"building": "terrace"}))
            at += units * width + random.uniform(3.5, 7)
    return houses


def _suburb(random: np.random.Generator, zone: Zone) -> list[House]:
    """Detached houses of several forms in gardens, with sheds; some blocks are rows."""
    if random.random() < 0.16:
        return _rows(random, zone.polygon.buffer(-2), palette.ROOFS_SUBURB, setback=3.0, share=0.9)
    plot, houses = _Plot(zone.polygon.buffer(-1.5), 2.2), list[House]()
    for start, along, inwards, length in _sides(zone.polygon):
        at = float(random.uniform(5, 9))
        while at < length - 14:
            form = str(random.choice(["rectangle", "L", "T", "U"], p=[0.52, 0.28, 0.12, 0.08]))
            width, depth = float(random.uniform(9.5, 14.5)), float(random.uniform(7.5, 10))
            wing = float(random.uniform(3.2, 4.6))
            turn = random.normal(0, 0.03)
            front = np.array([along[0] - turn * along[1], along[1] + turn * along[0]]) / np.hypot(1, turn)
            frame = Frame(
                start + along * at + inwards * random.uniform(3.5, 6.5), front, np.array([-front[1], front[0]])
            )
            house = _villa(random, frame, form, width, depth, wing)
            if random.random() < 0.95 and plot.take(house.footprint):
                houses.append(house)
                shed_at = frame.place([(random.uniform(0, width), depth + random.uniform(7.5, 14))])[0]
                shed_plan = rectangle(0, 0, random.uniform(2.4, 6), random.uniform(2.4, 4))
                quad = Frame(shed_at, frame.along, frame.back).place(shed_plan)
                if random.random() < 0.4 and plot.take(Polygon(quad)):
                    tags = {"building": str(random.choice(["shed", "garage"]))}
                    colour = palette.pick(random, palette.ROOFS_SUBURB)
                    houses.append(House(Polygon(quad), tuple(flat(Polygon(quad))), colour, 2.6, tags))
            at += width + random.uniform(3.0, 6.5)
    return houses


def _villa(random: np.random.Generator, frame: Frame, form: str, width: float, depth: float, wing: float) -> House:
    outline, parts = plan(form, width, depth, wing)
    hip = float(random.choice([0.0, 0.0, 0.3]))
    roof = [face for part in parts for face in gable(along_longer(frame.place(part)), PITCH, hip)]
    footprint = Polygon(frame.place(outline))
    if random.random() < 0.12:
        roof = flat(footprint)
    tags = {"building": str(random.choice(["house", "yes", "detached"]))}
    return House(
        footprint, tuple(roof), palette.pick(random, palette.ROOFS_SUBURB), float(random.uniform(4.5, 7)), tags
    )


def _industrial(random: np.random.Generator, zone: Zone) -> list[House]:
    """Halls with flat or shallow roofs; some with a court, some in pairs that are one object."""
    sides = _sides(zone.polygon)
    if not sides:
        return []
    start, along, inwards, length = max(sides, key=lambda side: side[3])
    plot, houses = _Plot(zone.polygon.buffer(-5), 9.0), list[House]()
    back = 6.0
    while back < 150:
        depth, at = float(random.uniform(26, 48)), float(random.uniform(6, 12))
        while at < length:
            width = float(random.uniform(34, 70))
            frame = Frame(start + along * at + inwards * back, along, inwards)
            house = _hall(random, frame, width, depth)
            if random.random() < 0.92 and plot.take(Polygon(house.footprint.exterior)):
                houses.append(house)
            at += width + random.uniform(10, 20)
        back += depth + random.uniform(12, 22)
    if len(houses) >= 2 and random.random() < 0.3:
        first, second = houses[0], houses[1]
        both = MultiPolygon([first.footprint, second.footprint])
        paired = House(both, first.roof + second.roof, first.colour, first.height, {"building": "industrial"})
        houses = [paired, *houses[2:]]
    return houses


def _hall(random: np.random.Generator, frame: Frame, width: float, depth: float) -> House:
    colour, height = palette.pick(random, palette.ROOFS_HALL), float(random.uniform(6, 10))
    tags = {"building": str(random.choice(["industrial", "warehouse", "yes"]))}
    outline = frame.place(rectangle(0, 0, width, depth))
    if random.random() < 0.14:
        court = frame.place(rectangle(width * 0.3, depth * 0.3, width * 0.4, depth * 0.4))
        roof: list[RoofFace] = []
        for n in range(4):
            quad = np.stack([outline[n], outline[(n + 1) % 4], court[(n + 1) % 4], court[n]])
            roof.append(RoofFace(quad, flat(Polygon(quad))[0].shade))
        return House(Polygon(outline, [court]), tuple(roof), colour, height, tags)
    if random.random() < 0.35:
        return House(Polygon(outline), tuple(gable(along_longer(outline), 0.2)), colour, height, tags)
    if random.random() < 0.25:
        points, _ = plan("U", width, depth * 0.6, min(width / 3, depth * 0.4))
        footprint = Polygon(frame.place(points))
        return House(footprint, tuple(flat(footprint)), colour, height, tags)
    roof = [*flat(Polygon(outline)), *rooftop_units(frame, width, depth, random)]
    return House(Polygon(outline), tuple(roof), colour, height, tags)


def _farm(random: np.random.Generator, zone: Zone) -> list[House]:
    """Now and then a farm: a house and two barns around a yard at the edge of its field."""
    if zone.polygon.area < 20000 or random.random() > 0.28:
        return []
    start, along, inwards, length = max(_sides(zone.polygon), key=lambda side: side[3])
    at = float(random.uniform(0.3, 0.6)) * length
    plot, houses = _Plot(zone.polygon.buffer(-4), 2.0), list[House]()
    for u, v, width, depth, kind in ((0, 8, 15, 9, "farm"), (24, 8, 12, 26, "barn"), (0, 26, 20, 11, "barn")):
        frame = Frame(start + along * (at + u) + inwards * v, along, inwards)
        quad = frame.place(rectangle(0, 0, width + random.uniform(-2, 2), depth + random.uniform(-1, 1)))
        if plot.take(Polygon(quad)):
            colour = palette.pick(random, palette.ROOFS_SUBURB)
            houses.append(
                House(Polygon(quad), tuple(gable(along_longer(quad), PITCH)), colour, 6.0, {"building": kind})
            )
    return houses


def _with_oddities(random: np.random.Generator, landscape: Landscape, houses: list[House]) -> list[House]:
    """The same houses, some of them told wrongly or of a kind that is no footprint, and an underground car park."""
    plain = [n for n, house in enumerate(houses) if house.tags["building"] in ("house", "detached")]
    rectangles = [n for n in plain if len(rings_of(houses[n].footprint)[0]) == 4]
    # What is odd, and the tags that say so (None: the house keeps its own).
    marks: list[tuple[str, dict[str, str] | None]] = [
        ("building_no", {"building": "no"}),
        ("building_no", {"building": "no"}),
        ("demolished", {"demolished:building": "yes"}),
        ("demolished", {"building": "yes", "demolished:building": "yes"}),
        ("unclosed", None),
        ("unclosed", None),
        ("bow_tie", None),
        ("bow_tie", None),
    ]
    chosen = random.choice(len(rectangles), size=len(marks), replace=False)
    for (mark, tags), n in zip(marks, chosen.tolist(), strict=True):
        house = houses[rectangles[n]]
        houses[rectangles[n]] = replace(house, tags=tags or house.tags, oddity=mark)
    parks = [zone.polygon.buffer(-12) for zone in landscape.zones if zone.kind == "park"]
    underground = max((part for park in parks for part in polygons_of(park)), key=lambda part: part.area)
    box = underground.minimum_rotated_rectangle.buffer(-6, join_style="mitre")
    underground_tags = {"building": "parking", "location": "underground"}
    return [*houses, House(box, (), (0, 0, 0), 0.0, underground_tags, oddity="underground")]
