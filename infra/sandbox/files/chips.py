"""Made-up chips of the Radiant MLHub collections: LandCoverNet, crop types in Ghana, crop types in Kenya.

What a chip shows is drawn here once; :mod:`infra.sandbox.files.chip_layouts` writes it in the layouts that
the collections were published in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine

from infra.sandbox.world.ground import Place, cloud_field, drawn, patches, rectangles, seen, spectra
from infra.sandbox.world.region import rng

LANDCOVERNET_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
GHANA_BANDS = ("blue", "green", "red", "rded1", "rded2", "rded3", "nir", "rded4", "swir1", "swir2")
RADAR_BANDS = ("VV", "VH")
KENYA_BANDS = LANDCOVERNET_BANDS

CLOUD = 0.5  # thickness from which a pixel is high-probability cloud
CLEAR_CLD, CLOUDY_CLD = 12, 60  # percent
_BRIGHT = 8200  # what a thick cloud adds up to


@dataclass(frozen=True, eq=False)
class MadeLook:
    """A chip on one day."""

    date: str  # YYYYMMDD
    bands: Mapping[str, NDArray[Any]]  # name -> (y, x) uint16
    cloud: NDArray[np.bool_]  # (y, x): what the look's cloud layers say
    layers: Mapping[str, NDArray[np.uint8]]  # SCL, CLD or cloudmask


@dataclass(frozen=True, eq=False)
class MadeChip:
    """A chip or tile as it was drawn."""

    name: str  # tile and chip (28QDE_03), number (000017), or tile (tile_02)
    labels: NDArray[Any]  # (y, x): the source's own values
    looks: tuple[MadeLook, ...]  # oldest first
    place: Place | None = None
    consensus: NDArray[Any] | None = None  # (y, x): 0 to 100
    radar: NDArray[np.float32] | None = None  # (2, y, x): VV and VH of the first date


def landcovernet_chips(
    *,
    seed: int = 0,
    tiles: Sequence[str] = ("28QDE", "33PYK"),
    chips: int = 3,
    size: int = 256,
    dates: Sequence[str] = ("20180106", "20180411", "20180729", "20181122"),
    bands: Sequence[str] = LANDCOVERNET_BANDS,
) -> list[MadeChip]:
    """Chips of some MGRS tiles: labels 0 to 7 with a consensus (uint16), bands, SCL and CLD at 10 m.

    The clear date is another from chip to chip; the last chip of all has none.
    """
    made = []
    for t, tile in enumerate(tiles):
        for c in range(chips):
            name = f"{tile}_{c:02}"
            random = rng(seed, f"landcovernet {name}")
            labels = patches(random, size, size, range(1, 8), max(8, size // 6))
            labels[: size // 8, : size // 8] = 0  # nobody knows
            consensus = np.clip(random.normal(80, 15, labels.shape), 0, 100).astype(np.uint16)
            levels = spectra(seed + 1, range(8), len(bands), 300, 4200)
            looks = []
            for d, date in enumerate(dates):
                overcast = (t, c) == (len(tiles) - 1, chips - 1)
                share = 0.35 + 0.1 * d if overcast or d != (t + c) % len(dates) else 0.02
                thickness = cloud_field(random, size, size, share)
                image = _clouded(seen(random, labels, levels, 60), thickness)
                layers = {"SCL": _scl(labels, thickness), "CLD": _cld(thickness)}
                looks.append(MadeLook(date, dict(zip(bands, image, strict=True)), thickness > 0, layers))
            place = Place(f"EPSG:326{tile[:2]}", Affine(10, 0, 300_000 + 4000 * c, 0, -10, 1_700_000 + 100_000 * t))
            radar = seen(random, labels, spectra(seed + 2, range(8), 2, -20, -5), 1.0)
            made.append(MadeChip(name, labels.astype(np.uint16), tuple(looks), place, consensus, radar))
    return made


def ghana_chips(
    *, seed: int = 0, chips: int = 12, size: int = 64, dates: Sequence[str] = ("20160113", "20160731", "20170208")
) -> list[MadeChip]:
    """Chips without a georeference: labels 0 to 24 (uint8), ten bands (uint16), a cloud mask of each date.

    The last chip but one is under clouds on all dates, and the last has no field at all.
    """
    made = []
    levels = spectra(seed + 3, range(25), len(GHANA_BANDS), 300, 4200)
    for number in range(chips):
        random = rng(seed, f"ghana {number}")
        fields = rectangles(random, size, size, 6, (size // 8, size // 3))
        labels = np.zeros((size, size), dtype=np.uint8)
        if number + 1 < chips:
            for field in fields:
                labels = np.maximum(labels, drawn(size, size, [field], int(random.integers(1, 25))))
        looks = []
        for d, date in enumerate(dates):
            share = 0.3 + 0.1 * d if number + 2 == chips or d != number % len(dates) else 0.03
            thickness = cloud_field(random, size, size, share)
            image = _clouded(seen(random, labels, levels, 60), thickness)
            layers = {"cloudmask": (thickness > 0).astype(np.uint8)}
            looks.append(MadeLook(date, dict(zip(GHANA_BANDS, image, strict=True)), thickness > 0, layers))
        radar = seen(random, labels, spectra(seed + 4, range(25), 2, -20, -5), 1.0)
        made.append(MadeChip(f"{number:06}", labels, tuple(looks), radar=radar))
    return made


def kenya_tiles(
    *,
    seed: int = 0,
    tiles: int = 4,
    height: int = 300,
    width: int = 260,
    dates: Sequence[str] = ("20190606", "20190701", "20190721"),
    bands: Sequence[str] = KENYA_BANDS,
) -> list[MadeChip]:
    """Tiles without a georeference: sparse fields of classes 1 to 7 (uint8), bands (uint16) and CLD of each date.

    The upper right of each tile has no field.
    """
    made = []
    levels = spectra(seed + 5, range(8), len(bands), 300, 4200)
    for number in range(tiles):
        random = rng(seed, f"kenya {number}")
        labels = np.zeros((height, width), dtype=np.uint8)
        for left, top, right, bottom in rectangles(random, height, width, height * width // 2500, (8, 24)):
            labels[top:bottom, left:right] = int(random.integers(1, 8))
        labels[: height // 2, width // 2 :] = 0
        looks = []
        for d, date in enumerate(dates):
            thickness = cloud_field(random, height, width, (0.45, 0.05, 0.2)[(d + number) % 3], 32)
            image = _clouded(seen(random, labels, levels, 60), thickness)
            looks.append(MadeLook(date, dict(zip(bands, image, strict=True)), thickness > 0, {"CLD": _cld(thickness)}))
        made.append(MadeChip(f"tile_{number:02}", labels, tuple(looks)))
    return made


def _clouded(image: NDArray[np.float32], thickness: NDArray[np.float32]) -> NDArray[np.uint16]:
    veil = np.clip(thickness * 2, 0, 1)
    return np.asarray(np.clip(np.rint(image * (1 - veil) + _BRIGHT * veil), 1, 10_000), dtype=np.uint16)


def _cld(thickness: NDArray[np.float32]) -> NDArray[np.uint8]:
    percent = np.where(thickness > 0, CLOUDY_CLD + np.clip(thickness * 40, 0, 40), CLEAR_CLD)
    return np.asarray(np.rint(percent), dtype=np.uint8)


def _scl(labels: NDArray[np.uint8], thickness: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scene classes: water 6, bare 5, else vegetation 4; medium and high probability of cloud 8 and 9."""
    ground = np.where(labels == 1, 6, np.where(np.isin(labels, (2, 3)), 5, 4))
    return np.where(thickness > CLOUD, 9, np.where(thickness > 0, 8, ground)).astype(np.uint8)
