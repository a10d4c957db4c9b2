"""Houses: forms in plan, and their roofs as faces lit by the sun. All in local metres."""

import math
from dataclasses import dataclass, field

import numpy as np
from shapely import MultiPolygon, Polygon, get_parts

from infra.sandbox.world.palette import Colour
from infra.sandbox.world.region import FloatArray

SUN_AZIMUTH, SUN_ELEVATION = math.radians(152), math.radians(43)
SUN = np.array(
    [
        math.cos(SUN_ELEVATION) * math.sin(SUN_AZIMUTH),
        math.cos(SUN_ELEVATION) * math.cos(SUN_AZIMUTH),
        math.sin(SUN_ELEVATION),
    ]
)  # unit vector towards the sun: east, north, up
SHADOW_PER_METRE = -SUN[:2] / SUN[2]  # where the shadow of a point one metre up falls


@dataclass(frozen=True)
class RoofFace:
    """A plane of a roof: its outline (n, 2) and the share of the roof colour that the sun leaves it."""

    ring: FloatArray
    shade: float


@dataclass(frozen=True)
class House:
    """A building as it stands, and how the synthetic OSM tells of it.

    ``oddity`` is None for a sound building, else what is wrong with it in OSM (see ``infra.sandbox.world.osm``).
    """

    footprint: Polygon | MultiPolygon
    roof: tuple[RoofFace, ...]
    colour: Colour
    height: float
    tags: dict[str, str] = field(default_factory=dict)
    oddity: str | None = None


@dataclass(frozen=True)
class Frame:
    """A house's own axes: its corner, the unit vector along its front, and the one towards its back."""

    corner: FloatArray
    along: FloatArray
    back: FloatArray

    def place(self, points: list[tuple[float, float]]) -> FloatArray:
        """Points given as (along, back) in metres, in local metres."""
        uv = np.array(points, dtype=float)
        return self.corner + uv[:, :1] * self.along + uv[:, 1:] * self.back


def lit(outward: FloatArray | None, pitch: float) -> float:
    """Brightness of a plane of ``pitch`` radians that falls towards ``outward`` (None: flat), by Lambert's law."""
    horizontal = np.zeros(2) if outward is None else math.sin(pitch) * outward / (np.hypot(*outward) or 1.0)
    normal = np.array([horizontal[0], horizontal[1], math.cos(pitch) if outward is not None else 1.0])
    return 0.50 + 0.60 * max(0.0, float(normal @ SUN))


def gable(quad: FloatArray, pitch: float, hip: float = 0.0) -> list[RoofFace]:
    """Two faces over a quadrilateral (4, 2), the ridge parallel to its first side; ``hip`` (0..0.5) shortens the ridge
    at both ends and adds a face there."""
    a, b, c, d = quad
    middle_bc, middle_da = (b + c) / 2, (d + a) / 2
    start = middle_da + hip * (middle_bc - middle_da)
    end = middle_bc + hip * (middle_da - middle_bc)
    ridge = (start + end) / 2
    faces = [np.array([a, b, end, start]), np.array([c, d, start, end])]
    if hip:
        faces += [np.array([b, c, end]), np.array([d, a, start])]
    return [RoofFace(f, lit((f[0] + f[1]) / 2 - ridge, pitch)) for f in faces]


def along_longer(quad: FloatArray) -> FloatArray:
    """The same quadrilateral, turned so that its first side is one of the longer two."""
    first, second = np.hypot(*(quad[1] - quad[0])), np.hypot(*(quad[2] - quad[1]))
    return quad if first >= second else np.roll(quad, -1, axis=0)


def flat(footprint: Polygon | MultiPolygon) -> list[RoofFace]:
    """A flat roof: one face for each part of the footprint."""
    outlines = [np.asarray(part.exterior.coords)[:-1] for part in get_parts(footprint).tolist()]
    return [RoofFace(outline, lit(None, 0.0)) for outline in outlines]


def rooftop_units(frame: Frame, width: float, depth: float, random: np.random.Generator) -> list[RoofFace]:
    """Skylights and machines in rows on a flat roof of ``width`` x ``depth`` metres."""
    faces = []
    shade = float(random.choice([0.62, 0.72, 1.12]))
    step = float(random.uniform(7, 14))
    for u in np.arange(4, width - 4, step):
        for v in np.arange(4, depth - 4, step):
            if random.random() < 0.6:
                w, h = random.uniform(1.2, 2.6, 2)
                faces.append(RoofFace(frame.place([(u, v), (u + w, v), (u + w, v + h), (u, v + h)]), shade))
    return faces


def rings_of(footprint: Polygon | MultiPolygon) -> list[FloatArray]:
    """All rings of a footprint, outer and inner, part by part; open (the first point is not repeated)."""
    parts = get_parts(footprint).tolist()
    return [np.asarray(ring.coords)[:-1] for part in parts for ring in (part.exterior, *part.interiors)]


def rectangle(u: float, v: float, width: float, depth: float) -> list[tuple[float, float]]:
    """Corners of a rectangle in a house's own axes."""
    return [(u, v), (u + width, v), (u + width, v + depth), (u, v + depth)]


def plan(
    form: str, width: float, depth: float, wing: float
) -> tuple[list[tuple[float, float]], list[list[tuple[float, float]]]]:
    """Outline and rectangular parts of a form in a house's own axes, metres.

    ``form`` is rectangle, L, T or U. The main part is ``width`` x ``depth``; wings are ``wing`` wide and reach ``wing``
    behind it.
    """
    back, main = depth + wing, rectangle(0, 0, width, depth)
    right, left = rectangle(width - wing, 0, wing, back), rectangle(0, 0, wing, back)
    if form == "rectangle":
        return main, [main]
    if form == "L":
        return [(0, 0), (width, 0), (width, back), (width - wing, back), (width - wing, depth), (0, depth)], [
            main,
            right,
        ]
    if form == "T":
        near, far = (width - wing) / 2, (width + wing) / 2
        outline = [
            (0, 0),
            (width, 0),
            (width, depth),
            (far, depth),
            (far, back),
            (near, back),
            (near, depth),
            (0, depth),
        ]
        return outline, [main, rectangle(near, depth / 2, wing, back - depth / 2)]
    if form == "U":
        inner_right, inner_left = width - wing, wing
        outline = [(0, 0), (width, 0), (width, back), (inner_right, back), (inner_right, depth), (inner_left, depth)]
        return [*outline, (inner_left, back), (0, back)], [main, left, right]
    raise ValueError(f"no such form: {form}")
