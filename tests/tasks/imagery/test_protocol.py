"""The types of images: whole numbers are kept exactly or refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from tasks.errors import SourceError
from tasks.imagery.protocol import in_image_type

WIDE = ["int32", "uint32", "int64", "uint64"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_type_that_images_have_stays(dtype: str) -> None:
    values = np.arange(4, dtype=dtype)
    assert in_image_type(values, "a") is values


@given(st.sampled_from(WIDE).flatmap(lambda dtype: npst.arrays(dtype, st.integers(0, 5))))
def test_whole_numbers_are_kept_exactly_or_refused(values: NDArray[Any]) -> None:
    exact = all(int(np.float32(int(value))) == int(value) for value in values)
    if exact:
        made = in_image_type(values, "a")
        assert made.dtype == np.float32
        assert [int(value) for value in made] == values.tolist()
    else:
        with pytest.raises(SourceError, match=f"^a: holds the {values.dtype.name} -?[0-9]+, which no image can keep"):
            in_image_type(values, "a")


@pytest.mark.parametrize(
    ("value", "dtype", "kept"),
    [
        (2**32 - 1, "uint32", False),
        (2**32 - 256, "uint32", True),
        (2**24, "int32", True),
        (2**24 + 1, "int32", False),
        (-(2**24) - 1, "int64", False),
        (-(2**63), "int64", True),
        (2**63 - 1, "int64", False),
        (2**64 - 1, "uint64", False),
        (16_777_217.0, "float64", False),
        (1e20, "float64", False),
        (0.1, "float64", True),  # rounded to the seven digits that float32 has
        (1e300, "float64", True),  # becomes infinite, which is no data
        (np.nan, "float64", True),
        (65_504.0, "float16", True),
    ],
)
def test_the_edges_of_each_type(value: float, dtype: str, kept: bool) -> None:
    values = np.array([[[1, value]]], dtype=dtype)
    if kept:
        assert in_image_type(values, "a").dtype == np.float32
    else:
        with pytest.raises(SourceError, match="a: holds the "):
            in_image_type(values, "a")
        assert in_image_type(values, "a", np.array([[[False, True]]])).dtype == np.float32
