"""From what a user names to the job that is meant."""

from collections.abc import Sequence

from tasks.build.job import Job
from tasks.recipe.load import find_recipe, load_recipe


def job_of(recipe: str, store: str | None, overrides: Sequence[str]) -> Job:
    """A build of ``recipe`` (a file, or a name in ``datasets/``) into ``store``, ``stores/<name>`` by default.

    Raises RecipeError.
    """
    what = load_recipe(find_recipe(recipe), overrides)
    return Job.of(what, store or f"stores/{what.name}")
