"""The recipe: what dataset to build, as data.

A recipe is one YAML file in ``datasets/``. This module is its strict model; :func:`load_recipe` reads
one. Relative paths in a recipe are relative to the recipe's own folder.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.errors import RecipeError
from tasks.recipe.parts import (
    MAX_ZOOM,
    Area,
    BaseRecipe,
    ClassEntry,
    Fraction,
    Grid,
    OverpassLabels,
    PbfLabels,
    SplitShares,
    VectorLabels,
    check_classes,
)
from tasks.recipe.windows import WindowRecipe
from tasks.recipe.yaml import RefusedValueError, StrictModel, load_strict
from tasks.secrets import redact_values

__all__ = [
    "AnyRecipe",
    "Area",
    "ClassEntry",
    "Grid",
    "OverpassLabels",
    "PbfLabels",
    "Recipe",
    "VectorLabels",
    "WindowRecipe",
    "find_recipe",
    "load_recipe",
]


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


class Filter(StrictModel):
    """Which tiles are worth having."""

    min_building_fraction: Fraction = 0.15
    max_nodata_fraction: Fraction = 0.05


class Splits(SplitShares):
    """Shares of the three splits and what keeps together."""

    by: Literal["block", "tile"] = "block"
    block_zoom: Annotated[int, Field(ge=0, le=MAX_ZOOM)] | None = None  # default: three above the grid's zoom
    buffer: Annotated[int, Field(ge=0, le=64)] = 0  # tiles


class Recipe(BaseRecipe):
    """One dataset of slippy-map tiles."""

    area: Area
    grid: Grid
    imagery: Annotated[XyzImagery | MapboxImagery | IgnImagery, Field(discriminator="source")]
    labels: Annotated[VectorLabels | OverpassLabels | PbfLabels, Field(discriminator="source")]
    classes: Annotated[list[ClassEntry], Field(min_length=2)]
    filter: Filter = Filter()
    splits: Splits = Splits()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.block_zoom > self.grid.zoom:
            raise ValueError(f"splits.block_zoom {self.block_zoom} is deeper than grid.zoom {self.grid.zoom}")
        check_classes(self.classes)
        names = [entry.name for entry in self.classes]
        if "building" not in names or 0 not in (entry.value for entry in self.classes) or self.building_value == 0:
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


AnyRecipe = Recipe | WindowRecipe
TILE_SOURCES = ("xyz", "mapbox", "ign")
WINDOW_SOURCES = ("stac", "mlhub", "scenes")


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


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read and check a recipe. ``overrides`` are ``key=value`` pairs as ``--set`` takes them.

    Raises RecipeError, naming file, line, key and nearest valid name.
    """
    recipe: AnyRecipe = load_strict(path, _kind_of, overrides)
    recipe._folder = path.resolve().parent
    return recipe


def _kind_of(data: Mapping[str, Any]) -> type[AnyRecipe]:
    imagery = data.get("imagery")
    source = imagery.get("source") if isinstance(imagery, Mapping) else None
    if source in WINDOW_SOURCES:
        return WindowRecipe
    if isinstance(source, str) and source not in TILE_SOURCES:
        raise RefusedValueError(("imagery", "source"), source, [*TILE_SOURCES, *WINDOW_SOURCES])
    return Recipe
