"""Splits of a build's samples: units of every kind, what is known before, and what stands too near."""

from pathlib import Path

import pytest

from infra.sandbox.services.scripted import ScriptedServer
from tasks.build.assign import unit_of
from tasks.errors import NothingSelectedError
from tasks.recipe.model import Recipe
from tasks.samples.groups import HELD_OUT
from tasks.samples.window import Window
from tests.support.builds import contents, run_build
from tests.support.small import SmallRegion
from tests.tasks.build.test_windows import SCENES, SIDE, Site

WINDOW = Window("a/0-32@20240601", "a", "berlin", 32, 0, 32, 32)


def recipe_by(by: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "title": "x",
            "imagery": {"source": "scenes", "images": "{scene}.tif", "bands": ["red"], "windows": {"size": 32}},
            "labels": {"source": "rasters", "path": "{scene}.tif"},
            "classes": [{"name": name, "value": n, "color": f"#00000{n}"} for n, name in enumerate("ab")],
            "splits": {"by": by},
        }
    )


@pytest.mark.parametrize(
    ("by", "unit"), [("sample", WINDOW.name), ("scene", "a"), ("group", "berlin"), ("block", "berlin")]
)
def test_what_a_split_keeps_together(by: str, unit: str) -> None:
    assert unit_of(WINDOW, recipe_by(by)) == unit


def test_a_part_that_is_held_out_is_a_unit_of_its_own() -> None:
    held_out = Window("a/0-32", "a", f"a{HELD_OUT}", 32, 0, 32, 32)
    assert unit_of(held_out, recipe_by("scene")) == f"a{HELD_OUT}"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path).write()


def scene_at(name: str) -> tuple[str, int, int]:
    scene, _, at = name.partition("/")
    row, column = at.split("-")
    return scene, int(row), int(column)


def test_one_scene_is_split_by_blocks_that_share_no_ground(site: Site) -> None:
    one = [
        f"imagery.images=images/{SCENES[0]}_{{date}}_{{band}}.tif",
        f"labels.path=labels/{SCENES[0]}.tif",
        "imagery.windows={size: 32, stride: 16}",
        "clouds.mask=none",
        "splits={by: block, block: 3, train: 0.5, validation: 0.25, test: 0.25}",
    ]
    summary = run_build(site.recipe, site.store, one)
    assert 0 < summary.accepted < summary.selected
    assert all(summary.splits.values())
    found = {scene_at(name)[1:]: split for name, (split, _, _) in contents(site.store).items()}
    for (row, column), split in found.items():
        for (other_row, other_column), other in found.items():
            shares_ground = abs(row - other_row) < SIDE and abs(column - other_column) < SIDE
            assert split == other or not shares_ground


def test_a_buffer_lies_between_blocks_of_scenes(site: Site) -> None:
    overrides = ["clouds.mask=none", "filter.max_ignore_fraction=1.0", "splits={by: block, block: 1, buffer: 1}"]
    summary = run_build(site.recipe, site.store, overrides)
    assert 0 < summary.accepted < summary.selected
    found = {scene_at(name): split for name, (split, _, _) in contents(site.store).items()}
    for (scene, row, column), split in found.items():
        for (other_scene, other_row, other_column), other in found.items():
            near = scene == other_scene and max(abs(row - other_row), abs(column - other_column)) < 2 * SIDE
            assert split == other or not near


def test_tiles_may_be_named_into_splits_by_their_blocks(tmp_path: Path) -> None:
    region = SmallRegion(side=6)
    with ScriptedServer(region.image, content_type="image/png") as server:
        recipe = region.write_recipe(tmp_path, server.url)
        run_build(recipe, tmp_path / "store", ["splits.groups={test: ['15/1650[01]/*']}"])
    found = {name: split for name, (split, _, _) in contents(tmp_path / "store").items()}
    assert {split for name, split in found.items() if int(name.split("/")[1]) // 2 in (16500, 16501)} == {"test"}
    assert {"train"} <= {split for name, split in found.items() if int(name.split("/")[1]) // 2 == 16502}


def test_a_buffer_that_leaves_nothing_is_told(site: Site) -> None:
    with pytest.raises(NothingSelectedError, match=r"splits\.buffer 9 leaves no sample of 90; lower it"):
        run_build(
            site.recipe,
            site.store,
            ["clouds.mask=none", "filter.max_ignore_fraction=1.0", "splits={by: block, block: 1, buffer: 9}"],
        )
