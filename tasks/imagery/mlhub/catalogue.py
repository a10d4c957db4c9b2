"""The imagery of a Radiant MLHub collection, wherever the recipe says that it is today."""

import os
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import RecipeError, SourceError
from tasks.imagery.mlhub.api import api_scenes
from tasks.imagery.mlhub.archives import SUFFIXES, read_archive
from tasks.imagery.mlhub.layouts import Choice, Collector, choose
from tasks.imagery.mlhub.source_coop import DEFAULT_PROXY, source_coop_scenes
from tasks.imagery.scenes.catalogue import SceneCatalogue
from tasks.raster.scene import LocalAsset, Scene
from tasks.recipe.model import Recipe
from tasks.recipe.sources import MlhubImagery
from tasks.recipe.tokens import filled
from tasks.web.client import Bounds, Client
from tasks.web.reach import Reach
from tasks.web.retry import RetryPolicy

FIRST_PAUSE = 1.0  # seconds before the first retry
_TOTAL_SECONDS = 600.0  # for one small request with its retries


def mlhub_catalogue(recipe: Recipe, work: Path) -> SceneCatalogue:
    """The imagery of a recipe with ``imagery.source: mlhub``; downloads and unpacked files go to folders of ``work``.

    Reader ``api`` downloads archives before it names scenes, ``source-coop`` lists files and fetches them when they
    are asked for. What is asked first raises SourceError, CredentialError, DiskError; a recipe of another source
    RecipeError.
    """
    imagery = recipe.imagery
    if not isinstance(imagery, MlhubImagery):
        raise RecipeError(f"imagery.source: expected mlhub, it is {imagery.source}")
    client = Client(
        RetryPolicy(imagery.attempts, _TOTAL_SECONDS, FIRST_PAUSE),
        imagery.timeout,
        limits=Bounds.of(recipe.limits),
        reach=Reach.of(recipe, [filled(imagery.url or DEFAULT_PROXY, "imagery.url")]),
    )
    return SceneCatalogue(recipe, lambda: _scenes(recipe, imagery, client, work), client)


def _scenes(recipe: Recipe, imagery: MlhubImagery, client: Client, work: Path) -> list[Scene]:
    choice = choose(imagery.bands)
    if imagery.reader == "source-coop":
        return source_coop_scenes(
            filled(imagery.url or DEFAULT_PROXY, "imagery.url"), imagery.dataset or "", client, work, choice
        )
    if imagery.reader == "api":
        return api_scenes(imagery, client, work, choice)
    path = recipe.resolve(imagery.path or "")
    if recipe.about.files and not path.exists():
        raise SourceError(f"{path}: does not exist. {' '.join(recipe.about.files.split())}")
    return _local_scenes(path, work / "mlhub", choice, imagery.max_bytes)


def _local_scenes(path: Path, work: Path, choice: Choice, max_bytes: int) -> list[Scene]:
    """The scenes of a folder, a folder of archives, or one archive; files of archives are unpacked into ``work``.

    Archives in a folder, also deeper ones, count with the files beside them. Raises SourceError, DiskError.
    """
    if not (path.is_dir() or (path.is_file() and path.name.endswith(SUFFIXES))):
        found = "is a file of another kind" if path.exists() else "does not exist"
        raise SourceError(
            f"{path}: {found}; imagery.path is a folder, a folder of {' or '.join(SUFFIXES)} archives, or one archive"
            " (relative to the recipe)"
        )
    collector = Collector(choice, str(path))
    for file in _files(path) if path.is_dir() else [path]:
        if file.name.endswith(SUFFIXES):
            read_archive(file, work, choice, collector, max_bytes)
        elif hit := collector.offer(file.relative_to(path).as_posix()):
            collector.add(hit, LocalAsset(file))
    return collector.scenes()


def _files(folder: Path) -> Iterator[Path]:
    """All files below, in an order that is the same on every machine."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be read ({error.strerror}); correct imagery.path or its rights")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names))
