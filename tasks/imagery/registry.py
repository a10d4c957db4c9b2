"""Imagery by the recipe's word for its source: one entry here makes a new source known."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.imagery.per_window import PerWindow
from tasks.imagery.protocol import Source
from tasks.recipe.model import Recipe
from tasks.recipe.sources import SLIPPY_SOURCES

# What a source imports is imported with it: the client for STAC alone takes half a second.


def _slippy(recipe: Recipe, work: Path) -> Source:
    from tasks.imagery.slippy.source import SlippySource

    return SlippySource(recipe, work)


def _stac(recipe: Recipe, work: Path) -> Source:
    from tasks.imagery.stac.catalogue import StacCatalogue

    return PerWindow(recipe, StacCatalogue(recipe, work))


def _mlhub(recipe: Recipe, work: Path) -> Source:
    from tasks.imagery.mlhub.catalogue import mlhub_catalogue

    return PerWindow(recipe, mlhub_catalogue(recipe, work))


def _scenes(recipe: Recipe, _: Path) -> Source:
    from tasks.imagery.scenes.folder import folder_catalogue

    return PerWindow(recipe, folder_catalogue(recipe))


_SOURCES: Mapping[str, Callable[[Recipe, Path], Source]] = {
    **dict.fromkeys(SLIPPY_SOURCES, _slippy),
    "stac": _stac,
    "mlhub": _mlhub,
    "scenes": _scenes,
}


def open_source(recipe: Recipe, work: Path) -> Source:
    """The imagery source of a recipe; ``work`` is a folder for downloads. Raises SourceError, CredentialError."""
    return _SOURCES[recipe.imagery.source](recipe, work)
