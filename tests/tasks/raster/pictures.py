"""Small generated images and recipes for the imagery tests."""

import io
from typing import Any

import numpy as np
from PIL import Image

from tasks.recipe.model import Recipe

SIDE = 32  # pixels


def picture(seed: int = 0, side: int = SIDE, bands: int = 3) -> np.ndarray:
    """(side, side, bands) uint8, smooth enough to compress and different for every seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (4, 4, bands), dtype=np.uint8)
    return np.kron(coarse, np.ones((side // 4, side // 4, 1), np.uint8)) + random.integers(
        0, 9, (side, side, bands), dtype=np.uint8
    )


def encode(pixels: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def transparent(share: float, side: int = SIDE) -> bytes:
    """A PNG whose upper ``share`` is fully transparent."""
    pixels = picture(bands=4, side=side)
    pixels[..., 3] = 255
    pixels[: round(share * side), :, 3] = 0
    return encode(pixels, "PNG")


def recipe(imagery: dict[str, Any], zoom: int = 18, tile_size: int = 256) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "title": "Small",
            "area": {"bbox": [0.0, 0.0, 0.01, 0.01]},
            "grid": {"zoom": zoom, "tile_size": tile_size},
            "imagery": imagery,
            "labels": {"source": "vector", "path": "buildings.geojson"},
            "classes": [
                {"name": "background", "value": 0, "color": "#000000"},
                {"name": "building", "value": 1, "color": "#ffffff"},
            ],
        }
    )
