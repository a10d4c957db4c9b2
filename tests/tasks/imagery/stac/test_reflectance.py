"""The rule for reflectance, and what it makes of numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tasks.errors import SourceError
from tasks.imagery.stac.reflectance import Rule, check_negatives, rule_of, to_reflectance

V11 = {"raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}]}
V2 = {"raster:scale": 0.0001, "raster:offset": -0.1}
STAC11 = {"bands": [{"name": "B04", "raster:scale": 0.0001, "raster:offset": -0.1}]}
LANDSAT = {"raster:bands": [{"scale": 2.75e-05, "offset": -0.2}]}


@pytest.mark.parametrize(
    ("properties", "asset", "scale", "offset", "says"),
    [
        ({}, V11, 1e-4, -0.1, "raster:bands"),
        ({}, V2, 1e-4, -0.1, "raster:scale"),
        ({}, STAC11, 1e-4, -0.1, "raster:scale in bands"),
        ({}, LANDSAT, 2.75e-5, -0.2, "raster:bands"),
        ({}, {"raster:bands": [{"scale": 0.0001}]}, 1e-4, 0.0, "raster:bands"),
        ({}, {"raster:bands": [{"offset": -5}]}, 1.0, -5.0, "raster:bands"),
        ({"s2:processing_baseline": "05.09"}, V11, 1e-4, -0.1, "raster:bands"),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, V11, 1e-4, 0.0, "offset_applied"),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}, V11, 1e-4, -0.1, "raster"),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, {}, 1e-4, 0.0, "offset_applied"),
        ({"s2:processing_baseline": "04.00"}, {}, 1e-4, -0.1, "baseline 04.00, offset -1000"),
        ({"s2:processing_baseline": "05.11"}, {}, 1e-4, -0.1, "baseline 05.11, offset -1000"),
        ({"s2:processing_baseline": "03.01"}, {}, 1e-4, 0.0, "baseline 03.01, no offset"),
        ({"s2:processing_baseline": "02.14"}, {"raster:bands": [{"nodata": 0}]}, 1e-4, 0.0, "no offset"),
        ({"s2:processing_baseline": "05.00"}, {"raster:bands": [{"scale": 0.0001}]}, 1e-4, -0.1, "offset -1000"),
        ({"s2:processing_baseline": "05.00"}, {"raster:bands": [{"scale": 1e-4, "offset": 0}]}, 1e-4, 0.0, "bands"),
        ({"processing:version": "05.11", "constellation": "sentinel-2"}, {}, 1e-4, -0.1, "05.11"),
    ],
)
def test_the_rule_follows_the_item_and_the_asset(
    properties: dict[str, Any], asset: dict[str, Any], scale: float, offset: float, says: str
) -> None:
    rule = rule_of(properties, asset)
    assert rule is not None
    assert (rule.scale, rule.offset) == pytest.approx((scale, offset))
    assert says in rule.note


@pytest.mark.parametrize(
    ("properties", "asset"),
    [
        ({}, {}),
        ({"earthsearch:boa_offset_applied": True}, {}),
        ({"processing:version": "05.11", "constellation": "landsat"}, {}),
        ({}, {"raster:bands": [{"scale": None}], "bands": [None], "raster:scale": None}),
        ({"s2:processing_baseline": None, "earthsearch:boa_offset_applied": None}, {"raster:bands": None}),
    ],
)
def test_without_a_word_on_the_scale_there_is_no_rule(properties: dict[str, Any], asset: dict[str, Any]) -> None:
    assert rule_of(properties, asset) is None


@pytest.mark.parametrize(
    ("properties", "asset", "says"),
    [
        ({}, {"raster:bands": [{"scale": "0.0001"}]}, "raster:bands: scale is '0.0001'; expected a number"),
        ({}, {"raster:bands": [{"scale": True}]}, "raster:bands: scale is True; expected a number"),
        ({}, {"raster:bands": [{"scale": [1e-4]}]}, r"scale is \[0.0001\]; expected a number"),
        ({}, {"raster:bands": [{"scale": float("nan")}]}, "scale is nan; expected a number"),
        ({}, {"raster:bands": [{"scale": 10**400}]}, r"scale is 1000.*\.\.\.; expected a number"),
        ({}, {"raster:bands": [{"scale": 0}]}, "scale is 0, which leaves nothing"),
        (
            {},
            {"raster:bands": [{"scale": 1e-4, "offset": "-0.1"}]},
            "raster:bands: offset is '-0.1'; expected a number",
        ),
        ({}, {"raster:bands": [{"scale": 1e-4, "offset": float("inf")}]}, "offset is inf"),
        ({}, {"raster:bands": "none"}, "raster:bands is 'none'; expected a list"),
        ({}, {"raster:bands": {"scale": 1e-4}}, "raster:bands is .*; expected a list"),
        ({}, {"raster:bands": ["B04"]}, "raster:bands has 'B04' for band 1; expected an object"),
        ({}, {"bands": [{"raster:scale": "1"}]}, "a, bands: raster:scale is '1'; expected a number"),
        ({}, {"raster:scale": "1"}, "^a: raster:scale is '1'; expected a number"),
        ({"s2:processing_baseline": "unknown"}, {}, "s2:processing_baseline of its item is 'unknown'"),
        ({"s2:processing_baseline": 5}, {"raster:scale": 1e-4}, "s2:processing_baseline of its item is 5"),
        ({"earthsearch:boa_offset_applied": "true"}, V11, "boa_offset_applied of its item is 'true'; expected true or"),
        ({"earthsearch:boa_offset_applied": 1}, V11, "boa_offset_applied of its item is 1; expected true or false"),
    ],
)
def test_a_field_of_another_type_is_no_missing_field(
    properties: dict[str, Any], asset: dict[str, Any], says: str
) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        rule_of(properties, asset, 1, "a")
    assert str(caught.value).startswith("a")


def test_each_band_of_a_file_has_its_own_rule() -> None:
    asset = {"raster:bands": [{"scale": 1.0, "offset": 0}, {"scale": 2.0, "offset": 1.0}]}
    rules = [rule_of({}, asset, band) for band in (1, 2, 3)]
    assert [(rule.scale, rule.offset) if rule else None for rule in rules] == [(1.0, 0.0), (2.0, 1.0), None]


@given(
    values=arrays.arrays(np.uint16, (5, 7)),
    missing=arrays.arrays(np.bool_, (5, 7)),
    offset=st.sampled_from([0.0, -0.1, -0.2]),
)
def test_reflectance_is_never_negative_and_zero_without_data(values: Any, missing: Any, offset: float) -> None:
    image, negative = to_reflectance(values, missing, Rule(1e-4, offset, "", True))
    assert image.dtype == np.float32
    assert (image >= 0).all()
    assert (image[missing] == 0).all()
    valid = values.astype(np.int64)[~missing]
    steps = round(-offset * 10_000)
    assert negative == np.count_nonzero(valid < steps)
    expected = np.maximum(valid - steps, 0) / 10_000
    np.testing.assert_allclose(image[~missing], expected, rtol=1e-6, atol=1e-9)


@given(values=arrays.arrays(np.uint16, 20))
def test_without_an_offset_reflectance_is_a_ten_thousandth_exactly(values: Any) -> None:
    image, negative = to_reflectance(values, np.zeros(20, dtype=bool), Rule(1e-4, 0.0, "", True))
    assert negative == 0
    assert (image == (values * 0.0001).astype(np.float32)).all()


@given(valid=st.integers(1, 10_000), share=st.floats(0, 1), most=st.floats(0, 1))
def test_too_many_negative_values_are_an_error_that_names_item_and_rule(valid: int, share: float, most: float) -> None:
    negative = int(share * valid)
    if negative / valid > most:
        with pytest.raises(SourceError, match=r"S2A_1: .*negative with the rule; over imagery.max_negative_fraction"):
            check_negatives(negative, valid, most, "S2A_1", ["the rule"])
    else:
        check_negatives(negative, valid, most, "S2A_1", ["the rule"])


def test_an_image_without_data_has_no_share() -> None:
    check_negatives(0, 0, 0.0, "S2A_1", [])
