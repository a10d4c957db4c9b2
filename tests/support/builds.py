"""Running a build without Prefect, and what a version holds, for tests."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.build import line
from tasks.build.commit import BuildSummary
from tasks.build.job import Job
from tasks.recipe.load import load_recipe
from tasks.versions.read import open_version


def job_of(recipe: Path, store: Path | str, overrides: Sequence[str] = ()) -> Job:
    """A build of a recipe file into a store."""
    return Job.of(load_recipe(recipe, overrides), str(store))


def run_build(recipe: Path, store: Path | str, overrides: Sequence[str] = ()) -> BuildSummary:
    """The stages of the flow, one after the other, in this thread."""
    return line.build(job_of(recipe, store, overrides))


def main() -> None:
    """:func:`run_build` in a process of its own, whose words are the recipe, the store and overrides."""
    recipe, store, *overrides = sys.argv[1:]
    run_build(Path(recipe), store, overrides)


def contents(store: Path | str, version: str | None = None) -> dict[str, tuple[str, bytes, bytes]]:
    """By sample id: split, image bytes and mask bytes."""
    opened = open_version(str(store), version)
    found = {}
    for split in ("train", "validation", "test"):
        arrays = opened.split(split)
        images, masks = np.asarray(arrays.image[:]), np.asarray(arrays.mask[:])
        for i, name in enumerate(arrays.sample_id):
            found[name] = (split, images[i].tobytes(), masks[i].tobytes())
    return found
