"""The Protocol behind which footprints come from a file, an Overpass server or an OSM extract."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.errors import RecipeError
from tasks.geo.tiles import Tile
from tasks.labels.footprints import Footprints
from tasks.recipe.load import AnyRecipe, PbfLabels, VectorLabels

ANSWERS = "answers"


class LabelSource(Protocol):
    """A place that footprints come from. Making one does no I/O, and one may be pickled."""

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        """The buildings on any of ``tiles`` (of one zoom); ``work`` is a folder for downloads and caches.

        Answers in ``work / ANSWERS`` are taken as they are, so that a killed run goes on; the caller removes them when
        it wants fresh labels. A building whose bounding box touches a tile comes; fewer would be wrong masks. Raises
        LabelError when the source cannot be read or answers with less than it was asked for.
        """


def label_source(recipe: AnyRecipe) -> LabelSource:
    """The source that ``labels`` of the recipe names. Raises RecipeError for a source or value it cannot take."""
    labels = recipe.labels
    make = _SOURCES.get(labels.source)
    if make is None:
        raise RecipeError(f"labels.source: unknown source {labels.source!r}; valid: {', '.join(sorted(_SOURCES))}")
    return make(recipe, labels)


def label_origin(recipe: AnyRecipe) -> str:
    """What the footprints are taken from: the recipe's words, and the state of local files."""
    labels = recipe.labels
    pattern = labels.path if isinstance(labels, VectorLabels | PbfLabels) else None
    states = [path.stat() for path in _files(recipe, pattern) if path.exists()] if pattern else []
    return labels.model_dump_json() + "".join(f" {state.st_mtime_ns} {state.st_size}" for state in states)


def _files(recipe: AnyRecipe, pattern: str) -> list[Path]:
    """The file that a path names, or the files that a pattern with ``{scene}`` or ``*`` matches."""
    wild = pattern.replace("{scene}", "*")
    if "*" not in wild:
        return [recipe.resolve(wild)]
    fixed = Path(wild.split("*", 1)[0]).parent  # what stands before the first part with a star
    root = recipe.resolve(str(fixed))
    return sorted(root.glob(str(Path(wild).relative_to(fixed))))


def _vector(recipe: AnyRecipe, labels: Any) -> LabelSource:
    from tasks.labels.vector import VectorFiles, VectorSource

    files = _files(recipe, labels.path)
    if "*" in labels.path or "{scene}" in labels.path:
        return VectorFiles(recipe.resolve(labels.path), [VectorSource(file, labels.layer) for file in files])
    return VectorSource(files[0], labels.layer)


def _overpass(_: AnyRecipe, labels: Any) -> LabelSource:
    from tasks.labels.overpass import OverpassSource

    return OverpassSource(
        labels.url,
        date=labels.date,
        attempts=labels.attempts,
        timeout=labels.timeout,
        rate_limit=labels.rate_limit,
    )


def _pbf(recipe: AnyRecipe, labels: Any) -> LabelSource:
    from tasks.labels.pbf import PbfSource

    path = None if labels.path is None else recipe.resolve(labels.path)
    return PbfSource(path, url=labels.url, checksum=labels.checksum)


_SOURCES: dict[str, Callable[[AnyRecipe, Any], LabelSource]] = {"vector": _vector, "overpass": _overpass, "pbf": _pbf}
