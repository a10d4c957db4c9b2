from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.geo.georeference import tile_georeference
from tasks.geo.tiles import Tile
from tasks.recipe.parts import Splits
from tasks.samples.window import Place, Window, place_of
from tasks.versions.schema import SPLITS
from tasks.versions.splits import assign_splits, largest_remainder, too_near, wanted_splits

BY_TILE = Splits(by="tile")
cells = st.sets(st.tuples(st.integers(0, 63), st.integers(0, 63)), min_size=1, max_size=250)
seeds = st.integers(0, 5)


def tiles_of(found: set[tuple[int, int]]) -> list[Tile]:
    return [Tile(6, x, y) for x, y in sorted(found)]


def assign(tiles: list[Tile], previous: dict[Tile, str], splits: Splits, block_zoom: int) -> dict[Tile, str]:
    def unit(tile: Tile) -> str:
        return tile.name if splits.by == "tile" else tile.parent(block_zoom).name

    units = {tile.name: unit(tile) for tile in tiles}
    known = {unit(tile): split for tile, split in previous.items()}
    return {Tile.parse(name): split for name, split in assign_splits(units, known, splits).items()}


def splits_by(kind: str, seed: int = 0, **more: float) -> Splits:
    return Splits.model_validate({"by": kind, "seed": seed, **more})


@given(st.integers(0, 100_000))
def test_largest_remainder_is_exact(total: int) -> None:
    shares = (0.7, 0.15, 0.15)
    counts = largest_remainder(total, shares)
    assert sum(counts) == total
    exact = [total * Fraction(str(share)) for share in shares]
    assert all(abs(count - value) < 1 for count, value in zip(counts, exact, strict=True))


@pytest.mark.parametrize(
    ("total", "counts"),
    [(20, [14, 3, 3]), (3042, [2130, 456, 456]), (10, [7, 2, 1]), (1, [1, 0, 0]), (100, [70, 15, 15])],
)
def test_largest_remainder_by_hand(total: int, counts: list[int]) -> None:
    assert largest_remainder(total, (0.7, 0.15, 0.15)) == counts


@given(cells, seeds)
def test_splits_by_tile_have_exactly_their_shares(found: set[tuple[int, int]], seed: int) -> None:
    tiles = tiles_of(found)
    assigned = assign(tiles, {}, splits_by("tile", seed), 3)
    counts = Counter(assigned.values())
    expected = largest_remainder(len(tiles), (0.7, 0.15, 0.15))
    if len(tiles) >= 3 and 0 in expected:
        assert all(counts[split] >= 1 for split in SPLITS)
    else:
        assert [counts[split] for split in SPLITS] == expected
    assert assigned.keys() == set(tiles)


@given(cells, seeds)
def test_splits_do_not_depend_on_the_order_of_tiles(found: set[tuple[int, int]], seed: int) -> None:
    tiles = tiles_of(found)
    for kind in ("tile", "block"):
        splits = splits_by(kind, seed)
        assert assign(tiles, {}, splits, 3) == assign(tiles[::-1], {}, splits, 3)


@given(cells, seeds)
def test_a_block_stays_together_and_shares_are_as_near_as_blocks_allow(found: set[tuple[int, int]], seed: int) -> None:
    tiles = tiles_of(found)
    assigned = assign(tiles, {}, splits_by("block", seed), 3)
    by_block: dict[Tile, set[str]] = {}
    for tile, split in assigned.items():
        by_block.setdefault(tile.parent(3), set()).add(split)
    assert all(len(names) == 1 for names in by_block.values())
    biggest = max(Counter(tile.parent(3) for tile in tiles).values())
    counts = Counter(assigned.values())
    if len(by_block) >= 3:
        assert all(counts[split] > 0 for split in SPLITS)
        # Each cut is off by half a block at most, or by a whole one where a split would have been empty.
        for split, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
            assert abs(counts[split] - share * len(tiles)) <= 2 * biggest + 1


@given(cells, cells, st.sampled_from(["tile", "block"]), seeds)
def test_a_tile_never_changes_split(
    first: set[tuple[int, int]], second: set[tuple[int, int]], kind: str, seed: int
) -> None:
    splits = splits_by(kind, seed)
    one = assign(tiles_of(first), {}, splits, 3)
    two = assign(tiles_of(second), one, splits, 3)
    assert all(two[tile] == one[tile] for tile in two.keys() & one.keys())
    # A tile that left comes back to its split.
    three = assign(tiles_of(first), {**one, **two}, splits, 3)
    assert three == one


def test_newcomers_go_where_most_is_missing() -> None:
    old = [Tile(6, x, 0) for x in range(20)]
    before = dict.fromkeys(old, "train")
    newcomers = [Tile(6, x, 1) for x in range(6)]
    assigned = assign([*old, *newcomers], before, BY_TILE, 3)
    assert Counter(assigned[tile] for tile in newcomers) == {"validation": 3, "test": 3}


def place_of_tile(tile: Tile) -> Place:
    return place_of(Window(tile.name, tile.name, "", 0, 0, 256, 256, tile_georeference(tile, 256)))


@given(cells, st.integers(0, 4), seeds)
def test_a_buffer_keeps_splits_apart(found: set[tuple[int, int]], buffer: int, seed: int) -> None:
    assigned = assign(tiles_of(found), {}, splits_by("block", seed), 4)
    places = {tile.name: place_of_tile(tile) for tile in assigned}
    dropped = too_near(places, {tile.name: split for tile, split in assigned.items()}, buffer)
    kept = {tile: split for tile, split in assigned.items() if tile.name not in dropped}
    for tile, split in assigned.items():
        gaps = [
            max(abs(tile.x - other.x), abs(tile.y - other.y)) - 1 for other, name in assigned.items() if name != split
        ]
        assert (tile.name in dropped) == any(gap < buffer for gap in gaps)
    if buffer == 0:
        assert kept == assigned


@pytest.mark.parametrize("zoom", [2, 18, 24])
@pytest.mark.parametrize("buffer", [0, 1, 3])
def test_neighbours_are_told_at_any_zoom(zoom: int, buffer: int) -> None:
    """Rounding of metres, which grow far from the map's centre, makes no neighbours of tiles, nor strangers."""
    last = (1 << zoom) - 1
    for x, y in ((0, 0), (last, 0), (last // 2, last)):
        towards = 1 if x < last // 2 + 1 else -1
        for distance in range(1, min(last, 6) + 1):
            two = [Tile(zoom, x, y), Tile(zoom, x + towards * distance, y)]
            places = {tile.name: place_of_tile(tile) for tile in two}
            dropped = too_near(places, dict(zip(places, ("train", "test"), strict=True)), buffer)
            assert dropped == (set(places) if distance <= buffer else set())


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.integers(0, 40), st.sampled_from(SPLITS)), max_size=60
    ),
    st.integers(0, 2),
)
def test_samples_that_share_ground_or_stand_near_another_split_are_told(
    found: list[tuple[str, int, int, str]], buffer: int
) -> None:
    """Windows of 8 px at any pixels of two scenes, so that they overlap as they like."""
    places = {f"{i}": Place(plane, x / 8, y / 8) for i, (plane, x, y, _) in enumerate(found)}
    assigned = {f"{i}": split for i, (_, _, _, split) in enumerate(found)}
    reach = 8 * (buffer + 1)
    expected = {
        f"{i}"
        for i, (plane, x, y, split) in enumerate(found)
        if any(
            plane == other and split != theirs and abs(x - a) < reach and abs(y - b) < reach
            for other, a, b, theirs in found
        )
    }
    assert too_near(places, assigned, buffer) == expected


def test_nothing_is_near_what_is_alone() -> None:
    assert too_near({}, {}, 4) == set()
    assert too_near({"a": Place("p", 0, 0), "b": Place("q", 0, 0)}, {"a": "train", "b": "test"}, 4) == set()
    assert too_near({"a": Place("p", 0, 0), "b": Place("p", 0, 0)}, {"a": "train", "b": "train"}, 4) == set()


def test_shares_of_eighty_ten_ten() -> None:
    units = {f"chip{i}": f"chip{i}" for i in range(1980)}
    assigned = assign_splits(units, {}, Splits(train=0.8, validation=0.1, test=0.1))
    assert Counter(assigned.values()) == {"train": 1584, "validation": 198, "test": 198}


@pytest.mark.parametrize("sizes", [(9,), (1, 20), (20, 1), (5, 5)])
def test_with_fewer_units_than_splits_train_gets_one(sizes: tuple[int, ...]) -> None:
    units = {f"{unit}/{n}": f"{unit}" for unit, size in enumerate(sizes) for n in range(size)}
    for seed in range(5):
        splits = Splits(train=0.4, validation=0.3, test=0.3, seed=seed)
        assert "train" in assign_splits(units, {}, splits).values()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ["train", "validation", "test"]),
        ({"train": 1.0, "validation": 0.0, "test": 0.0}, ["train"]),
        ({"train": 1.0, "validation": 0.0, "test": 0.0, "holdout": 0.2}, ["train", "validation"]),
        (
            {"train": 1.0, "validation": 0.0, "test": 0.0, "groups": {"test": ["a"], "validation": []}},
            ["train", "test"],
        ),
    ],
)
def test_which_splits_a_recipe_asks_for(changes: dict[str, Any], wanted: list[str]) -> None:
    assert wanted_splits(Splits.model_validate(changes)) == wanted
