"""Finding and reading recipes. Relative paths in a recipe are relative to the recipe's own folder."""

from collections.abc import Sequence
from pathlib import Path

from tasks.errors import RecipeError
from tasks.recipe.model import Recipe
from tasks.recipe.yaml import load_strict


def find_recipe(name_or_path: str) -> Path:
    """The recipe file meant by a path or by a bare name such as ``osm-france`` (in ``./datasets``).

    Raises RecipeError, listing what there is.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml"):
        raise RecipeError(f"{path}: no such recipe file")
    shipped = Path("datasets") / f"{name_or_path}.yaml"
    if shipped.is_file():
        return shipped
    known = ", ".join(sorted(entry.stem for entry in Path("datasets").glob("*.yaml"))) or "none in ./datasets"
    raise RecipeError(f"{name_or_path}: neither a recipe file nor a name in ./datasets (there: {known})")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe. ``overrides`` are ``key=value`` pairs as ``--set`` takes them.

    Raises RecipeError, naming file, line, key and nearest valid name.
    """
    return load_strict(path, Recipe, overrides).in_folder(path.resolve().parent)
