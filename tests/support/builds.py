"""Running a build without Prefect, and what a version holds, for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.build.base import BuildSummary, open_build
from tasks.recipe.load import load_recipe
from tasks.versions.read import open_version


def run_build(recipe: Path, store: Path | str, overrides: Sequence[str] = ()) -> BuildSummary:
    """The steps of the flow, one after the other, in this thread."""
    with open_build(load_recipe(recipe, overrides), str(store)) as run:
        run.check_imagery()
        shards = run.plan()
        run.take_labels()
        for shard in run.to_measure(shards):
            run.measure(shard)
        run.funnel()
        for shard in run.to_fetch(shards):
            run.fetch(shard)
        run.check_failures()
        for block in run.start_version():
            run.write(block)
        return run.finish()


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
