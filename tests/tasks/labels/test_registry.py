import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import RecipeError
from tasks.geo.georeference import Georeference
from tasks.labels.drawn import FootprintLabels
from tasks.labels.footprints import clean, write_footprints
from tasks.labels.maps import MapLabels
from tasks.labels.overpass import OverpassSource
from tasks.labels.pbf import PbfSource
from tasks.labels.protocol import RawLabels
from tasks.labels.rasters import CellLabels, SceneLabels
from tasks.labels.registry import footprint_source, label_origin, open_labels
from tasks.labels.vector import VectorSource
from tasks.raster.scene import Scene
from tasks.recipe.load import load_recipe
from tasks.recipe.model import Recipe
from tasks.samples.window import Window
from tasks.web.client import Bounds
from tests.tasks.raster.made import scenes_recipe

RECIPE = """
name: town
title: A town
area: {{bbox: [0, 0, 1, 1]}}
grid: {{zoom: 16}}
imagery: {{source: ign}}
labels: {labels}
limits: {{max_answer_mb: 5, private_hosts: [inside.example]}}
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
    made = footprint_source(recipe(tmp_path, labels))
    asked = expected(tmp_path)  # type: ignore[operator]
    if not isinstance(asked, VectorSource):
        assert made.limits == Bounds(5_000_000)  # type: ignore[attr-defined]
        assert made.reach.allowed == {"inside.example"}  # type: ignore[attr-defined]
        assert made.reach.trusts("127.0.0.1") is ("127.0.0.1" in labels)  # type: ignore[attr-defined]
        asked = replace(asked, limits=made.limits, reach=made.reach)  # type: ignore[attr-defined]
    assert made == asked
    assert pickle.loads(pickle.dumps(made)) == made


def test_rasters_are_no_footprints(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"labels\.source: rasters has no footprints; those that have: vector, overpass, pbf"
    ):
        footprint_source(recipe(tmp_path, "{source: rasters, path: 'labels/{scene}.tif'}"))


def asked() -> list[Scene]:
    raise AssertionError("opening labels asks for no scenes")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("{source: vector, path: b.gpkg}", FootprintLabels),
        ("{source: vector, path: '*.gpkg'}", FootprintLabels),
        ("{source: rasters, path: 'labels/{scene}.tif'}", CellLabels),
        ("{source: rasters, path: landcover.tif}", MapLabels),
    ],
)
def test_labels_open_without_a_file(tmp_path: Path, labels: str, expected: type) -> None:
    found = open_labels(recipe(tmp_path, labels), asked, tmp_path / "footprints.parquet")
    assert isinstance(found, expected)
    found.close()


def test_scenes_have_their_own_rasters(tmp_path: Path) -> None:
    found = open_labels(scenes_recipe(tmp_path, "{scene}.tif"), asked, tmp_path / "footprints.parquet")
    assert isinstance(found, SceneLabels)


def test_the_rim_of_scenes_has_no_label(tmp_path: Path) -> None:
    made = scenes_recipe(
        tmp_path, "{scene}.tif", {"source": "vector", "path": "none.gpkg"}, windows={"size": 64, "padding": 8}
    )
    path = tmp_path / "footprints.parquet"
    write_footprints(path, clean([], source="none", timestamp=""))
    lies = Georeference("EPSG:32631", (1.0, 0.0, 500_000.0, 0.0, -1.0, 5_800_000.0))
    (raw,) = open_labels(made, asked, path).read([Window("w", "w", "w", 0, 0, 64, 64, lies)])
    assert isinstance(raw, RawLabels)
    assert raw.missing is not None
    assert raw.missing.sum() == 64**2 - 48**2


def test_the_origin_of_labels_changes_with_words_and_files(tmp_path: Path) -> None:
    one, other = (recipe(tmp_path, f"{{source: vector, path: b.gpkg{more}}}") for more in ("", ", layer: houses"))
    before = label_origin(one)
    assert label_origin(other) != before
    (tmp_path / "b.gpkg").write_bytes(b"new")
    assert label_origin(one) != before
