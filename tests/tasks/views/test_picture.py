"""Pictures of images of any bands."""

import numpy as np

from tasks.views.picture import span_picture, viewable
from tests.tasks.raster.made import noise


def test_bytes_are_shown_as_they_are_in_the_order_of_colours() -> None:
    image = noise(4, 8, 9)
    assert np.array_equal(viewable(image, ["blue", "green", "red", "nir"]), image[[2, 1, 0]])
    assert np.array_equal(viewable(image, ["B02", "B03", "B04", "B08"]), image[[2, 1, 0]])
    assert np.array_equal(viewable(image, ["a", "b", "c", "d"]), image[:3])
    assert np.array_equal(viewable(image[:2], ["pan", "other"]), image[[0, 0, 0]])


def test_other_types_are_stretched_between_percentiles() -> None:
    image = np.linspace(100, 1100, 101 * 10, dtype=np.float32).reshape(1, 101, 10)
    image[0, 0, 0] = 1e6  # an outlier does not turn the rest black
    seen = viewable(image, ["pan"])
    assert seen.dtype == np.uint8
    assert seen.shape == (3, 101, 10)
    assert (seen.min(), seen.max()) == (0, 255)
    assert abs(int(seen[0, 50, 5]) - 128) < 4


def test_nodata_is_black_and_counts_for_nothing() -> None:
    image = np.full((1, 10, 10), -9999.0, dtype=np.float32)
    image[0, 5:] = np.linspace(1, 2, 50).reshape(5, 10)
    nodata = image[0] < 0
    seen = viewable(image, ["vv"], nodata)
    assert not seen[:, nodata].any()
    assert abs(int(seen[0, 7, 5]) - 128) < 8
    assert not viewable(image, ["vv"], np.ones((10, 10), dtype=bool)).any()


def test_a_flat_image_is_grey() -> None:
    assert (viewable(np.full((1, 4, 4), 7, dtype=np.uint16), ["pan"]) == 128).all()


def test_the_span_of_quad_pol_sar() -> None:
    image = np.array([1.0, 2.0, 2.0, 4.0], dtype=np.float32)[:, None, None] * np.arange(1, 13).reshape(1, 3, 4)
    assert np.allclose(span_picture(image.astype(np.float32)), 5.0 * np.arange(1, 13).reshape(3, 4))
    seen = viewable(image.astype(np.float32), ["HH", "HV", "VH", "VV"])
    assert np.array_equal(seen[0], seen[2])
    assert (np.diff(seen[0].ravel().astype(int)) > 0)[1:-1].all()


def test_colours_are_stretched_together_and_stay_what_they_are() -> None:
    image = np.stack([np.linspace(0, 0.3 / (1 + band), 400, dtype=np.float32).reshape(20, 20) for band in range(3)])
    seen = viewable(image, ["red", "green", "blue"]).astype(int)
    assert seen[0].max() == 255
    assert np.abs(seen[1] - seen[0] / 2)[:15].max() < 4
    assert seen[2].max() < 100
    apart = viewable(image, ["a", "b", "c"]).astype(int)
    assert np.abs(apart[0] - apart[2]).max() <= 1
