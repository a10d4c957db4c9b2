"""No token stands in a recipe: what is refused, what is not, and what stands for one."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.errors import CredentialError, RecipeError
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.xyz import XyzServer
from tasks.imagery.stac.presets import endpoint_of
from tasks.labels.overpass import OverpassSource
from tasks.labels.pbf import PbfSource
from tasks.labels.registry import footprint_source
from tasks.recipe.load import load_recipe
from tasks.recipe.model import Recipe
from tasks.recipe.sources import XyzImagery
from tasks.recipe.tokens import filled, typed_pattern
from tasks.secrets import redact
from tests.support.recipes import recipe_of, write_recipe

SECRET = "marked0secret0value"
TILES = "https://h/{z}/{x}/{y}.png"
TYPED: list[tuple[str, Any, str]] = [
    *(
        ("imagery.url", f"{TILES}?{name}={SECRET}", "imagery.url")
        for name in (
            "access_token",
            "map_key",
            "subscription-key",
            "apiToken",
            "tk",
            "auth",
            "pwd",
            "license_key",
            "appid",
        )
    ),
    ("imagery.url", f"{TILES}?x=1#access_token={SECRET}", "imagery.url"),
    ("imagery.url", f"{TILES}?key={SECRET}{{token}}", "imagery.url"),
    ("imagery.url", f"https://me:{SECRET}@h/{{z}}/{{x}}/{{y}}", "imagery.url"),
    ("imagery.url", f"https://me:s/{SECRET}@h.org/{{z}}/{{x}}/{{y}}", "imagery.url"),
    ("imagery.url", f"https://h/sk.{SECRET}/{{z}}/{{x}}/{{y}}", "imagery.url"),
    *(
        ("imagery.headers", {name: SECRET}, f"imagery.headers.{name}")
        for name in ("Authorization", "Cookie", "X-Api-Key", "X-Token", "x-functions-key", "Client-Secret", "X-Auth")
    ),
    ("imagery.headers", {"Referer": f"https://h/?token={SECRET}"}, "imagery.headers.Referer"),
    ("imagery.headers", f"Authorization: {SECRET}", "imagery.headers"),
    ("imagery.headers", [{"Authorization": SECRET}], "imagery.headers"),
    ("labels", {"source": "pbf", "url": f"https://h/a.pbf?token={SECRET}"}, "labels.url"),
    ("labels", {"source": "pbf", "path": "a", "checksum": f"https://me:{SECRET}@h/a.md5"}, "labels.checksum"),
    ("labels", {"source": "overpass", "url": f"https://{SECRET}@h/api"}, "labels.url"),
    ("about.homepage", f"https://h/?sig={SECRET}", "about.homepage"),
    ("description", f"get it with Authorization: Bearer {SECRET}", "description"),
]


@pytest.mark.parametrize(("key", "value", "at"), TYPED)
def test_a_typed_token_is_refused_and_not_shown(key: str, value: Any, at: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe_of("xyz", {key: value})
    assert f"\n  {at}: " in str(caught.value)
    with pytest.raises(RecipeError) as refused:
        load_recipe(write_recipe(tmp_path), [f"{key}={value!r}"])
    assert at in str(refused.value)
    assert SECRET not in str(caught.value) + str(refused.value) + repr(refused.value)


@pytest.mark.parametrize(
    ("source", "key"), [("stac", "imagery.api"), ("mlhub", "imagery.url"), ("mlhub", "about.homepage")]
)
def test_of_other_sources_too(source: str, key: str) -> None:
    with pytest.raises(ValidationError, match=rf"{key}: .*\{{env:NAME\}}"):
        recipe_of(source, {key: f"https://h/v1?api_key={SECRET}"})


@pytest.mark.parametrize(
    "override",
    [
        f"imagery.headers.Authorization:{SECRET}",
        f"imagery.headers.Authorization='{SECRET}",
        f"imagery.headers.X-Client={SECRET}",
        f"imagery.headers={{X-Client: {SECRET}}}",
        f"imagery={{source: xyz, url: 'https://h/{{q}}', headers: {{X-Client: {SECRET}}}}}",
        f"imagery.headers.Authorization=[{SECRET}]",
    ],
)
def test_set_takes_no_secret_and_shows_none(override: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(tmp_path), [override])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"imagery.url": f"{TILES}?access_token={{token}}", "imagery.token_env": "T"},
        {"imagery.url": f"{TILES}?map_key={{env:T}}&style=satellite"},
        {"imagery.url": f"{TILES}?{{env:SAS}}"},
        {"imagery.url": "https://me:{env:T}@h/{q}"},
        {"imagery.url": "https://h/{q}?tilekey=3&quadkey={q}&se=2030&sv=2021"},
        {"imagery.headers": {"Authorization": "Bearer {env:T}", "Accept": "image/png", "Referer": "https://h/"}},
        {"labels": {"source": "pbf", "url": "https://h/a.pbf?token={env:T}"}},
        {"about.homepage": "https://h/3@2x.png", "description": "Needs a token: see https://h/keys"},
    ],
)
def test_what_stands_for_one_and_what_is_none_is_taken(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of("xyz", changes)
    assert Recipe.model_validate(recipe.public()).identity() == recipe.identity()
    load_recipe(write_recipe(tmp_path), [f"{key}={value!r}" for key, value in changes.items()])


def test_placeholders_do_not_change_what_older_stores_hold() -> None:
    recipe = recipe_of("xyz", {"imagery.url": f"{TILES}?access_token={{token}}", "imagery.token_env": "T"})
    assert recipe.identity()["imagery"] == f"{TILES}?access_token=***"
    recipe = recipe_of("xyz", {"imagery.url": f"{TILES}?map_key={{token}}", "imagery.token_env": "T"})
    assert recipe.identity()["imagery"] == f"{TILES}?map_key={{token}}"


def test_hashes_depend_on_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("xyz", {"title": "A minioadmin town"})
    before = recipe.hash(), recipe.content_hash(), recipe.public()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "minioadmin")
    assert redact("minioadmin") == "minioadmin"
    load_recipe(Path("datasets/osm-sandbox.yaml"))
    assert redact("minioadmin") == "***"
    assert (recipe.hash(), recipe.content_hash(), recipe.public()) == before


def test_a_header_that_is_no_secret_by_its_name_is_kept_to_itself_all_the_same() -> None:
    recipe = recipe_of("xyz", {"imagery.headers": {"X-Client": "some-client-4711", "Accept": "image/webp"}})
    assert redact("some-client-4711 asked for image/webp") == "*** asked for image/webp"
    assert recipe.public()["imagery"]["headers"] == {"X-Client": "***", "Accept": "***"}


def test_variables_are_filled_in_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T", "t&k n/1234")
    monkeypatch.setenv("SAS", "sv=2021&sig=a%2Fbcdefgh")
    labels = footprint_source(recipe_of("xyz", {"labels": {"source": "pbf", "url": "https://h/a.pbf?token={env:T}"}}))
    assert isinstance(labels, PbfSource)
    assert labels.url == "https://h/a.pbf?token=t%26k%20n%2F1234"
    labels = footprint_source(recipe_of("xyz", {"labels": {"source": "overpass", "url": "https://h/{env:T}/api"}}))
    assert isinstance(labels, OverpassSource)
    assert labels.url == "https://h/t%26k%20n%2F1234/api"
    assert endpoint_of("https://me:{env:T}@h/?{env:SAS}", Path).href == (
        "https://me:t%26k%20n%2F1234@h/?sv=2021&sig=a%2Fbcdefgh"
    )
    imagery = XyzImagery(source="xyz", url=f"{TILES}?a={{env:T}}", headers={"Authorization": "Bearer {env:T}"})
    request = XyzServer(imagery, 256).request(Tile(1, 0, 1))
    assert request.url == "https://h/1/0/1.png?a=t%26k%20n%2F1234"
    assert request.headers["Authorization"] == "Bearer t&k n/1234"
    assert redact("t&k n/1234, t%26k%20n%2f1234, a%2Fbcdefgh, a/bcdefgh") == "***, ***, ***, ***"


def test_a_variable_that_is_not_set_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("T", raising=False)
    with pytest.raises(CredentialError, match=r"^labels\.url: the environment variable T is not set"):
        filled("https://h/?token={env:T}", "labels.url")
    with pytest.raises(CredentialError, match=r"^imagery\.headers\.X-Key: the environment variable T is not set"):
        XyzServer(XyzImagery(source="xyz", url=TILES, headers={"X-Key": "{env:T}"}), 256)


def test_a_token_in_a_header_needs_its_variable() -> None:
    with pytest.raises(ValidationError, match=r"headers\.X-Key: has \{token\}: give token_env"):
        recipe_of("xyz", {"imagery.headers": {"X-Key": "{token}"}})


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        *((f"{key}={value}", True) for key, value, _ in TYPED if key == "imagery.url" and "sk." not in value),
        ("imagery.headers.X-Client=abc", True),
        ("imagery={source: xyz, headers: {X-Client: abc}}", True),
        ("labels.url=https://h/a.pbf?token={env:T}", False),
        ("imagery.headers.Accept=image/png", False),
        ("imagery.headers.X-Api-Key={token}", False),
        ("grid.zoom=17", False),
        ("imagery.url=https://h/{z}/{x}/{y}@2x.png?style=a", False),
    ],
)
def test_what_keeps_settings_can_find_tokens_in_them(setting: str, found: bool) -> None:
    assert bool(re.search(typed_pattern(), setting)) is found
