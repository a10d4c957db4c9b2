"""What recipes of every kind are made of: areas, grids, labels, classes, limits, and the base of a recipe."""

import hashlib
import json
import re
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from tasks.recipe.yaml import StrictModel
from tasks.secrets import redact_values

MAX_ZOOM = 24
OSM_ATTRIBUTION = "© OpenStreetMap contributors"
OSM_LICENCE = "ODbL-1.0"

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Area(StrictModel):
    """Where: exactly one of ``tiles``, ``bbox``, ``place`` and ``geojson``, optionally sampled."""

    tiles: str | None = None  # path of a text file of z/x/y lines
    bbox: list[float] | None = None  # west, south, east, north in degrees; west > east crosses the antimeridian
    place: str | None = None  # a name for Nominatim, or an OSM id such as R1403916
    geojson: str | None = None  # path of a GeoJSON file with polygons in EPSG:4326
    sample: Annotated[int, Field(ge=1)] | None = None  # draw that many tiles evenly over the area
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in ("tiles", "bbox", "place", "geojson") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of tiles, bbox, place, geojson (got {', '.join(given) or 'none'})")
        return self

    @field_validator("bbox")
    @classmethod
    def _check_bbox(cls, value: list[float] | None) -> list[float] | None:
        if value is None:
            return None
        if len(value) != 4:
            raise ValueError("expected [west, south, east, north] in degrees")
        west, south, east, north = value
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90 and west != east):
            raise ValueError("expected [west, south, east, north] in degrees, south < north, west and east differing")
        return value


class Grid(StrictModel):
    """The slippy-map grid whose tiles are the samples."""

    zoom: Annotated[int, Field(ge=0, le=MAX_ZOOM)]
    tile_size: Literal[256, 512] = 256


class Labels(StrictModel):
    """What every label source takes."""

    attribution: str = OSM_ATTRIBUTION
    licence: str = OSM_LICENCE


class VectorLabels(Labels):
    """Footprints in a file that GDAL or GeoParquet reads, in any CRS it declares."""

    source: Literal["vector"]
    path: str
    layer: str | None = None


class OverpassLabels(Labels):
    """Footprints from an Overpass API, for areas up to a town's size."""

    source: Literal["overpass"]
    url: str = "https://overpass-api.de/api"
    date: str | None = None  # e.g. 2024-01-01T00:00:00Z, on servers that keep the past
    attempts: Annotated[int, Field(ge=1, le=20)] = 4
    timeout: Annotated[int, Field(ge=1, le=3600)] = 180  # seconds a query may take on the server
    rate_limit: bool = True  # ask the server's /status for a free slot before each query


class PbfLabels(Labels):
    """Footprints from an OSM extract: exactly one of ``path`` and ``url``."""

    source: Literal["pbf"]
    path: str | None = None
    url: str | None = None
    checksum: str | None = None  # md5:... or sha256:..., or the URL of a file that holds one

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("needs exactly one of path and url")
        return self

    @field_validator("checksum")
    @classmethod
    def _check_checksum(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}|https?://\S+", value):
            raise ValueError("expected md5:<32 hex digits>, sha256:<64 hex digits> or the http(s) URL of such a file")
        return value


class ClassEntry(StrictModel):
    """One class of the mask."""

    name: Annotated[str, Field(min_length=1)]
    value: Annotated[int, Field(ge=0, le=254)]
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class Limits(StrictModel):
    """Where a run refuses or gives up."""

    max_tiles: Annotated[int, Field(ge=1)] = 1_000_000
    max_failed_fraction: Fraction = 0.005


class SplitShares(StrictModel):
    """Shares of the three splits."""

    train: Fraction = 0.70
    validation: Fraction = 0.15
    test: Fraction = 0.15
    seed: int = 0

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"train, validation and test must sum to 1 (they sum to {total:g})")
        return self


class BaseRecipe(StrictModel):
    """What every recipe has."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
    title: Annotated[str, Field(min_length=1)]
    description: str = ""
    limits: Limits = Limits()
    resize: Annotated[int, Field(ge=16, le=4096)] | None = None

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    def resolve(self, path: str) -> Path:
        """``path`` as the recipe means it: relative to the recipe's folder."""
        return (self._folder / path).resolve()

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What two builds must agree on to be versions of one dataset."""

    def public(self) -> dict[str, Any]:
        """The recipe's values as JSON, tokens in URLs and headers replaced: what a store may hold."""
        values = self.model_dump(mode="json")
        headers = values["imagery"].get("headers")
        if headers:
            values["imagery"]["headers"] = dict.fromkeys(headers, "***")
        return {key: redact_values(value) for key, value in values.items()}

    def hash(self) -> str:
        """SHA-256 of the recipe's public values (not of its comments, layout or place on disk), as hex."""
        canonical = json.dumps(self.public(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def check_classes(classes: list[Any]) -> None:
    """Raise ValueError when a name or value stands twice."""
    values = [entry.value for entry in classes]
    names = [entry.name for entry in classes]
    if len(set(values)) != len(values) or len(set(names)) != len(names):
        raise ValueError("classes: every name and every value may stand once")
