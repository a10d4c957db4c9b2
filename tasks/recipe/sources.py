"""Where imagery and labels come from, as recipes say it: one model for each source."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tasks.recipe.parts import MANNER, SECRET, Cells, Fraction, Name, PatchGrid, unless
from tasks.recipe.patterns import compiled, path_pattern
from tasks.recipe.tokens import without_variables
from tasks.recipe.yaml import StrictModel, refused

Rate = Annotated[float, Field(gt=0)]
SLIPPY_SOURCES = {"xyz": "url", "mapbox": "tileset", "ign": "layer"}  # each with the key that names the map


def _template(value: str) -> str:
    if not re.match(r"https?://", value):
        raise ValueError("expected an http:// or https:// URL template")
    valid = "{z} {x} {y} {-y} {q} {s} {token} {env:NAME}"
    known, names = (set(re.findall(r"\{([^{}]*)\}", text)) for text in (valid, without_variables(value)))
    if unknown := names - known:
        raise ValueError(f"unknown placeholder {{{min(unknown)}}}; valid: {valid}")
    if "q" not in names and not ({"z", "x"} <= names and names & {"y", "-y"}):
        raise ValueError("expected {z}, {x} and {y} (or {-y}), or {q}, in the URL template")
    return value


def _all_different(value: list[str]) -> list[str]:
    if len(set(value)) != len(value):
        raise ValueError("every band may stand once")
    return value


def _expression(value: str) -> str:
    compiled(value)
    return value


def _images(value: str) -> str:
    return path_pattern(value, ("scene", "band", "date"))


def _rasters(value: str) -> str:
    return path_pattern(value, ("scene",))


# Of the query extension: the types that each compares with, and these in words.
_ANY, _ORDERED, _TEXT = ((bool, int, float, str), "a value"), ((int, float, str), "a number or text"), ((str,), "text")
QUERY_OPERATORS: Mapping[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("eq", "neq", "contains"), _ANY),
    **dict.fromkeys(("lt", "lte", "gt", "gte"), _ORDERED),
    **dict.fromkeys(("startsWith", "endsWith"), _TEXT),
    "in": ((list,), "a list"),
}


def _query(value: dict[str, Any]) -> dict[str, Any]:
    for name, conditions in value.items():
        if not isinstance(conditions, dict) or not conditions:
            # Servers take a bare value for equality, which with cloud_cover: 30 nobody means.
            shown = conditions if conditions or isinstance(conditions, int | float) else "..."
            meant = f"{{in: {shown}}}" if isinstance(conditions, list) else f"{{eq: {shown}}} for just that"
            if isinstance(conditions, int | float) and not isinstance(conditions, bool):
                meant = f"{{lt: {shown}}} for less, {meant}"
            raise ValueError(f"{name}: {conditions!r} names no operator; write {name}: {meant}")
        for operator, wanted in conditions.items():
            if operator not in QUERY_OPERATORS:
                raise ValueError(f"{name}: no operator {operator!r}; there are {', '.join(sorted(QUERY_OPERATORS))}")
            types, words = QUERY_OPERATORS[operator]
            fits = isinstance(wanted, types) and not (isinstance(wanted, bool) and bool not in types)
            if not fits or (isinstance(wanted, float) and not math.isfinite(wanted)):
                raise ValueError(f"{name}: {operator} compares with {words}, not with {wanted!r}")
    return value


def _checksum(value: str) -> str:
    if not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}|https?://\S+", value):
        raise ValueError("expected md5:<32 hex digits>, sha256:<64 hex digits> or the http(s) URL of such a file")
    return value


class Dates(StrictModel):
    """Which acquisitions of a window become samples."""

    pick: Literal["least-cloudy", "latest", "all", "median"] = "least-cloudy"
    """One acquisition, a sample of each, or the median of all."""
    count: Annotated[int, Field(ge=1, le=100)] = 1
    """With least-cloudy and latest: that many samples a window."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.count > 1 and self.pick in ("all", "median"):
            raise ValueError(f"count goes with least-cloudy and latest; {self.pick} gives what it gives")
        return self


class Imagery(StrictModel):
    """What every imagery source takes."""

    attribution: str = ""
    """Whom to name; it stands in every version."""
    licence: str = ""
    """Of the imagery; it stands in every version."""
    attempts: Annotated[int, Field(ge=1, le=20), MANNER] = 5
    """At one request, before its sample counts as failed."""
    timeout: Annotated[float, Field(gt=0, le=600), MANNER] = 60.0
    """Seconds for one request."""


class SlippyImagery(Imagery):
    """What every slippy map takes."""

    connections: Annotated[int, Field(ge=1, le=1000), MANNER] = 64
    """Requests under way at once."""
    requests_per_second: Annotated[Rate | None, MANNER] = None
    """At most; null for no limit."""
    timeout: Annotated[float, Field(gt=0, le=600), MANNER] = 30.0


class XyzImagery(SlippyImagery):
    """Any slippy map or WMTS in KVP form: ``{z} {x} {y} {-y} {q} {s} {token} {env:NAME}`` in ``url``."""

    source: Literal["xyz"]
    url: Annotated[str, AfterValidator(_template)]
    """Of a tile, with its placeholders. It names the map, so another URL is another dataset."""
    headers: Annotated[dict[str, str], MANNER, SECRET] = Field(default_factory=dict)
    """Sent with every request; {token} and {env:NAME} stand for tokens here too. No store holds their values."""
    subdomains: Annotated[list[str], MANNER] = Field(default_factory=list)
    """What {s} stands for, in turn."""
    token_env: Annotated[str | None, MANNER] = None
    """The environment variable whose value replaces {token}."""
    absent: Annotated[str, MANNER] = "Tile not found"
    """What the body of a 404 says when the tile just does not exist."""

    @model_validator(mode="after")
    def _check_placeholders(self) -> Self:
        if "{s}" in self.url and not self.subdomains:
            raise ValueError("the url has {s}: give subdomains, for example [a, b, c]")
        if "{token}" in self.url and not self.token_env:
            raise ValueError("the url has {token}: give token_env, the environment variable that holds it")
        for name, value in self.headers.items():
            if "{token}" in value and not self.token_env:
                raise refused(f"headers.{name}", "has {token}: give token_env, the environment variable that holds it")
        return self


class MapboxImagery(SlippyImagery):
    """Mapbox v4 raster tiles. Billed by the tile; storing them needs the terms to be accepted."""

    source: Literal["mapbox"]
    tileset: str = "mapbox.satellite"
    """The tileset's id."""
    format: Literal["jpg70", "jpg80", "jpg90", "png", "png32", "png64", "png128", "png256", "webp"] = "jpg90"
    """Of the images as they are sent."""
    attribution: str = "© Mapbox © OpenStreetMap © Maxar"
    licence: str = "Mapbox Product Terms"
    accept_terms: Annotated[bool, MANNER] = False
    """That your agreement with Mapbox allows storing its imagery."""
    requests_per_second: Annotated[Rate | None, MANNER] = 1000.0  # the default account limit is 100,000 a minute


class IgnImagery(SlippyImagery):
    """The French mapping agency's orthophotos: no key, open licence."""

    source: Literal["ign"]
    layer: str = "ORTHOIMAGERY.ORTHOPHOTOS"
    """A layer of the WMTS."""
    attribution: str = "IGN - BD ORTHO"
    licence: str = "Etalab-2.0"
    requests_per_second: Annotated[Rate | None, MANNER] = 10.0  # exempt from limits, and we stay polite
    connections: Annotated[int, Field(ge=1, le=1000), MANNER] = 10


class BandImagery(Imagery):
    """What every source of acquisitions in bands takes."""

    bands: Annotated[list[Name], Field(min_length=1, max_length=64), AfterValidator(_all_different)]
    """Of the images, in this order."""
    dates: Dates = Dates()
    connections: Annotated[int, Field(ge=1, le=64), MANNER] = 8
    """Windows that a shard reads at once from another machine."""


class StacImagery(BandImagery):
    """Items of a STAC API, or of a static catalogue."""

    source: Literal["stac"]
    api: Annotated[Name, MANNER]
    """A URL ({env:NAME} stands for a token), the path of a static catalogue, or planetary-computer, earth-search,
    cdse."""
    collection: Name
    """The collection's id."""
    datetime: str = ""
    """An instant or interval as STAC APIs take it, e.g. 2023-08-01/2023-08-31."""
    query: Annotated[dict[str, Any], AfterValidator(_query)] = Field(default_factory=dict)
    """The query extension, e.g. {eo:cloud_cover: {lt: 60}}."""
    cells: Cells | None = None
    """What the samples are; grid says it for tiles too."""
    layers: dict[str, str] = Field(default_factory=dict)
    """Asset key of SCL, CLD, cloudmask where it is not that name."""
    reflectance: bool = True
    """Float32 surface reflectance; false keeps the numbers as they are."""
    max_negative_fraction: Fraction = 0.05
    """Of an image's pixels; more is taken for a wrongly applied offset."""
    max_items: Annotated[int, Field(ge=1), MANNER] = 10_000
    """That the search may find."""


# The order of keys below stands in the ledgers of datasets that are to be continued (Source.key).
class MlhubImagery(BandImagery):
    """A Radiant MLHub collection, wherever it is today."""

    source: Literal["mlhub"]
    reader: Annotated[Literal["api", "source-coop", "local"], MANNER]
    """A server that speaks the MLHub v1 protocol, the mirror on Source Cooperative, or files on this machine."""
    url: Annotated[str | None, MANNER] = None
    """Of api: base URL of the server; of source-coop: its proxy. {env:NAME} stands for a token."""
    dataset: str | None = None
    """Of api: the dataset's id; of source-coop: account/product, perhaps with /prefix."""
    collections: list[Name] = Field(default_factory=list)
    """Of api: which of the dataset's to take; by default all."""
    path: Annotated[str | None, MANNER] = None
    """Of local: a folder, or a folder of .tar.gz archives, or one archive."""
    file_bands: list[Name] = Field(default_factory=list)
    """Names of the bands of a file that holds several, in order."""
    windows: PatchGrid = PatchGrid(size=0)
    max_bytes: Annotated[int, Field(ge=1), MANNER] = 64 << 30
    """An archive that unpacks to more is refused."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = {"api": ("url", "dataset"), "source-coop": ("dataset",), "local": ("path",)}[self.reader]
        missing = [key for key in needed if not getattr(self, key)]
        if missing:
            raise ValueError(f"reader {self.reader} needs {' and '.join(missing)}")
        return self


class ScenesImagery(BandImagery):
    """A folder of GeoTIFFs.

    ``images`` is a path with placeholders: ``{scene}`` names the scene, ``{band}`` one file of each band,
    ``{date}`` (YYYYMMDD or YYYY-MM-DD) one file of each date, ``*`` anything within a name.
    """

    source: Literal["scenes"]
    images: Annotated[Name, AfterValidator(_images), MANNER]
    """Path of the files, with placeholders."""
    file_bands: list[Name] = Field(default_factory=list)
    """Names of a file's bands in order, when more than ``bands``."""
    group: Annotated[str, AfterValidator(_expression)] | None = None
    """A regular expression (RE2) on the scene's name; what it matches is the group, e.g. ^[a-z]+."""
    nodata: Annotated[float, Field(allow_inf_nan=True)] | None = None
    """The value of pixels without data, where the files do not say."""
    windows: PatchGrid


SceneImagery = MlhubImagery | ScenesImagery  # read from scenes in files, wherever the files are
AnyImagery = Annotated[
    XyzImagery | MapboxImagery | IgnImagery | StacImagery | MlhubImagery | ScenesImagery, Field(discriminator="source")
]


class Labels(StrictModel):
    """What every label source takes."""

    attribution: str = "© OpenStreetMap contributors"
    """Whom to name; it stands in every version."""
    licence: str = "ODbL-1.0"
    """Of the labels; it stands in every version."""


class VectorLabels(Labels):
    """Footprints in a file that GDAL or GeoParquet reads, in any CRS it declares; ``path`` takes ``{scene}``."""

    source: Literal["vector"]
    path: Annotated[str, MANNER]
    """Of the file; ``{scene}`` stands for the scene's name."""
    layer: str | None = None
    """Of a file that has several."""


class OverpassLabels(Labels):
    """Footprints from an Overpass API, for areas up to a town's size."""

    source: Literal["overpass"]
    url: Annotated[str, MANNER] = "https://overpass-api.de/api"
    """Base URL of the API; {env:NAME} stands for a token."""
    date: str | None = None
    """The state of OSM to ask for, e.g. 2024-01-01T00:00:00Z, on servers that keep the past."""
    attempts: Annotated[int, Field(ge=1, le=20), MANNER] = 4
    """At one query."""
    timeout: Annotated[int, Field(ge=1, le=3600), MANNER] = 180
    """Seconds a query may take on the server."""
    rate_limit: Annotated[bool, MANNER] = True
    """Ask the server's /status for a free slot before each query."""


class PbfLabels(Labels):
    """Footprints from an OSM extract: exactly one of ``path`` and ``url``."""

    source: Literal["pbf"]
    path: Annotated[str | None, MANNER] = None
    """Of a file on this machine."""
    url: Annotated[str | None, MANNER] = None
    """To download the extract from; {env:NAME} stands for a token."""
    checksum: Annotated[Annotated[str, AfterValidator(_checksum)] | None, MANNER] = None
    """md5:... or sha256:..., or the URL of a file that holds one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("needs exactly one of path and url")
        return self


class RasterLabels(Labels):
    """A label raster on the pixel grid of each scene, tile or cell; ``path`` takes ``{scene}``, the sample's name."""

    source: Literal["rasters"]
    path: Annotated[Name, AfterValidator(_rasters), MANNER]
    """Of the rasters; ``{scene}`` stands for the sample's or the scene's name, ``*`` for anything within a name."""
    missing: Literal["error", "skip"] = "error"
    """What to do about a scene without its labels: end the run, or leave the scene out."""
    align: Annotated[Literal["exact", "nearest"], unless("exact")] = "exact"
    """Of rasters that lie on another grid than the image: refuse them, or read them by nearest neighbour."""
    attribution: str = ""
    licence: str = ""


class ProvidedLabels(Labels):
    """The labels that come in the same collection as the imagery."""

    source: Literal["provided"]
    min_consensus: Annotated[int, Field(ge=0, le=100)] | None = None
    """Percent; pixels below get the ignore index."""
    missing: Literal["error", "skip"] = "skip"
    """What to do about a chip without its labels: end the run, or leave the chip out."""
    attribution: str = ""
    licence: str = ""


AnyLabels = Annotated[
    VectorLabels | OverpassLabels | PbfLabels | RasterLabels | ProvidedLabels, Field(discriminator="source")
]
FOOTPRINT_SOURCES = ("vector", "overpass", "pbf")
