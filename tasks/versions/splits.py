"""Splits: which samples train, which validate, which test, and never the other way round later.

Units (tiles, blocks of tiles, scenes, groups of scenes) are put in the order of a hash of their name and a seed, so
the result is the same on every machine. A first build cuts that order at the shares; a later version keeps every
assignment and gives each newcomer to the split that is furthest below its share.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import shapely

from tasks.recipe.parts import Splits
from tasks.samples.window import Place
from tasks.versions.schema import SPLITS, TEST, TRAIN, VALIDATION

_HAIR = 1e-6  # of a window's side; places that are nearer to a limit than that are on it


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


def assign_splits(units: Mapping[str, str], known: Mapping[str, str], splits: Splits) -> dict[str, str]:
    """The split of every sample. ``units``: the unit of each sample; ``known``: units that have a split already."""
    members: dict[str, list[str]] = {}
    for name, unit in units.items():
        members.setdefault(unit, []).append(name)
    order = hash_order(members, splits.seed)
    sizes = [len(members[unit]) for unit in order]
    by_unit = _with_newcomers(order, sizes, known, splits) if known else _first_cut(order, sizes, splits)
    return {name: by_unit[unit] for unit, names in members.items() for name in names}


def _first_cut(order: Sequence[str], sizes: Sequence[int], splits: Splits) -> dict[str, str]:
    """Cut the hash order where the running sum of samples is nearest to the shares' sums.

    With at least as many units as splits with a share, each of those gets one unit or more; with fewer, train does.
    """
    shares = splits.shares
    targets = np.cumsum(largest_remainder(sum(sizes), shares))
    running = np.concatenate(([0], np.cumsum(sizes)))
    cuts = [int(np.argmin(np.abs(running - target))) for target in targets[:2]]
    wanted = [share > 0 for share in shares]
    if len(order) >= sum(wanted):
        cuts[0] = max(cuts[0], int(wanted[0]))
        cuts[1] = max(cuts[1], cuts[0] + int(wanted[1]))
        cuts[1] = min(cuts[1], len(order) - int(wanted[2]))
        cuts[0] = min(cuts[0], cuts[1] - int(wanted[1]))
    elif wanted[0]:
        cuts = [max(cut, 1) for cut in cuts]
    return {name: TRAIN if i < cuts[0] else VALIDATION if i < cuts[1] else TEST for i, name in enumerate(order)}


def wanted_splits(splits: Splits) -> list[str]:
    """The splits that a recipe asks for: those with a share, with groups of their own, or with what is held out."""
    asked = {split for split, share in zip(SPLITS, splits.shares, strict=True) if share > 0}
    asked |= {split for split, names in splits.groups.items() if names}
    asked |= {VALIDATION} if splits.holdout else set()
    return [split for split in SPLITS if split in asked]


def _with_newcomers(
    order: Sequence[str], sizes: Sequence[int], known: Mapping[str, str], splits: Splits
) -> dict[str, str]:
    shares = dict(zip(SPLITS, splits.shares, strict=True))
    result: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name, size in sorted(zip(order, sizes, strict=True), key=lambda unit: unit[0] not in known):  # the known first
        total = counts.total() + size
        missing = {split: shares[split] * total - counts[split] for split in SPLITS}
        result[name] = known.get(name) or max(missing, key=missing.__getitem__)
        counts[result[name]] += size
    return result


def too_near(places: Mapping[str, Place], assigned: Mapping[str, str], buffer: int) -> set[str]:
    """Samples with less than ``buffer`` whole windows between them and one of another split on the same plane.

    places: of all samples, by name; assigned: their splits. With buffer 0 these are the samples that share ground with
    one of another split. Dropping them leaves samples of different splits at least ``buffer`` windows apart, along the
    columns or along the rows (the border of the map is not wrapped).
    """
    planes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, place in places.items():
        planes[place.plane][assigned[name]].append(name)
    reach = buffer + 1 - _HAIR
    dropped: set[str] = set()
    for by_split in planes.values():
        if len(by_split) == 1:
            continue
        points = {split: np.array([places[name][1:] for name in names]) for split, names in by_split.items()}
        for split, names in by_split.items():
            others = np.concatenate([found for other, found in points.items() if other != split])
            low, high = points[split] - reach, points[split] + reach
            boxes = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
            near = shapely.STRtree(shapely.points(others)).query(boxes)[0]
            dropped.update(names[i] for i in np.unique(near))
    return dropped
