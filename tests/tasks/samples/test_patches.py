"""Where windows lie: what they cover, where they end, and which a strip holds out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.recipe.parts import PatchGrid
from tasks.samples.patches import Placed, block_of, hold_out, place


@st.composite
def grids(draw: st.DrawFn, edges: tuple[str, ...] = ("inside", "pad", "drop")) -> PatchGrid:
    size = draw(st.integers(16, 60))
    padding = draw(st.integers(0, (size - 1) // 2))
    core = size - 2 * padding
    stride = draw(st.none() | st.integers(16, core)) if core >= 16 else None
    return PatchGrid.model_validate(
        {"size": size, "stride": stride, "edge": draw(st.sampled_from(edges)), "padding": padding}
    )


sides = st.integers(1, 150)


def core_counts(placed: list[Placed], width: int, height: int, padding: int) -> NDArray[np.int64]:
    """How many cores show each pixel of a raster (y, x)."""
    counts = np.zeros((height, width), dtype=np.int64)
    for one in placed:
        row, column = one.row + padding, one.column + padding
        whole = (one.width, one.height, padding) == (width, height, 0)
        assert one.at == (None if whole else (row, column))
        rows, columns = one.height - 2 * padding, one.width - 2 * padding
        counts[row : row + rows, column : column + columns] += 1
    return counts


@given(sides, sides, grids(("inside", "pad")))
def test_every_pixel_is_in_the_core_of_a_window(width: int, height: int, grid: PatchGrid) -> None:
    counts = core_counts(place(width, height, grid), width, height, grid.padding)
    assert counts.min() >= 1


@given(sides, sides, grids(("inside", "drop")))
def test_no_core_reaches_beyond_a_raster_that_is_large_enough(width: int, height: int, grid: PatchGrid) -> None:
    core = grid.size - 2 * grid.padding
    for one in place(width, height, grid):
        row, column = one.row + grid.padding, one.column + grid.padding
        assert row >= 0
        assert column >= 0
        assert column + core <= max(width, core)
        assert row + core <= max(height, core)


@given(sides, sides, grids(("pad", "drop")))
def test_cores_do_not_overlap_at_the_default_stride(width: int, height: int, grid: PatchGrid) -> None:
    grid = grid.model_copy(update={"stride": None})
    assert core_counts(place(width, height, grid), width, height, grid.padding).max() <= 1


@given(sides, sides, grids())
def test_names_are_unique_and_windows_come_row_by_row(width: int, height: int, grid: PatchGrid) -> None:
    placed = place(width, height, grid)
    assert all(one.width == one.height == grid.size for one in placed)
    names = [one.at for one in placed]
    assert names == sorted(set(names), key=lambda at: at or (0, 0))


@given(sides, sides)
def test_dropping_leaves_out_what_does_not_fit(width: int, height: int) -> None:
    placed = place(width, height, PatchGrid(size=40, edge="drop"))
    assert len(placed) == (width // 40) * (height // 40)


@given(sides, sides, grids(), st.integers(1, 5))
def test_blocks_are_of_so_many_windows_and_hold_those_moved_back(
    width: int, height: int, grid: PatchGrid, side: int
) -> None:
    placed = place(width, height, grid)
    blocks: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for one in placed:
        blocks.setdefault(block_of(one, grid, side), set()).add(one.at or (0, 0))
    regular = {at for at in (one.at or (0, 0) for one in placed) if not (at[0] % grid.step or at[1] % grid.step)}
    for (row, column), members in blocks.items():
        span = range(row * side * grid.step, (row + 1) * side * grid.step)
        assert all(at[0] in span for at in members)
        assert all(at[1] // (side * grid.step) == column for at in members)
        assert 1 <= len(members & regular) <= side * side


def test_whole_scenes() -> None:
    assert place(300, 200, PatchGrid(size=0)) == [Placed(0, 0, 300, 200, None)]
    assert block_of(Placed(0, 0, 64, 64, None), PatchGrid(size=64), 2) == (0, 0)


def test_the_windows_of_the_papers() -> None:
    amll = place(5000, 5000, PatchGrid(size=572, padding=92))  # 388 px of labels in 572 px of image
    assert amll[0] == Placed(-92, -92, 572, 572, (0, 0))
    assert amll[1].at == (0, 388)
    assert amll[-1].at == (5000 - 388, 5000 - 388)
    assert len(amll) == 13 * 13
    assert len(place(9000, 9500, PatchGrid(size=512, edge="drop"))) == 17 * 18  # LandCover.ai
    assert [one.column for one in place(604, 364, PatchGrid(size=364, stride=120))] == [0, 120, 240]


def test_a_scene_smaller_than_a_window_is_padded_unless_dropped() -> None:
    assert [one[:4] for one in place(50, 100, PatchGrid(size=64))] == [(0, 0, 64, 64), (0, 36, 64, 64)]
    assert place(50, 100, PatchGrid(size=64, edge="drop")) == []


shares = st.floats(0.1, 0.5)


def pixels(placed: list[Placed], keep: list[bool], width: int, height: int) -> NDArray[np.bool_]:
    seen = np.zeros((height, width), dtype=bool)
    for one, kept in zip(placed, keep, strict=True):
        if kept:
            rows = slice(max(one.row, 0), one.row + one.height)
            seen[rows, max(one.column, 0) : one.column + one.width] = True
    return seen


@given(st.integers(1, 400), st.integers(1, 400), grids(), shares, st.text(max_size=4))
def test_windows_held_out_share_no_pixel_with_the_others(
    width: int, height: int, grid: PatchGrid, share: float, scene: str
) -> None:
    placed = place(width, height, grid)
    kept = hold_out(placed, width, height, share, 0, scene)
    assert len(kept) == len(placed)
    held = pixels(placed, [side is True for side in kept], width, height)
    others = pixels(placed, [side is False for side in kept], width, height)
    assert not (held & others).any()
    if any(side is None for side in kept):
        assert held.any()
        assert others.any()


@given(st.integers(400, 1500), st.integers(400, 1500), st.integers(32, 100), shares, st.integers(0, 50))
def test_the_part_held_out_has_about_its_share(width: int, height: int, stride: int, share: float, seed: int) -> None:
    placed = place(width, height, PatchGrid(size=100, stride=stride))
    kept = hold_out(placed, width, height, share, seed, "D12")
    held = pixels(placed, [side is True for side in kept], width, height).mean()
    # The border is the edge of a window, and a strip holds one at least.
    tolerance = (stride / 2 + 1) / max(width, height)
    assert held == pytest.approx(share, abs=max(tolerance, 100 / max(width, height) - share + 1e-9))


def test_a_strip_at_windows_edges_leaves_nothing_out() -> None:
    placed = place(5000, 5000, PatchGrid(size=500))
    kept = hold_out(placed, 5000, 5000, 0.2, 0, "austin1")
    assert (kept.count(True), kept.count(False), kept.count(None)) == (20, 80, 0)


def test_the_strip_lies_at_any_side_of_a_square_and_at_the_ends_of_a_long_scene() -> None:
    def centre(width: int, height: int, scene: str) -> tuple[float, float]:
        placed = place(width, height, PatchGrid(size=100))
        kept = [one for one, side in zip(placed, hold_out(placed, width, height, 0.2, 0, scene), strict=True) if side]
        return float(np.mean([one.column for one in kept])), float(np.mean([one.row for one in kept]))

    names = [f"scene{n}" for n in range(40)]
    assert len({centre(1000, 1000, name) for name in names}) == 4
    assert {centre(2000, 1000, name) for name in names} == {(150.0, 450.0), (1750.0, 450.0)}
    assert {centre(1000, 2000, name) for name in names} == {(450.0, 150.0), (450.0, 1750.0)}


def test_one_window_cannot_be_held_out_in_part() -> None:
    assert hold_out([Placed(0, 0, 300, 200, None)], 300, 200, 0.2, 0, "chip") == [False]
    assert hold_out([], 10, 10, 0.2, 0, "none") == []
