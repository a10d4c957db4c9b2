"""Samples among buildings, on OSM extracts of Helsinki and Monaco."""

from pathlib import Path

import numpy as np
import pytest

from tasks.labels.outlines import LabelOutlines
from tasks.labels.protocol import RawLabels
from tasks.labels.registry import open_labels
from tasks.recipe.model import Recipe
from tasks.samples.cells import cells, find_touched
from tests.support.recipes import recipe_of

pytestmark = pytest.mark.real


def shares(recipe: Recipe, folder: Path) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of building pixels in each candidate."""
    find_touched(recipe, folder, LabelOutlines(recipe, folder))
    windows = cells(recipe, folder)
    labels = open_labels(recipe, tuple, folder / f"{len(list(folder.iterdir()))}.parquet")
    labels.prepare(windows, folder)
    return np.array([raw.values.mean() for raw in labels.read(windows) if isinstance(raw, RawLabels)])


@pytest.mark.parametrize(
    ("name", "box", "passing"),
    [
        ("Helsinki.osm.pbf", [24.9, 60.1, 25.0, 60.25], (0.011, 0.72)),
        ("monaco-latest.osm.pbf", [7.40, 43.72, 7.45, 43.76], (0.094, 0.63)),
    ],
)
@pytest.mark.parametrize("seed", [0, 7])
def test_as_many_pass_as_of_all_tiles_with_a_building(
    shared_data: Path, tmp_path: Path, name: str, box: list[float], passing: tuple[float, float], seed: int
) -> None:
    """Drawn over the whole area one in a hundred would, where the extract holds some streets of a city."""
    labels = {"source": "pbf", "path": str(shared_data / "osm" / name)}
    everything = shares(recipe_of("xyz", {"area": {"bbox": box}, "labels": labels}, tmp_path), tmp_path)
    built = everything[everything > 0]
    of_all, of_built = (everything >= 0.15).mean(), (built >= 0.15).mean()
    assert (of_all, of_built) == pytest.approx(passing, abs=0.005)
    area = {"bbox": box, "sample": 100, "among": "buildings", "seed": seed}
    drawn = shares(recipe_of("xyz", {"area": area, "labels": labels}, tmp_path), tmp_path)
    assert len(drawn) == 100
    assert (drawn > 0).mean() >= 0.98  # a footprint may touch a tile and no pixel's centre
    assert (drawn >= 0.15).mean() == pytest.approx(of_built, abs=0.1)
