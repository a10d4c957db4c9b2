"""What a build is about: a frozen value that any process can be handed."""

import uuid
from dataclasses import dataclass, field
from typing import Self

from tasks.recipe.model import Recipe
from tasks.state.workdir import WorkDir


@dataclass(frozen=True)
class Job:
    """One run of a build: the recipe, the store it continues, and the work directory beside it."""

    recipe: Recipe
    store: str  # a local path or s3://bucket/prefix
    work: WorkDir
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, recipe: Recipe, store: str) -> Self:
        """A run of its own. Nothing is opened, made or asked for. Raises StoreError for what is no store's address."""
        return cls(recipe, store, WorkDir.of(store))
