"""What recipes are made of: areas, cells, classes, filters, clouds, splits, limits.

Every key is *content* (it says what the samples are) or *manner* (how they are come by, where files and servers are,
or what people are told). Manner is marked with :data:`MANNER`; the content hash of a recipe covers content alone, for
what the files and servers gave is hashed by itself. The string below a key is its description in the JSON Schema.
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator
from pydantic.fields import FieldInfo

from tasks.recipe.yaml import StrictModel, refused

MAX_ZOOM = 24
MANNER: Final = "manner"
SECRET: Final = "secret"  # noqa: S105 - marks keys whose values no store, log or message may hold; manner too
SplitName = Literal["train", "validation", "test"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(ge=16, le=16384)]
Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


def _box(value: list[float]) -> list[float]:
    expected = "expected [west, south, east, north] in degrees, south < north, west and east differing"
    if len(value) != 4:
        raise ValueError(f"{expected} (got {len(value)} numbers)")
    if not _on_globe(*value):
        south, west, north, east = value
        hint = "; longitude comes before latitude" if _on_globe(west, south, east, north) else ""
        raise ValueError(f"{expected}{hint} (got {value})")
    west, _, east, _ = value
    wide = east - west if east > west else east - west + 360
    # From or to the antimeridian no shorter way can be meant.
    if wide > 180 and not (east > west and (west == -180 or east == 180)):
        way = "over the antimeridian" if east < west else "eastwards"
        raise ValueError(
            f"from west {west:g} {way} to east {east:g} are {wide:g} degrees, over 180; if {360 - wide:g} degrees are "
            "meant, swap west and east (west > east crosses the antimeridian, as in [179, -20, -179, -10]); for more "
            "than 180 give area.geojson"
        )
    return value


def _on_globe(west: float, south: float, east: float, north: float) -> bool:
    there = -180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90
    return there and west not in (east, east + 360)


def _cloud_layers(value: Any) -> Any:
    """Refuses what is neither in one message, where the union would make one of each of its parts."""
    layers, others = ["provided", "cld", "scl"], ["auto", "union", "none"]
    if value in (layers + others) or (isinstance(value, list) and value and all(one in layers for one in value)):
        return value
    raise ValueError(f"unknown value {value!r}; valid: {', '.join(others + layers)}, or a list of {', '.join(layers)}")


def unless(default: Any) -> Any:
    """Marks a key that came later than stores that are to be continued: at its default it stands in no hash or key."""
    return Field(exclude_if=lambda value: value == default)


class About(StrictModel):
    """What a person must know before building: shown by ``plan`` and stored with every version."""

    licence: Annotated[str, MANNER] = ""
    """Of imagery and labels, in words."""
    size: Annotated[str, MANNER] = ""
    """In words: files, bytes, samples."""
    needs: Annotated[str, MANNER] = ""
    """What the user must have or accept."""
    files: Annotated[str, MANNER] = ""
    """How to put the original files where the recipe looks for them."""
    homepage: Annotated[str, MANNER] = ""
    """Where the original is described or given out."""


class Area(StrictModel):
    """Where: exactly one of ``tiles``, ``bbox``, ``place`` and ``geojson``, optionally sampled."""

    tiles: Annotated[str | None, MANNER] = None
    """Path of a text file of z/x/y lines."""
    bbox: Annotated[list[float], AfterValidator(_box)] | None = None
    """West, south, east, north in degrees; west > east crosses the antimeridian."""
    place: str | None = None
    """A name for Nominatim, or an OSM id such as R1403916."""
    geojson: Annotated[str | None, MANNER] = None
    """Path of a GeoJSON file with polygons in EPSG:4326."""
    sample: Annotated[int, Field(ge=1)] | None = None
    """Draw that many cells evenly over the area."""
    among: Annotated[Literal["all", "buildings"], unless("all")] = "all"
    """With sample: draw among all cells, or among those that a footprint touches."""
    seed: int = 0
    """Another seed draws another sample."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in ("tiles", "bbox", "place", "geojson") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of tiles, bbox, place, geojson (got {', '.join(given) or 'none'})")
        if self.among != "all" and self.sample is None:
            raise refused("among", "goes with area.sample, which says how many cells are drawn")
        return self


class Grid(StrictModel):
    """Cells of the slippy-map grid, as tiles of a zoom: of STAC items short for ``cells: {kind: tiles, ...}``."""

    zoom: Annotated[int, Field(ge=0, le=MAX_ZOOM)]
    """Of the tiles: one more halves their side."""
    tile_size: Literal[256, 512] = 256
    """Pixels along a side."""


class TileCells(StrictModel):
    """Cells of the slippy-map grid, in EPSG:3857."""

    kind: Literal["tiles"]
    zoom: Annotated[int, Field(ge=0, le=MAX_ZOOM)]
    """Of the tiles: one more halves their side."""
    size: Side = 256
    """Pixels along a side."""


class UtmCells(StrictModel):
    """Square cells in the UTM zone of each place, on multiples of ``size * resolution`` metres."""

    kind: Literal["utm"]
    size: Side = 256
    """Pixels along a side."""
    resolution: Annotated[float, Field(gt=0, le=10_000)]
    """Metres a pixel."""


class PolygonCells(StrictModel):
    """One cell for each polygon of a file, centred on it, in its place's UTM zone."""

    kind: Literal["polygons"]
    path: Annotated[Name, MANNER]
    """Of a GeoJSON file."""
    size: Side = 256
    """Pixels along a side."""
    resolution: Annotated[float, Field(gt=0, le=10_000)]
    """Metres a pixel."""


Cells = Annotated[TileCells | UtmCells | PolygonCells, Field(discriminator="kind")]


class PatchGrid(StrictModel):
    """How windows are cut from scenes; ``size`` 0 takes scenes whole."""

    size: Annotated[int, Field(ge=0, le=16384)]
    """Pixels along a window's side, padding included; 0 takes scenes whole."""
    stride: Side | None = None
    """Pixels from one window to the next; by default the labelled ones of a window, so that none overlap."""
    edge: Literal["inside", "pad", "drop"] = "inside"
    """Pull the last window inside the scene, pad it, or leave out what does not fill one."""
    padding: Annotated[int, Field(ge=0, le=4096)] = 0
    """Pixels of mirrored context around every window, without labels."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if 0 < self.size < 16:
            raise refused("size", "expected 0 (whole scenes) or at least 16 pixels")
        if self.padding and 2 * self.padding >= self.size:
            raise ValueError(f"padding {self.padding} on both sides leaves nothing of size {self.size}")
        core = self.size - 2 * self.padding
        if self.size and self.stride and self.stride > core:
            raise ValueError(f"stride {self.stride} is larger than the {core} labelled pixels of a window: gaps")
        return self

    @property
    def step(self) -> int:
        """Pixels from one window's labelled core to the next one's; 0 where scenes are whole."""
        return self.stride or self.size - 2 * self.padding


class ClassEntry(StrictModel):
    """One class of the mask, and which of the source's values it stands for."""

    name: Name
    """Footprints are drawn as the class named building."""
    value: Annotated[int, Field(ge=0, le=254)]
    """That the class has in the masks."""
    color: Color
    """In pictures, as #rrggbb."""
    source_values: list[int] | None = None
    """The values of label rasters that mean this class; by default its value alone."""
    source_colors: list[Color] | None = None
    """The colours of RGB label rasters that mean this class; by default its color alone."""


class Clouds(StrictModel):
    """Which pixels of an acquisition hide the ground, and what then."""

    mask: Annotated[
        Literal["auto", "union", "provided", "cld", "scl", "none"]
        | Annotated[list[Literal["provided", "cld", "scl"]], Field(min_length=1)],
        BeforeValidator(_cloud_layers),
    ] = "none"
    """The layer that tells: the collection's own cloud mask, CLD or SCL; auto takes the first of them that there is,
    union what any that there is marks, a list what any of these marks, which must all be there; none."""
    max_fraction: Fraction = 0.0
    """Share of an acquisition's pixels that may be hidden."""
    drop: list[Annotated[int, Field(ge=0, le=11)]] = [0, 1, 3, 8, 9, 10]  # noqa: RUF012
    """SCL classes that hide the ground."""
    threshold: Annotated[int, Field(ge=1, le=100)] = 50
    """CLD probability in percent from which a pixel is cloud."""
    dilate: Annotated[int, Field(ge=0, le=64)] = 0
    """Pixels by which clouds are grown."""
    on_cloud: Literal["reject", "mask", "next-date"] = "reject"
    """What becomes of an acquisition with more clouds: no sample, a sample with a cloud mask, or the next date."""


class Filter(StrictModel):
    """Which samples are worth having."""

    min_building_fraction: Fraction | None = None
    """Share of building pixels; of slippy maps with footprints 0.15, unless it says null."""
    min_fraction: dict[str, Fraction] = Field(default_factory=dict)
    """Share of pixels of a class, by its name."""
    max_ignore_fraction: Fraction = 1.0
    """Share of pixels of the ignore index; 0 asks for their absence."""
    max_nodata_fraction: Fraction = 0.05
    """Share of pixels without imagery."""


class Splits(StrictModel):
    """Shares of the three splits, and what keeps together."""

    train: Fraction = 0.70
    validation: Fraction = 0.15
    test: Fraction = 0.15
    seed: int = 0
    """Another seed shuffles otherwise."""
    by: Literal["block", "tile", "group", "scene", "sample"] = "scene"
    """What keeps together: of slippy maps block (the default) or tile; elsewhere scene (the default), group, block,
    sample."""
    block_zoom: Annotated[int, Field(ge=0, le=MAX_ZOOM)] | None = None
    """Of slippy maps: zoom of the tiles that are blocks; by default three above the grid's."""
    block: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Elsewhere: samples along a block's side, by default 8."""
    buffer: Annotated[int, Field(ge=0, le=64)] = 0
    """Whole samples that lie between two splits."""
    groups: dict[SplitName, list[Name]] = Field(default_factory=dict)
    """Scenes, groups, blocks or samples (as ``by`` says) of a split, by name or by pattern such as austin*."""
    holdout: Fraction = 0.0
    """Share of the area of each scene not named in groups that is kept whole for validation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"train, validation and test must sum to 1 (they sum to {total:g})")
        named = [name for names in self.groups.values() for name in names]
        if len(set(named)) != len(named):
            raise refused("groups", "every name may stand in one split only")
        return self

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of train, validation and test."""
        return self.train, self.validation, self.test

    @property
    def block_side(self) -> int:
        """Samples along a block's side, where blocks are counted in samples."""
        return self.block or 8


class Limits(StrictModel):
    """Where a run refuses or gives up."""

    max_tiles: Annotated[int, Field(ge=1), MANNER] = 1_000_000
    """Candidates of any kind."""
    max_failed_fraction: Annotated[Fraction, MANNER] = 0.005
    """Share of the images asked for that may fail."""
    max_answer_mb: Annotated[float, Field(gt=0, le=4096), MANNER] = 256.0
    """Megabytes of one answer of an API, as sent and unpacked."""
    max_download_gb: Annotated[float, Field(gt=0), MANNER] = 40.0
    """Gigabytes of one file that is downloaded."""
    patience: Annotated[float, Field(gt=0), MANNER] = 1800.0
    """Seconds in all that a run waits because a server asks it to wait."""
    private_hosts: Annotated[list[Name], MANNER] = Field(default_factory=list)
    """Hosts in private networks to which links and redirects of other servers may lead."""


def content_of(value: Any) -> Any:
    """A model or value as JSON takes it, of models and the models in them the content keys alone."""
    if isinstance(value, BaseModel):
        told = {
            name: getattr(value, name) for name, field in type(value).model_fields.items() if _tells(field, value, name)
        }
        return {name: content_of(inner) for name, inner in told.items()}
    if isinstance(value, dict):
        return {key: content_of(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [content_of(inner) for inner in value]
    return value


def _tells(field: FieldInfo, model: BaseModel, name: str) -> bool:
    """Whether a key stands in the content hash."""
    left_out = field.exclude_if is not None and field.exclude_if(getattr(model, name))
    return MANNER not in field.metadata and not left_out
