"""Made-up Sentinel-2 items: small COGs, the items that name them, and recipes over them."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.geometry
from affine import Affine
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from tasks.geo.georeference import transformer
from tasks.recipe.model import Recipe
from tests.support.stac_server import ScriptedApi

STEP = 10.0  # metres a pixel
SIDE = 64  # pixels of a window
WEST, NORTH = 500_480.0, 5_000_320.0  # a corner of the grid of SIDE * STEP metres in EPSG:32633, near 15 E 45 N


def cog(
    values: NDArray[Any],
    *,
    west: float = WEST,
    north: float = NORTH,
    crs: str = "EPSG:32633",
    step: float = STEP,
    nodata: float | None = 0,
    **options: str,
) -> bytes:
    """The bytes of a GeoTIFF of (y, x) or (band, y, x) values."""
    bands = values if values.ndim == 3 else values[np.newaxis]
    profile = {
        "driver": "COG",
        "count": len(bands),
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype,
        "crs": crs,
        "transform": Affine(step, 0, west, 0, -step, north),
        "nodata": nodata,
    }
    with MemoryFile() as memory:
        with memory.open(**profile, **options) as file:
            file.write(bands)
        return bytes(memory.read())


def numbers(seed: int, side: int = 2 * SIDE, low: int = 1, high: int = 10_000) -> NDArray[np.uint16]:
    """Noise without nodata."""
    return np.random.default_rng(seed).integers(low, high, (side, side), dtype=np.uint16)


def item(
    name: str,
    assets: Mapping[str, str],
    *,
    day: int = 1,
    cloud: float | None = 5.0,
    crs: str = "EPSG:32633",
    west: float = WEST,
    north: float = NORTH,
    side: float = 2 * SIDE * STEP,
    bands: Any = None,
    **properties: Any,
) -> dict[str, Any]:
    """An item whose footprint is a square of ``side`` metres; ``bands`` is its assets' raster:bands."""
    square = shapely.box(west, north - side, west + side, north)
    back = transformer(crs, "EPSG:4326")
    footprint = shapely.transform(square, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))
    when = datetime.datetime(2023, 8, day, 10, tzinfo=datetime.UTC)
    told = {"datetime": when.isoformat().replace("+00:00", "Z")} | properties
    if cloud is not None:
        told["eo:cloud_cover"] = cloud
    fields = {} if bands is None else {"raster:bands": bands}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "made-up",
        "geometry": shapely.geometry.mapping(footprint),
        "bbox": list(footprint.bounds),
        "properties": told,
        "links": [],
        "assets": {key: {"href": href} | fields for key, href in assets.items()},
    }


def bbox(columns: int = 2, rows: int = 2) -> list[float]:
    """Degrees of that many windows from the corner, drawn in so that no further one is touched."""
    back = transformer("EPSG:32633", "EPSG:4326")
    span = SIDE * STEP
    lon, lat = back.transform(
        np.array([WEST + 40, WEST + columns * span - 40]), np.array([NORTH - rows * span + 40, NORTH - 40])
    )
    return [float(lon[0]), float(lat[0]), float(lon[1]), float(lat[1])]


def recipe(api: str, bands: list[str] | None = None, **changes: Any) -> Recipe:
    """A recipe over the made-up items; ``changes`` are top-level keys, of which ``imagery`` is merged."""
    imagery = {
        "source": "stac",
        "api": api,
        "collection": "made-up",
        "bands": bands or ["red"],
        "attempts": 3,
        "timeout": 5,
        "cells": {"kind": "utm", "size": SIDE, "resolution": STEP},
    }
    values: dict[str, Any] = {
        "name": "stac",
        "title": "STAC",
        "area": {"bbox": bbox()},
        "imagery": imagery | changes.pop("imagery", {}),
        "labels": {"source": "vector", "path": "buildings.geojson"},
        "classes": [
            {"name": "background", "value": 0, "color": "#000000"},
            {"name": "building", "value": 1, "color": "#ffffff"},
        ],
    }
    folder = Path(changes.pop("folder", None) or ".")
    return Recipe.model_validate(values | changes).in_folder(folder)


SCALE = [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": 0}]


def simple(server: ScriptedApi, seed: int = 1, **more: Any) -> NDArray[np.uint16]:
    """Put one item with one band over all four windows onto the server; returns its numbers."""
    values = numbers(seed)
    server.files[f"/{seed}/red.tif"] = cog(values)
    server.items.append(item(f"item-{seed}", {"red": f"{server.url}/{seed}/red.tif"}, bands=SCALE, **more))
    return values
