"""Made-up ground for scenes and chips far from the region: patches of classes, what a sensor sees of them, clouds.

Everything is drawn from the generator that is passed in, so a seed decides every pixel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine
from rasterio.io import DatasetWriter

Classes = NDArray[np.uint8]
Float32Array = NDArray[np.float32]


class Place(NamedTuple):
    """Where pixels lie: a CRS as ``EPSG:32631`` and the affine transform."""

    crs: str
    transform: Affine


class _Writer(DatasetWriter):  # type: ignore[misc]
    """A file that may go without a georeference, and does not warn: many published chips have none."""

    def _has_gcps_or_rpcs(self) -> bool:
        return True


def write_raster(path: Path, values: NDArray[Any], place: Place | None = None, **profile: Any) -> None:
    """A GeoTIFF of ``values`` (band, y, x) or (y, x); without a place it has no CRS and no transform."""
    bands = values if values.ndim == 3 else values[np.newaxis]
    count, height, width = bands.shape
    lies = {"crs": place.crs, "transform": place.transform} if place else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"width": width, "height": height, "count": count, "dtype": bands.dtype}
    with rasterio.Env(), _Writer(str(path), "w", driver="GTiff", **shape, **lies, **profile) as file:
        file.write(bands)


def smooth_noise(random: np.random.Generator, height: int, width: int, cell: int) -> Float32Array:
    """Noise (y, x) of mean 0 and deviation about 1 whose features are ``cell`` pixels wide."""
    coarse = random.normal(0, 1, (height // cell + 3, width // cell + 3)).astype(np.float32)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32)


def patches(random: np.random.Generator, height: int, width: int, values: Sequence[int], cell: int = 24) -> Classes:
    """A class raster (y, x) of ``values`` in patches about ``cell`` pixels wide."""
    fields = np.stack([smooth_noise(random, height, width, cell) for _ in values])
    return np.asarray(np.array(values, dtype=np.uint8)[np.argmax(fields, axis=0)], dtype=np.uint8)


def rectangles(
    random: np.random.Generator, height: int, width: int, count: int, sides: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """At most ``count`` rectangles (left, top, right, bottom) in pixels that neither touch each other nor the edge."""
    found: list[tuple[int, int, int, int]] = []
    for _ in range(4 * count):
        across, down = (int(side) for side in random.integers(*sides, 2, endpoint=True))
        if len(found) == count or across + 4 > width or down + 4 > height:
            break
        left, top = int(random.integers(2, width - across - 1)), int(random.integers(2, height - down - 1))
        one = (left, top, left + across, top + down)
        if all(one[0] > b[2] + 1 or one[2] < b[0] - 1 or one[1] > b[3] + 1 or one[3] < b[1] - 1 for b in found):
            found.append(one)
    return found


def drawn(height: int, width: int, shapes: Sequence[tuple[int, int, int, int]], value: int = 1) -> Classes:
    """A class raster (y, x) that is ``value`` inside the rectangles and 0 elsewhere."""
    raster = np.zeros((height, width), dtype=np.uint8)
    for left, top, right, bottom in shapes:
        raster[top:bottom, left:right] = value
    return raster


def seen(
    random: np.random.Generator, classes: Classes, spectra: Mapping[int, Sequence[float]], spread: float
) -> Float32Array:
    """What a sensor sees of a class raster: (band, y, x), the class's values with noise of that deviation."""
    bands = len(next(iter(spectra.values())))
    table = np.zeros((256, bands), dtype=np.float32)
    for value, levels in spectra.items():
        table[value] = levels
    clean = np.moveaxis(table[classes], -1, 0)
    noise = random.normal(0, spread, clean.shape).astype(np.float32)
    return np.asarray(clean + noise, dtype=np.float32)


def spectra(seed: int, values: Sequence[int], bands: int, low: float, high: float) -> dict[int, Sequence[float]]:
    """A level in each band for every class."""
    random = np.random.default_rng([seed, bands, len(values)])
    return {value: random.uniform(low, high, bands).tolist() for value in values}


def cloud_field(random: np.random.Generator, height: int, width: int, share: float, cell: int = 16) -> Float32Array:
    """Thickness of clouds (y, x): over 0 on ``share`` of the pixels, the more the deeper inside a cloud."""
    noise = smooth_noise(random, height, width, min(cell, max(4, min(height, width) // 4)))
    if share <= 0:
        return np.full((height, width), -1.0, dtype=np.float32)
    if share >= 1:
        return np.asarray(noise - noise.min() + 0.1, dtype=np.float32)
    covered = round(share * noise.size)
    order = np.argsort(noise, axis=None, kind="stable")
    thickness = np.full(noise.size, -1.0, dtype=np.float32)
    chosen = order[noise.size - covered :]
    if covered:
        thickness[chosen] = noise.ravel()[chosen] - noise.ravel()[chosen[0]] + 0.01
    return thickness.reshape(height, width)
