"""Which staged samples make the next version, in which split each, and in which slot."""

from collections.abc import Iterable, Mapping

from tasks.build.job import Job
from tasks.build.tools import tools_of
from tasks.errors import AreaError, NothingSelectedError, SourceError
from tasks.geo.georeference import Georeference
from tasks.geo.tiles import Tile
from tasks.recipe.model import Recipe
from tasks.recipe.parts import TileCells
from tasks.samples.groups import HELD_OUT, named_splits
from tasks.samples.window import Candidates, Window, place_of
from tasks.state.ledger import Sample
from tasks.versions.plan import Row, VersionPlan, plan_version
from tasks.versions.read import Previous, previous_of
from tasks.versions.schema import Layout
from tasks.versions.splits import assign_splits, too_near
from tasks.versions.write import open_or_create
from tasks.views.funnel import Funnel, describe_funnel


def assign(job: Job, found: Candidates) -> VersionPlan:
    """Split the staged samples and plan the version they make.

    The ledger gets the splits with the commit, not here: a build that dies in between has decided nothing. Raises
    NothingSelectedError when no image was staged or the buffer leaves none, SourceError when the images differ.
    """
    recipe, tools = job.recipe, tools_of(job)
    repository = open_or_create(job.store)
    with tools.ledger() as ledger:
        samples = ledger.samples()
        if not samples:
            told = describe_funnel(Funnel.of(ledger, recipe))
            raise NothingSelectedError(f"no image was kept, so no version was made\n{told}")
        given = ledger.splits()
    windows = {window.name: window for window in found.windows()}
    previous = previous_of(job.store, repository)
    units = {sample.name: unit_of(windows[sample.name], recipe) for sample in samples}
    known = _known(recipe, windows.values(), previous, given)
    assigned = assign_splits(units, known, recipe.splits)
    dropped = _dropped(recipe, windows, assigned)
    rows = {
        sample.name: Row(sample, units[sample.name], _georeference(windows[sample.name], recipe.resize))
        for sample in samples
    }
    layout = _layout(job, samples)
    return plan_version(rows, assigned, previous, layout, recipe.splits.seed, recipe.content_hash(), dropped)


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
    if len(dropped) == len(assigned):
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
            raise SourceError(
                f"{a} is {one.bands} bands of {one.width} x {one.height} px {one.dtype}, {b} is {other.bands} bands of "
                f"{other.width} x {other.height} px {other.dtype}; the samples of a dataset are alike: set "
                "imagery.windows.size, or take the scenes apart into two recipes"
            )
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
