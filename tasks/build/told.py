"""What a person should know of a version's samples before training on them: class shares, and what looks wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.errors import NothingSelectedError
from tasks.labels.footprints import LabelReport
from tasks.recipe.model import Recipe
from tasks.versions.schema import SPLITS
from tasks.versions.splits import wanted_splits
from tasks.views.funnel import percent

NEARLY_ALL = 0.95  # share of ignored pixels from which a version is warned of
Fractions = tuple[float, ...]  # of a sample's pixels by class, in the recipe's order


@dataclass(frozen=True)
class Contents:
    """Samples and what their labels hold, by split. Pixels are counted as they were measured, before any resizing."""

    splits: dict[str, int]  # number of samples
    class_shares: dict[str, dict[str, float]]  # by split and class; splits without samples are left out
    ignored: dict[str, float]  # by split, the share of pixels without a class

    def rows(self) -> list[tuple[str, str]]:
        """For people: a line for each split that has samples."""
        return [
            (f"classes of {split}", ", ".join([*(f"{name} {percent(share)}" for name, share in shares.items()), *rest]))
            for split, shares in self.class_shares.items()
            for rest in ([f"ignored {percent(self.ignored[split])}"] if self.ignored[split] else [],)
        ]


def contents(by_split: Mapping[str, Sequence[Fractions]], recipe: Recipe) -> Contents:
    """What the class fractions of samples sum up to."""
    names = [entry.name for entry in recipe.classes]
    splits = {split: len(by_split.get(split, ())) for split in SPLITS}
    shares: dict[str, dict[str, float]] = {}
    ignored: dict[str, float] = {}
    for split, samples in by_split.items():
        told = [fractions for fractions in samples if len(fractions) == len(names)]
        if told:
            means = [sum(column) / len(told) for column in zip(*told, strict=True)]
            shares[split] = {name: round(mean, 6) for name, mean in zip(names, means, strict=True)}
            ignored[split] = round(max(0.0, 1.0 - sum(means)), 6)
    return Contents(splits, shares, ignored)


def warnings(found: Contents, recipe: Recipe) -> list[str]:
    """What is empty that should not be."""
    told = []
    total = sum(found.splits.values())
    for split in wanted_splits(recipe.splits):
        if total and not found.splits[split]:
            told.append(
                f"no sample for {split}: there are too few {recipe.splits.by}s that could be in it; if that is not "
                f"meant, {finer(recipe)}"
            )
    void = [split for split, shares in found.class_shares.items() if not any(shares.values())]
    names = [entry.name for entry in recipe.classes]
    missing = {name: [split for split, shares in found.class_shares.items() if not shares[name]] for name in names}
    everywhere = [name for name in names if found.class_shares and len(missing[name]) == len(found.class_shares)]
    if everywhere:
        told.append(f"no pixel of {', '.join(everywhere)} in any sample; check the labels' values and the area")
    for split in found.class_shares:
        if split in void:
            told.append(f"every pixel of {split} is ignored: its samples have no labels")
        elif absent := [name for name in names if split in missing[name] and name not in everywhere]:
            told.append(f"no pixel of {', '.join(absent)} in {split}")
    return told + _nearly_ignored(found)


def finer(recipe: Recipe) -> str:
    """How a recipe gets samples into every split."""
    by, patches = recipe.splits.by, recipe.patch_grid
    if recipe.grid is not None and recipe.splits.by in ("block", "tile"):
        ways = ["a larger splits.block_zoom", "splits.by: tile"] if by == "block" else []
    elif by in ("scene", "group"):
        cut = patches is None or patches.size > 0
        ways = ["splits.by: block" if cut else "splits.by: sample"]
        ways += ["splits.holdout: 0.2 (a part of each scene for validation)"] if patches is not None and cut else []
    else:
        ways = ["a smaller splits.block", "splits.by: sample"] if by == "block" else []
    ways = [*ways, "splits.groups", "or shares that leave out a split (train: 1.0, validation: 0.0, test: 0.0)"]
    return f"choose {', '.join(ways)}"


def _nearly_ignored(found: Contents) -> list[str]:
    counted = {split: found.splits[split] for split in found.ignored}
    total = sum(counted.values())
    share = sum(found.ignored[split] * count for split, count in counted.items()) / total if total else 0.0
    if share < NEARLY_ALL:
        return []
    return [f"{percent(share)} of all pixels are ignored; check the labels' values, and ignore_values"]


def refuse_nothing_to_learn(found: Contents, recipe: Recipe, report: LabelReport) -> None:
    """Refuse a version of background only, or without any label. Raises NothingSelectedError."""
    held = found.class_shares.values()
    if not held:
        return
    total = sum(found.splits.values())
    if not any(any(shares.values()) for shares in held):
        raise NothingSelectedError(
            f"every pixel of the {total:,} samples that pass the filter is ignored: there is nothing to learn; check "
            "that labels and images are of the same place, the labels' values, and ignore_values"
        )
    background = {entry.name for entry in recipe.classes if entry.value == 0}
    if recipe.draws_footprints and not any(
        share for shares in held for name, share in shares.items() if name not in background
    ):
        raise NothingSelectedError(
            f"no building on any of the {total:,} samples that pass the filter: all would be background "
            f"({report.kept:,} footprints of {report.source} lie near them); check that area and labels are of the "
            "same place, and that the labels' coordinates are degrees"
        )
