from collections import Counter

import pytest

from tasks.errors import RecipeError
from tasks.recipe.parts import Splits
from tasks.samples.groups import HELD_OUT, explain_unmatched, named_splits, unmatched
from tasks.versions.splits import assign_splits


def test_named_groups_stay_where_the_recipe_puts_them() -> None:
    cities = ["austin", "chicago", "kitsap"]
    scenes = [f"{city}{n}" for city in cities for n in range(1, 12)]
    groups = {"validation": [f"{city}{n}" for city in cities for n in range(1, 6)], "train": ["austin*"]}
    with pytest.raises(RecipeError, match=r"splits\.groups: austin10 is named in test and train"):
        named_splits(scenes, {**groups, "test": ["*10"]})
    named = named_splits([*scenes, "kitsap9:reserved"], groups)
    assert Counter(named.values()) == {"validation": 16, "train": 6}
    rest = assign_splits({scene: scene for scene in scenes}, named, Splits(train=1.0, validation=0.0, test=0.0))
    assert {scene: rest[scene] for scene in named if scene in rest} == {s: named[s] for s in named if s in rest}
    assert {rest[scene] for scene in scenes if scene not in named} == {"train"}


def test_what_is_held_out_validates_whatever_its_scene_does() -> None:
    assert HELD_OUT == ":reserved"  # stores hold it
    named = named_splits(["austin1", "austin1" + HELD_OUT], {"train": ["austin*"]})
    assert named == {"austin1": "train", "austin1:reserved": "validation"}


def test_names_that_meet_nothing_are_found() -> None:
    units = ["austin1", "austin2", f"vienna1{HELD_OUT}", "a[1]"]
    groups = {"train": ["austin1", "austin*", "a[1]"], "test": ["vienna1", "vienna?", "viena*", "austin", "austin[34]"]}
    assert unmatched(units, groups) == [("test", "viena*"), ("test", "austin"), ("test", "austin[34]")]
    assert unmatched([], {"test": ["*"]}) == [("test", "*")]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("austn*", "did you mean 'austin1' or 'austin2'? There are austin1, austin2, vienna1 (3 in all)"),
        ("Vienna1", "did you mean 'vienna1'?"),
        ("zzz", "no scene is named 'zzz'. There are"),
    ],
)
def test_the_nearest_names_are_told(name: str, told: str) -> None:
    error = explain_unmatched("test", name, ["austin1", "austin2", f"vienna1{HELD_OUT}"], "scene")
    assert str(error).startswith(f"splits.groups.test: no scene is named {name!r}")
    assert told in str(error)


def test_a_name_is_compared_with_few_of_a_million() -> None:
    units = [f"{letter}{n}" for letter in "abc" for n in range(300_000)]
    assert "no sample is named 'b-1'" in str(explain_unmatched("test", "b-1", units, "sample"))
