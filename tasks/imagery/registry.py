"""Imagery and labels of windows by the recipe's words: one entry here makes a new source known."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import SourceError
from tasks.imagery.scenes.folder import folder_scenes
from tasks.imagery.scenes.source import SceneSource
from tasks.labels.drawn import FootprintLabels
from tasks.labels.rasters import SceneLabels
from tasks.labels.registry import label_source
from tasks.raster.scene import LocalAsset, Scene
from tasks.recipe.windows import MlhubImagery, ProvidedLabels, RasterLabels, ScenesImagery, StacImagery, WindowRecipe
from tasks.samples.window import Look, Window, WindowLabels, WindowSource

if TYPE_CHECKING:
    from tasks.imagery.mlhub.catalogue import MlhubCatalogue


class CatalogueSource:
    """Windows of a catalogue of scenes that is listed, or downloaded, when windows are first asked for."""

    def __init__(self, recipe: WindowRecipe, work: Path) -> None:
        """``work`` is a folder for what must be downloaded."""
        self.bands = tuple(recipe.imagery.bands)
        self._recipe, self._work = recipe, work
        self._catalogue: MlhubCatalogue | None = None
        self._source: SceneSource | None = None
        self._scenes: list[Scene] = []

    @property
    def requests(self) -> int:
        """Sent over HTTP so far."""
        return self._catalogue.requests if self._catalogue else 0

    @property
    def scenes(self) -> list[Scene]:
        """The scenes, after :meth:`windows`."""
        return self._scenes

    def windows(self) -> list[Window]:
        """As :meth:`tasks.imagery.scenes.source.SceneSource.windows`."""
        imagery = self._recipe.imagery
        if isinstance(imagery, MlhubImagery):
            from tasks.imagery.mlhub.catalogue import mlhub_scenes

            self._catalogue = mlhub_scenes(self._recipe, self._work)
            self._scenes = list(self._catalogue.scenes)
        elif isinstance(imagery, ScenesImagery):
            self._scenes = folder_scenes(self._recipe)
        else:
            raise TypeError("the recipe's imagery is not of scenes")
        self._source = SceneSource(self._scenes, imagery, self._recipe.splits)
        return self._source.windows()

    def looks(self, window: Window) -> Sequence[Look]:
        """As :meth:`tasks.imagery.scenes.source.SceneSource.looks`."""
        if self._source is None:
            raise SourceError("imagery: the scenes have not been listed yet; ask for the windows first")
        return self._source.looks(window)

    @property
    def left_out(self) -> dict[str, int]:
        """Windows astride the border of a reserved part, scenes too small for one, and scenes that lack a band."""
        if self._source is None:
            return {}
        found = {
            "windows astride a reserved part": self._source.left_out,
            "scenes too small for a reserved part": self._source.unreserved,
            "scenes without all bands": len(self._source.skipped),
        }
        return {why: count for why, count in found.items() if count}

    def states(self) -> dict[str, str]:
        """Of every scene with local images: their sizes and times."""
        found = {}
        for scene in self._scenes:
            assets = [asset for item in scene.items for asset in item.assets.values() if isinstance(asset, LocalAsset)]
            stats = sorted((str(asset.file), asset.file.stat()) for asset in assets)
            if stats:
                text = " ".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
                found[scene.name] = hashlib.sha256(text.encode()).hexdigest()
        return found

    def close(self) -> None:
        """Let files and connections go."""
        if self._source is not None:
            self._source.close()
        if self._catalogue is not None:
            self._catalogue.close()


def _stac(recipe: WindowRecipe, work: Path) -> WindowSource:
    from tasks.imagery.stac.source import StacSource  # half a second of imports that other sources do not need

    return StacSource(recipe, work)


_SOURCES: Mapping[str, Callable[[WindowRecipe, Path], WindowSource]] = {
    "stac": _stac,
    "mlhub": CatalogueSource,
    "scenes": CatalogueSource,
}


def open_source(recipe: WindowRecipe, work: Path) -> WindowSource:
    """The imagery source of a recipe; ``work`` is a folder for downloads. Raises SourceError, CredentialError."""
    return _SOURCES[recipe.imagery.source](recipe, work)


def is_remote(recipe: WindowRecipe) -> bool:
    """Whether windows are read from another machine, so that most of the time is waiting."""
    imagery = recipe.imagery
    return isinstance(imagery, StacImagery) or (isinstance(imagery, MlhubImagery) and imagery.reader == "source-coop")


def open_labels(recipe: WindowRecipe, source: WindowSource, footprints: Path) -> WindowLabels:
    """The label source of a recipe, after ``source`` has said its windows; ``footprints``: the file for drawn ones."""
    labels = recipe.labels
    if not isinstance(labels, RasterLabels | ProvidedLabels):
        padding = 0 if isinstance(recipe.imagery, StacImagery) else recipe.imagery.windows.padding
        return FootprintLabels(label_source(recipe), footprints, padding)
    if not isinstance(source, CatalogueSource) or isinstance(recipe.imagery, StacImagery):
        raise TypeError("label rasters go with scenes")
    listed = {value for entry in recipe.classes for value in (entry.source_values or [entry.value])}
    return SceneLabels(source.scenes, labels, padding=recipe.imagery.windows.padding, listed=listed)
