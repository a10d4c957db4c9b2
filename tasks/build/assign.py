"""Which samples make the next version, in which split each, and in which slot."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tasks.build.job import Job
from tasks.build.told import finer
from tasks.build.tools import tools_of
from tasks.errors import AreaError, NothingSelectedError, SourceError
from tasks.geo.georeference import Georeference
from tasks.geo.tiles import Tile
from tasks.recipe.model import Recipe
from tasks.recipe.parts import TileCells
from tasks.samples.groups import HELD_OUT, named_splits
from tasks.samples.window import Candidates, Window, place_of
from tasks.state.ledger import Sample
from tasks.state.staging import ImageShape
from tasks.state.transitions import State
from tasks.versions.plan import Row, VersionPlan, plan_version
from tasks.versions.read import Previous, find_repository, previous_of
from tasks.versions.schema import SPLITS, TRAIN, Layout
from tasks.versions.splits import assign_splits, too_near, wanted_splits
from tasks.views.funnel import Funnel, describe_funnel

WANTED = (State.SELECTED, State.STAGED, State.FAILED)  # of samples that the next version may hold once asked for


@dataclass(frozen=True)
class Split:
    """Samples by the split that each is in."""

    units: Mapping[str, str]  # of every sample, what a split keeps together with it
    assigned: Mapping[str, str]  # of every sample
    dropped: Collection[str]  # those that stand too near to another split to be in a version
    previous: Previous

    @property
    def kept(self) -> dict[str, list[str]]:
        """Names of the samples of a version, by split."""
        found: dict[str, list[str]] = {split: [] for split in SPLITS}
        for name, split in self.assigned.items():
            if name not in self.dropped:
                found[split].append(name)
        return found


def split_samples(job: Job, windows: Mapping[str, Window], names: Collection[str]) -> Split:
    """Split the samples of these names, a few of the ``windows``.

    Raises NothingSelectedError when the buffer leaves none, and as :func:`refuse_empty`; RecipeError when two splits
    claim a unit.
    """
    recipe = job.recipe
    repository = find_repository(job.store)
    previous = Previous() if repository is None else previous_of(job.store, repository)
    with tools_of(job).ledger() as ledger:
        given = ledger.splits()
    units = {name: unit_of(windows[name], recipe) for name in names}
    known = _known(recipe, windows.values(), previous, given)
    assigned = assign_splits(units, known, recipe.splits)
    found = Split(units, assigned, _dropped(recipe, windows, assigned), previous)
    refuse_empty(found, recipe)
    return found


def assign(job: Job, found: Candidates) -> VersionPlan:
    """Split the staged samples and plan the version they make.

    The ledger gets the splits with the commit, not here: a build that dies in between has decided nothing. Raises
    NothingSelectedError when no image was staged, and as :func:`split_samples`; SourceError when the images differ.
    """
    recipe = job.recipe
    with tools_of(job).ledger() as ledger:
        samples = ledger.samples()
        if not samples:
            told = describe_funnel(Funnel.of(ledger, recipe))
            raise NothingSelectedError(f"no image was kept, so no version was made\n{told}")
    windows = {window.name: window for window in found.windows()}
    split = split_samples(job, windows, [sample.name for sample in samples])
    rows = {
        sample.name: Row(sample, split.units[sample.name], _georeference(windows[sample.name], recipe.resize))
        for sample in samples
    }
    layout = _layout(job, samples)
    return plan_version(
        rows, split.assigned, split.previous, layout, recipe.splits.seed, recipe.content_hash(), split.dropped
    )


def refuse_empty(found: Split, recipe: Recipe) -> None:
    """Refuse splits that nobody can train with. Raises NothingSelectedError, which says what to do.

    That is an empty train split that the recipe asks for. Other empty splits are told (:mod:`tasks.build.told`): a
    single scene, or a small area of one block, is trained on all the same.
    """
    wanted, units = wanted_splits(recipe.splits), set(found.units.values())
    counts = {split: len(names) for split, names in found.kept.items()}
    if not found.units or TRAIN not in wanted:
        return
    what = recipe.splits.by
    if counts[TRAIN] == 0:
        held = ", ".join(f"{split} {count:,}" for split, count in counts.items() if count) or "none"
        raise NothingSelectedError(
            f"splits: train would be empty: of {len(found.units):,} samples, of {len(units):,} {what}"
            f"{'' if len(units) == 1 else 's'}, are in {held}; {finer(recipe)}"
        )


def unit_of(window: Window, recipe: Recipe) -> str:
    """What a split keeps together with a window."""
    by = recipe.splits.by
    if by in ("tile", "sample"):
        return window.name
    if by == "scene":
        return window.scene + (HELD_OUT if window.group.endswith(HELD_OUT) else "")
    return window.group


def _known(
    recipe: Recipe, windows: Iterable[Window], previous: Previous, given: Mapping[str, tuple[str, str]]
) -> dict[str, str]:
    """The split of every unit that has one.

    What the last version or the ledger recorded of a unit counts before the recipe's named groups, and those before
    what is told of single samples only, as old stores and ledgers do.
    """
    now = {window.name: unit_of(window, recipe) for window in windows}
    by_sample: dict[str, str] = {}
    by_unit: dict[str, str] = {}
    told = dict(given)
    for name, unit, split in previous.members():
        by_unit |= {unit: split} if unit else {}
        told.setdefault(name, (unit, split))
    for name, (unit, split) in sorted(told.items()):
        by_sample.setdefault(now.get(name) or unit or _unit_of_old(name, recipe), split)
        if unit:
            by_unit.setdefault(unit, split)
    by_sample.pop("", None)
    return by_sample | named_splits(set(now.values()), recipe.splits.groups) | by_unit


def _unit_of_old(name: str, recipe: Recipe) -> str:
    """The unit of a tile that is no candidate now and whose ledger or store (schema 1) tells no unit."""
    if recipe.grid is None or not isinstance(recipe.cells, TileCells):
        return ""
    try:
        tile = Tile.parse(name)
    except AreaError:
        return ""
    return tile.parent(recipe.block_zoom).name if recipe.splits.by == "block" else name


def _dropped(recipe: Recipe, windows: Mapping[str, Window], assigned: Mapping[str, str]) -> set[str]:
    """Samples that stand too near to another split, or share ground with it, to be in a version."""
    splits, patches = recipe.splits, recipe.patch_grid
    if not splits.buffer and not (splits.by == "block" and patches):
        return set()
    dropped = too_near({name: place_of(windows[name]) for name in assigned}, assigned, splits.buffer)
    if assigned and len(dropped) == len(assigned):
        raise NothingSelectedError(
            f"splits.buffer {splits.buffer} leaves no sample of {len(assigned)}; lower it, or take larger blocks"
        )
    return dropped


def _georeference(window: Window, side: int | None) -> Georeference | None:
    """Of the window's pixels as they are stored."""
    lies = window.georeference
    return lies if lies is None or side is None else lies.scaled(window.width / side, window.height / side)


def _layout(job: Job, samples: list[Sample]) -> Layout:
    """How the version stores these samples. Raises SourceError when the images differ in size or type."""
    recipe, tools = job.recipe, tools_of(job)
    shape = tools.source.shape
    if shape is None:
        shapes = {tools.staging.shape(sample.name): sample.name for sample in reversed(samples)}
        if len(shapes) > 1:
            (one, a), (other, b) = list(shapes.items())[:2]
            raise SourceError(_differing(a, one, b, other))
        shape = next(iter(shapes))
    return Layout(
        bands=tuple(tools.source.bands),
        dtype=shape.dtype,
        height=recipe.resize or shape.height,
        width=recipe.resize or shape.width,
        classes=tuple(entry.name for entry in recipe.classes),
        cloud_mask=recipe.clouds.on_cloud == "mask" and recipe.clouds.mask != "none",
        building=recipe.building_value is not None,
    )


def _differing(a: str, one: ImageShape, b: str, other: ImageShape) -> str:
    """In what two images differ, and what to do about it."""
    what, ways = [], ["or take them apart into two recipes"]
    if one.dtype != other.dtype:
        what.append("type")
        ways.insert(0, f"convert the files of one of them (gdal_translate -ot {other.dtype.capitalize()})")
    if (one.height, one.width) != (other.height, other.width):
        what.append("size")
        ways.insert(0, "set imagery.windows.size")
    shown = " and ".join(
        f"{name} has {shape.bands} bands of {shape.width} x {shape.height} px {shape.dtype}"
        for name, shape in ((a, one), (b, other))
    )
    return (
        f"images differ in {' and '.join(what) or 'their bands'}: {shown}; the samples of a dataset are alike: "
        f"{', '.join(ways)}"
    )
