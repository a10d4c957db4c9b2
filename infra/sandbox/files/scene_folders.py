"""Folders of made-up scenes, named and laid out as LandCover.ai, Inria, SpaceNet 6 and the emergency images are.

Each function writes a folder and returns what it drew, so that tests know the right answer for every pixel.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine

from infra.sandbox.world.ground import Place, drawn, patches, rectangles, seen, spectra, write_raster
from infra.sandbox.world.region import rng

Size = tuple[int, int]  # height, width in pixels

LANDCOVER_AI = "landcover-ai"
INRIA = "inria"
SPACENET6 = "spacenet6"
EMERGENCY = "emergency"

INRIA_CITIES = {  # those whose labels are published, and the CRS of their tiles
    "austin": "EPSG:26914",
    "chicago": "EPSG:26916",
    "kitsap": "EPSG:26910",
    "tyrol-w": "EPSG:31254",
    "vienna": "EPSG:31256",
}
EMERGENCY_IMAGES = ("D01", "D03", "D05", "D08", "D10", "D12", "D15", "D19", "D22")
SPACENET_AREA = "train/AOI_11_Rotterdam"
_PASSES = ("20190804111224_20190804111453", "20190822070610_20190822070846", "20190823162315_20190823162606")
_LAND_RGB = {  # other, building, woodland, water, road
    0: (138.0, 132.0, 92.0),
    1: (168.0, 104.0, 84.0),
    2: (52.0, 74.0, 44.0),
    3: (48.0, 72.0, 84.0),
    4: (150.0, 150.0, 152.0),
}
_BUILT_RGB = {0: (96.0, 112.0, 78.0), 1: (158.0, 120.0, 104.0)}


@dataclass(frozen=True, eq=False)
class MadeScene:
    """A scene as it was drawn; ``classes`` (y, x) are the values of the recipe's classes."""

    name: str
    image: NDArray[Any]  # (band, y, x)
    classes: NDArray[np.uint8]
    place: Place


def landcover_ai(folder: Path, *, seed: int = 0, sizes: Sequence[Size] = ((1100, 1200),) * 4) -> list[MadeScene]:
    """``images`` and ``masks`` of orthophotos in EPSG:2180: uint8 RGB, and classes 0 to 4 in one band."""
    made = []
    for number, (height, width) in enumerate(sizes):
        name = f"{'MN'[number % 2]}-3{3 + number % 2}-{20 + number}-D-c-4-2"
        random = rng(seed, f"landcover-ai {name}")
        classes = patches(random, height, width, (0, 2, 3), 96)
        road = int(random.integers(height // 4, height // 2))
        classes[road : road + 12] = 4
        for left, top, right, bottom in rectangles(random, height, width, height * width // 20_000, (14, 48)):
            classes[top:bottom, left:right] = 1
        image = _bytes(seen(random, classes, _LAND_RGB, 9))
        place = Place("EPSG:2180", Affine(0.25, 0, 500_000 + 4000 * number, 0, -0.25, 400_000))
        write_raster(folder / "images" / f"{name}.tif", image, place)
        write_raster(folder / "masks" / f"{name}.tif", classes, place)
        made.append(MadeScene(name, image, classes, place))
    return made


def inria(
    folder: Path, *, seed: int = 0, side: int = 600, tiles: Sequence[int] = (4, 5, 6, 7), open_cities: bool = True
) -> list[MadeScene]:
    """``train/images`` and ``train/gt`` of tiles of five cities: uint8 RGB, and 0 or 255 in one band.

    With ``open_cities`` there is also ``test/images`` with a tile of Bellingham, which has no label and is not among
    the scenes returned.
    """
    made = []
    for row, (city, crs) in enumerate(INRIA_CITIES.items()):
        for tile in tiles:
            name = f"{city}{tile}"
            place = Place(crs, Affine(0.3, 0, 600_000 + 1500 * tile, 0, -0.3, 300_000 + 5000 * row))
            image, classes = _built(seed, f"inria {name}", side, side, 3)
            write_raster(folder / "train" / "images" / f"{name}.tif", image, place)
            write_raster(folder / "train" / "gt" / f"{name}.tif", classes * np.uint8(255), place)
            made.append(MadeScene(name, image, classes, place))
    if open_cities:
        image, _ = _built(seed, "inria bellingham1", side, side, 3)
        place = Place("EPSG:26910", Affine(0.3, 0, 540_000, 0, -0.3, 5_400_000))
        write_raster(folder / "test" / "images" / "bellingham1.tif", image, place)
    return made


@dataclass(frozen=True, eq=False)
class MadeRadar(MadeScene):
    """A tile of SpaceNet 6: ``image`` is the intensity HH, HV, VH, VV (float32), 0 where the strip does not reach."""

    complex: NDArray[np.complex64] | None  # the same four as complex amplitudes
    optical: NDArray[np.uint8]  # (3, y, x)


def spacenet6(
    folder: Path, *, seed: int = 0, side: int = 540, grounds: int = 4, passes: int = 2, slc: bool = False
) -> list[MadeRadar]:
    """``train/AOI_11_Rotterdam`` with ``grounds`` places, each taken in several passes.

    ``SAR-Intensity``: float32 HH, HV, VH, VV; with ``slc`` also ``SAR-SLC``: the same as complex64; ``PS-RGB``: uint8;
    and ``geojson_buildings``, in EPSG:32631 and not in degrees. The last place has no building.
    """
    made = []
    area = folder / SPACENET_AREA
    for ground in range(grounds):
        tile = 8600 + 13 * ground
        random = rng(seed, f"spacenet6 {tile}")
        place = Place("EPSG:32631", Affine(0.5, 0, 591_000 + side / 2 * ground, 0, -0.5, 5_746_000))
        count = side * side // 8_000 if ground + 1 < grounds else 0
        houses = rectangles(random, side, side, count, (10, 40))
        classes = drawn(side, side, houses)
        optical = _bytes(seen(random, classes, _BUILT_RGB, 9))
        for number in range(passes):
            name = f"{_PASSES[number % len(_PASSES)]}_tile_{tile}"
            strength = np.exp(seen(random, classes, {0: (2.6, 1.8, 1.8, 2.5), 1: (3.3, 2.6, 2.6, 3.4)}, 0.4))
            strength[:, _beyond_strip(side, number)] = 0
            radar = MadeRadar(name, strength, classes, place, _with_phase(random, strength) if slc else None, optical)
            _write_tile(area, radar, houses)
            made.append(radar)
    return made


def _with_phase(random: np.random.Generator, strength: NDArray[np.float32]) -> NDArray[np.complex64]:
    phase = random.uniform(-np.pi, np.pi, strength.shape).astype(np.float32)
    return (strength * (np.cos(phase) + 1j * np.sin(phase))).astype(np.complex64)


def _beyond_strip(side: int, number: int) -> NDArray[np.bool_]:
    """(y, x) True in the corner that the sensor's strip, which lies askew, leaves out."""
    y, x = np.mgrid[:side, :side]
    return np.asarray(x + y < 0.7 * side) if number % 2 == 0 else np.asarray(x - y > 0.55 * side)


def _write_tile(area: Path, tile: MadeRadar, houses: Sequence[tuple[int, int, int, int]]) -> None:
    kinds: dict[str, NDArray[Any]] = {"SAR-Intensity": tile.image, "PS-RGB": tile.optical}
    if tile.complex is not None:
        kinds["SAR-SLC"] = tile.complex
    for kind, values in kinds.items():
        write_raster(area / kind / f"SN6_Train_AOI_11_Rotterdam_{kind}_{tile.name}.tif", values, tile.place)
    features = []
    for number, (left, top, right, bottom) in enumerate(houses):
        step, west, north = tile.place.transform.a, tile.place.transform.c, tile.place.transform.f
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        ring = [(west + step * x, north - step * y) for x, y in corners]
        features.append(
            {
                "type": "Feature",
                "properties": {"ImageId": tile.name, "TileBuildingId": number},
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
        )
    document = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32631"}},
        "features": features,
    }
    path = area / "geojson_buildings" / f"SN6_Train_AOI_11_Rotterdam_Buildings_{tile.name}.geojson"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def emergency(folder: Path, *, seed: int = 0, sizes: Sequence[Size] = ((420, 1300), (1300, 420))) -> list[MadeScene]:
    """``images`` and ``labels`` of nine satellite images: uint16 blue, green, red and infrared; 0 or 1 in one band.

    ``sizes`` are taken in turn.
    """
    made = []
    for number, name in enumerate(EMERGENCY_IMAGES):
        height, width = sizes[number % len(sizes)]
        image, classes = _built(seed, f"emergency {name}", height, width, 4)
        place = Place("EPSG:32645", Affine(0.5, 0, 300_000 + 5000 * number, 0, -0.5, 3_060_000))
        sixteen = image.astype(np.uint16) * np.uint16(8)
        # The fourth band is not called alpha: it is infrared.
        write_raster(folder / "images" / f"{name}.tif", sixteen, place, photometric="MINISBLACK", alpha="NO")
        write_raster(folder / "labels" / f"{name}.tif", classes, place)
        made.append(MadeScene(name, sixteen, classes, place))
    return made


def _built(seed: int, subject: str, height: int, width: int, bands: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Houses on open ground: image (band, y, x) and classes (y, x)."""
    random = rng(seed, subject)
    classes = drawn(height, width, rectangles(random, height, width, height * width // 6_000, (12, 44)))
    levels = spectra(seed, (0, 1), bands, 60, 180)
    return _bytes(seen(random, classes, levels, 10)), classes


def _bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
