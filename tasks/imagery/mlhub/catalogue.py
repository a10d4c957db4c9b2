"""A Radiant MLHub collection as scenes, wherever the recipe says that it is today."""

from pathlib import Path

from tasks.errors import RecipeError, SourceError
from tasks.imagery.mlhub.api import MlhubApi, api_scenes
from tasks.imagery.mlhub.layouts import Choice, choose
from tasks.imagery.mlhub.local import local_scenes
from tasks.imagery.mlhub.source_coop import DEFAULT_PROXY, source_coop_scenes
from tasks.raster.scene import Scene
from tasks.recipe.windows import MlhubImagery, WindowRecipe
from tasks.web.client import Web


class MlhubCatalogue:
    """Scenes sorted by name. Their files may be fetched until the catalogue is closed."""

    def __init__(self, scenes: list[Scene], web: Web) -> None:
        self.scenes = scenes
        self._web = web

    @property
    def requests(self) -> int:
        """HTTP requests sent so far."""
        return self._web.requests

    def close(self) -> None:
        """Let connections go."""
        self._web.close()


def mlhub_scenes(recipe: WindowRecipe, work: Path) -> MlhubCatalogue:
    """The scenes of a recipe with ``imagery.source: mlhub``; downloads and unpacked files go to folders of ``work``.

    Reader ``api`` downloads archives before it returns, ``source-coop`` lists and fetches files when they are asked
    for. Raises SourceError, CredentialError, DiskError, and RecipeError for a recipe of another source.
    """
    imagery = recipe.imagery
    if not isinstance(imagery, MlhubImagery):
        raise RecipeError(f"imagery.source: expected mlhub, it is {imagery.source}")
    choice = choose(imagery.bands)
    web = Web(imagery.attempts, imagery.timeout)
    try:
        return MlhubCatalogue(_scenes(recipe, imagery, choice, web, work), web)
    except BaseException:
        web.close()
        raise


def _scenes(recipe: WindowRecipe, imagery: MlhubImagery, choice: Choice, web: Web, work: Path) -> list[Scene]:
    dataset, most = imagery.dataset or "", imagery.max_bytes
    if imagery.reader == "local":
        path = recipe.resolve(imagery.path or "")
        if recipe.about.files and not path.exists():
            raise SourceError(f"{path}: does not exist. {' '.join(recipe.about.files.split())}")
        return local_scenes(path, work / "mlhub", choice, most)
    if imagery.reader == "source-coop":
        return source_coop_scenes(imagery.url or DEFAULT_PROXY, dataset, web, work, choice)
    return api_scenes(MlhubApi(imagery.url or "", web), web, dataset, imagery.collections, work, choice, most)
