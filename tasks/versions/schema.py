"""What a version holds: the one list of its arrays, and how samples are cut into chunks. Everything here is plain data.

A version has the groups ``train``, ``validation`` and ``test`` with the same arrays, n samples each. Versions of older
schemas are read too: schema 2 calls three things otherwise (:attr:`ArraySpec.formerly`, :data:`FORMER_ATTRIBUTES`) and
has no hashes; schema 1 holds tiles only, without ``group``, ``crs``, ``transform`` and ``class_fraction``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)

SCHEMA_VERSION = 3
READABLE = (1, 2, 3)
FORMER_ATTRIBUTES = {"ignore": "ignore_index"}  # of the root, by what schemas 1 and 2 call them

# Chosen by benchmarks/reader.py; docs/architecture.md says why, benchmarks/README.md has the figures.
SAMPLES_PER_CHUNK = 16
CHUNK_BYTES = 16 << 20  # of images; large samples get fewer of them in a chunk
SAMPLES_PER_SMALL_CHUNK = 4096  # of what is known of a sample besides its pixels
NOT_KNOWN = int(np.iinfo(np.int64).min)  # of a time; xarray shows it as NaT

# Of the dimensions that are the same in every version what their places are called, and how many there are.
_PLACES = {"coefficient": list("abcdef"), "edge": ["west", "south", "east", "north"], "index": ["z", "x", "y"]}
_SIZES = {"byte": 32} | {dimension: len(places) for dimension, places in _PLACES.items()}


@dataclass(frozen=True)
class Layout:
    """What all samples of a version have in common."""

    bands: tuple[str, ...]
    dtype: str  # of the images: uint8, uint16, int16 or float32
    height: int  # pixels
    width: int
    classes: tuple[str, ...]  # names, in the order of a sample's class fractions
    cloud_mask: bool = False  # whether there is a mask of clouds
    building: bool = True  # whether there is a class for buildings

    @property
    def image_bytes(self) -> int:
        """Of one image."""
        return len(self.bands) * self.height * self.width * np.dtype(self.dtype).itemsize

    @property
    def samples_per_chunk(self) -> int:
        """Images, and masks, in a chunk: a power of two, so that blocks are whole chunks."""
        chunk = SAMPLES_PER_CHUNK
        while chunk > 1 and chunk * self.image_bytes > CHUNK_BYTES:
            chunk //= 2
        return chunk

    @property
    def chunk_bytes(self) -> int:
        """Of the images in a chunk."""
        return self.samples_per_chunk * self.image_bytes

    def size(self, dimension: str) -> int:
        """Of a dimension other than ``sample``."""
        mine = {"band": len(self.bands), "y": self.height, "x": self.width, "class": len(self.classes)}
        return (_SIZES | mine)[dimension]


class When(StrEnum):
    """When a version has an array."""

    ALWAYS = ""
    CLOUDS = "clouds are masked"
    BUILDING = "there is a class building"
    TILES = "every sample is a tile"


@dataclass(frozen=True)
class ArraySpec:
    """One array of a split."""

    name: str
    beside: str  # its dimensions after ``sample``
    dtype: str  # "image": the layout's
    meaning: str  # its long_name
    column: str = ""  # of tasks.versions.plan.Row, which it holds or is worked out from; "": known once pixels are read
    when: When = When.ALWAYS  # it is there
    attributes: Mapping[str, Any] = field(default_factory=dict)
    formerly: str = ""  # its name in schema 2

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of its dimensions."""
        return "sample", *self.beside.split()

    @property
    def is_pixels(self) -> bool:
        """Whether it is cut into chunks as images are."""
        return "x" in self.dimensions

    def is_there(self, layout: Layout, tiles: bool) -> bool:
        """Whether a version of this layout has it. ``tiles``: whether every sample is a tile."""
        sometimes = {When.CLOUDS: layout.cloud_mask, When.BUILDING: layout.building, When.TILES: tiles}
        return sometimes.get(self.when, True)

    def shape(self, samples: int, layout: Layout) -> tuple[int, ...]:
        """Of the array in a split of so many samples."""
        return samples, *(layout.size(dimension) for dimension in self.dimensions[1:])

    def chunks(self, samples: int, layout: Layout) -> tuple[int, ...]:
        """The shape of its chunks."""
        most = layout.samples_per_chunk if self.is_pixels else SAMPLES_PER_SMALL_CHUNK
        return min(most, max(samples, 1)), *self.shape(samples, layout)[1:]

    def described(self, layout: Layout) -> dict[str, Any]:
        """The array's attributes."""
        places = {**_PLACES, "class": list(layout.classes)}
        found = {"long_name": self.meaning, **self.attributes}
        found |= {dimension: places[dimension] for dimension in self.dimensions if dimension in places}
        if self.is_pixels:
            found["coordinates"] = "sample_id"  # as CF and xarray have it
        return found | ({"bands": list(layout.bands)} if "band" in self.dimensions else {})


_TIME: dict[str, Any] = {
    "units": "seconds since 1970-01-01",
    "calendar": "proleptic_gregorian",
    "_FillValue": NOT_KNOWN,  # left out where every time is known, so that xarray loses no precision
}
_AFFINE = "a to f of rasterio.Affine; NaN where there is none"
_CONVENTION = {"convention": "rasterio.Affine: x = a column + b row + c, y = d column + ..."}
_DEGREES = {"units": "degrees", "crs": "EPSG:4326"}
_FRACTION = "of all pixels, by the labels alone, before resizing"
_BOTH = 'SHA-256 over "I M", the SHA-256 of the staged image and of the label mask that these are made from'

ARRAYS = (
    ArraySpec("image", "band y x", "image", "the image; row 0 is the northern edge"),
    ArraySpec("mask", "y x", "uint8", "class values of the recipe, and its ignore_index"),
    ArraySpec("cloud_mask", "y x", "uint8", "1 where clouds hide the ground", when=When.CLOUDS, formerly="unusable"),
    ArraySpec("sample_id", "", "string", "name: z/x/y, or scene/row-column@item", "sample.name"),
    ArraySpec("group", "", "string", "what the split kept together with it", "unit"),
    ArraySpec("crs", "", "string", '"EPSG:3857", ...; empty where there is none', "georeference"),
    ArraySpec("transform", "coefficient", "float64", _AFFINE, "georeference", attributes=_CONVENTION),
    ArraySpec("bounds", "edge", "float64", "west, south, east, north in degrees", "georeference", attributes=_DEGREES),
    ArraySpec("tile", "index", "int32", "z, x, y on the slippy map", "georeference", When.TILES),
    ArraySpec("class_fraction", "class", "float32", _FRACTION, "sample.class_fractions", formerly="class_share"),
    ArraySpec("building_fraction", "", "float32", "the same of buildings", "sample.building_fraction", When.BUILDING),
    ArraySpec("nodata_fraction", "", "float32", "of the image's pixels", "sample.nodata_fraction"),
    ArraySpec(
        "cloud_fraction", "", "float32", "of the image's pixels; NaN where nobody knows", "sample.cloud_fraction"
    ),
    ArraySpec("fetched_at", "", "int64", "when the image was fetched", "sample.fetched_at", attributes=_TIME),
    ArraySpec(
        "acquired_at", "", "int64", "when it was taken; NaT where nobody knows", "sample.acquired_at", attributes=_TIME
    ),
    ArraySpec("origin", "", "string", "item or scene that the image is from", "sample.origin"),
    ArraySpec("image_sha256", "byte", "uint8", "SHA-256 of the stored image's bytes in C order"),
    ArraySpec("mask_sha256", "byte", "uint8", "SHA-256 of the stored mask's bytes in C order"),
    ArraySpec("source_sha256", "byte", "uint8", _BOTH, "sample"),
)

FORMER_NAMES = {spec.name: spec.formerly for spec in ARRAYS if spec.formerly}


def table() -> str:
    """The list of arrays as a Markdown table."""
    lines = ["| array | dimensions | dtype | meaning | there when |", "|---|---|---|---|---|"]
    for spec in ARRAYS:
        dtype = "uint8, uint16, int16, float32" if spec.dtype == "image" else spec.dtype
        lines.append(f"| `{spec.name}` | {', '.join(spec.dimensions)} | {dtype} | {spec.meaning} | {spec.when} |")
    return "\n".join(lines)
