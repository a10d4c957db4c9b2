"""The stages: ``candidates -> labels -> measure(shard) -> fetch(shard) -> assign -> write(block) -> commit``.

Each is a plain function of the job and of what stages before it returned, and records what it did in the ledger. So
any of them can run in any process, be killed, and be run again. Which comes when is said once, in
:mod:`tasks.build.line`.
"""

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace

from tasks.build.assign import WANTED, split_samples, unit_of
from tasks.build.job import Job
from tasks.build.ready import check_room, check_store
from tasks.build.selection import judge_of
from tasks.build.told import Contents, contents, refuse_nothing_to_learn
from tasks.build.tools import Tools, tools_of
from tasks.errors import DiskError, NothingSelectedError, TooManyFailedError
from tasks.geo.georeference import lonlat_of
from tasks.imagery.protocol import Price
from tasks.labels.footprints import LabelReport
from tasks.labels.measure import measure as measure_windows
from tasks.labels.outlines import LabelOutlines
from tasks.labels.protocol import ANSWERS
from tasks.labels.registry import label_origin
from tasks.raster.resize import resize_image, resize_mask, resize_rgb
from tasks.recipe.model import Recipe
from tasks.samples.cells import find_touched
from tasks.samples.groups import explain_unmatched, named_splits, unmatched
from tasks.samples.touched import forget_kept
from tasks.samples.window import Candidates, Shard, only
from tasks.state import masks
from tasks.state.ledger import Ledger, RunState, Sample
from tasks.state.transitions import UNREAD, Standing, State
from tasks.versions.plan import Block, VersionPlan
from tasks.versions.read import find_repository, list_versions, open_version
from tasks.versions.write import Pixels, Written
from tasks.views.funnel import Funnel, describe_funnel

SHOWN = 5  # names, and reasons, of failures in a message
LABELS_LAST = 86_400.0  # seconds after which even the labels of an unfinished run are taken again


def check(job: Job) -> None:
    """See that the imagery may and can be asked for, and that the store can be written.

    Raises TermsError, CredentialError, SourceError, RecipeError, StoreError, DiskError.
    """
    tools = tools_of(job)
    tools.source.check()
    _ = tools.classes
    check_store(job.store)


def candidates(job: Job) -> Candidates:
    """Find the windows, enter them in the ledger, and cut them into shards. Raises AreaError, SourceError, LabelError.

    Windows whose imagery is another than the one that was asked for are to be asked for again. A sample among buildings
    is drawn by footprints that are asked when labels are to be taken again, else by what was found of them.
    """
    tools = tools_of(job)
    with tools.ledger() as ledger:
        state = ledger.run_state()
    if not state.labels_key or _are_old(state):
        forget_kept(job.work.root)
    find_touched(job.recipe, job.work.root, LabelOutlines(job.recipe, job.work.labels))
    found = tools.source.candidates()
    key, fingerprints = tools.source.key, dict(tools.source.fingerprints())
    with tools.ledger() as ledger:
        ledger.set_candidates(window.name for window in found.windows())
        before = ledger.run_state()
        if before.imagery_key not in ("", key) and before.imagery_key not in _former_keys(job):
            ledger.forget_answers(ledger.known())
        changed = {scene for scene, now in fingerprints.items() if before.fingerprints.get(scene, now) != now}
        if changed:
            ledger.forget_answers(window.name for window in found.windows() if window.scene in changed)
        ledger.set_run_state(replace(before, imagery_key=key, fingerprints={**before.fingerprints, **fingerprints}))
    return found


def _former_keys(job: Job) -> set[str]:
    """What programs whose filter stood in the key may have left there: for the filter of now, or the last version's."""
    limits = {job.recipe.filter.max_nodata_fraction}
    if (repository := find_repository(job.store)) is not None and list_versions(repository):
        recipe = open_version(job.store).attributes.get("recipe", {})
        limits |= {float(recipe.get("filter", {}).get("max_nodata_fraction", 0.0))}
    return {tools_of(job).source.former_key(limit) for limit in limits}


def check_groups(job: Job, found: Candidates) -> str:
    """A warning of names in ``splits.groups`` that meet no candidate, and nothing that was one earlier; "" without.

    Raises RecipeError where such a name may be a misspelt one that puts samples into a wrong split: when there are
    samples that no name meets, but perhaps ``*``. Otherwise those that it means may just not be here.
    """
    groups, by = job.recipe.splits.groups, job.recipe.splits.by
    if not groups:
        return ""
    tools = tools_of(job)
    units = {unit_of(window, job.recipe) for window in found.windows()}
    if by in ("scene", "group"):  # also those that are left out
        units |= {scene.group if by == "group" else scene.name for scene in tools.source.scenes()}
    with tools.ledger() as ledger:
        earlier = {unit for unit, _ in ledger.splits().values()}
    strange = unmatched(units | earlier, groups)
    if not strange:
        return ""
    told = {split: [name for name in names if any(map(str.isalnum, name))] for split, names in groups.items()}
    if units - named_splits(units, told).keys():
        raise explain_unmatched(*strange[0], units, by)
    names = ", ".join(name for _, name in strange[:SHOWN]) + (", ..." if len(strange) > SHOWN else "")
    return f"splits.groups: {len(strange):,} names meet no {by} ({names}); if those are not here, all is well"


# ---- labels first ------------------------------------------------------------------------------


def labels(job: Job, found: Candidates) -> LabelReport:
    """Have the labels of the candidates ready: fetched, or those of a run that ended before its version.

    Labels are taken again when a version was made from them, so that a nightly run sees what changed; when the
    recipe's labels or area differ or a label file changed; and after a day. Raises LabelError.
    """
    tools, work, windows = tools_of(job), job.work, list(found.windows())
    drawn = job.recipe.draws_footprints
    key = _digest(label_origin(job.recipe) if drawn else "", *(f"{w.name} {w.georeference}" for w in windows))
    with tools.ledger() as ledger:
        state = ledger.run_state()
        if state.labels_key != key or _are_old(state):
            # The files first: a run that is killed in between must not take them for those of the new key.
            shutil.rmtree(work.labels / ANSWERS, ignore_errors=True)
            work.footprints.unlink(missing_ok=True)
            ledger.set_run_state(replace(state, labels_key=key, labels_since=float(int(time.time()))))
    reused = drawn and work.footprints.exists()
    report = tools.labels.prepare(windows, work.labels)
    return replace(report, requests=0) if reused else report


def check_labels(job: Job, found: Candidates, report: LabelReport) -> None:
    """Raise NothingSelectedError when not one footprint lies on a candidate: every sample would be background."""
    if report.kept or not job.recipe.draws_footprints:
        return
    told = [f"labels: no footprint of {report.source} lies on any of {len(found):,} candidates"]
    if report.read:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items())
        told = [f"labels: none of the {report.read:,} footprints of {report.source} can be used ({reasons})"]
    elif report.bounds is not None:
        held = "its footprints" + ("" if report.held is None else f" ({report.held:,} in all)")
        told += [f"{held} lie in {_box(report.bounds)} (west, south, east, north)"]
        told += [f"the candidates in {_box(_bounds(found))}"]
    raise NothingSelectedError(
        f"{'; '.join(told)}. Check that area and labels are of the same place, and that the labels' coordinates are in "
        "the CRS that their file tells"
    )


def _bounds(found: Candidates) -> list[float]:
    """West, south, east, north of all windows that have a place, in degrees."""
    boxes = [lonlat_of(one.georeference, one.width, one.height) for one in found.windows() if one.georeference]
    sides = list(zip(*boxes, strict=True))
    return [min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3])] if sides else []


def _box(bounds: Sequence[float]) -> str:
    return ", ".join(f"{side:.5g}" for side in bounds) or "no place"


def judge(job: Job, report: LabelReport) -> None:
    """Have every candidate stand as the recipe's filter says of what is recorded of it (:mod:`tasks.build.selection`).

    What is not measured or fetched yet is left alone, so this is to be done before and after.
    """
    key = _measure_key(job, report)
    standings: dict[str, Standing] = {}
    undrawn, judged = [], judge_of(job.recipe)
    with tools_of(job).ledger() as ledger:
        ledger.rename_key(_former_measure_key(job, report), key)
        for one in ledger.recorded(key):
            now, waits = judged(one)
            if now != one.standing:
                standings[one.name] = now
            if waits:
                undrawn.append(one.name)
        ledger.judge(standings)
        ledger.measure_again(undrawn)


def _are_old(state: RunState) -> bool:
    return time.time() - state.labels_since > LABELS_LAST


def to_measure(job: Job, found: Candidates, report: LabelReport) -> list[Shard]:
    """The shards that hold a window whose class fractions, or mask, are not known for these labels."""
    with tools_of(job).ledger() as ledger:
        return only(found.shards, ledger.unmeasured(_measure_key(job, report)))


def measure(job: Job, report: LabelReport, shard: Shard) -> int:
    """Make a shard's masks, record fractions and masks; returns how many windows pass the label filter."""
    tools = tools_of(job)
    found = measure_windows(shard.windows, tools.labels, tools.classes, job.recipe)
    unread = [one for one in found if one.reason.startswith(UNREAD)]
    with tools.ledger() as ledger:
        ledger.record_measured([one for one in found if not one.reason.startswith(UNREAD)], _measure_key(job, report))
        if unread:
            ledger.record_measured(unread, "")  # so that the next run asks again
    return sum(one.passes for one in found)


def funnel(job: Job) -> Funnel:
    """How many candidates got how far. Raises NothingSelectedError when none passes the label filter."""
    with tools_of(job).ledger() as ledger:
        found = Funnel.of(ledger, job.recipe)
    if found.selected == 0:
        raise NothingSelectedError(
            f"no {found.what} passes the filter, so no version was made\n{describe_funnel(found)}"
        )
    return found


def outlook(job: Job, found: Candidates, report: LabelReport) -> Contents:
    """What the next version would hold if all imagery that passes comes.

    Raises NothingSelectedError when nobody could train with it, RecipeError when two splits claim one unit.
    """
    with tools_of(job).ledger() as ledger:
        fractions = dict(ledger.class_fractions(*WANTED))
    windows = {window.name: window for window in found.windows()}
    kept = split_samples(job, windows, fractions).kept
    expected = contents({split: [fractions[name] for name in names] for split, names in kept.items()}, job.recipe)
    refuse_nothing_to_learn(expected, job.recipe, report)
    return expected


# ---- imagery -----------------------------------------------------------------------------------


def room(job: Job, found: Candidates) -> str:
    """A warning when the disk may not take the imagery; "" when it does. Raises DiskError when it cannot."""
    return check_room(job.work, price(job, found).bytes)


def price(job: Job, found: Candidates) -> Price:
    """What asking for the imagery that is not on disk would take."""
    tools = tools_of(job)
    with tools.ledger() as ledger:
        pending = set(ledger.names(State.SELECTED, State.FAILED))
        staged, mean_bytes = ledger.counts()[State.STAGED], ledger.mean_bytes()
    windows = [window for window in found.windows() if window.name in pending]
    return tools.source.price(windows, staged, mean_bytes)


def to_fetch(job: Job, found: Candidates) -> list[Shard]:
    """The shards that hold a window to ask imagery for: selected, failed in an earlier run, or lost on disk."""
    tools = tools_of(job)
    with tools.ledger() as ledger:
        ledger.retry_failed()
        lost = [name for name in ledger.names(State.STAGED) if tools.staging.path(name) is None]
        ledger.forget_images(lost)
        return only(found.shards, set(ledger.names(State.SELECTED)))


def fetch(job: Job, shard: Shard) -> None:
    """Ask for the images of a shard from :func:`to_fetch`, stage them and record every outcome."""
    tools = tools_of(job)
    with tools.ledger() as ledger:
        tools.source.fetch(shard, tools.staging, ledger.record_fetched)


def check_failures(job: Job) -> None:
    """Raise TooManyFailedError when more failed than the recipe allows, saying which and why."""
    allowed = job.recipe.limits.max_failed_fraction
    with tools_of(job).ledger() as ledger:
        found = Funnel.of(ledger, job.recipe)
        unread = {why: n for why, n in ledger.reasons(State.REJECTED).items() if why.startswith(UNREAD)}
        failed, of = found.failed + sum(unread.values()), found.selected + sum(unread.values())
        if failed <= allowed * of:
            return
        counts = list({**ledger.reasons(State.FAILED), **unread}.items())
        names = [*ledger.names(State.FAILED), *(ledger.names_by_reason(State.REJECTED, UNREAD) if unread else ())]
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in counts[:SHOWN])
    reasons += f", and {len(counts) - SHOWN:,} other reasons" if len(counts) > SHOWN else ""
    what = "images" if not unread else "images and labels" if found.failed else "labels"
    raise TooManyFailedError(
        f"{failed:,} of {of:,} {what} failed, over limits.max_failed_fraction {allowed:g} ({reasons}; for example "
        f"{', '.join(names[:SHOWN])}); run the same command again, which asks for these alone, or raise "
        "limits.max_failed_fraction"
    )


# ---- version -----------------------------------------------------------------------------------


def write(job: Job, plan: VersionPlan, block: Block) -> Written:
    """Read and write a block of the version. Raises DiskError when an image is not as it was staged."""
    tools = tools_of(job)
    draft = tools.draft(plan)
    with tools.ledger() as ledger:
        return draft.write(block, lambda sample: pixels_of(job, tools, ledger, sample))


def pixels_of(job: Job, tools: Tools, ledger: Ledger, sample: Sample) -> Pixels:
    """A sample's pixels as the version stores them. Raises DiskError when its image is not as it was staged."""
    staged = tools.staging.read(sample.name, sample.sha256)
    if staged is None:
        ledger.forget_images([sample.name])
        raise DiskError(
            f"{tools.staging.path(sample.name) or sample.name}: the image on disk is not the one that was staged; "
            "it is put back to be asked for, run the same command again"
        )
    image, side, ignore = staged.image, job.recipe.resize, job.recipe.ignore_index
    mask = masks.decode(ledger.mask(sample.name), *image.shape[1:])
    if staged.hidden is not None and ignore is not None and staged.hidden.any():
        mask[staged.hidden] = ignore  # where there is no image there is nothing to learn from
    if side is None or image.shape[1:] == (side, side):
        return Pixels(image, mask, staged.cloud_mask)
    return Pixels(
        (resize_rgb if staged.encoded else resize_image)(image, side),  # each as versions before had it
        resize_mask(mask, side),
        None if staged.cloud_mask is None else resize_mask(staged.cloud_mask.view("uint8"), side).astype(bool),
    )


def _measure_key(job: Job, report: LabelReport) -> str:
    """Changes when a window's labels would not be what was measured."""
    source = tools_of(job).source
    return _labels_key(job.recipe, report, "", source.key)


def _former_measure_key(job: Job, report: LabelReport) -> str:
    """What that key was to programs that measured for a filter."""
    recipe = job.recipe
    limits = recipe.filter.model_dump_json(include={"min_building_fraction", "min_fraction", "max_ignore_fraction"})
    return _labels_key(recipe, report, limits, tools_of(job).source.former_key(recipe.filter.max_nodata_fraction))


def _labels_key(recipe: Recipe, report: LabelReport, limits: str, imagery: str) -> str:
    laid = recipe.patch_grid or recipe.cells
    return _digest(
        report.sha256,
        limits,
        *(entry.model_dump_json() for entry in recipe.classes),
        recipe.ignore_index,
        recipe.ignore_values,
        recipe.ignore_colors,
        recipe.labels.model_dump_json(),
        laid.model_dump_json() if laid else "",
        imagery if recipe.patch_grid else "",
    )


def _digest(*parts: object) -> str:
    """SHA-256 of the parts' text, as hex: a key that changes when one of them does."""
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()
