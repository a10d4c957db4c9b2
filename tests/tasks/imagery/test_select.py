from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from tasks.errors import SourceError, WindowReadError
from tasks.imagery.protocol import Chip
from tasks.imagery.select import Refusal, Selected, clear_median, select
from tasks.recipe.parts import Clouds
from tasks.recipe.sources import Dates
from tasks.state.transitions import Image

SIDE = 10
PIXELS = SIDE * SIDE


class Made:
    """An acquisition of one value, its first ``cloudy`` pixels clouded, and its first ``empty`` pixels without data."""

    def __init__(
        self,
        id: str,
        cloudy: int | None = 0,
        at: int | None = None,
        empty: int = 0,
        value: int = 7,
        padded: NDArray[np.bool_] | None = None,
        note: str = "",
    ) -> None:
        self.id, self.acquired_at = id, at
        self._cloudy, self._empty, self._value, self._padded, self._note = cloudy, empty, value, padded, note
        self.reads, self.layers = 0, 0

    def read(self) -> Chip:
        self.reads += 1
        image = np.full((2, SIDE, SIDE), self._value, dtype=np.uint16)
        return Chip(image, first(self._empty), padded=self._padded, note=self._note)

    def layer(self, name: str) -> NDArray[Any] | None:
        self.layers += 1
        return None if self._cloudy is None or name != "cloudmask" else first(self._cloudy).astype(np.uint8)


def first(count: int) -> NDArray[np.bool_]:
    return (np.arange(PIXELS) < count).reshape(SIDE, SIDE)


def see(items: list[Made], pick: str, rank: int = 0, **clouds: Any) -> Selected | Refusal:
    return select(items, Dates(pick=pick), Clouds(**{"mask": "provided", **clouds}), rank)


def origin(found: Selected | Refusal) -> str:
    assert isinstance(found, Selected), found
    return found.origin


def reads(items: list[Made]) -> list[int]:
    return [item.reads for item in items]


# ---- least cloudy ------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "expected"), [(0, "b"), (1, "d"), (2, "a"), (3, "c")])
def test_the_rank_th_least_cloudy_is_taken_and_only_it_is_read(rank: int, expected: str) -> None:
    items = [Made("a", 30), Made("b", 5), Made("c", 90), Made("d", 5)]
    found = see(items, "least-cloudy", rank, max_fraction=1.0)
    assert origin(found) == expected
    assert [item.id for item in items if item.reads] == [expected]


@pytest.mark.parametrize(("rank", "asked"), [(0, 2), (1, 4), (2, 5)])
def test_asking_stops_once_enough_cloudless_items_are_found(rank: int, asked: int) -> None:
    items = [Made("a", 1), Made("b"), Made("c", 1), Made("d"), Made("e", 9)]
    see(items, "least-cloudy", rank, max_fraction=1.0)
    assert [item.layers for item in items] == [1] * asked + [0] * (5 - asked)


@given(st.lists(st.integers(0, PIXELS), min_size=1, max_size=6), st.data())
def test_the_choice_is_the_sorted_one(clouded: list[int], data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, len(clouded) - 1))
    items = [Made(str(i), cloudy) for i, cloudy in enumerate(clouded)]
    best = sorted(range(len(clouded)), key=lambda i: clouded[i])[rank]
    for on_cloud in ("reject", "next-date"):
        found = see(items, "least-cloudy", rank, max_fraction=0.5, on_cloud=on_cloud)
        if clouded[best] <= PIXELS / 2:
            assert isinstance(found, Selected)
            assert (found.origin, found.cloud_fraction) == (str(best), clouded[best] / PIXELS)
        else:
            assert isinstance(found, Refusal)
            assert (found.image, found.reason) == (Image.REJECTED, "clouds")
    assert see(items, "least-cloudy", rank, max_fraction=1.0).cloud_fraction == clouded[best] / PIXELS


def test_an_item_that_no_layer_tells_of_stands_between_good_and_bad() -> None:
    items = [Made("unknown", None), Made("bad", 60), Made("good", 20)]
    order = [see(items, "least-cloudy", rank, mask="auto", max_fraction=0.5) for rank in range(3)]
    assert [origin(found) for found in order[:2]] == ["good", "unknown"]
    assert (order[1].cloud_fraction, order[2]) == (None, Refusal(Image.REJECTED, "clouds", 0.6))


def test_without_a_mask_the_best_guess_that_covers_the_window_is_taken() -> None:
    items = [Made("a", None, empty=PIXELS), Made("b", None, empty=PIXELS - 1), Made("c", None), Made("d", None)]
    assert origin(see(items, "least-cloudy", mask="none")) == "b"
    assert reads(items) == [1, 1, 0, 0]
    assert origin(see(items, "least-cloudy", 1, mask="none")) == "c"
    assert [item.layers for item in items] == [0, 0, 0, 0]
    assert see(items, "least-cloudy", 3, mask="none") == Refusal(Image.ABSENT, "only 3 acquisitions")


# ---- latest, all -------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "expected"), [(0, "new"), (1, "mid"), (2, "old"), (3, "undated")])
def test_the_rank_th_newest_is_taken_and_nothing_asked_of_older_ones(rank: int, expected: str) -> None:
    items = [Made("mid", at=20), Made("undated"), Made("old", at=10), Made("new", at=30)]
    assert origin(see(items, "latest", rank)) == expected
    assert [item.id for item in items if item.reads] == [expected]
    assert sum(item.layers for item in items) == rank + 1


def test_a_cloudy_latest_is_rejected_or_passed_over() -> None:
    items = [Made("old", 0, 10), Made("mid", 30, 20), Made("new", 80, 30)]
    assert see(items, "latest") == Refusal(Image.REJECTED, "clouds", 0.8)
    assert origin(see(items, "latest", on_cloud="next-date")) == "old"
    assert origin(see(items, "latest", on_cloud="next-date", max_fraction=0.3)) == "mid"
    assert origin(see(items, "latest", 1, on_cloud="next-date", max_fraction=0.3)) == "old"
    assert see(items, "latest", 1, on_cloud="next-date") == Refusal(Image.REJECTED, "clouds", 0.3)
    assert sum(reads(items)) == 3


def test_the_one_item_of_a_sample_of_one_date() -> None:
    assert origin(see([Made("a", 0, 10)], "all")) == "a"
    for on_cloud in ("reject", "next-date"):
        assert see([Made("a", 1, 10)], "all", on_cloud=on_cloud) == Refusal(Image.REJECTED, "clouds", 0.01)
    assert see([Made("a", None, empty=PIXELS)], "all", mask="none") == Refusal(Image.ABSENT, "no item covers it")


@pytest.mark.parametrize("pick", ["least-cloudy", "latest", "all", "median"])
def test_no_item_is_no_sample(pick: str) -> None:
    assert see([], pick) == Refusal(Image.ABSENT, "no item covers it")


@pytest.mark.parametrize(("count", "reason"), [(1, "only 1 acquisition"), (2, "only 2 acquisitions")])
@pytest.mark.parametrize("pick", ["least-cloudy", "latest"])
def test_too_few_items(pick: str, count: int, reason: str) -> None:
    assert see([Made(str(i)) for i in range(count)], pick, count) == Refusal(Image.ABSENT, reason)


def test_what_is_given_along() -> None:
    found = see([Made("a", 25, 99, empty=3, value=8, note="offset -1000")], "latest", max_fraction=0.25)
    assert isinstance(found, Selected)
    assert (found.origin, found.acquired_at, found.note, found.cloud_fraction) == ("a", 99, "offset -1000", 0.25)
    assert np.array_equal(found.nodata, first(3))
    assert (found.image.dtype, found.image.shape, np.unique(found.image).tolist()) == (np.uint16, (2, SIDE, SIDE), [8])
    assert found.cloud_mask is None


@pytest.mark.parametrize("pick", ["least-cloudy", "latest", "all", "median"])
def test_mirrored_context_is_no_data_of_its_own(pick: str) -> None:
    padded = ~first(30)
    found = see([Made("a", None, padded=padded, empty=29)], pick, mask="none")
    assert isinstance(found, Selected)
    assert found.padded is padded
    assert np.array_equal(found.nodata, first(29))
    empty = Made("a", None, padded=padded, empty=30)
    assert see([empty], pick, mask="none") == Refusal(Image.ABSENT, "no item covers it")


# ---- masking -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pick", ["least-cloudy", "latest", "all"])
@pytest.mark.parametrize("cloudy", [0, 1, PIXELS - 1])
def test_masking_keeps_clouds_over_the_limit_and_tells_where(pick: str, cloudy: int) -> None:
    found = see([Made("a", cloudy, 5)], pick, on_cloud="mask", max_fraction=0.0)
    assert isinstance(found, Selected)
    assert found.cloud_fraction == cloudy / PIXELS
    assert np.array_equal(found.cloud_mask, first(cloudy))  # type: ignore[arg-type]


@pytest.mark.parametrize("pick", ["least-cloudy", "latest", "all", "median"])
def test_masking_rejects_what_has_no_clear_pixel(pick: str) -> None:
    items = [Made("a", PIXELS, 5)]
    assert see(items, pick, on_cloud="mask") == Refusal(Image.REJECTED, "clouds", 1.0)
    assert reads(items) == [0]


def test_masking_without_a_mask_gives_one_that_is_empty() -> None:
    found = see([Made("a", None)], "latest", mask="none", on_cloud="mask")
    assert isinstance(found, Selected)
    assert found.cloud_fraction is None
    assert np.array_equal(found.cloud_mask, first(0))  # type: ignore[arg-type]


# ---- median ------------------------------------------------------------------------------------


def test_the_median_of_clear_pixels() -> None:
    items = [
        Made("c", 20, 30, value=10, note="x"),
        Made("a", 40, 10, value=11, note="x"),
        Made("overcast", PIXELS, 5, value=9999),
        Made("b", 60, 20, empty=10, value=100, note="y"),
    ]
    found = see(items, "median", max_fraction=0.2)
    assert isinstance(found, Selected)
    values = [0] * 20 + [10] * 20 + [10] * 20 + [11] * 40  # none, one, (10 + 11) / 2 to the even 10, three
    assert found.image.dtype == np.uint16
    assert found.image.reshape(2, -1).tolist() == [values, values]
    assert np.array_equal(found.nodata, first(20))
    assert (found.origin, found.acquired_at, found.cloud_fraction) == ("median of 3: a..c", None, 0.2)
    assert found.note == "x; y"
    assert reads(items) == [1, 1, 0, 1]


@pytest.mark.parametrize("on_cloud", ["reject", "next-date"])
def test_a_median_with_too_many_clouds_is_rejected(on_cloud: str) -> None:
    items = [Made("a", 20), Made("b", 30)]
    assert see(items, "median", on_cloud=on_cloud, max_fraction=0.19) == Refusal(Image.REJECTED, "clouds", 0.2)


def test_a_masked_median_tells_which_pixels_were_never_clear() -> None:
    found = see([Made("a", 20), Made("b", 30)], "median", on_cloud="mask")
    assert isinstance(found, Selected)
    assert np.array_equal(found.cloud_mask, first(20))  # type: ignore[arg-type]


def test_a_median_without_a_mask_knows_nodata_only() -> None:
    items = [Made("a", None, empty=5), Made("b", None, empty=9), Made("none", None, empty=PIXELS)]
    found = see(items, "median", mask="none", max_fraction=0.0)
    assert isinstance(found, Selected)
    assert (found.cloud_fraction, found.origin) == (None, "median of 2: a..b")
    assert np.array_equal(found.nodata, first(5))
    assert see(items[2:], "median", mask="none") == Refusal(Image.ABSENT, "no item covers it")


def test_a_median_of_one() -> None:
    assert origin(see([Made("a", 0, 3)], "median")) == "median of 1: a"


images = st.sampled_from(["uint8", "uint16", "int16", "float32"]).flatmap(
    lambda dtype: npst.arrays(
        dtype,
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
        elements=npst.from_dtype(np.dtype(dtype), allow_infinity=False),
    )
)


@given(images, st.data())
def test_the_median_is_that_of_each_pixel(stack: NDArray[Any], data: st.DataObject) -> None:
    clear = data.draw(npst.arrays(np.bool_, (stack.shape[0], *stack.shape[2:])))
    found, seen = clear_median(list(stack), list(clear))
    assert found.dtype == stack.dtype
    for y, x in np.ndindex(seen.shape):
        columns = [values[clear[:, y, x] & np.isfinite(values)] for values in stack[:, :, y, x].T.astype(np.float64)]
        assert seen[y, x] == all(len(column) for column in columns)
        expected = np.array([np.median(column) if seen[y, x] else 0.0 for column in columns])
        if stack.dtype.kind != "f":
            expected = np.rint(expected)
        np.testing.assert_array_equal(found[:, y, x], expected.astype(stack.dtype))


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pick", ["least-cloudy", "latest", "all", "median"])
def test_errors_of_items_pass_through(pick: str) -> None:
    class Broken(Made):
        def read(self) -> Chip:
            raise WindowReadError("a: HTTP 500")

    with pytest.raises(WindowReadError, match="a: HTTP 500"):
        see([Broken("a")], pick)
    with pytest.raises(SourceError, match="a: has no SCL layer"):
        see([Made("a")], pick, mask="scl")
