"""Recipes mean what they meant to the program that had two models of them.

``before.json`` holds, as that program told them, identity and values of every shipped recipe and of small ones that
have every key between them, and the texts by which it knew whether labels and imagery are those of the last run.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.recipe.load import load_recipe
from tasks.recipe.model import Recipe
from tasks.recipe.schema import MARK, recipe_schema
from tasks.recipe.sources import SlippyImagery

DATASETS = Path(__file__).parents[3] / "datasets"
BEFORE: dict[str, dict[str, dict[str, Any]]] = json.loads((Path(__file__).parent / "before.json").read_text())
SHIPPED, SMALL = BEFORE["shipped"], BEFORE["small"]
CHANGED = {"landcovernet-africa": ["clouds.mask=auto"]}  # of shipped recipes: what they said then and no longer say
HARD_TO_GET = {"attempts", "timeout", "connections", "attribution", "licence"}  # were in no text about imagery


def assert_same(recipe: Recipe, before: dict[str, Any]) -> None:
    assert recipe.identity() == before["identity"]
    assert recipe.labels.model_dump_json() == before["labels"]
    was = dict(before["values"])
    if isinstance(recipe.imagery, SlippyImagery):
        assert recipe.ignore_index is None
        assert recipe.block_zoom == before["identity"]["splits.block_zoom"] or recipe.splits.by == "tile"
    else:
        assert recipe.imagery.model_dump_json(exclude=HARD_TO_GET) == before["imagery"]
        assert recipe.clouds.model_dump_json() == before["clouds"]
        splits = dict(was["splits"])
        assert recipe.splits.block_side == splits.pop("block")
        splits["holdout"] = splits.pop("reserve")
        was |= {"splits": splits, "ignore_index": was.pop("ignore")}
    assert_within(was, recipe.model_dump(mode="json"))


def assert_within(was: Any, now: Any) -> None:
    """Every value of before is there, at the same key, of the same type."""
    if isinstance(was, dict):
        for key, value in was.items():
            assert_within(value, now[key])
    elif isinstance(was, list):
        assert len(was) == len(now)
        for one, other in zip(was, now, strict=True):
            assert_within(one, other)
    else:
        assert (type(now), now) == (type(was), was)


def test_every_shipped_recipe_was_told() -> None:
    assert {path.stem for path in DATASETS.glob("*.yaml")} >= SHIPPED.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_means_the_same(name: str) -> None:
    assert_same(load_recipe(DATASETS / f"{name}.yaml", CHANGED.get(name, [])), SHIPPED[name])


@pytest.mark.parametrize("name", SMALL)
def test_a_small_recipe_means_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(SMALL[name]["recipe"]))  # JSON is YAML
    recipe = load_recipe(path)
    assert_same(recipe, SMALL[name])
    again = Recipe.model_validate(recipe.model_dump())
    assert (again.hash(), again.identity()) == (recipe.hash(), recipe.identity())


def keys_in(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield key
            yield from keys_in(value)
    elif isinstance(values, list):
        for value in values:
            yield from keys_in(value)


def test_the_small_recipes_have_every_key_of_before() -> None:
    given = {key for entry in SMALL.values() for key in keys_in(entry["recipe"])}
    schema = recipe_schema()
    models = (schema, *schema["$defs"].values())
    known = {key for model in models for key, value in model["properties"].items() if MARK in value}
    other_names = {"ignore_index", "holdout"}
    later = {"align", "among", "max_answer_mb", "max_download_gb", "patience", "private_hosts"}
    assert known - given == other_names | later
