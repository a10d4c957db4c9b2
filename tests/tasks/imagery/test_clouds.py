from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from pydantic import ValidationError

from tasks.errors import SourceError
from tasks.imagery.clouds import cloud_mask, fraction, grown, needed_layers
from tasks.imagery.protocol import Chip
from tasks.recipe.parts import Clouds


@dataclass
class Layers:
    """An acquisition that has nothing but layers, and notes which were asked for."""

    layers: dict[str, NDArray[Any]]
    id: str = "S2A_x"
    acquired_at: int | None = None
    asked: list[str] = field(default_factory=list)

    def read(self) -> Chip:
        raise AssertionError("no band is needed")

    def layer(self, name: str) -> NDArray[Any] | None:
        self.asked.append(name)
        return self.layers.get(name)


PROVIDED = np.array([[0, 1], [255, 0]], dtype=np.uint8)
CLD = np.array([[49, 50], [255, 0]], dtype=np.uint8)
SCL = np.array([[4, 3], [9, 11]], dtype=np.uint8)
ALL = {"cloudmask": PROVIDED, "CLD": CLD, "SCL": SCL}
bools = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=12))


def test_a_provided_mask_is_what_is_not_zero() -> None:
    found = cloud_mask(Layers(ALL), Clouds(mask="provided"))
    assert np.array_equal(found, [[False, True], [True, False]])


@pytest.mark.parametrize(
    ("threshold", "expected"), [(50, [[0, 1], [1, 0]]), (49, [[1, 1], [1, 0]]), (100, [[0, 0], [1, 0]])]
)
def test_a_probability_counts_from_the_threshold_and_its_nodata_counts(
    threshold: int, expected: list[list[int]]
) -> None:
    found = cloud_mask(Layers(ALL), Clouds(mask="cld", threshold=threshold))
    assert np.array_equal(found, np.array(expected, dtype=bool))


def test_a_probability_that_is_not_a_number_is_cloud() -> None:
    found = cloud_mask(Layers({"CLD": np.array([[np.nan, 10.0]], dtype=np.float32)}), Clouds(mask="cld"))
    assert np.array_equal(found, [[True, False]])


def test_scene_classes_are_those_dropped() -> None:
    assert np.array_equal(cloud_mask(Layers(ALL), Clouds(mask="scl")), [[False, True], [True, False]])
    assert np.array_equal(cloud_mask(Layers(ALL), Clouds(mask="scl", drop=[4, 11])), [[True, False], [False, True]])
    assert not np.any(cloud_mask(Layers(ALL), Clouds(mask="scl", drop=[])))


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        (["cloudmask", "CLD", "SCL"], ["cloudmask"]),
        (["CLD", "SCL"], ["cloudmask", "CLD"]),
        (["SCL"], ["cloudmask", "CLD", "SCL"]),
    ],
)
def test_auto_takes_the_first_there_is(there: list[str], asked: list[str]) -> None:
    item = Layers({name: ALL[name] for name in there})
    explicit = {"cloudmask": "provided", "CLD": "cld", "SCL": "scl"}[there[0]]
    assert np.array_equal(cloud_mask(item, Clouds(mask="auto")), cloud_mask(Layers(ALL), Clouds(mask=explicit)))
    assert item.asked == asked


@pytest.mark.parametrize("there", [["cloudmask", "CLD", "SCL"], ["CLD", "SCL"], ["SCL"], ["cloudmask", "SCL"]])
def test_a_union_takes_what_any_layer_marks_that_there_is(there: list[str]) -> None:
    item = Layers({name: ALL[name] for name in there})
    each = {name: cloud_mask(Layers({name: ALL[name]}), Clouds(mask="auto")) for name in there}
    found = cloud_mask(item, Clouds(mask="union"))
    assert np.array_equal(found, np.any([*each.values()], axis=0))
    assert sorted(item.asked) == ["CLD", "SCL", "cloudmask"]


def test_a_date_that_one_layer_calls_clear_and_another_cloudy_is_cloudy() -> None:
    scl, cld = np.zeros((10, 10), dtype=np.uint8), np.zeros((10, 10), dtype=np.uint8)
    scl[:6], scl[6:] = 9, 4
    item = Layers({"SCL": scl, "CLD": cld})
    assert np.mean(cloud_mask(item, Clouds(mask="auto"))) == 0.0
    assert np.mean(cloud_mask(item, Clouds(mask="union"))) == 0.6
    assert np.mean(cloud_mask(item, Clouds(mask=["cld", "scl"]))) == 0.6


def test_the_layers_of_a_list_must_all_be_there_and_no_other_is_read() -> None:
    item = Layers(ALL | {"SCL": np.array([[9, 4], [4, 4]], dtype=np.uint8)})
    found = cloud_mask(item, Clouds(mask=["scl", "provided", "scl"]))
    assert np.array_equal(found, [[True, True], [True, False]])
    assert item.asked == ["cloudmask", "SCL"]
    assert needed_layers(Clouds(mask=["scl", "provided", "scl"])) == ("SCL", "cloudmask")
    assert needed_layers(Clouds(mask="cld")) == ("CLD",)
    assert needed_layers(Clouds(mask="union")) == needed_layers(Clouds(mask="none")) == ()


def test_the_clouds_of_a_union_are_grown_together() -> None:
    first, second = np.zeros((1, 9), dtype=np.uint8), np.full((1, 9), 4, dtype=np.uint8)
    first[0, 1], second[0, 7] = 1, 9
    found = cloud_mask(Layers({"cloudmask": first, "SCL": second}), Clouds(mask="union", dilate=1))
    assert np.array_equal(found, [[True, True, True, False, False, False, True, True, True]])


def test_nothing_is_known_without_a_layer_or_a_mask() -> None:
    assert cloud_mask(Layers({}), Clouds(mask="auto")) is None
    assert cloud_mask(Layers({}), Clouds(mask="union")) is None
    item = Layers(ALL)
    assert cloud_mask(item, Clouds(mask="none")) is None
    assert item.asked == []


@pytest.mark.parametrize(
    ("mask", "there", "message"),
    [
        ("scl", ["CLD"], "S2A_x: has no SCL layer, which clouds.mask: scl needs; it has CLD; .* cld or auto or union"),
        (["scl", "cld"], ["CLD"], r"has no SCL layer, which clouds.mask: \[scl, cld\] needs; it has CLD; .* cld or au"),
        (["scl", "cld"], [], "has no CLD layer, .*; it has no other cloud layer either; choose clouds.mask: none"),
        ("provided", ["CLD", "SCL"], "has no cloudmask layer.*it has CLD and SCL; .* cld or scl or auto"),
        ("cld", [], "it has no other cloud layer either; choose clouds.mask: none"),
    ],
)
def test_a_missing_layer_is_told_with_those_there_are(mask: Any, there: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        cloud_mask(Layers({name: ALL[name] for name in there}), Clouds(mask=mask))


@pytest.mark.parametrize("mask", [[], ["scl", "fmask"], ["auto"], ["union", "scl"], "fmask", 3, None])
def test_what_names_no_layer_is_refused_in_one_message(mask: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"valid: auto, union, none, .* or a list of provided, cld, scl"
    ) as caught:
        Clouds(mask=mask)
    assert caught.value.error_count() == 1


def test_dilation_is_applied_to_what_is_found() -> None:
    layer = np.zeros((5, 5), dtype=np.uint8)
    layer[2, 2] = 1
    found = cloud_mask(Layers({"cloudmask": layer}), Clouds(mask="provided", dilate=1))
    assert np.array_equal(
        found, np.array([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0] * 5])
    )


@given(bools, st.integers(0, 20))
def test_a_pixel_is_grown_over_when_a_marked_one_is_near(mask: NDArray[np.bool_], radius: int) -> None:
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    apart = (y[..., np.newaxis] - rows) ** 2 + (x[..., np.newaxis] - columns) ** 2
    assert np.array_equal(grown(mask, radius), (apart <= radius * radius).any(axis=-1))


@given(bools)
def test_the_fraction_is_of_all_pixels(mask: NDArray[np.bool_]) -> None:
    assert fraction(mask) == mask.mean()
    assert fraction(np.ones_like(mask)) == 1.0
