"""The recipe: what dataset to build, as data. One strict model for every kind of imagery, cells and labels.

What differs by source are a few defaults (:func:`_with_defaults`) and which keys make sense together: a combination
that makes none is refused by name. Keys have their descriptions in the strings below them.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PrivateAttr, model_validator

from tasks.recipe import parts, sources
from tasks.recipe.parts import MANNER
from tasks.recipe.tokens import as_stored, typed_tokens
from tasks.recipe.yaml import OldNames, StrictModel, refused, renamed

MIN_BUILDING_FRACTION = 0.15  # of slippy maps, after the published set
IGNORE_INDEX = 255  # wherever a pixel may be without a label


class Recipe(StrictModel):
    """One dataset."""

    old_names: ClassVar[OldNames] = {("ignore",): "ignore_index", ("splits", "reserve"): "holdout"}

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
    """Of the dataset, in lower case; shipped recipes are named as their file."""
    title: Annotated[str, Field(min_length=1), MANNER]
    """In a few words, for people."""
    description: Annotated[str, MANNER] = ""
    """In a sentence or more, for people."""
    about: Annotated[parts.About, MANNER] = parts.About()
    area: parts.Area | None = None
    """Where: of slippy maps and of STAC items (but not with cells of kind polygons)."""
    grid: parts.Grid | None = None
    """The tiles that are the samples: of slippy maps, and of STAC items in place of imagery.cells."""
    imagery: sources.AnyImagery
    """Where images come from."""
    labels: sources.AnyLabels
    """Where masks come from."""
    classes: Annotated[list[parts.ClassEntry], Field(min_length=2)]
    """The values of the masks."""
    ignore_index: Annotated[int, Field(ge=0, le=255)] | None = None
    """The masks' value for pixels without a label: 255, of slippy maps with footprints null (every pixel has one)."""
    ignore_values: list[int] = Field(default_factory=list)
    """Values of label rasters that mean no label."""
    ignore_colors: list[parts.Color] = Field(default_factory=list)
    """Colours of RGB label rasters that mean no label."""
    clouds: parts.Clouds = parts.Clouds()
    filter: parts.Filter = parts.Filter()
    resize: Annotated[int, Field(ge=16, le=4096)] | None = None
    """Pixels along a side to which images and masks are resized; null keeps them as they are."""
    splits: parts.Splits = parts.Splits()
    limits: Annotated[parts.Limits, MANNER] = parts.Limits()

    _folder: Path = PrivateAttr(default_factory=Path.cwd)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        for at, problem in typed_tokens(data):
            raise refused(at, problem)  # alone: no other message may show what stands there
        return _with_defaults(renamed(data, cls.old_names))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.imagery, sources.SlippyImagery):
            self._check_slippy(self.imagery.source)
        elif self.ignore_index is None:
            raise refused("ignore_index", "is needed, as a pixel may have no imagery; leave it out for 255")
        self._check_classes()
        self._check_cells()
        self._check_splits()
        return self

    def _check_slippy(self, source: str) -> None:
        """Refuse what slippy maps have no use for."""
        if self.clouds != parts.Clouds():
            raise refused("clouds", f"a slippy map ({source}) does not tell clouds; leave clouds out")
        given = [key for key in ("ignore_values", "ignore_colors") if getattr(self, key)]
        if self.draws_footprints:
            for number, entry in enumerate(self.classes):
                keys = [key for key in ("source_values", "source_colors") if getattr(entry, key) is not None]
                given += [f"classes.{number}.{key}" for key in keys]
            if given:
                raise refused(given[0], "goes with label rasters (labels.source: rasters); footprints have no values")
        if given and self.ignore_index is None:
            raise refused(given[0], "needs an ignore_index, which is null; give it a value")

    def _check_classes(self) -> None:
        names, values = [entry.name for entry in self.classes], [entry.value for entry in self.classes]
        if len(set(values)) != len(values) or len(set(names)) != len(names):
            raise refused("classes", "every name and every value may stand once")
        if self.ignore_index in values:
            raise refused("ignore_index", f"{self.ignore_index} is the value of a class; choose one that no class has")
        unknown = [name for name in self.filter.min_fraction if name not in names]
        if unknown:
            raise refused("filter.min_fraction", f"no class {unknown[0]!r}; there are {', '.join(names)}")
        if (self.draws_footprints or self.filter.min_building_fraction is not None) and "building" not in names:
            raise refused("classes", "expected a class named building")
        if self.draws_footprints and (0 not in values or self.building_value == 0):
            raise refused("classes", "expected a class with value 0 for what is no building")

    def _check_cells(self) -> None:
        if self.area is not None and self.area.among == "buildings" and not self.draws_footprints:
            raise refused(
                "area.among",
                f"buildings goes with footprints (labels.source: {', '.join(sources.FOOTPRINT_SOURCES)}), which tell "
                f"where they are; labels.source is {self.labels.source}",
            )
        imagery, scenes = self.imagery, isinstance(self.imagery, sources.SceneImagery)
        mlhub = isinstance(imagery, sources.MlhubImagery)
        if not self.draws_footprints and mlhub != (self.labels.source == "provided"):
            raise refused("labels.source", "provided goes with imagery.source mlhub, rasters with every other")
        if isinstance(imagery, sources.StacImagery):
            if self.grid is None and imagery.cells is None:
                raise refused("imagery.cells", "is required and missing; grid says it too where the cells are tiles")
            if self.grid is not None and imagery.cells is not None:
                raise refused("grid", "is short for imagery.cells of kind tiles, which stands too; keep one of them")
            if (self.area is None) == (not isinstance(self.cells, parts.PolygonCells)):
                raise refused("area", "needed for cells of kind tiles and utm, and not used by polygons")
            return
        for key in ("area", "grid"):
            if scenes != (getattr(self, key) is None):
                raise refused(key, f"{'not used by' if scenes else 'is required with'} imagery.source {imagery.source}")

    def _check_splits(self) -> None:
        splits, grid, patches = self.splits, self.grid, self.patch_grid
        slippy, cut = isinstance(self.imagery, sources.SlippyImagery), patches is not None and patches.size > 0
        if slippy and splits.by in ("scene", "group"):
            raise refused("splits.by", f"{splits.by} goes with scenes and STAC items; slippy maps take block or tile")
        if splits.by == "tile" and not slippy:
            raise refused("splits.by", "tile goes with slippy maps; use sample")
        if splits.block_zoom is not None and not slippy:
            raise refused("splits.block_zoom", "goes with slippy maps; elsewhere splits.block counts samples")
        if splits.block is not None and slippy:
            raise refused("splits.block", "slippy maps take splits.block_zoom")
        if slippy and grid is not None and self.block_zoom > grid.zoom:
            raise refused("splits.block_zoom", f"block_zoom {self.block_zoom} is deeper than grid.zoom {grid.zoom}")
        if splits.by == "block" and patches is not None and not cut:
            raise refused("splits.by", "block goes with cells, and with scenes that are cut (imagery.windows.size)")
        if splits.buffer and patches is not None and splits.by != "block":
            raise refused("splits.buffer", "of scenes goes with splits.by: block")
        if splits.holdout and not cut:
            raise refused("splits.holdout", "goes with scenes that are cut into windows (imagery.windows.size)")
        if splits.holdout and splits.by != "scene":
            raise refused("splits.holdout", "goes with splits.by: scene")
        if splits.by == "sample" and patches is not None and patches.step < patches.size:
            raise refused("splits.by", "windows overlap, so by: sample would put the same ground into two splits")
        dates = getattr(self.imagery, "dates", None)
        if splits.by == "sample" and dates and (dates.pick == "all" or dates.count > 1):
            raise refused("splits.by", "several dates of one window are samples, so by: sample would split a place")

    @property
    def draws_footprints(self) -> bool:
        """Whether masks are drawn from footprints instead of being read from rasters."""
        return self.labels.source in sources.FOOTPRINT_SOURCES

    @property
    def building_value(self) -> int | None:
        """The mask's value for building pixels, None when there is no such class."""
        return next((entry.value for entry in self.classes if entry.name == "building"), None)

    @property
    def cells(self) -> parts.Cells | None:
        """What is laid over the area; None where samples are cut from scenes."""
        if self.grid is not None:
            return parts.TileCells(kind="tiles", zoom=self.grid.zoom, size=self.grid.tile_size)
        return self.imagery.cells if isinstance(self.imagery, sources.StacImagery) else None

    @property
    def patch_grid(self) -> parts.PatchGrid | None:
        """How samples are cut from scenes; None where cells are laid over an area."""
        return self.imagery.windows if isinstance(self.imagery, sources.SceneImagery) else None

    @property
    def block_zoom(self) -> int:
        """Zoom of the blocks of a slippy map that a split keeps together."""
        chosen = self.splits.block_zoom
        return max(0, (self.grid.zoom if self.grid else 0) - 3) if chosen is None else chosen

    def resolve(self, path: str) -> Path:
        """``path`` as the recipe means it: relative to the recipe's folder."""
        return Path(os.path.realpath(self._folder / path))  # Path.resolve raises RuntimeError for a link to itself

    def in_folder(self, folder: Path) -> Self:
        """The same recipe with its paths relative to ``folder``."""
        moved = self.model_copy()
        moved._folder = folder.resolve()
        return moved

    def replaced(self, **changes: Any) -> Self:
        """A validated copy with some fields changed, in the same folder."""
        return super().replaced(**changes).in_folder(self._folder)

    def identity(self) -> dict[str, Any]:
        """What two builds must agree on to be versions of one dataset."""
        imagery, splits = self.imagery, self.splits
        common: dict[str, Any] = {
            "name": self.name,
            "resize": self.resize,
            "imagery.source": imagery.source,
            "labels.source": self.labels.source,
            "classes": [[entry.name, entry.value] for entry in self.classes],
            "splits.by": splits.by,
            "splits.seed": splits.seed,
        }
        groups = {split: sorted(names) for split, names in sorted(splits.groups.items())}
        if isinstance(imagery, sources.SlippyImagery):
            grid = self.grid or parts.Grid(zoom=0)
            common |= {
                "grid.zoom": grid.zoom,
                "grid.tile_size": grid.tile_size,
                "imagery": getattr(imagery, sources.SLIPPY_SOURCES[imagery.source]),
                "splits.block_zoom": self.block_zoom if splits.by == "block" else None,
            }
            # What slippy maps could not say once is named where it is said, so that older datasets go on.
            common |= {"ignore": self.ignore_index} if self.ignore_index is not None else {}
            common |= {"splits.groups": groups} if groups else {}
        else:
            laid = self.patch_grid or self.cells
            common |= {
                "imagery.bands": imagery.bands,
                "imagery.windows": laid.model_dump(mode="json") if laid else None,
                "imagery.dates": imagery.dates.model_dump(mode="json"),
                "ignore": self.ignore_index,
                "splits.groups": groups,
                "splits.reserve": splits.holdout,
            }
        return {key: as_stored(value) for key, value in common.items()}

    def public(self) -> dict[str, Any]:
        """The recipe's values as JSON, as a store may hold them: without what the headers say."""
        values = self.model_dump(mode="json")
        if headers := values["imagery"].get("headers"):
            values["imagery"]["headers"] = dict.fromkeys(headers, "***")
        return {key: as_stored(value) for key, value in values.items()}

    def hash(self) -> str:
        """SHA-256 of the recipe's public values (not of its comments, layout or place on disk), as hex."""
        return _digest(self.public())

    def content_hash(self) -> str:
        """SHA-256 of the values that say what the samples are, and of no other, as hex."""
        return _digest({key: as_stored(value) for key, value in parts.content_of(self).items()})


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _source(part: Any) -> str:
    """The source that a part of a recipe names, be it values or a model already."""
    return str(part.get("source") if isinstance(part, Mapping) else getattr(part, "source", None))


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with what is assumed where nothing is said, which depends on the source of the imagery."""
    slippy = _source(values.get("imagery")) in sources.SLIPPY_SOURCES
    drawn = _source(values.get("labels")) in sources.FOOTPRINT_SOURCES
    if slippy:
        for key, more in (("filter", {"min_building_fraction": MIN_BUILDING_FRACTION}), ("splits", {"by": "block"})):
            given = values.get(key, {})
            if isinstance(given, Mapping) and (key != "filter" or drawn):
                values[key] = {**more, **given}
    if not (slippy and drawn):
        values.setdefault("ignore_index", IGNORE_INDEX)
    return values
