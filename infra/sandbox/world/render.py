"""Pictures of the synthetic region: aerial imagery as one camera would have taken it, for any tile."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely import STRtree, box, linestrings, points

from infra.sandbox.world import palette, texture
from infra.sandbox.world.houses import SHADOW_PER_METRE, rings_of
from infra.sandbox.world.palette import Colour
from infra.sandbox.world.region import ABSENT_TILES_Z18, ORIGIN_X, ORIGIN_Y, SIZE, FloatArray
from infra.sandbox.world.scenery import ROUGH
from infra.sandbox.world.world import World
from tasks.geo.tiles import HALF_WORLD, tile_span

MIN_ZOOM, MAX_ZOOM = 14, 21
SUPERSAMPLING: Final = 2
PAD = 4  # pixels drawn around the picture, so that blur and thick lines do not end at its edge
MAX_SHADOW = 22.0  # metres that the shadow of the tallest house or tree reaches
SHADOW: Colour = (20, 25, 36)
SHADOW_DEPTH, TREE_SHADOW_DEPTH = 156, 136  # of 255
ROUGH_ROOF, ROUGH_TREE = 55, 185

# (level, share): cells of 2**level pixels of zoom 18 (0.6 m), and the share of brightness they change at rough 255.
TEXTURE_OCTAVES = ((0, 0.10), (1, 0.12), (2, 0.11), (4, 0.10))
LIGHT_OCTAVES = ((6, 0.030), (8, 0.035))  # slow changes over everything
GRAIN = 3.2  # of 255
_BLUR = (0.14, 0.72, 0.14)


class Renderer:
    """Draws tiles of one world. Thread-safe: nothing changes after construction."""

    def __init__(self, world: World) -> None:
        self._world = world
        ground, trees = world.ground, world.trees
        self._ground_index = STRtree(_outlines([patch.points for patch in ground]))
        self._wide = max((patch.width for patch in ground), default=0.0)
        self._roofs = [
            house for house in world.houses if house.roof and house.oddity not in ("building_no", "demolished")
        ]
        self._roof_index = STRtree([house.footprint for house in self._roofs])
        self._shadows = [_shadow_quads(rings_of(house.footprint), house.height) for house in self._roofs]
        self._tree_index = STRtree(points(trees.position))
        self._crowns = trees.colour.astype(int)

    def tile(self, z: int, x: int, y: int, size: int = 256) -> NDArray[np.uint8]:
        """The picture (size, size, 3) of tile z/x/y; ``size`` is 256, or 512: the same ground at twice the detail."""
        zoom = z + (size // 256 - 1)
        return self._draw(zoom, x * size, y * size, size)

    def _draw(self, zoom: int, left: int, top: int, size: int) -> NDArray[np.uint8]:
        left, top, span = left - PAD, top - PAD, size + 2 * PAD
        metres = tile_span(zoom) / 256
        north_west = np.array([left * metres - HALF_WORLD - ORIGIN_X, HALF_WORLD - top * metres - ORIGIN_Y])
        canvas = _Canvas(north_west, metres, span)
        east, south = north_west[0] + span * metres, north_west[1] - span * metres
        self._paint(canvas, (float(north_west[0]), float(south), float(east), float(north_west[1])))
        seed = self._world.seed

        picture = np.asarray(canvas.fine.reduce(SUPERSAMPLING), dtype=np.float32)
        rough = np.asarray(canvas.rough, dtype=np.float32) / 255
        brightness = np.ones((span, span), dtype=np.float32)
        for level, share in TEXTURE_OCTAVES:
            noise = texture.octave(seed, level, zoom, left, top, span)
            if noise is not None:
                brightness += share * noise * rough
        for level, share in LIGHT_OCTAVES:
            noise = texture.octave(seed, level, zoom, left, top, span)
            if noise is not None:
                brightness += share * noise
        picture *= brightness[..., None]
        side, middle, _ = _BLUR
        picture[1:-1] = side * (picture[:-2] + picture[2:]) + middle * picture[1:-1]
        picture[:, 1:-1] = side * (picture[:, :-2] + picture[:, 2:]) + middle * picture[:, 1:-1]
        picture = picture * 0.95 + 7  # haze
        picture += GRAIN * texture.grain(seed, left, top, span)
        return np.clip(picture[PAD:-PAD, PAD:-PAD], 0, 255).astype(np.uint8)

    def _paint(self, canvas: "_Canvas", bounds: tuple[float, float, float, float]) -> None:
        view = box(*bounds)
        for index in np.sort(self._ground_index.query(view.buffer(self._wide / 2))).tolist():
            patch = self._world.ground[index]
            canvas.patch(patch.points, patch.colour, patch.rough, patch.width)

        roofs = np.sort(self._roof_index.query(view.buffer(MAX_SHADOW))).tolist()
        canvas.shade([quad for index in roofs for quad in self._shadows[index]], SHADOW_DEPTH)
        for index in roofs:
            house = self._roofs[index]
            for face in house.roof:
                canvas.patch(face.ring, _shaded(house.colour, face.shade), ROUGH_ROOF)

        trees = self._world.trees
        near = np.sort(self._tree_index.query(view.buffer(MAX_SHADOW)))
        position, radius = trees.position[near], trees.radius[near]
        canvas.shade_discs(position + 1.5 * radius[:, None] * SHADOW_PER_METRE, radius, TREE_SHADOW_DEPTH)
        canvas.discs(position, radius, self._crowns[near] * 7 // 10, ROUGH_TREE)
        lobe = position - 0.22 * radius[:, None] * SHADOW_PER_METRE
        canvas.discs(lobe, radius * 0.72, self._crowns[near], ROUGH_TREE)
        canvas.discs(
            lobe - 0.16 * radius[:, None] * SHADOW_PER_METRE, radius * 0.36, self._crowns[near] * 13 // 10, ROUGH_TREE
        )


def _outlines(rings: list[FloatArray]) -> NDArray[np.object_]:
    """One line per array of points; polygons are found by the box of their outline."""
    counts = [len(ring) for ring in rings]
    return np.asarray(linestrings(np.concatenate(rings), indices=np.repeat(np.arange(len(rings)), counts)))


def _shaded(colour: Colour, shade: float) -> Colour:
    red, green, blue = (min(255, int(channel * shade)) for channel in colour)
    return red, green, blue


def _shadow_quads(rings: list[FloatArray], height: float) -> list[FloatArray]:
    """What the walls of a house sweep along the sun's rays: with the footprint itself, its whole shadow."""
    reach = SHADOW_PER_METRE * height
    quads = []
    for ring in rings:
        following = np.roll(ring, -1, axis=0)
        quads += list(np.stack([ring, following, following + reach, ring + reach], axis=1))
    return quads


class _Canvas:
    """A picture being painted: colours at twice the detail, texture strength at the detail of the tile."""

    def __init__(self, north_west: FloatArray, metres: float, span: int) -> None:
        self._north_west = north_west
        self._scale = np.array([1.0, -1.0]) / metres
        fine = span * SUPERSAMPLING
        self.fine = Image.new("RGB", (fine, fine), palette.GROUND["wild"])
        self.rough = Image.new("L", (span, span), ROUGH["wild"])
        self._draw, self._draw_rough = ImageDraw.Draw(self.fine), ImageDraw.Draw(self.rough)

    def _pixels(self, local: FloatArray) -> FloatArray:
        return np.asarray((local - self._north_west) * self._scale)

    # Pillow truncates coordinates towards zero, which would differ between tiles left of the edge and right of it:
    # every coordinate is floored here first.
    def patch(self, ring: FloatArray, colour: Colour, rough: int, width: float = 0.0) -> None:
        pixels = self._pixels(ring)
        fine, coarse = np.floor(pixels * SUPERSAMPLING).ravel().tolist(), np.floor(pixels).ravel().tolist()
        if width:
            thickness = width * self._scale[0]
            self._draw.line(fine, colour, max(1, round(thickness * SUPERSAMPLING)), joint="curve")
            if thickness >= 1:
                self._draw_rough.line(coarse, rough, round(thickness), joint="curve")
        else:
            self._draw.polygon(fine, colour)
            self._draw_rough.polygon(coarse, rough)

    def shade(self, quads: list[FloatArray], depth: int) -> None:
        mask = Image.new("L", self.fine.size, 0)
        draw = ImageDraw.Draw(mask)
        if quads:
            pixels = np.floor(self._pixels(np.stack(quads)) * SUPERSAMPLING).reshape(len(quads), -1)
            for quad in pixels.tolist():
                draw.polygon(quad, depth)
        self.fine.paste(SHADOW, mask=mask)

    def shade_discs(self, centres: FloatArray, radii: FloatArray, depth: int) -> None:
        mask = Image.new("L", self.fine.size, 0)
        draw = ImageDraw.Draw(mask)
        for disc in self._boxes(centres, radii, SUPERSAMPLING):
            draw.ellipse(disc, depth)
        self.fine.paste(SHADOW, mask=mask)

    def discs(self, centres: FloatArray, radii: FloatArray, colours: NDArray[np.int_], rough: int) -> None:
        fills = np.clip(colours, 0, 255).tolist()
        for disc, colour in zip(self._boxes(centres, radii, SUPERSAMPLING), fills, strict=True):
            self._draw.ellipse(disc, tuple(colour))
        for disc in self._boxes(centres, radii, 1):
            self._draw_rough.ellipse(disc, rough)

    def _boxes(self, centres: FloatArray, radii: FloatArray, detail: int) -> list[list[float]]:
        pixels, reach = self._pixels(centres) * detail, (radii * self._scale[0] * detail)[:, None]
        boxes: list[list[float]] = np.floor(np.concatenate([pixels - reach, pixels + reach], axis=1)).tolist()
        return boxes


def has_imagery(z: int, x: int, y: int) -> bool:
    """Whether there is a picture for a tile: it meets the region and does not lie in the part without imagery."""
    if not MIN_ZOOM <= z <= MAX_ZOOM:
        return False
    span = tile_span(z)
    west, north = x * span - HALF_WORLD - ORIGIN_X, HALF_WORLD - y * span - ORIGIN_Y
    margin = span * 1e-6
    if west + span < margin or west > SIZE - margin or north < margin or north - span > SIZE - margin:
        return False
    return z < 18 or (x >> (z - 18), y >> (z - 18)) not in ABSENT_TILES_Z18
