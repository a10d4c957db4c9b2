"""YAML that nobody would write by hand: refused within a second, in one short line with the file's."""

import math
import os
import time
from pathlib import Path
from random import Random

import pytest

from tasks.errors import RecipeError
from tasks.recipe.document import MAX_BYTES, parse
from tasks.recipe.load import find_recipe, load_recipe
from tasks.recipe.sources import ScenesImagery
from tests.support.odd import override, recipe
from tests.support.recipes import RECIPE, write_recipe
from tests.tasks.recipe.test_load import SCENES

SECONDS = 5.0  # of processor time, on a machine that does other things too; about 1 where it does not


def aliases(entry: str, first: str) -> str:
    """Eight levels of ten aliases: a hundred million values in a kilobyte."""
    levels = [f"a{level}: &a{level} {entry.format(below=f'*a{level - 1}')}" for level in range(1, 8)]
    return "\n".join([f"a0: &a0 {first}", *levels])


ALIASES = {
    "lists": aliases("[" + ", ".join(["{below}"] * 10) + "]", "[1, 1]"),
    "mappings": aliases("{{" + ", ".join(f"k{one}: {{below}}" for one in range(10)) + "}}", "{x: 1}"),
    "merges": aliases("{{!!merge <<: [" + ", ".join(["{below}"] * 10) + "]}}", "{x: 1}"),
    "a cycle": "a: &a [*a]",
    "a cycle in a key": "? &a [*a]\n: 1",
}
LARGE = {
    "brackets": "[" * (1 << 20),
    "fewer brackets": "[" * MAX_BYTES,
    "braces": "{" * MAX_BYTES,
    "entries": "- " * (MAX_BYTES // 2),
    "questions": "? " * (MAX_BYTES // 2),
    "indents": "\n".join(" " * depth + "a:" for depth in range(400)),
    "keys": "\n".join(f"k{number}: 1" for number in range(12_000)),
    "values": "a: [" + "1," * 60_000 + "]",
    "lines": "a\n" * (MAX_BYTES // 2),
    "directives": "%a b\n" * (MAX_BYTES // 5),
    "anchors": "\n".join(f"k{number}: &a{number} 1" for number in range(6_000)),
    "escapes": 'a: "' + "\\x41" * 30_000 + '"',
}


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert time.process_time() - began < SECONDS
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert len(message) < 600
    return message


@pytest.mark.parametrize("text", ALIASES.values(), ids=ALIASES)
def test_aliases_are_counted_as_copies(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path / "a.yaml", text)
    assert any(
        told in message for told in ("more than 10,000 values", "more than 32 deep", "is no text", "!merge", "merge")
    )


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_large_text_is_refused_soon(tmp_path: Path, text: str) -> None:
    refusal(tmp_path / "a.yaml", text)


def test_an_alias_is_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(RECIPE + "limits: &l {max_tiles: 5}\nabout: &a {size: x}\n")
    assert load_recipe(path, ["about.size=y"]).about.size == "y"
    value, lines = parse("a: &a {b: 1}\nc: *a\n", str)
    value["a"]["b"] = 2
    assert value == {"a": {"b": 2}, "c": {"b": 1}}
    assert lines[("c", "b")] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "1" * 10_000, "a.yaml:1: a whole number of more than 18 digits"),
        ("name: x\n[a, b]: c", "a.yaml:2: a key here is no text; put it in quotes"),
        ("~: 1", "a.yaml:1: a key here is no text"),
        ("1.5: 1", "a.yaml:1: a key here is no text"),
        ("? " + "x" * 5000 + "\n: 1", "a.yaml:1: a key here is longer than 200 characters"),
        ("a: {b: 1, b: 2}", "a.yaml:1: key 'b' stands twice"),
        ("name: x\na: !!binary aGk=", "a.yaml:2: not valid YAML"),
        ("a: !!bool maybe", "a.yaml:1: not valid YAML"),
        ("a: !!int x", "a.yaml:1: not valid YAML"),
        ("a: !!timestamp 2024-01-01", "a.yaml:1: not valid YAML"),
        ("a: !!set {x, y}", "a.yaml:1: not valid YAML"),
        ("a: !!str [x]", "a.yaml:1: not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "a.yaml:1: not valid YAML"),
        ("name: x\ntitle: \x00", "a.yaml:1: not valid YAML"),
        ('name: x\ntitle: "a\\0b"', "a.yaml:2: a control character"),
        ('name: x\ntitle: "\\ud800"', "a.yaml:2: a control character, or half a surrogate pair"),
        ('"\\e[31m": 1', "a.yaml:1: a control character"),
        ("a: 1\n---\nb: 1", "a.yaml:2: not valid YAML"),
    ],
)
def test_what_no_recipe_holds_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    told = refusal(tmp_path / "a.yaml", text)
    assert message in told
    assert told.isprintable()


def test_at_most_ten_problems_are_told_and_long_values_shortened(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(RECIPE.replace("[{name", "[" + "3, " * 5000 + "{name", 1))
    with pytest.raises(RecipeError, match=r"and 4,99. more") as caught:
        load_recipe(path)
    assert len(str(caught.value).splitlines()) == 11
    assert len(refusal(path, RECIPE.replace("by: block", f"by: {'x' * 50_000}"))) < 400


def test_infinite_numbers_are_refused_but_as_nodata(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    for value in (".inf", ".nan", "1e999"):
        with pytest.raises(RecipeError, match=r"^--set limits\.max_download_gb: input should be a finite number"):
            load_recipe(path, [f"limits.max_download_gb={value}"])
    (tmp_path / "scenes.yaml").write_text(SCENES)
    nodata = load_recipe(tmp_path / "scenes.yaml", ["imagery.nodata=.nan"]).imagery
    assert isinstance(nodata, ScenesImagery)
    assert nodata.nodata is not None
    assert math.isnan(nodata.nodata)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a." * 10_000 + "b=1", r"--set a\.a\..*: is no key"),
        ("x" * 300 + "=1", r"--set x.*: is no key"),
        ("na\nme=1", r"--set 'na\\nme': is no key"),
        ("classes.99999999999999999999.name=x", "is not one of the 2 entries"),
        ("classes.\u00b2.name=x", "is not one of the 2 entries"),
        ("classes.\u0663.name=x", "is not one of the 2 entries"),
        ("name=" + "x" * (10 << 20), r"--set name: its value is larger than 131,072 bytes"),
        ("grid={zoom: 1, zoom: 2}", r"--set grid: its value: key 'zoom' stands twice"),
        ("grid.zoom=" + "1" * 10_000, r"--set grid\.zoom: its value: a whole number of more than 18 digits"),
        ("area=" + ALIASES["lists"], r"--set area: its value: has more than 10,000 values"),
        ("area=" + "[" * 1000, r"--set area: its value: nested more than 32 deep"),
        ("area=&a [*a]", r"--set area: its value: nested more than 32 deep"),
        ('title="a\\0b"', r"--set title: its value: a control character"),
        ("title=\x00", r"--set title: its value: not valid YAML"),
        ("title=!!python/name:os.system", r"--set title: its value: not valid YAML"),
    ],
)
def test_absurd_overrides_are_refused_soon(tmp_path: Path, given: str, message: str) -> None:
    path, began = write_recipe(tmp_path), time.process_time()
    with pytest.raises(RecipeError, match=f"^{message}" if message.startswith("--") else message) as caught:
        load_recipe(path, [given])
    assert time.process_time() - began < SECONDS
    assert len(str(caught.value)) < 400


def test_a_recipe_is_a_plain_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path, message in ((pipe, "is a special file"), (tmp_path, "is a folder"), (tmp_path / "a\0b", "is no path")):
        with pytest.raises(RecipeError, match=message):
            load_recipe(path)
    for name in (str(pipe), str(tmp_path), "x" * 5000, "x" * 300 + ".yaml", "a\0b", "x\ny", "/dev/zero", ""):
        with pytest.raises(RecipeError, match=r"no such recipe file|neither a recipe file nor") as caught:
            find_recipe(name)
        assert str(caught.value).isprintable()


def test_odd_recipes_and_overrides_are_read_or_refused(tmp_path: Path) -> None:
    path, good = tmp_path / "odd.yaml", write_recipe(tmp_path)
    read, told = 0, []
    for seed in range(150):
        random = Random(seed)
        path.write_bytes(recipe(random))
        for file, overrides in ((path, []), (good, [override(random)])):
            try:
                load_recipe(file, overrides)
                read += 1
            except RecipeError as error:
                told.append(str(error))
    assert read
    assert max(map(len, told)) < 5000
