"""Splits: which samples train, which validate, which test, and never the other way round later.

Units (tiles, blocks of tiles, scenes, groups of scenes) are put in the order of a hash of their name and a seed, so
the result is the same on every machine. A first build cuts that order at the shares; a later version keeps every
assignment and gives each newcomer to the split that is furthest below its share.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import shapely

from tasks.errors import RecipeError
from tasks.geo.tiles import Tile
from tasks.recipe.load import Splits
from tasks.recipe.parts import SplitShares

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
RESERVED = ":reserved"  # ends the group of windows in the part of a scene that is kept for validation


def hash_order(names: Iterable[str], seed: int) -> list[str]:
    """``names`` in the order of SHA-256 of seed and name."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def largest_remainder(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that sum to ``total`` and are nearest to the shares (Hamilton's method)."""
    exact = [total * share for share in shares]
    # The nudge keeps 0.15 * 20 = 3.0000000000000004 and its like from deciding who gets the remainder.
    counts = [int(value + 1e-9) for value in exact]
    order = sorted(range(len(shares)), key=lambda i: (round(counts[i] - exact[i], 9), i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def assign_splits(units: Mapping[str, str], known: Mapping[str, str], splits: SplitShares) -> dict[str, str]:
    """The split of every sample. ``units``: the unit of each sample; ``known``: units that have a split already."""
    members: dict[str, list[str]] = {}
    for name, unit in units.items():
        members.setdefault(unit, []).append(name)
    order = hash_order(members, splits.seed)
    sizes = [len(members[unit]) for unit in order]
    by_unit = _with_newcomers(order, sizes, known, splits) if known else _first_cut(order, sizes, splits)
    return {name: by_unit[unit] for unit, names in members.items() for name in names}


def tile_unit(tile: Tile, splits: Splits, block_zoom: int) -> str:
    """The unit that a tile belongs to: itself, or its block."""
    return tile.name if splits.by == "tile" else tile.parent(block_zoom).name


def named_splits(units: Iterable[str], groups: Mapping[Any, Sequence[str]]) -> dict[str, str]:
    """The split of every unit that a recipe names: by name, else by pattern (``austin*``). Reserved parts validate.

    Raises RecipeError when two splits claim one unit alike.
    """
    found: dict[str, str] = {}
    for unit in units:
        if unit.endswith(RESERVED):
            found[unit] = VALIDATION
            continue
        claims = {split for split, names in groups.items() if unit in names}
        claims = claims or {split for split, names in groups.items() if any(fnmatchcase(unit, name) for name in names)}
        if len(claims) > 1:
            raise RecipeError(
                f"splits.groups: {unit} is named in {' and '.join(sorted(claims))}; name it in one of them"
            )
        if claims:
            found[unit] = claims.pop()
    return found


def _shares(splits: SplitShares) -> tuple[float, float, float]:
    return splits.train, splits.validation, splits.test


def _first_cut(order: Sequence[str], sizes: Sequence[int], splits: SplitShares) -> dict[str, str]:
    """Cut the hash order where the running sum of samples is nearest to the shares' sums.

    With at least as many units as splits with a share, each of those gets one unit or more.
    """
    shares = _shares(splits)
    targets = np.cumsum(largest_remainder(sum(sizes), shares))
    running = np.concatenate(([0], np.cumsum(sizes)))
    cuts = [int(np.argmin(np.abs(running - target))) for target in targets[:2]]
    wanted = [share > 0 for share in shares]
    if len(order) >= sum(wanted):
        cuts[0] = max(cuts[0], int(wanted[0]))
        cuts[1] = max(cuts[1], cuts[0] + int(wanted[1]))
        cuts[1] = min(cuts[1], len(order) - int(wanted[2]))
        cuts[0] = min(cuts[0], cuts[1] - int(wanted[1]))
    return {name: TRAIN if i < cuts[0] else VALIDATION if i < cuts[1] else TEST for i, name in enumerate(order)}


def _with_newcomers(
    order: Sequence[str], sizes: Sequence[int], known: Mapping[str, str], splits: SplitShares
) -> dict[str, str]:
    shares = dict(zip(SPLITS, _shares(splits), strict=True))
    result = {name: known[name] for name in order if name in known}
    counts: Counter[str] = Counter()
    for name, size in zip(order, sizes, strict=True):
        if name in known:
            counts[known[name]] += size
    for name, size in zip(order, sizes, strict=True):
        if name in known:
            continue
        total = counts.total() + size
        chosen = max(SPLITS, key=lambda split: shares[split] * total - counts[split])
        result[name] = chosen
        counts[chosen] += size
    return result


def too_near(assigned: Mapping[Tile, str], buffer: int) -> set[Tile]:
    """Tiles with fewer than ``buffer`` whole tiles between them and a tile of another split.

    Dropping them leaves every pair of tiles of different splits at least ``buffer`` tiles apart
    (Chebyshev distance on the grid, the border of the map not wrapped).
    """
    if buffer == 0:
        return set()
    dropped: set[Tile] = set()
    by_split = {split: [tile for tile, name in assigned.items() if name == split] for split in SPLITS}
    for split, tiles in by_split.items():
        others = [tile for name, members in by_split.items() if name != split for tile in members]
        if not tiles or not others:
            continue
        tree = shapely.STRtree(shapely.points([(tile.x, tile.y) for tile in others]))
        x = np.array([tile.x for tile in tiles])
        y = np.array([tile.y for tile in tiles])
        near = tree.query(shapely.box(x - buffer, y - buffer, x + buffer, y + buffer))[0]
        dropped.update(tiles[i] for i in np.unique(near))
    return dropped
