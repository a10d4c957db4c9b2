import numpy as np
import pytest

from tasks.raster.resize import resize_image, resize_mask, resize_rgb


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_resized_images_keep_their_type_and_range(dtype: str) -> None:
    image = np.zeros((2, 8, 8), dtype=dtype)
    image[:, :, 4:] = 200
    small = resize_image(image, 4)
    assert small.dtype == image.dtype
    assert small.shape == (2, 4, 4)
    assert small.min() >= 0
    assert small.max() <= 200
    assert np.array_equal(small[0, 0, [0, 3]], [0, 200])


def test_resizing_averages_when_it_shrinks() -> None:
    checkers = np.zeros((3, 64, 64), np.uint8)
    checkers[:, ::2, ::2] = checkers[:, 1::2, 1::2] = 255
    small = resize_rgb(checkers, 16)
    assert small.shape == (3, 16, 16)
    assert small.dtype == np.uint8
    assert np.abs(small.astype(int) - 127).max() <= 2
    assert resize_rgb(checkers, 64) is checkers
    assert resize_rgb(checkers, 100).shape == (3, 100, 100)


@pytest.mark.parametrize(("side", "pixels"), [(256, 224), (256, 512), (8, 4)])
def test_resized_masks_hold_no_new_value(side: int, pixels: int) -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 3, 7], dtype=np.uint8), (side, side))
    small = resize_mask(mask, pixels)
    assert small.shape == (pixels, pixels)
    assert set(np.unique(small)) <= {0, 3, 7}
    assert abs(float((small == 3).mean() - (mask == 3).mean())) < 0.2


def test_a_mask_that_is_not_square_becomes_square() -> None:
    mask = np.repeat(np.arange(6, dtype=np.uint8)[:, np.newaxis], 9, axis=1)
    assert resize_mask(mask, 3).tolist() == [[1] * 3, [3] * 3, [5] * 3]
