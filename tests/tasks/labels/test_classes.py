from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from tasks.errors import LabelError, RecipeError
from tasks.labels.classes import ClassMap
from tasks.labels.protocol import RawLabels
from tasks.recipe.model import Recipe

CLASSES = [
    {"name": "background", "value": 0, "color": "#000000", "source_values": [0, 7, -3]},
    {"name": "building", "value": 2, "color": "#FF0000", "source_values": [1, 70_000]},
    {"name": "water", "value": 5, "color": "#0000ff", "source_values": [65_535]},
]
SOURCE = {0: 0, 7: 0, -3: 0, 1: 2, 70_000: 2, 65_535: 5, 200: 255, -9: 255}
shapes = npst.array_shapes(min_dims=2, max_dims=2, max_side=9)


def recipe(classes: list[dict[str, Any]] = CLASSES, labels: dict[str, Any] | None = None, **more: Any) -> Recipe:
    scenes = {"source": "scenes", "images": "{scene}.tif", "bands": ["red"], "windows": {"size": 64}}
    collection = {"source": "mlhub", "reader": "local", "path": "chips", "bands": ["B02"]}
    return Recipe.model_validate(
        {
            "name": "made-up",
            "title": "Made up",
            "imagery": collection if labels else scenes,
            "labels": labels or {"source": "rasters", "path": "{scene}.png"},
            "classes": classes,
            **more,
        }
    )


def plain(**more: Any) -> list[dict[str, Any]]:
    """Two classes that stand for their own values and colours; the second with ``more``."""
    return [
        {"name": "background", "value": 0, "color": "#000000"},
        {"name": "building", "value": 1, "color": "#ffffff", **more},
    ]


@given(npst.arrays(np.int64, shapes, elements=st.sampled_from(sorted(SOURCE))))
def test_every_pixel_has_the_class_of_its_source_value(values: NDArray[np.int64]) -> None:
    found = ClassMap.of(recipe(ignore_values=[200, -9])).apply(RawLabels(values), "w")
    assert found.dtype == np.uint8
    assert found.tolist() == [[SOURCE[value] for value in row] for row in values.tolist()]


@given(st.lists(st.sampled_from(sorted(SOURCE)), min_size=12, max_size=12), st.permutations(range(12)))
def test_the_class_does_not_depend_on_the_place(drawn: list[int], order: list[int]) -> None:
    table, values = ClassMap.of(recipe(ignore_values=[200, -9])), np.array(drawn)
    whole = table.apply(RawLabels(values.reshape(3, 4)), "w")
    assert np.array_equal(table.apply(RawLabels(values[order].reshape(3, 4)), "w").ravel(), whole.ravel()[order])


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "f4"]
)
def test_any_integer_type_is_read(dtype: str) -> None:
    values = np.array([[0, 1], [1, 0]], dtype=dtype)
    assert ClassMap.of(recipe(plain())).apply(RawLabels(values), "w").tolist() == [[0, 1], [1, 0]]


def test_values_by_default_are_the_class_s_own() -> None:
    assert ClassMap.of(recipe(plain(source_values=[4]))).apply(RawLabels(np.array([[0, 4]])), "w").tolist() == [[0, 1]]


def test_unknown_values_are_listed_with_their_counts() -> None:
    values = np.array([[0, 9, 9], [44, -5, 1]], dtype=np.int32)
    with pytest.raises(LabelError) as told:
        ClassMap.of(recipe()).apply(RawLabels(values), "scene/0-64")
    assert str(told.value) == (
        "scene/0-64: labels that the recipe does not know, with their counts of pixels: -5 (1), 9 (2), 44 (1); "
        "add them to the source_values of a class, or to ignore_values where they mean no label"
    )


def test_of_many_unknown_values_twenty_are_listed() -> None:
    with pytest.raises(LabelError, match=r"100 \(1\), .*119 \(1\) and 5 more; add them"):
        ClassMap.of(recipe()).apply(RawLabels(np.arange(100, 125, dtype=np.uint8).reshape(5, 5)), "w")


@pytest.mark.parametrize("big", [np.iinfo(np.uint64).max, np.iinfo(np.int64).max])
def test_huge_values_are_unknown_and_no_overflow(big: int) -> None:
    with pytest.raises(LabelError, match=r"\(1\)"):
        ClassMap.of(recipe()).apply(RawLabels(np.array([[0, big]], dtype=np.uint64)), "w")


def test_pixels_without_a_label_are_ignored_whatever_they_hold() -> None:
    missing = np.array([[True, False], [False, True]])
    table = ClassMap.of(recipe())
    assert table.apply(RawLabels(np.array([[99, 1], [0, 98]]), missing), "w").tolist() == [[255, 2], [0, 255]]
    floats = np.array([[np.nan, 1], [0, np.inf]])
    assert table.apply(RawLabels(floats, missing), "w").tolist() == [[255, 2], [0, 255]]
    assert missing.tolist() == [[True, False], [False, True]]


def test_a_low_consensus_is_ignored() -> None:
    labels = {"source": "provided", "min_consensus": 60}
    table = ClassMap.of(recipe(plain(), labels, ignore_index=9))
    raw = RawLabels(np.array([[1, 1, 8]]), consensus=np.array([[60, 59, 0]], dtype=np.uint8))
    assert table.apply(raw, "w").tolist() == [[1, 9, 9]]
    with pytest.raises(LabelError, match=r"chip_3: labels\.min_consensus is 60, but the labels have no consensus band"):
        table.apply(RawLabels(np.array([[1]])), "chip_3")


def test_without_a_minimum_the_consensus_does_not_matter() -> None:
    raw = RawLabels(np.array([[1]]), consensus=np.array([[0]], dtype=np.uint8))
    assert ClassMap.of(recipe(plain(), {"source": "provided"})).apply(raw, "w").tolist() == [[1]]


def test_colours_are_classes() -> None:
    classes = plain(source_colors=["#Ff0102", "#00ff00"])
    pixels = np.array([[[0, 0, 0], [255, 1, 2], [0, 255, 0]]], dtype=np.uint8)
    found = ClassMap.of(recipe(classes)).apply(RawLabels(pixels.transpose(2, 0, 1)), "w")
    assert found.tolist() == [[0, 1, 1]]
    other = np.array([[[1, 2, 255], [0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    with pytest.raises(
        LabelError, match=r"#0102ff \(1\), #ffffff \(1\); add them to the source_colors of a class, or to "
    ):
        ClassMap.of(recipe(classes)).apply(RawLabels(other.transpose(2, 0, 1)), "w")


def test_alike_colours_matter_only_for_colour_labels() -> None:
    classes = plain()
    classes[1]["color"] = "#000000"
    table = ClassMap.of(recipe(classes))
    assert table.apply(RawLabels(np.array([[0, 1]])), "w").tolist() == [[0, 1]]
    with pytest.raises(RecipeError, match=r"w: its labels are RGB .* same color; give them source_colors"):
        table.apply(RawLabels(np.zeros((3, 1, 2), dtype=np.uint8)), "w")


@pytest.mark.parametrize(
    ("classes", "more", "message"),
    [
        (plain(source_values=[5, 0]), {}, "0 is claimed by both background and building"),
        (plain(source_colors=["#000000"]), {}, "#000000 is claimed by both background and building"),
        (plain(), {"ignore_values": [9, 1]}, "ignore_values: 1 is claimed by class building too"),
        (plain(source_values=[2**63]), {}, "9223372036854775808 fits no raster"),
    ],
)
def test_a_value_means_one_thing(classes: list[dict[str, Any]], more: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ClassMap.of(recipe(classes, **more))


@pytest.mark.parametrize("values", [[], [3, 3]])
def test_a_class_may_have_no_value_or_one_twice(values: list[int]) -> None:
    table = ClassMap.of(recipe(plain(source_values=values)))
    known = [[0, *values]]
    assert table.apply(RawLabels(np.array(known)), "w").tolist() == [[0, *(1 for _ in values)]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0.5, 1.0]]), "w: labels are float64 and not whole numbers"),
        (np.array([[np.nan, 1.0]], dtype=np.float32), "labels are float32 and not whole"),
        (np.array([[1j]]), "labels of type complex128; expected integer"),
        (np.zeros((4, 2, 2), dtype=np.uint8), r"labels of shape \(4, 2, 2\); expected one band"),
    ],
)
def test_what_is_no_label_raster_is_told(values: NDArray[Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        ClassMap.of(recipe()).apply(RawLabels(values), "w")


FOOTPRINTS = {"source": "vector", "path": "b.gpkg"}


def test_footprints_are_the_building_class() -> None:
    drawn = np.array([[True, False]])
    table = ClassMap.of(recipe(labels=FOOTPRINTS))
    found = table.apply(RawLabels(drawn), "w")
    assert found.tolist() == [[2, 0]]
    assert found.dtype == np.uint8
    assert table.apply(RawLabels(drawn, np.array([[True, False]])), "w").tolist() == [[255, 0]]
    assert drawn.tolist() == [[True, False]]


def slippy(labels: dict[str, Any]) -> Recipe:
    values = {"name": "made-up", "title": "Made up", "area": {"bbox": [0, 0, 1, 1]}, "grid": {"zoom": 16}}
    return Recipe.model_validate(
        {**values, "imagery": {"source": "ign"}, "classes": plain(), "labels": labels, "ignore_index": None}
    )


@pytest.mark.parametrize(
    ("labels", "values"),
    [({"source": "rasters", "path": "{scene}.tif"}, [[0, 1]]), (FOOTPRINTS, [[False, True]])],
)
def test_without_an_ignore_index_every_pixel_has_a_label(labels: dict[str, Any], values: list[list[int]]) -> None:
    table = ClassMap.of(slippy(labels))
    assert table.apply(RawLabels(np.array(values), np.array([[False, False]])), "w").tolist() == [[0, 1]]
    with pytest.raises(RecipeError, match="ignore_index: is null, but w has pixels without a label; give it a value"):
        table.apply(RawLabels(np.array(values), np.array([[True, False]])), "w")


def test_colours_without_a_label_are_ignored() -> None:
    table = ClassMap.of(recipe(plain(), ignore_colors=["#123456", "#000000"]))
    raster = np.array([[[0x12, 0xFF, 0x00]], [[0x34, 0xFF, 0x00]], [[0x56, 0xFF, 0x00]]], dtype=np.uint8)
    assert table.apply(RawLabels(raster), "w").tolist() == [[255, 1, 255]]
    with pytest.raises(RecipeError, match=r"ignore_colors: #0a0b0c is claimed by class building too"):
        ClassMap.of(recipe(plain(source_colors=["#0a0b0c"]), ignore_colors=["#0A0B0C"]))
