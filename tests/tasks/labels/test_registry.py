import pickle
from pathlib import Path

import pytest

from tasks.errors import RecipeError
from tasks.labels.overpass import OverpassSource
from tasks.labels.pbf import PbfSource
from tasks.labels.registry import label_source
from tasks.labels.vector import VectorSource
from tasks.recipe.load import Recipe, VectorLabels, load_recipe

RECIPE = """
name: town
title: A town
area: {{bbox: [0, 0, 1, 1]}}
grid: {{zoom: 16}}
imagery: {{source: ign}}
labels: {labels}
classes: [{{name: background, value: 0, color: "#000000"}}, {{name: building, value: 1, color: "#ffffff"}}]
"""


def recipe(folder: Path, labels: str) -> Recipe:
    path = folder / "town.yaml"
    path.write_text(RECIPE.format(labels=labels))
    return load_recipe(path)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("{source: vector, path: b.gpkg, layer: houses}", lambda at: VectorSource(at / "b.gpkg", "houses")),
        ("{source: pbf, path: b.osm.pbf}", lambda at: PbfSource(at / "b.osm.pbf")),
        (
            "{source: pbf, url: 'http://127.0.0.1/b.osm.pbf', checksum: 'http://127.0.0.1/b.md5'}",
            lambda at: PbfSource(None, "http://127.0.0.1/b.osm.pbf", "http://127.0.0.1/b.md5"),
        ),
        (
            "{source: overpass, url: 'http://127.0.0.1/api', attempts: 2, timeout: 9, rate_limit: false,"
            " date: '2024-01-01'}",
            lambda at: OverpassSource("http://127.0.0.1/api", "2024-01-01", 2, 9, False),
        ),
    ],
)
def test_recipe_names_its_source_which_travels(tmp_path: Path, labels: str, expected: object) -> None:
    made = label_source(recipe(tmp_path, labels))
    assert made == expected(tmp_path)  # type: ignore[operator]
    assert pickle.loads(pickle.dumps(made)) == made


def test_unknown_source_lists_the_known(tmp_path: Path) -> None:
    one = recipe(tmp_path, "{source: vector, path: b.gpkg}")
    odd = VectorLabels.model_construct(source="shapes", path="b.gpkg")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"labels\.source: unknown source 'shapes'; valid: overpass, pbf, vector"):
        label_source(one.model_copy(update={"labels": odd}))
