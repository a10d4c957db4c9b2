from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RecipeError
from tasks.geo.tiles import Tile
from tasks.recipe.load import Splits
from tasks.versions.splits import SPLITS, assign_splits, largest_remainder, named_splits, tile_unit, too_near

BY_TILE = Splits(by="tile")
cells = st.sets(st.tuples(st.integers(0, 63), st.integers(0, 63)), min_size=1, max_size=250)
seeds = st.integers(0, 5)


def tiles_of(found: set[tuple[int, int]]) -> list[Tile]:
    return [Tile(6, x, y) for x, y in sorted(found)]


def assign(tiles: list[Tile], previous: dict[Tile, str], splits: Splits, block_zoom: int) -> dict[Tile, str]:
    units = {tile.name: tile_unit(tile, splits, block_zoom) for tile in tiles}
    known = {tile_unit(tile, splits, block_zoom): split for tile, split in previous.items()}
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


@given(cells, st.integers(0, 4), seeds)
def test_a_buffer_keeps_splits_apart(found: set[tuple[int, int]], buffer: int, seed: int) -> None:
    assigned = assign(tiles_of(found), {}, splits_by("block", seed), 4)
    dropped = too_near(assigned, buffer)
    kept = {tile: split for tile, split in assigned.items() if tile not in dropped}
    for tile, split in assigned.items():
        gaps = [
            max(abs(tile.x - other.x), abs(tile.y - other.y)) - 1 for other, name in assigned.items() if name != split
        ]
        assert (tile in dropped) == any(gap < buffer for gap in gaps)
    if buffer == 0:
        assert kept == assigned


def test_named_groups_stay_where_the_recipe_puts_them() -> None:
    cities = ["austin", "chicago", "kitsap"]
    scenes = [f"{city}{n}" for city in cities for n in range(1, 12)]
    groups = {"validation": [f"{city}{n}" for city in cities for n in range(1, 6)], "train": ["austin*"]}
    with pytest.raises(RecipeError, match=r"splits\.groups: austin10 is named in test and train"):
        named_splits(scenes, {**groups, "test": ["*10"]})
    named = named_splits([*scenes, "kitsap9:reserved"], groups)
    assert Counter(named.values()) == {"validation": 16, "train": 6}
    rest = assign_splits({scene: scene for scene in scenes}, named, Splits(train=1.0, validation=0.0, test=0.0))
    assert {scene: rest[scene] for scene in named if scene in rest} == {s: named[s] for s in named if s in rest}
    assert {rest[scene] for scene in scenes if scene not in named} == {"train"}


def test_shares_of_eighty_ten_ten() -> None:
    units = {f"chip{i}": f"chip{i}" for i in range(1980)}
    assigned = assign_splits(units, {}, Splits(train=0.8, validation=0.1, test=0.1))
    assert Counter(assigned.values()) == {"train": 1584, "validation": 198, "test": 198}
