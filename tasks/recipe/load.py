"""Finding and reading recipes. Relative paths in a recipe are relative to the recipe's own folder."""

import re
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import RecipeError
from tasks.recipe.document import shown
from tasks.recipe.model import Recipe
from tasks.recipe.sources import XyzImagery
from tasks.recipe.tokens import told_headers
from tasks.recipe.yaml import is_file, load_strict
from tasks.secrets import remember_environment


def find_recipe(name_or_path: str) -> Path:
    """The recipe file meant by a path or by a bare name such as ``osm-france`` (in ``./datasets``).

    Raises RecipeError, listing what there is.
    """
    path = Path(name_or_path)
    if is_file(path):
        return path
    if path.suffix in (".yaml", ".yml"):
        raise RecipeError(f"{shown(name_or_path)}: no such recipe file")
    shipped = Path("datasets") / f"{name_or_path}.yaml"
    if is_file(shipped):
        return shipped
    known = ", ".join(sorted(entry.stem for entry in Path("datasets").glob("*.yaml"))) or "none in ./datasets"
    raise RecipeError(f"{shown(name_or_path)}: neither a recipe file nor a name in ./datasets (there: {known})")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe. ``overrides`` are ``key=value`` pairs as ``--set`` takes them.

    What the environment holds of secrets is remembered first, so that nothing from here on tells it. Raises
    RecipeError, naming file, line, key and nearest valid name.
    """
    remember_environment()
    recipe = load_strict(path, Recipe, overrides).in_folder(path.resolve().parent)
    headers = recipe.imagery.headers if isinstance(recipe.imagery, XyzImagery) else {}
    if any(re.match(r"\s*imagery(\.headers\b|\s*=)", override) for override in overrides):
        for name in told_headers(headers):
            raise RecipeError(
                f"--set imagery.headers.{name}: what is set on the command line stands in Prefect's database; write it "
                f"in the recipe's file, or as {{env:NAME}}, which stands for an environment variable"
            )
    return recipe
