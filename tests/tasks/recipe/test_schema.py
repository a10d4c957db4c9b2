from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tasks.recipe.schema import FILE, MARK, recipe_schema, schema_text
from tasks.recipe.sources import SLIPPY_SOURCES
from tests.support.recipes import SOURCES, values_of
from tests.tasks.recipe.test_as_before import SMALL

REPOSITORY = Path(__file__).parents[3]
SHIPPED = sorted((REPOSITORY / "datasets").glob("*.yaml"))
SCHEMA = recipe_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def problems(values: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(values)]


def properties(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of the models in a schema."""
    for model in (schema, *schema["$defs"].values()):
        yield from model["properties"].items()


def test_the_file_is_what_the_model_makes() -> None:
    assert (REPOSITORY / FILE).read_text() == schema_text(), "run: make schema"


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_name_it_and_are_valid(path: Path) -> None:
    text = path.read_text()
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={FILE.name}"
    assert problems(yaml.safe_load(text)) == []


@pytest.mark.parametrize("name", SMALL)
def test_recipes_with_every_key_are_valid(name: str) -> None:
    assert problems(SMALL[name]["recipe"]) == []


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_open_to_every_source_is_valid(source: str) -> None:
    more = {
        "ignore_index": 9,
        "ignore_values": [0],
        "filter": {"min_building_fraction": None, "min_fraction": {"building": 1}},
        "splits": {"by": "sample", "groups": {"test": ["a*"]}, "holdout": 0},
        "resize": None,
    }
    assert problems(values_of(source, more)) == []


def test_a_grid_may_stand_for_cells() -> None:
    assert problems(values_of("stac", {"imagery.cells": ..., "grid": {"zoom": 14}})) == []


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nope", 1),
        ("imagery.nope", 1),
        ("labels.nope", 1),
        ("classes.0.nope", 1),
        ("splits.nope", 1),
        ("filter.nope", 1),
        ("imagery.source", "mars"),
        ("imagery.source", ...),
        ("imagery", 3),
        ("labels.source", "mars"),
        ("title", ...),
        ("name", "Not a name"),
        ("classes", []),
        ("classes.0.value", "0"),
        ("classes.0.color", "white"),
        ("imagery.attempts", 0),
        ("imagery.timeout", "5"),
        ("ignore_index", 256),
        ("resize", True),
        ("filter.max_nodata_fraction", 2),
        ("splits.by", "tract"),
        ("splits.groups", {"training": ["a"]}),
        ("about.licence", None),
        ("limits.max_tiles", 1.5),
    ],
)
def test_unknown_keys_and_wrong_values_are_refused(source: str, key: str, value: Any) -> None:
    (told, *_) = problems(values_of(source, {key: value}))
    assert told


@pytest.mark.parametrize("source", SOURCES)
def test_an_editor_offers_the_keys_of_the_source_that_is_written(source: str) -> None:
    imagery = SCHEMA["properties"]["imagery"]
    assert set(imagery["properties"]["source"]["enum"]) == set(SOURCES)
    (branch,) = [one["then"] for one in imagery["allOf"] if one["if"]["properties"]["source"] == {"const": source}]
    keys = SCHEMA["$defs"][branch["$ref"].rpartition("/")[2]]["properties"]
    assert ("requests_per_second" in keys) == (source in SLIPPY_SOURCES)
    assert ("bands" in keys) == (source not in SLIPPY_SOURCES)
    assert keys["source"]["const"] == source


@pytest.mark.parametrize("source", SLIPPY_SOURCES)
@pytest.mark.parametrize("key", ["area", "grid"])
def test_slippy_maps_need_an_area_and_a_grid(source: str, key: str) -> None:
    assert problems(values_of(source, {key: ...})) == [f"$: {key!r} is a required property"]


@pytest.mark.parametrize(("old", "new"), [("ignore", "ignore_index"), ("splits.reserve", "splits.holdout")])
def test_old_names_are_valid_and_deprecated(old: str, new: str) -> None:
    assert problems(values_of("scenes", {old: 0})) == []
    assert problems(values_of("scenes", {old: 0, new: 0})) != []
    assert problems(values_of("scenes", {old: "x"})) != []
    found = dict(properties(SCHEMA))
    assert found[old.rpartition(".")[2]]["deprecated"] is True
    assert "deprecated" not in found[new.rpartition(".")[2]]


def test_every_key_says_what_it_is() -> None:
    plain = {"source", "kind", "train", "validation", "test"}  # which say themselves
    for key, value in properties(SCHEMA):
        assert value[MARK] in ("content", "manner"), key
        assert key in plain or "$ref" in value or value.get("description"), key
    for name, model in SCHEMA["$defs"].items():
        assert model["description"], name


def test_no_default_is_offered_that_depends_on_the_source() -> None:
    found = dict(properties(SCHEMA))
    assert not any("default" in found[key] for key in ("by", "ignore_index", "min_building_fraction"))
    assert found["on_cloud"]["default"] == "reject"
