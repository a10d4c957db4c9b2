"""Which keys go together: what is open to every source of imagery, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.errors import RecipeError
from tasks.recipe.load import load_recipe
from tasks.recipe.model import Recipe
from tasks.recipe.parts import TileCells
from tests.support.recipes import SOURCES, recipe_of, values_of

SLIPPY, OTHERS = ("xyz", "mapbox", "ign"), ("stac", "mlhub", "scenes")
RASTERS = {"labels": {"source": "rasters", "path": "labels/{scene}.tif"}}
CUT = {"imagery.windows": {"size": 64}}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "changes",
    [
        {"ignore_index": 9},
        {"filter.min_fraction": {"building": 0.2}},
        {"filter.max_ignore_fraction": 0.5},
        {"filter.min_building_fraction": None},
        {"filter.min_building_fraction": 0.3},
        {"resize": 32},
        {"splits.groups": {"test": ["a*"], "validation": ["b"]}},
        {"splits.by": "sample"},
        {"limits": {"max_tiles": 5, "max_failed_fraction": 0.5}},
        {"about": {"licence": "CC0", "needs": "nothing"}},
        {"clouds": {"mask": "none"}},
    ],
    ids=str,
)
def test_what_every_source_takes(source: str, changes: dict[str, Any]) -> None:
    more = CUT if source == "mlhub" else {}
    recipe = recipe_of(source, {**more, **changes})
    assert Recipe.model_validate(recipe.model_dump()).content_hash() == recipe.content_hash()


@pytest.mark.parametrize("source", [*SLIPPY, "stac", "scenes"])
def test_label_rasters_make_class_masks_for_every_source_but_mlhub(source: str) -> None:
    classes = [
        {"name": "water", "value": 1, "color": "#0000ff", "source_values": [1, 80]},
        {"name": "wood", "value": 2, "color": "#00ff00", "source_colors": ["#010203"]},
    ]
    recipe = recipe_of(source, {**RASTERS, "classes": classes, "ignore_values": [0], "ignore_colors": ["#ffffff"]})
    assert recipe.ignore_index == 255
    assert recipe.building_value is None
    assert recipe.filter.min_building_fraction is None
    assert not recipe.draws_footprints


@pytest.mark.parametrize("source", ["stac", "mlhub", "scenes"])
@pytest.mark.parametrize("more", [{"splits.block": 2}, {"splits.buffer": 1}, {"splits.block": 3, "splits.buffer": 2}])
def test_blocks_and_buffers_for_cells_and_cut_scenes(source: str, more: dict[str, Any]) -> None:
    recipe = recipe_of(source, {**(CUT if source == "mlhub" else {}), "splits.by": "block", **more})
    assert recipe.splits.block_side == more.get("splits.block", 8)


def test_grid_is_short_for_cells_of_kind_tiles() -> None:
    short = recipe_of("stac", {"imagery.cells": ..., "grid": {"zoom": 14, "tile_size": 512}})
    long = recipe_of("stac", {"imagery.cells": {"kind": "tiles", "zoom": 14, "size": 512}})
    assert short.cells == long.cells == TileCells(kind="tiles", zoom=14, size=512)
    assert short.identity() == long.identity()


@pytest.mark.parametrize("source", SLIPPY)
def test_defaults_of_slippy_maps(source: str) -> None:
    recipe = recipe_of(source)
    assert recipe.cells == TileCells(kind="tiles", zoom=18, size=256)
    assert (recipe.splits.by, recipe.block_zoom, recipe.ignore_index) == ("block", 15, None)
    assert recipe.filter.min_building_fraction == 0.15
    assert recipe_of(source, {"filter": {"max_nodata_fraction": 0.5}}).filter.min_building_fraction == 0.15
    assert recipe_of(source, {"filter.min_building_fraction": None}).filter.min_building_fraction is None
    assert recipe_of(source, {"splits.seed": 3}).splits.by == "block"
    assert recipe_of(source, RASTERS).ignore_index == 255
    assert recipe_of(source, {**RASTERS, "ignore_index": None}).ignore_index is None


@pytest.mark.parametrize("source", SOURCES)
def test_parts_may_be_models_already(source: str) -> None:
    recipe = recipe_of(source)
    values = values_of(source) | {"imagery": recipe.imagery, "labels": recipe.labels}
    assert Recipe.model_validate(values).hash() == recipe.hash()


@pytest.mark.parametrize("source", OTHERS)
def test_defaults_of_every_other_source(source: str) -> None:
    recipe = recipe_of(source)
    assert (recipe.splits.by, recipe.splits.block_side, recipe.ignore_index) == ("scene", 8, 255)
    assert recipe.filter.min_building_fraction is None


def test_what_slippy_maps_could_not_say_once_is_in_the_identity_only_where_it_is_said() -> None:
    plain = recipe_of("xyz").identity()
    assert not {"ignore", "splits.groups"} & plain.keys()
    groups = recipe_of("xyz", {"ignore_index": 9, "splits.groups": {"test": ["b", "a"]}}).identity()
    assert groups == {**plain, "ignore": 9, "splits.groups": {"test": ["a", "b"]}}


def test_a_recipe_keeps_its_folder(tmp_path: Path) -> None:
    recipe = recipe_of("scenes", folder=tmp_path)
    assert recipe.resolve("a.tif") == tmp_path / "a.tif"
    assert recipe.replaced(resize=32).resolve("a.tif") == tmp_path / "a.tif"
    assert recipe == recipe_of("scenes", folder=tmp_path)


SLIPPY_REFUSALS = [
    ({"clouds.mask": "scl"}, "clouds: a slippy map .* does not tell clouds; leave clouds out"),
    ({"ignore_values": [0]}, "ignore_values: goes with label rasters"),
    ({"ignore_colors": ["#000000"]}, "ignore_colors: goes with label rasters"),
    ({"classes.1.source_values": [1]}, r"classes\.1\.source_values: goes with label rasters"),
    ({"classes.0.source_colors": ["#000000"]}, r"classes\.0\.source_colors: goes with label rasters"),
    ({**RASTERS, "ignore_index": None, "ignore_values": [0]}, "ignore_values: needs an ignore_index, which is null"),
    ({"splits.by": "scene"}, r"splits\.by: scene goes with scenes and STAC items; slippy maps take block or tile"),
    ({"splits.by": "group"}, r"splits\.by: group goes with .*; slippy maps take block or tile"),
    ({"splits.block": 4}, r"splits\.block: slippy maps take splits\.block_zoom"),
    ({"splits.block_zoom": 19}, r"splits\.block_zoom: block_zoom 19 is deeper than grid\.zoom 18"),
    ({"splits.holdout": 0.2}, r"splits\.holdout: goes with scenes that are cut into windows"),
    ({"labels": {"source": "provided"}}, r"labels\.source: provided goes with imagery\.source mlhub"),
    ({"area": ...}, r"area: is required with imagery\.source"),
    ({"grid": ...}, r"grid: is required with imagery\.source"),
    ({"imagery.dates": {"pick": "all"}}, "unknown key"),
    ({"imagery.cells": {"kind": "tiles", "zoom": 18}}, "unknown key"),
    ({"classes.1.name": "house"}, "classes: expected a class named building"),
    ({"classes.0.value": 2}, "classes: expected a class with value 0 for what is no building"),
]
STAC_REFUSALS = [
    ({"grid": {"zoom": 14}}, r"grid: is short for imagery\.cells of kind tiles, which stands too; keep one"),
    ({"imagery.cells": ...}, r"imagery\.cells: is required and missing; grid says it too"),
    ({"area": ...}, "area: needed for cells of kind tiles and utm, and not used by polygons"),
    (
        {"imagery.cells": {"kind": "polygons", "path": "p.geojson", "resolution": 10}},
        "area: needed for cells of kind tiles and utm, and not used by polygons",
    ),
    ({"labels": {"source": "provided"}}, r"labels\.source: provided goes with imagery\.source mlhub"),
    ({"splits.by": "tile"}, r"splits\.by: tile goes with slippy maps; use sample"),
    ({"splits.block_zoom": 3}, r"splits\.block_zoom: goes with slippy maps; elsewhere splits\.block counts samples"),
    ({"splits.holdout": 0.2}, r"splits\.holdout: goes with scenes that are cut into windows"),
    ({"splits.by": "sample", "imagery.dates": {"count": 2}}, r"splits\.by: several dates of one window are samples"),
]
SCENE_REFUSALS = [
    ({"area": {"bbox": [0, 0, 1, 1]}}, r"area: not used by imagery\.source scenes"),
    ({"grid": {"zoom": 14}}, r"grid: not used by imagery\.source scenes"),
    ({"labels": {"source": "provided"}}, r"labels\.source: provided goes with imagery\.source mlhub, rasters with"),
    ({"splits.by": "tile"}, r"splits\.by: tile goes with slippy maps; use sample"),
    ({"splits.by": "block", "imagery.windows.size": 0}, r"splits\.by: block goes with cells, and with scenes that are"),
    ({"splits.buffer": 1}, r"splits\.buffer: of scenes goes with splits\.by: block"),
    ({"splits.holdout": 0.2, "imagery.windows.size": 0}, r"splits\.holdout: goes with scenes that are cut"),
    ({"splits.holdout": 0.2, "splits.by": "group"}, r"splits\.holdout: goes with splits\.by: scene"),
    ({"splits.by": "sample", "imagery.windows.stride": 32}, r"splits\.by: windows overlap"),
    ({"splits.by": "sample", "imagery.windows.padding": 8}, r"splits\.by: windows overlap"),
    ({"splits.by": "sample", "imagery.dates": {"pick": "all"}}, r"splits\.by: several dates of one window are samples"),
    ({"ignore_index": None}, "ignore_index: is needed, as a pixel may have no imagery; leave it out for 255"),
    ({"ignore_index": 1}, "ignore_index: 1 is the value of a class"),
    ({"filter.min_fraction": {"wood": 0.1}}, r"filter\.min_fraction: no class 'wood'; there are background, building"),
    ({"filter.min_building_fraction": 0.1, "classes.1.name": "house"}, "classes: expected a class named building"),
    ({"classes.1.value": 0}, "classes: every name and every value may stand once"),
    (
        {"labels": {"source": "overpass"}, "classes.0.value": 2, "classes.1.value": 0},
        "classes: expected a class with value 0 for what is no building",
    ),
    ({"imagery.windows.size": 8}, r"size: expected 0 \(whole scenes\) or at least 16 pixels"),
    ({"splits.groups": {"train": ["a"], "test": ["a"]}}, "groups: every name may stand in one split only"),
]


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        *((source, *refusal) for source in SLIPPY for refusal in SLIPPY_REFUSALS),
        *(("stac", *refusal) for refusal in STAC_REFUSALS),
        *(("scenes", *refusal) for refusal in SCENE_REFUSALS),
        ("mlhub", RASTERS, r"labels\.source: provided goes with imagery\.source mlhub, rasters with every other"),
        ("mlhub", {"area": {"bbox": [0, 0, 1, 1]}}, r"area: not used by imagery\.source mlhub"),
        ("mlhub", {"splits.by": "block"}, r"splits\.by: block goes with cells, and with scenes that are cut"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_name(source: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe_of(source, changes)


@pytest.mark.parametrize(
    ("source", "changes", "place"),
    [
        ("xyz", {"splits.by": "scene"}, r"\d+: splits\.by: scene goes"),
        ("xyz", {"classes.1.source_values": [1]}, r"\d+: classes\.1\.source_values: goes"),
        ("stac", {"splits.block_zoom": 3}, r"\d+: splits\.block_zoom: goes"),
        ("scenes", {"imagery.windows.size": 8}, r"\d+: imagery\.windows\.size: expected"),
        ("scenes", {"splits.groups": {"train": ["a"], "test": ["a"]}}, r"\d+: splits\.groups: every name"),
    ],
)
def test_a_refusal_tells_the_line_of_the_key(tmp_path: Path, source: str, changes: dict[str, Any], place: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(values_of(source, changes), indent=1))
    key = list(changes)[-1].rpartition(".")[2]
    (line,) = [n for n, text in enumerate(path.read_text().splitlines(), start=1) if f'"{key}"' in text][-1:]
    with pytest.raises(RecipeError, match=rf"bad\.yaml:{place}") as refused:
        load_recipe(path)
    assert f"bad.yaml:{line}: " in str(refused.value)
