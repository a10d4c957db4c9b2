"""The imagery of a Radiant MLHub collection, wherever the recipe says that it is today."""

from pathlib import Path

from tasks.errors import RecipeError, SourceError
from tasks.imagery.mlhub.api import MlhubApi, api_scenes
from tasks.imagery.mlhub.layouts import choose
from tasks.imagery.mlhub.local import local_scenes
from tasks.imagery.mlhub.source_coop import DEFAULT_PROXY, source_coop_scenes
from tasks.imagery.scenes.catalogue import SceneCatalogue
from tasks.raster.scene import Scene
from tasks.recipe.model import Recipe
from tasks.recipe.sources import MlhubImagery
from tasks.web.client import Client
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
    client = Client(RetryPolicy(imagery.attempts, _TOTAL_SECONDS, FIRST_PAUSE), imagery.timeout)
    return SceneCatalogue(recipe, lambda: _scenes(recipe, imagery, client, work), client)


def _scenes(recipe: Recipe, imagery: MlhubImagery, client: Client, work: Path) -> list[Scene]:
    dataset, most, choice = imagery.dataset or "", imagery.max_bytes, choose(imagery.bands)
    if imagery.reader == "local":
        path = recipe.resolve(imagery.path or "")
        if recipe.about.files and not path.exists():
            raise SourceError(f"{path}: does not exist. {' '.join(recipe.about.files.split())}")
        return local_scenes(path, work / "mlhub", choice, most)
    if imagery.reader == "source-coop":
        return source_coop_scenes(imagery.url or DEFAULT_PROXY, dataset, client, work, choice)
    return api_scenes(MlhubApi(imagery.url or "", client), client, dataset, imagery.collections, work, choice, most)
