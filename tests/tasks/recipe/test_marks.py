"""Every key of a recipe is content or manner, and the content hash is of content alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tasks.recipe.model import Recipe
from tasks.recipe.schema import MARK, recipe_schema
from tests.support.recipes import SOURCES, recipe_of
from tests.tasks.recipe.test_as_before import SMALL

# By model: what the samples are, and what changes none of them. A new key has to be put into one of the two.
KEYS = {
    "Recipe": (
        "name area grid imagery labels classes ignore_index ignore_values ignore_colors clouds filter resize splits",
        "title description about limits",
    ),
    "About": ("", "licence size needs files homepage"),
    "Area": ("bbox place sample among seed", "tiles geojson"),
    "ClassEntry": ("name value color source_values source_colors", ""),
    "Clouds": ("mask max_fraction drop threshold dilate on_cloud", ""),
    "Dates": ("pick count", ""),
    "Filter": ("min_building_fraction min_fraction max_ignore_fraction max_nodata_fraction", ""),
    "Grid": ("zoom tile_size", ""),
    "IgnImagery": (
        "source attribution licence layer",
        "attempts timeout connections requests_per_second",
    ),
    "Limits": ("", "max_tiles max_failed_fraction max_answer_mb max_download_gb patience private_hosts"),
    "MapboxImagery": (
        "source attribution licence tileset format",
        "attempts timeout connections requests_per_second accept_terms",
    ),
    "MlhubImagery": (
        "source attribution licence bands dates dataset collections file_bands windows",
        "attempts timeout connections reader url path max_bytes",
    ),
    "OverpassLabels": ("source attribution licence date", "url attempts timeout rate_limit"),
    "PatchGrid": ("size stride edge padding", ""),
    "PbfLabels": ("source attribution licence", "path url checksum"),
    "PolygonCells": ("kind size resolution", "path"),
    "ProvidedLabels": ("source attribution licence min_consensus missing", ""),
    "RasterLabels": ("source attribution licence missing align", "path"),
    "ScenesImagery": (
        "source attribution licence bands dates file_bands group nodata windows",
        "attempts timeout connections images",
    ),
    "Splits": ("train validation test seed by block_zoom block buffer groups holdout", ""),
    "StacImagery": (
        "source attribution licence bands dates collection datetime query cells layers reflectance "
        "max_negative_fraction",
        "attempts timeout connections api max_items",
    ),
    "TileCells": ("kind zoom size", ""),
    "UtmCells": ("kind size resolution", ""),
    "VectorLabels": ("source attribution licence layer", "path"),
    "XyzImagery": (
        "source attribution licence url",
        "attempts timeout connections requests_per_second headers subdomains token_env absent",
    ),
}


def changed(model: BaseModel) -> Iterator[tuple[str, str, BaseModel]]:
    """``model`` with one value changed, for every key of it and of its parts: their model's name, key and the copy."""
    for key in type(model).model_fields:
        yield type(model).__name__, key, model.model_copy(update={key: "another"})
        for put, part in parts_of(getattr(model, key)):
            for name, inner, copy in changed(part):
                yield name, inner, model.model_copy(update={key: put(copy)})


def parts_of(value: Any) -> Iterator[tuple[Any, BaseModel]]:
    """The models in a value, each with what puts another in its place."""
    if isinstance(value, BaseModel):
        yield (lambda part: part), value
    elif isinstance(value, list):
        for number, part in enumerate(value):
            if isinstance(part, BaseModel):
                yield (lambda part, at=number: [*value[:at], part, *value[at + 1 :]]), part


def test_every_key_is_placed() -> None:
    schema = recipe_schema()
    marks: dict[str, dict[str, set[str]]] = {}
    for name, model in {"Recipe": schema, **schema["$defs"]}.items():
        placed = marks.setdefault(name, {"content": set(), "manner": set()})
        for key, value in model["properties"].items():
            if not value.get("deprecated"):
                placed[value[MARK]].add(key)
    assert marks == {
        name: {"content": set(content.split()), "manner": set(manner.split())}
        for name, (content, manner) in KEYS.items()
    }


def test_the_content_hash_changes_with_content_and_with_nothing_else() -> None:
    found: dict[tuple[str, str], bool] = {}
    for recipe in (*(Recipe.model_validate(entry["recipe"]) for entry in SMALL.values()), *map(recipe_of, SOURCES)):
        for name, key, copy in changed(recipe):
            assert isinstance(copy, Recipe)
            alters = copy.content_hash() != recipe.content_hash()
            assert found.setdefault((name, key), alters) == alters
    expected = {
        (name, key): keys is content
        for name, (content, manner) in KEYS.items()
        for keys in (content, manner)
        for key in keys.split()
    }
    assert found == expected


@pytest.mark.parametrize("source", SOURCES)
def test_identity_is_content(source: str) -> None:
    """What must stay the same is content, but for the polygons' path, which stands in old identities."""
    recipe = recipe_of(source)
    for name, key, copy in changed(recipe):
        if key in KEYS[name][1].split() and name not in ("About", "Limits"):
            assert isinstance(copy, Recipe)
            assert copy.identity() == recipe.identity()


def test_tokens_and_places_on_disk_are_no_content() -> None:
    url = "https://example.org/{z}/{x}/{y}?token="
    one = recipe_of("xyz", {"imagery.url": url + "{env:ONE}", "labels.path": "a/b.geojson"})
    two = recipe_of("xyz", {"imagery.url": url + "{env:TWO}", "labels.path": "c.geojson"})
    assert one.content_hash() == two.content_hash()
    assert one.hash() != two.hash()
