"""Paths with placeholders and regular expressions in recipes: what is refused, and that none takes long."""

import re
import time

import pytest

from tasks.recipe.patterns import compiled, linear, path_pattern


@pytest.mark.parametrize(
    "path",
    [
        "{scene}.tif",
        "../data/*/{scene}/*/{scene}_{date}_{band}*.tif",
        "/abs/[1] ?/Zürich lake.tif",
        "{scene}{date}.tif",
    ],
)
def test_paths_that_can_be_used(path: str) -> None:
    assert path_pattern(path, ("scene", "band", "date")) == path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{", "a brace of { stands alone"),
        ("}{.tif", "a brace of }{.tif stands alone"),
        ("{scene.tif", "stands alone; braces stand around placeholders: {scene}, {band}"),
        ("{{scene}}.tif", "stands alone"),
        ("{}.tif", "unknown placeholder {} in {}.tif; valid: {scene}, {band}, {date}"),
        ("{scene}_{pol}.tif", "unknown placeholder {pol}"),
        ("{scene}{scene}.tif", "stands twice in a row"),
        ("**/{scene}.tif", "comes alone; write folder/*/name"),
        ("images/**.tif", "comes alone"),
        ("a\0b.tif", "control character"),
        ("a\nb.tif", "control character"),
        ("x" * 5000, "has 5,000 characters; a path has at most 1,000"),
        ("images/", "names a folder"),
        ("/", "names a folder"),
        (".", "names a folder"),
        ("a/..", "names a folder"),
        ("{scene}/../{band}.tif", ".. comes after a placeholder"),
        ("{scene}*_*_*_*_{scene}.tif", "takes 3 * at most"),
    ],
)
def test_paths_that_cannot_be_used(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        path_pattern(path, ("scene", "band", "date"))


@pytest.mark.parametrize(
    "expression",
    [r"(?=a)b", r"(?<!a)b", r"(a)\1", "(?P<a>a)(?P=a)", "(", "[z-a]", "a{5000}", "(((a{99}){99}){99}){99}", "\ud800"],
)
def test_expressions_that_cannot_be_used(expression: str) -> None:
    with pytest.raises(ValueError, match=r"^is no regular expression that can be used \(.*\); it is read by RE2"):
        compiled(expression)


def test_an_expression_has_a_length() -> None:
    with pytest.raises(ValueError, match="has 501 characters; a regular expression has at most 500"):
        compiled("a" * 501)
    assert linear("a" * 5000) is not None


@pytest.mark.parametrize("expression", ["(a+)+$", "(a|aa)+$", "(.*a){25}$", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_no_expression_takes_long(expression: str) -> None:
    began = time.monotonic()
    compiled(expression).search("a" * 5000 + "!")
    assert time.monotonic() - began < 5


def test_groups_are_those_that_python_finds() -> None:
    for expression in ("^[a-z-]+", "[A-Z]-[0-9]+", r"^\d+_\w+?_", "tyrol|vienna", "(?i)AUSTIN"):
        for name in ("austin10", "tyrol-w2", "M-33-20-D-c-4-2", "20190804_tile_8679", "Wien-vienna"):
            ours, theirs = compiled(expression).search(name), re.search(expression, name)
            assert (ours and ours.group()) == (theirs and theirs.group())
