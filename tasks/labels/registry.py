"""Labels by the recipe's words: where a new source is made known."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from tasks.errors import RecipeError
from tasks.labels.drawn import FootprintLabels
from tasks.labels.maps import MapLabels
from tasks.labels.protocol import FootprintSource, Labels
from tasks.labels.rasters import CellLabels, SceneLabels
from tasks.labels.vector import VectorFiles, VectorSource, is_pattern, matching
from tasks.raster.scene import Scene
from tasks.recipe.model import Recipe
from tasks.recipe.sources import (
    FOOTPRINT_SOURCES,
    OverpassLabels,
    PbfLabels,
    ProvidedLabels,
    RasterLabels,
    SceneImagery,
    VectorLabels,
)
from tasks.recipe.tokens import filled

if TYPE_CHECKING:
    from tasks.web.client import Bounds
    from tasks.web.reach import Reach


def open_labels(recipe: Recipe, scenes: Callable[[], Sequence[Scene]], footprints: Path) -> Labels:
    """The labels of a recipe. Does no I/O.

    scenes: asked for the scenes that windows are cut from, where each has its own raster. footprints: the file that
    footprints to be drawn are kept in.
    """
    labels, patches = recipe.labels, recipe.patch_grid
    padding = patches.padding if patches else 0
    if not isinstance(labels, RasterLabels | ProvidedLabels):
        return FootprintLabels(footprint_source(recipe), footprints, padding)
    listed = {value for entry in recipe.classes for value in (entry.source_values or [entry.value])}
    if isinstance(labels, ProvidedLabels) or isinstance(recipe.imagery, SceneImagery):
        return SceneLabels(scenes, labels, padding=padding, listed=listed)
    make = CellLabels if "{scene}" in labels.path else MapLabels
    return make(recipe.resolve(labels.path), labels, listed=listed)


def footprint_source(recipe: Recipe) -> FootprintSource:
    """The place that the recipe's footprints come from. Raises RecipeError for labels that are none.

    What needs the network is imported when it is asked for.
    """
    labels = recipe.labels
    if isinstance(labels, VectorLabels):
        if is_pattern(labels.path):
            return VectorFiles(recipe.resolve(""), labels.path, labels.layer)
        return VectorSource(recipe.resolve(labels.path), labels.layer)
    if isinstance(labels, OverpassLabels):
        from tasks.labels.overpass import OverpassSource

        server = filled(labels.url, "labels.url")
        return OverpassSource(
            server, labels.date, labels.attempts, labels.timeout, labels.rate_limit, **_bounded(recipe, server)
        )
    if isinstance(labels, PbfLabels):
        from tasks.labels.pbf import PbfSource

        path = None if labels.path is None else recipe.resolve(labels.path)
        url, checksum = (
            value and filled(value, f"labels.{key}")
            for key, value in (("url", labels.url), ("checksum", labels.checksum))
        )
        return PbfSource(path, url, checksum, **_bounded(recipe, url or "", checksum or ""))
    raise RecipeError(
        f"labels.source: {labels.source} has no footprints; those that have: {', '.join(FOOTPRINT_SOURCES)}"
    )


class _Bounded(TypedDict):
    limits: "Bounds"
    reach: "Reach"


def _bounded(recipe: Recipe, *urls: str) -> _Bounded:
    """What a footprint source on the network may cost, and where its servers may lead; it is asked at ``urls``."""
    from tasks.web.client import Bounds
    from tasks.web.reach import Reach

    return {"limits": Bounds.of(recipe.limits), "reach": Reach.of(recipe, urls)}


def label_origin(recipe: Recipe) -> str:
    """What labels are taken from: the recipe's words, and the state of local files of footprints."""
    labels = recipe.labels
    path = labels.path if isinstance(labels, VectorLabels | PbfLabels) else None
    states = [file.stat() for file in matching(recipe.resolve(""), path) if file.exists()] if path else []
    return labels.model_dump_json() + "".join(f" {state.st_mtime_ns} {state.st_size}" for state in states)
