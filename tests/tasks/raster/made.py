"""Rasters and recipes to cut, in a test's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine

from tasks.recipe.model import Recipe

TRANSFORM = Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)


def write_raster(
    path: Path, values: NDArray[Any], crs: str = "EPSG:32631", transform: Affine = TRANSFORM, **profile: Any
) -> Path:
    """A GeoTIFF of ``values`` (band, y, x) or (y, x)."""
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    shape = {"width": width, "height": height, "count": count, "dtype": values.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape, **profile) as file:
        file.write(values)
    return path


def write_plain(path: Path, values: NDArray[np.uint8]) -> Path:
    """An image without a georeference of ``values`` (y, x) or (y, x, band)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Random whole numbers of a type."""
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def scenes_recipe(
    folder: Path,
    images: str,
    labels: dict[str, Any] | None = None,
    about: str = "",
    splits: Mapping[str, Any] | None = None,
    **imagery: Any,
) -> Recipe:
    """A recipe in ``folder`` for a folder of scenes."""
    values = {
        "name": "scenes",
        "title": "Scenes",
        "about": {"files": about},
        "imagery": {
            "source": "scenes",
            "images": images,
            "bands": ["red", "green", "blue"],
            "windows": {"size": 64},
            **imagery,
        },
        "labels": labels or {"source": "rasters", "path": "gt/{scene}.tif", "missing": "skip"},
        "classes": [
            {"name": "other", "value": 0, "color": "#000000"},
            {"name": "building", "value": 1, "color": "#ffffff"},
        ],
        "splits": dict(splits or {}),
    }
    return Recipe.model_validate(values).in_folder(folder)
