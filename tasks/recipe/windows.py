"""The recipe of a dataset whose samples are windows: of STAC items, an MLHub collection, or a folder of scenes."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.recipe.parts import (
    MAX_ZOOM,
    Area,
    BaseRecipe,
    ClassEntry,
    Fraction,
    Labels,
    OverpassLabels,
    PbfLabels,
    SplitShares,
    VectorLabels,
    check_classes,
)
from tasks.recipe.yaml import StrictModel
from tasks.secrets import redact_values

Name = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(ge=16, le=16384)]


class About(StrictModel):
    """What a person must know before building: shown by ``plan`` and stored with every version."""

    licence: str = ""
    size: str = ""  # in words: files, bytes, samples
    needs: str = ""  # what the user must have or accept
    files: str = ""  # how to put the original files where the recipe looks for them
    homepage: str = ""


class Cut(StrictModel):
    """How windows are cut from scenes; ``size`` 0 takes scenes whole."""

    size: Annotated[int, Field(ge=0, le=16384)]
    stride: Side | None = None  # default: size, so that windows do not overlap
    edge: Literal["inside", "pad", "drop"] = "inside"  # pull the last window inside, pad it, or leave the rest out
    padding: Annotated[int, Field(ge=0, le=4096)] = 0  # pixels of mirrored context around every window, label-free

    @model_validator(mode="after")
    def _check(self) -> Self:
        if 0 < self.size < 16:
            raise ValueError("size: expected 0 (whole scenes) or at least 16 pixels")
        if self.padding and 2 * self.padding >= self.size:
            raise ValueError(f"padding {self.padding} on both sides leaves nothing of size {self.size}")
        core = self.size - 2 * self.padding
        if self.size and self.stride and self.stride > core:
            raise ValueError(f"stride {self.stride} is larger than the {core} labelled pixels of a window: gaps")
        return self


class TileCells(StrictModel):
    """Cells of the slippy-map grid, in EPSG:3857."""

    kind: Literal["tiles"]
    zoom: Annotated[int, Field(ge=0, le=MAX_ZOOM)]
    size: Side = 256  # pixels along a side


class UtmCells(StrictModel):
    """Square cells in the UTM zone of each place, on multiples of ``size * resolution`` metres."""

    kind: Literal["utm"]
    size: Side = 256
    resolution: Annotated[float, Field(gt=0, le=10_000)]  # metres a pixel


class PolygonCells(StrictModel):
    """One cell for each polygon of a file, centred on it, in its place's UTM zone."""

    kind: Literal["polygons"]
    path: Name  # GeoJSON
    size: Side = 256
    resolution: Annotated[float, Field(gt=0, le=10_000)]


class Dates(StrictModel):
    """Which of the looks at a window become samples."""

    pick: Literal["least-cloudy", "latest", "all", "median"] = "least-cloudy"
    count: Annotated[int, Field(ge=1, le=100)] = 1  # with least-cloudy and latest: that many samples a window

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.count > 1 and self.pick in ("all", "median"):
            raise ValueError(f"count goes with least-cloudy and latest; {self.pick} gives what it gives")
        return self


class WindowImagery(StrictModel):
    """What every source of windows takes."""

    attribution: str = ""
    licence: str = ""
    bands: Annotated[list[Name], Field(min_length=1, max_length=64)]
    dates: Dates = Dates()
    attempts: Annotated[int, Field(ge=1, le=20)] = 5
    timeout: Annotated[float, Field(gt=0, le=600)] = 60.0  # seconds for one request
    connections: Annotated[int, Field(ge=1, le=64)] = 8  # windows that a shard reads at once from another machine

    @field_validator("bands")
    @classmethod
    def _check_bands(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("every band may stand once")
        return value


class StacImagery(WindowImagery):
    """Items of a STAC API, or of a static catalogue."""

    source: Literal["stac"]
    api: Name  # a URL, the path of a static catalogue, or planetary-computer, earth-search, cdse
    collection: Name
    datetime: str = ""  # an instant or interval as STAC APIs take it, e.g. 2023-08-01/2023-08-31
    query: dict[str, Any] = Field(default_factory=dict)  # the query extension, e.g. {eo:cloud_cover: {lt: 60}}
    cells: Annotated[TileCells | UtmCells | PolygonCells, Field(discriminator="kind")]
    layers: dict[str, str] = Field(default_factory=dict)  # asset key of SCL, CLD, cloudmask where it is not that name
    reflectance: bool = True  # float32 surface reflectance; false keeps the numbers as they are
    max_negative_fraction: Fraction = 0.05  # of an image's pixels; more is taken for a wrongly applied offset
    max_items: Annotated[int, Field(ge=1)] = 10_000


class MlhubImagery(WindowImagery):
    """A Radiant MLHub collection, wherever it is today."""

    source: Literal["mlhub"]
    reader: Literal["api", "source-coop", "local"]
    url: str | None = None  # api: base URL of a server that speaks the MLHub v1 protocol; source-coop: its proxy
    dataset: str | None = None  # api: the dataset's id; source-coop: account/product, perhaps with /prefix
    collections: list[Name] = Field(default_factory=list)  # api: which of the dataset's to take; default all
    path: str | None = None  # local: a folder, or a folder of .tar.gz archives, or one archive
    file_bands: list[Name] = Field(default_factory=list)  # names of the bands of a file that holds several
    windows: Cut = Cut(size=0)
    max_bytes: Annotated[int, Field(ge=1)] = 64 << 30  # an archive that unpacks to more is refused

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = {"api": ("url", "dataset"), "source-coop": ("dataset",), "local": ("path",)}[self.reader]
        missing = [key for key in needed if not getattr(self, key)]
        if missing:
            raise ValueError(f"reader {self.reader} needs {' and '.join(missing)}")
        return self


class ScenesImagery(WindowImagery):
    """A folder of GeoTIFFs.

    ``images`` is a path with placeholders: ``{scene}`` names the scene, ``{band}`` one file of each band,
    ``{date}`` (YYYYMMDD or YYYY-MM-DD) one file of each date, ``*`` anything within a name.
    """

    source: Literal["scenes"]
    images: Name
    file_bands: list[Name] = Field(default_factory=list)  # names of the file's bands in order, when more than ``bands``
    group: str | None = None  # a regular expression on the scene's name; what it matches is the group, e.g. ^[a-z]+
    nodata: float | None = None  # where the files do not say
    windows: Cut

    @field_validator("group")
    @classmethod
    def _check_group(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"is no regular expression ({error})") from None
        return value


class RasterLabels(Labels):
    """A label raster for each scene, on the scene's own grid; ``path`` has ``{scene}`` in it."""

    source: Literal["rasters"]
    path: Name
    missing: Literal["error", "skip"] = "error"  # a scene without its label
    attribution: str = ""
    licence: str = ""


class ProvidedLabels(Labels):
    """The labels that come in the same collection as the imagery."""

    source: Literal["provided"]
    min_consensus: Annotated[int, Field(ge=0, le=100)] | None = None  # pixels below become the ignore value
    missing: Literal["error", "skip"] = "skip"
    attribution: str = ""
    licence: str = ""


class WindowClass(ClassEntry):
    """One class of the mask, and which of the source's values it stands for."""

    source_values: list[int] | None = None  # default: [value]
    source_colors: list[Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]] | None = None  # default: [color]


class Clouds(StrictModel):
    """Which pixels are unusable, and what then."""

    mask: Literal["auto", "provided", "cld", "scl", "none"] = "none"
    max_fraction: Fraction = 0.0
    drop: list[Annotated[int, Field(ge=0, le=11)]] = [0, 1, 3, 8, 9, 10]  # SCL classes  # noqa: RUF012
    threshold: Annotated[int, Field(ge=1, le=100)] = 50  # CLD probability in percent from which a pixel is cloud
    dilate: Annotated[int, Field(ge=0, le=64)] = 0  # pixels
    on_cloud: Literal["reject", "mask", "next-date"] = "reject"


class WindowFilter(StrictModel):
    """Which windows are worth having."""

    min_building_fraction: Fraction | None = None
    min_fraction: dict[str, Fraction] = Field(default_factory=dict)  # by class name
    max_ignore_fraction: Fraction = 1.0  # pixels of the ignore value; 0 asks for their absence
    max_nodata_fraction: Fraction = 0.05


class WindowSplits(SplitShares):
    """Shares of the three splits, and what keeps together."""

    by: Literal["group", "scene", "block", "sample"] = "scene"
    block: Annotated[int, Field(ge=1, le=4096)] = 8  # with block: cells of a grid along a block's side
    groups: dict[Literal["train", "validation", "test"], list[Name]] = Field(default_factory=dict)
    reserve: Fraction = 0.0  # share of the area of each scene not named in groups that is kept whole for validation

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = [name for names in self.groups.values() for name in names]
        if len(set(named)) != len(named):
            raise ValueError("groups: every name may stand in one split only")
        if self.reserve and self.by != "scene":
            raise ValueError("reserve goes with by: scene")
        return self


class WindowRecipe(BaseRecipe):
    """One dataset of windows."""

    about: About = About()
    area: Area | None = None  # where to look for STAC items
    imagery: Annotated[StacImagery | MlhubImagery | ScenesImagery, Field(discriminator="source")]
    labels: Annotated[
        RasterLabels | ProvidedLabels | VectorLabels | OverpassLabels | PbfLabels, Field(discriminator="source")
    ]
    classes: Annotated[list[WindowClass], Field(min_length=2)]
    ignore: Annotated[int, Field(ge=0, le=255)] = 255  # the mask's value for pixels without a usable label
    ignore_values: list[int] = Field(default_factory=list)  # of the source, that mean no label
    ignore_colors: list[Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]] = Field(default_factory=list)  # the same
    clouds: Clouds = Clouds()
    filter: WindowFilter = WindowFilter()
    splits: WindowSplits = WindowSplits()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_classes(self.classes)
        names, values = [entry.name for entry in self.classes], [entry.value for entry in self.classes]
        if self.ignore in values:
            raise ValueError(f"ignore: {self.ignore} is the value of a class; choose a value that no class has")
        unknown = [name for name in self.filter.min_fraction if name not in names]
        if unknown:
            raise ValueError(f"filter.min_fraction: no class {unknown[0]!r}; there are {', '.join(names)}")
        drawn = self.draws_footprints
        if (drawn or self.filter.min_building_fraction is not None) and "building" not in names:
            raise ValueError("classes: expected a class named building")
        if drawn and 0 not in values:
            raise ValueError("classes: expected a class with value 0 for what is no building")
        if isinstance(self.imagery, StacImagery):
            if (self.area is None) == (self.imagery.cells.kind != "polygons"):
                raise ValueError("area: needed for cells of kind tiles and utm, and not used by polygons")
            if not drawn:
                raise ValueError("labels.source: STAC imagery takes vector, overpass or pbf")
        elif (self.labels.source == "provided") != (self.imagery.source == "mlhub") and not drawn:
            raise ValueError("labels.source: provided goes with imagery.source mlhub, rasters with scenes")
        elif self.area is not None:
            raise ValueError(f"area: not used by imagery.source {self.imagery.source}")
        elif self.splits.by == "block":
            raise ValueError("splits.by: block goes with STAC cells; use scene, group or sample")
        cut = None if isinstance(self.imagery, StacImagery) else self.imagery.windows
        if self.splits.reserve and (cut is None or cut.size == 0):
            raise ValueError("splits.reserve: goes with scenes that are cut into windows (imagery.windows.size)")
        self._check_overlap()
        return self

    def _check_overlap(self) -> None:
        if self.splits.by != "sample":
            return
        cut = None if isinstance(self.imagery, StacImagery) else self.imagery.windows
        if cut and ((cut.stride or cut.size) < cut.size or cut.padding):
            raise ValueError("splits.by: windows overlap, so by: sample would put the same ground into two splits")
        if self.imagery.dates.pick == "all" or self.imagery.dates.count > 1:
            raise ValueError("splits.by: several dates of one window are samples, so by: sample would split a place")

    @property
    def draws_footprints(self) -> bool:
        """Whether masks are drawn from footprints instead of being read from rasters."""
        return self.labels.source in ("vector", "overpass", "pbf")

    @property
    def building_value(self) -> int | None:
        """The mask's value for building pixels, None when there is no such class."""
        return next((entry.value for entry in self.classes if entry.name == "building"), None)

    def identity(self) -> dict[str, Any]:
        """What two builds must agree on to be versions of one dataset."""
        imagery = self.imagery
        cut = imagery.cells if isinstance(imagery, StacImagery) else imagery.windows
        identity = {
            "name": self.name,
            "resize": self.resize,
            "imagery.source": imagery.source,
            "imagery.bands": imagery.bands,
            "imagery.windows": cut.model_dump(mode="json"),
            "imagery.dates": imagery.dates.model_dump(mode="json"),
            "labels.source": self.labels.source,
            "classes": [[entry.name, entry.value] for entry in self.classes],
            "ignore": self.ignore,
            "splits.by": self.splits.by,
            "splits.groups": {split: sorted(names) for split, names in sorted(self.splits.groups.items())},
            "splits.reserve": self.splits.reserve,
            "splits.seed": self.splits.seed,
        }
        return {key: redact_values(value) for key, value in identity.items()}
