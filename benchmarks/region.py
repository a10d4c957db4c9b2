"""A made-up town for the benchmarks: its tiles, its buildings and a recipe over both.

Each tile of zoom 18 (100 m on the ground) has 25 buildings on a jittered grid: turned rectangles, L shapes
and some with a courtyard. Everything follows from a fixed seed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from tasks.geo.tiles import Tile, tile_bounds

FIRST = Tile(18, 131072, 90112)  # the corner of a parent tile of zoom 13
BLOCK = 32  # tiles along a side of a block
BUILDINGS = 5  # along a side of a tile
RECTANGLE = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
L_SHAPE = [(-1, -1), (1, -1), (1, 0), (0, 0), (0, 1), (-1, 1)]
COURTYARD = [(-0.45, -0.45), (-0.45, 0.45), (0.45, 0.45), (0.45, -0.45)]


def full_block() -> list[Tile]:
    """The 1,024 tiles of a block."""
    return [Tile(FIRST.z, FIRST.x + x, FIRST.y + y) for x in range(BLOCK) for y in range(BLOCK)]


def chequered(blocks: int) -> list[Tile]:
    """Every second tile of ``blocks`` blocks in a row, which makes full shards of 512 tiles."""
    return [
        Tile(FIRST.z, FIRST.x + x, FIRST.y + y) for x in range(blocks * BLOCK) for y in range(BLOCK) if (x + y) % 2 == 0
    ]


def buildings(tiles: Sequence[Tile]) -> NDArray[np.object_]:
    """25 shapely Polygons a tile, EPSG:4326; some reach over the edge of their tile."""
    random = np.random.default_rng(0)
    corners = np.array([tile_bounds(tile)[:2] for tile in tiles])
    side = tile_bounds(tiles[0])[2] - tile_bounds(tiles[0])[0]
    step = side / BUILDINGS
    cells = np.stack(np.meshgrid(np.arange(BUILDINGS), np.arange(BUILDINGS)), axis=-1).reshape(-1, 2) + 0.5
    centres = (corners[:, None, :] + step * cells).reshape(-1, 2)
    n = len(centres)
    centres += random.uniform(-0.2, 0.2, (n, 2)) * step
    half = random.uniform(0.2, 0.45, (n, 2)) * step
    turn = random.uniform(0, np.pi, n)
    kind = random.uniform(0, 1, n)
    to_degrees = pyproj.Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)

    def ring(i: int, shape: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
        cos, sin = np.cos(turn[i]), np.sin(turn[i])
        points = np.array(shape) * half[i] @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(points + centres[i])

    shapes = np.empty(n, dtype=object)
    for i in range(n):
        holes = [ring(i, COURTYARD)] if kind[i] < 0.1 else []
        shapes[i] = shapely.Polygon(ring(i, L_SHAPE if kind[i] > 0.8 else RECTANGLE), holes)
    return np.asarray(
        shapely.transform(shapes, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1]))), dtype=object
    )


def write_geojson(path: Path, shapes: NDArray[np.object_]) -> None:
    """Write polygons (EPSG:4326) as a GeoJSON file."""
    features = ",\n".join(
        f'{{"type": "Feature", "properties": {{"osm_id": {i}}}, "geometry": {geometry}}}'
        for i, geometry in enumerate(shapely.to_geojson(shapes), start=1)
    )
    path.write_text(f'{{"type": "FeatureCollection", "features": [\n{features}\n]}}\n')


def write_recipe(folder: Path, url: str, tiles: Sequence[Tile]) -> Path:
    """A recipe over ``tiles``, all of which pass, with its tile list and buildings beside it."""
    (folder / "tiles.txt").write_text("".join(f"{tile.name}\n" for tile in tiles))
    write_geojson(folder / "buildings.geojson", buildings(tiles))
    recipe = {
        "name": "benchmark",
        "title": "A made-up town",
        "area": {"tiles": "tiles.txt"},
        "grid": {"zoom": FIRST.z, "tile_size": 256},
        "imagery": {"source": "xyz", "url": url, "attribution": "made up"},
        "labels": {"source": "vector", "path": "buildings.geojson"},
        "classes": [
            {"name": "background", "value": 0, "color": "#000000"},
            {"name": "building", "value": 1, "color": "#ffffff"},
        ],
        "filter": {"min_building_fraction": 0.05},
    }
    path = folder / "benchmark.yaml"
    path.write_text(json.dumps(recipe, indent=2) + "\n")  # JSON is YAML
    return path
