"""Sentinel-2-like scenes of the region: COGs of four bands and the scene classification, and their STAC items.

Items are in the form of Earth Search's ``sentinel-2-c1-l2a``: numbers carry the offset of -1000, and ``raster:bands``
says so. The scenes show the same houses, roads, woods and water as the tiles, so its labels fit them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rasterio import Affine
from shapely.geometry.base import BaseGeometry

from infra.sandbox.world.ground import Place, cloud_field
from infra.sandbox.world.houses import rings_of
from infra.sandbox.world.landscape import polygons_of
from infra.sandbox.world.region import ORIGIN_X, ORIGIN_Y, SIZE, rng
from infra.sandbox.world.world import World, build_world

COLLECTION = "sentinel-2-c1-l2a"
CRS = "EPSG:32631"
BANDS = ("red", "green", "blue", "nir")
STEP, SCL_STEP = 10, 20  # metres a pixel
BASELINE = "05.10"
_CELL = 640  # metres; scenes end on its multiples
_FINE = 5  # pixels of the drawing along one of 10 m
_BLOCK = 128  # pixels of a COG's block: small, so that there are overviews


@dataclass(frozen=True)
class Pass:
    """One day over the region."""

    day: str  # YYYY-MM-DD
    clouds: float  # share of the scene
    reach: float = 1.0  # share of the scene, from the west, that the swath covers


PASSES = (
    Pass("2024-06-12", 0.20),
    Pass("2024-07-05", 0.12, 0.65),
    Pass("2024-08-01", 0.85),
    Pass("2024-09-10", 0.0),
)

# Surface reflectance in red, green, blue and near infrared.
_FIELD, _WOOD, _TOWN, _YARD, _WATER, _ROAD, _HOUSE = range(7)
_REFLECTANCE = np.array(
    [
        (0.09, 0.10, 0.06, 0.32),
        (0.03, 0.05, 0.03, 0.38),
        (0.11, 0.12, 0.08, 0.27),
        (0.17, 0.16, 0.14, 0.22),
        (0.03, 0.05, 0.06, 0.02),
        (0.14, 0.14, 0.13, 0.17),
        (0.24, 0.19, 0.16, 0.28),
    ],
    dtype=np.float32,
)
_CLOUD_TOP = 0.75
_KINDS = {"old_town": _TOWN, "suburb": _TOWN, "industrial": _YARD, "forest": _WOOD, "park": _WOOD, "field": _FIELD}


@dataclass(frozen=True, eq=False)
class MadeItem:
    """A pass as it was drawn."""

    id: str
    seen: Pass
    bands: Mapping[str, NDArray[np.uint16]]  # (y, x) at 10 m; 0 where the swath does not reach
    scl: NDArray[np.uint8]  # (y, x) at 20 m
    place: Place  # of the bands


def make_items(seed: int = 0, passes: tuple[Pass, ...] = PASSES) -> list[MadeItem]:
    """All passes over the region of a seed, oldest first."""
    place, width, height = scene_grid()
    fine = _materials(build_world(seed), place, width, height)
    blocks = _REFLECTANCE[fine].reshape(height, _FINE, width, _FINE, len(BANDS))
    clear = np.moveaxis(blocks.mean(axis=(1, 3)), -1, 0)
    return [_make(seed, one, clear, fine, place) for one in passes]


def scene_grid() -> tuple[Place, int, int]:
    """The grid of the bands, and its width and height in pixels: the region, rounded up to 640 m."""
    to_utm = pyproj.Transformer.from_crs("EPSG:3857", CRS, always_xy=True)
    west, south, east, north = to_utm.transform_bounds(ORIGIN_X, ORIGIN_Y, ORIGIN_X + SIZE, ORIGIN_Y + SIZE)
    left, bottom = np.floor(np.array([west, south]) / _CELL) * _CELL
    right, top = np.ceil(np.array([east, north]) / _CELL) * _CELL
    place = Place(CRS, Affine(STEP, 0, float(left), 0, -STEP, float(top)))
    return place, int(right - left) // STEP, int(top - bottom) // STEP


def _materials(world: World, place: Place, width: int, height: int) -> NDArray[np.uint8]:
    """What covers the ground, (y, x) at a fifth of the bands' pixels."""
    picture = Image.new("L", (width * _FINE, height * _FINE), _FIELD)
    draw = ImageDraw.Draw(picture)
    to_utm = pyproj.Transformer.from_crs("EPSG:3857", CRS, always_xy=True)
    step = STEP / _FINE

    def pixels(points: NDArray[np.float64]) -> list[float]:
        x, y = to_utm.transform(points[:, 0] + ORIGIN_X, points[:, 1] + ORIGIN_Y)
        flat = np.column_stack(((x - place.transform.c) / step, (place.transform.f - y) / step))
        return [float(value) for value in np.floor(flat).ravel()]

    def fill(shape: BaseGeometry, material: int) -> None:
        for polygon in polygons_of(shape):
            draw.polygon(pixels(shapely.get_coordinates(polygon.exterior)), material)

    land = world.landscape
    for zone in land.zones:
        fill(zone.polygon, _KINDS[zone.kind])
    for water in (land.river, land.lake):
        fill(water, _WATER)
    for road in land.roads:
        draw.line(pixels(shapely.get_coordinates(road.line)), _ROAD, max(1, round(road.width / step)))
    for house in world.houses:
        if house.roof and house.oddity not in ("building_no", "demolished"):
            for ring in rings_of(house.footprint)[:1]:
                draw.polygon(pixels(ring), _HOUSE)
    return np.asarray(picture, dtype=np.uint8)


def _make(seed: int, seen: Pass, clear: NDArray[np.float32], fine: NDArray[np.uint8], place: Place) -> MadeItem:
    random = rng(seed, f"sentinel-2 {seen.day}")
    height, width = clear.shape[1:]
    thickness = cloud_field(random, height // 2, width // 2, seen.clouds, 30)
    scl = _scene_classes(fine, thickness)
    double = np.repeat(np.repeat(thickness, 2, axis=0), 2, axis=1)
    shadow = np.repeat(np.repeat(scl == 3, 2, axis=0), 2, axis=1)
    veil = np.clip(double * 2, 0, 1)
    surface = np.where(shadow, clear * 0.45, clear) * (1 - veil) + _CLOUD_TOP * veil
    surface = np.maximum(surface + random.normal(0, 0.004, surface.shape), 0.001)
    numbers = np.rint(surface * 10_000).astype(np.uint16) + np.uint16(1000)
    end = round(width * seen.reach) // 2 * 2
    numbers[:, :, end:], scl[:, end // 2 :] = 0, 0
    name = f"S2A_T31NAA_{seen.day.replace('-', '')}T101031_L2A"
    return MadeItem(name, seen, dict(zip(BANDS, numbers, strict=True)), scl, place)


def _scene_classes(fine: NDArray[np.uint8], thickness: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Water, bare and vegetation as most of the pixel is; shadows lie some pixels off their clouds."""
    side = _FINE * SCL_STEP // STEP
    height, width = thickness.shape
    blocks = fine.reshape(height, side, width, side)
    water = (blocks == _WATER).mean(axis=(1, 3)) > 0.5
    bare = (blocks >= _ROAD).mean(axis=(1, 3)) > 0.5
    ground = np.where(water, 6, np.where(bare, 5, 4))
    shadow = np.roll(thickness > 0.1, (-5, -3), axis=(0, 1))
    shadow[-5:], shadow[:, -3:] = False, False
    ground = np.where(shadow, 3, ground)
    return np.where(thickness > 0.5, 9, np.where(thickness > 0, 8, ground)).astype(np.uint8)


def write_items(items: list[MadeItem], folder: Path) -> list[dict[str, Any]]:
    """COGs as ``{item}/{asset}.tif`` in ``folder``, and the STAC items, whose hrefs are relative to it."""
    described = []
    for item in items:
        for key, values in item.bands.items():
            _write_cog(folder / item.id / f"{key}.tif", values, STEP, item.place)
        _write_cog(folder / item.id / "scl.tif", item.scl, SCL_STEP, item.place)
        described.append(_described(item))
    return described


def _write_cog(path: Path, values: NDArray[Any], step: int, place: Place) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(step, 0, place.transform.c, 0, -step, place.transform.f)
    shape = {"count": 1, "height": values.shape[0], "width": values.shape[1], "dtype": values.dtype}
    options = {"blocksize": _BLOCK, "compress": "deflate", "overview_resampling": "nearest"}
    with rasterio.open(path, "w", driver="COG", crs=CRS, transform=transform, nodata=0, **shape, **options) as file:
        file.write(values, 1)


def _described(item: MadeItem) -> dict[str, Any]:
    height, width = item.scl.shape
    west, north = item.place.transform.c, item.place.transform.f
    east = west + round(width * 2 * item.seen.reach) // 2 * 2 * STEP
    corners = [(west, north), (west, north - height * SCL_STEP), (east, north - height * SCL_STEP), (east, north)]
    to_degrees = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    ring = [[round(float(v), 7) for v in to_degrees.transform(*corner)] for corner in (*corners, corners[0])]
    lon, lat = zip(*ring, strict=True)
    when = datetime.fromisoformat(item.seen.day).replace(hour=10, minute=10, second=31, tzinfo=UTC)
    valid = item.scl != 0
    cloudy = float(np.isin(item.scl[valid], (8, 9, 10)).mean() * 100)
    assets = {key: _asset(item, key, "uint16", STEP, {"scale": 0.0001, "offset": -0.1}) for key in item.bands}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
        ],
        "id": item.id,
        "collection": COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [min(lon), min(lat), max(lon), max(lat)],
        "properties": {
            "datetime": when.isoformat().replace("+00:00", "Z"),
            "constellation": "sentinel-2",
            "platform": "sentinel-2a",
            "eo:cloud_cover": round(cloudy, 4),
            "proj:code": CRS,
            "s2:processing_baseline": BASELINE,
            "synthetic": True,
        },
        "links": [],
        "assets": assets | {"scl": _asset(item, "scl", "uint8", SCL_STEP, {})},
    }


def _asset(item: MadeItem, key: str, dtype: str, step: int, more: Mapping[str, float]) -> dict[str, Any]:
    height, width = item.scl.shape
    times = SCL_STEP // step
    t = item.place.transform
    return {
        "href": f"{item.id}/{key}.tif",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": ["data"],
        "proj:shape": [height * times, width * times],
        "proj:transform": [step, 0, t.c, 0, -step, t.f],
        "raster:bands": [{"nodata": 0, "data_type": dtype, "spatial_resolution": step, **more}],
    }
