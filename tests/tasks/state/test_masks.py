import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import StoreError
from tasks.state.masks import decode, encode

sides = st.integers(1, 40)


@given(st.integers(0, 2**32 - 1), sides, sides, st.sets(st.integers(0, 255), min_size=1, max_size=4))
def test_masks_come_back_and_can_be_written_to(seed: int, height: int, width: int, values: set[int]) -> None:
    mask = np.random.default_rng(seed).choice(np.array(sorted(values), dtype=np.uint8), (height, width))
    found = decode(encode(mask), height, width)
    assert found.dtype == np.uint8
    assert np.array_equal(found, mask)
    found[0, 0] = 255
    assert np.array_equal(decode(encode(mask), height, width), mask)


@given(st.integers(0, 2**32 - 1), st.integers(1, 255))
def test_a_mask_of_one_value_takes_one_bit_a_pixel(seed: int, value: int) -> None:
    mask = (np.random.default_rng(seed).random((16, 24)) < 0.3) * np.uint8(value)
    assert len(encode(mask)) == 1 + 16 * 24 // 8
    assert len(encode(mask.T.copy())) == len(encode(mask))


def test_equal_masks_are_equal_bytes_however_they_lie_in_memory() -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 1, 7], dtype=np.uint8), (12, 12))
    assert encode(np.asfortranarray(mask)) == encode(mask)
    assert encode(mask[:, ::2]) == encode(mask[:, ::2].copy())
    assert encode(np.zeros((4, 4), np.uint8)) == encode(np.zeros((4, 4), np.uint8) * np.uint8(7))


def test_other_values_are_other_bytes() -> None:
    mask = np.eye(8, dtype=np.uint8)
    written = {encode(mask * np.uint8(value)) for value in range(256)}
    assert len(written) == 256


@pytest.mark.parametrize("values", [[0, 3], [0, 3, 9]])
@pytest.mark.parametrize("sides", [(8, 7), (16, 8), (4, 4)])
def test_a_mask_of_other_sides_is_told(values: list[int], sides: tuple[int, int]) -> None:
    mask = np.resize(np.array(values, dtype=np.uint8), (8, 8))
    with pytest.raises(StoreError, match=rf"none of {sides[1]} x {sides[0]} pixels; move the ledger away"):
        decode(encode(mask), *sides)


def test_no_bytes_are_no_mask() -> None:
    with pytest.raises(StoreError, match="a mask of 0 bytes"):
        decode(b"", 4, 4)
