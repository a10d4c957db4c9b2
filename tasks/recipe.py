"""The recipe: what dataset to build, as data.

A recipe is one YAML file in ``datasets/``. This module is its strict model; :func:`load_recipe` reads
one. Relative paths in a recipe are relative to the recipe's own folder.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from tasks.errors import RecipeError
from tasks.secrets import redact_values
from tasks.strict_yaml import StrictModel, load_strict

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


class Imagery(StrictModel):
    """What every slippy-map source takes."""

    attribution: str = ""
    licence: str = ""
    connections: Annotated[int, Field(ge=1, le=1000)] = 64
    requests_per_second: Annotated[float, Field(gt=0)] | None = None
    attempts: Annotated[int, Field(ge=1, le=20)] = 5
    timeout: Annotated[float, Field(gt=0, le=600)] = 30.0  # seconds for one request


class XyzImagery(Imagery):
    """Any slippy map or WMTS in KVP form: ``{z} {x} {y} {-y} {q} {s} {token}`` in ``url``."""

    source: Literal["xyz"]
    url: str
    headers: dict[str, str] = Field(default_factory=dict)
    subdomains: list[str] = Field(default_factory=list)
    token_env: str | None = None  # the environment variable whose value replaces {token}
    absent: str = "Tile not found"  # what the body of a 404 says when the tile just does not exist

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if not re.match(r"https?://", value):
            raise ValueError("expected an http:// or https:// URL template")
        names = set(re.findall(r"\{([^{}]*)\}", value))
        unknown = names - {"z", "x", "y", "-y", "q", "s", "token"}
        if unknown:
            valid = "{z} {x} {y} {-y} {q} {s} {token}"
            raise ValueError(f"unknown placeholder {{{min(unknown)}}}; valid: {valid}")
        if "q" not in names and not ({"z", "x"} <= names and names & {"y", "-y"}):
            raise ValueError("expected {z}, {x} and {y} (or {-y}), or {q}, in the URL template")
        return value

    @model_validator(mode="after")
    def _check_placeholders(self) -> Self:
        if "{s}" in self.url and not self.subdomains:
            raise ValueError("the url has {s}: give subdomains, for example [a, b, c]")
        if "{token}" in self.url and not self.token_env:
            raise ValueError("the url has {token}: give token_env, the environment variable that holds it")
        return self


class MapboxImagery(Imagery):
    """Mapbox v4 raster tiles. Billed by the tile; storing them needs the terms to be accepted."""

    source: Literal["mapbox"]
    tileset: str = "mapbox.satellite"
    format: Literal["jpg70", "jpg80", "jpg90", "png", "png32", "png64", "png128", "png256", "webp"] = "jpg90"
    attribution: str = "© Mapbox © OpenStreetMap © Maxar"
    licence: str = "Mapbox Product Terms"
    accept_terms: bool = False
    requests_per_second: Annotated[float, Field(gt=0)] | None = 1000.0  # the default account limit is 100,000 a minute


class IgnImagery(Imagery):
    """The French mapping agency's orthophotos: no key, open licence."""

    source: Literal["ign"]
    layer: str = "ORTHOIMAGERY.ORTHOPHOTOS"
    attribution: str = "IGN - BD ORTHO"
    licence: str = "Etalab-2.0"
    requests_per_second: Annotated[float, Field(gt=0)] | None = 10.0  # exempt from limits, and we stay polite
    connections: Annotated[int, Field(ge=1, le=1000)] = 10


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


class Filter(StrictModel):
    """Which tiles are worth having."""

    min_building_fraction: Fraction = 0.15
    max_nodata_fraction: Fraction = 0.05


class Limits(StrictModel):
    """Where a run refuses or gives up."""

    max_tiles: Annotated[int, Field(ge=1)] = 1_000_000
    max_failed_fraction: Fraction = 0.005


class Splits(StrictModel):
    """Shares of the three splits and what keeps together."""

    train: Fraction = 0.70
    validation: Fraction = 0.15
    test: Fraction = 0.15
    by: Literal["block", "tile"] = "block"
    block_zoom: Annotated[int, Field(ge=0, le=MAX_ZOOM)] | None = None  # default: three above the grid's zoom
    buffer: Annotated[int, Field(ge=0, le=64)] = 0  # tiles
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"train, validation and test must sum to 1 (they sum to {total:g})")
        return self


class Recipe(StrictModel):
    """One dataset."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
    title: Annotated[str, Field(min_length=1)]
    description: str = ""
    area: Area
    grid: Grid
    imagery: Annotated[XyzImagery | MapboxImagery | IgnImagery, Field(discriminator="source")]
    labels: Annotated[VectorLabels | OverpassLabels | PbfLabels, Field(discriminator="source")]
    classes: Annotated[list[ClassEntry], Field(min_length=2)]
    filter: Filter = Filter()
    resize: Annotated[int, Field(ge=16, le=4096)] | None = None
    splits: Splits = Splits()
    limits: Limits = Limits()

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.block_zoom > self.grid.zoom:
            raise ValueError(f"splits.block_zoom {self.block_zoom} is deeper than grid.zoom {self.grid.zoom}")
        values = [entry.value for entry in self.classes]
        names = [entry.name for entry in self.classes]
        if len(set(values)) != len(values) or len(set(names)) != len(names):
            raise ValueError("classes: every name and every value may stand once")
        if "building" not in names or 0 not in values or self.building_value == 0:
            raise ValueError("classes: expected a class named building and another with value 0")
        return self

    @property
    def block_zoom(self) -> int:
        """Zoom of the blocks that a split keeps together."""
        chosen = self.splits.block_zoom
        return max(0, self.grid.zoom - 3) if chosen is None else chosen

    @property
    def building_value(self) -> int:
        """The mask's value for building pixels."""
        return next(entry.value for entry in self.classes if entry.name == "building")

    @property
    def sample_size(self) -> int:
        """Pixels along a side of a stored sample."""
        return self.resize or self.grid.tile_size

    def resolve(self, path: str) -> Path:
        """``path`` as the recipe means it: relative to the recipe's folder."""
        return (self._folder / path).resolve()

    def identity(self) -> dict[str, Any]:
        """What two builds must agree on to be versions of one dataset."""
        imagery = self.imagery
        what = {
            "xyz": lambda: imagery.url,  # type: ignore[union-attr]
            "mapbox": lambda: imagery.tileset,  # type: ignore[union-attr]
            "ign": lambda: imagery.layer,  # type: ignore[union-attr]
        }[imagery.source]()
        identity = {
            "name": self.name,
            "grid.zoom": self.grid.zoom,
            "grid.tile_size": self.grid.tile_size,
            "resize": self.resize,
            "imagery.source": imagery.source,
            "imagery": what,
            "labels.source": self.labels.source,
            "classes": [[entry.name, entry.value] for entry in self.classes],
            "splits.by": self.splits.by,
            "splits.block_zoom": self.block_zoom if self.splits.by == "block" else None,
            "splits.seed": self.splits.seed,
        }
        return {key: redact_values(value) for key, value in identity.items()}

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


def find_recipe(name_or_path: str) -> Path:
    """The recipe file meant by a path or by a bare name such as ``osm-france`` (in ``./datasets``).

    Raises RecipeError, listing what there is.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if path.is_file():
            return path
        raise RecipeError(f"{path}: no such recipe file")
    shipped = Path("datasets") / f"{name_or_path}.yaml"
    if shipped.is_file():
        return shipped
    known = ", ".join(sorted(entry.stem for entry in Path("datasets").glob("*.yaml"))) or "none in ./datasets"
    raise RecipeError(f"{name_or_path}: neither a recipe file nor a name in ./datasets (there: {known})")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe. ``overrides`` are ``key=value`` pairs as ``--set`` takes them.

    Raises RecipeError, naming file, line, key and nearest valid name.
    """
    recipe = load_strict(path, Recipe, overrides)
    recipe._folder = path.resolve().parent
    return recipe
