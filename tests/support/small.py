"""A small made-up region: coloured tiles and square buildings, for tests of the pipeline."""

import functools
import io
import json
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from tasks.geo.tiles import Tile, lonlat_bounds

ZOOM = 16
WEST, NORTH = 33000, 22000


class SmallRegion:
    """``side`` x ``side`` tiles of zoom 16; column x has a building on (x + y) % 4 quarters of each tile."""

    def __init__(self, side: int = 12, absent: frozenset[Tile] = frozenset()) -> None:
        self.side, self.absent = side, absent
        self.tiles = [Tile(ZOOM, WEST + x, NORTH + y) for x in range(side) for y in range(side)]

    def quarters(self, tile: Tile) -> int:
        """How many quarters of the tile are building."""
        return (tile.x + tile.y) % 4

    @property
    def selected(self) -> list[Tile]:
        """Tiles with at least one quarter of building."""
        return [tile for tile in self.tiles if self.quarters(tile)]

    def bbox(self, columns: int | None = None) -> list[float]:
        """Degrees of the first ``columns`` columns, pulled in so that no further tile is touched."""
        west, _, _, north = lonlat_bounds(Tile(ZOOM, WEST, NORTH))
        last = Tile(ZOOM, WEST + (columns or self.side) - 1, NORTH + self.side - 1)
        _, south, east, _ = lonlat_bounds(last)
        return [west + 1e-6, south + 1e-6, east - 1e-6, north - 1e-6]

    def footprints(self) -> list[shapely.Polygon]:
        """The buildings, EPSG:4326: columns of a quarter's width from the tile's western edge."""
        found = []
        for tile in self.selected:
            west, south, east, north = lonlat_bounds(tile)
            found.append(shapely.box(west, south, west + (east - west) * self.quarters(tile) / 4, north))
        return found

    def image(self, key: str) -> bytes | None:
        """The PNG at ``/z/x/y.png``; None when it is absent or outside."""
        tile = Tile.parse(key.removesuffix(".png").lstrip("/"))
        if tile in self.absent or tile not in set(self.tiles):
            return None
        return png_of(tile)

    def write_recipe(self, folder: Path, url: str, *more: str) -> Path:
        """A recipe of the region, its footprints beside it."""
        features = [
            {"type": "Feature", "properties": {"osm_id": 100 + i}, "geometry": json.loads(shapely.to_geojson(shape))}
            for i, shape in enumerate(self.footprints())
        ]
        (folder / "buildings.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        lines = [
            "name: small",
            "title: A small region",
            f"area: {{bbox: {self.bbox()}}}",
            f"grid: {{zoom: {ZOOM}, tile_size: 256}}",
            f'imagery: {{source: xyz, url: "{url}/{{z}}/{{x}}/{{y}}.png", attribution: made up}}',
            "labels: {source: vector, path: buildings.geojson}",
            'classes: [{name: background, value: 0, color: "#000000"}, {name: building, value: 1, color: "#ffffff"}]',
            "resize: 32",
            "splits: {by: block, block_zoom: 15}",
            *more,
        ]
        path = folder / "small.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path


@functools.cache
def png_of(tile: Tile, side: int = 256) -> bytes:
    """A PNG in colours of the tile's own."""
    seed = np.random.default_rng([tile.z, tile.x, tile.y]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(seed).resize((side, side), Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
