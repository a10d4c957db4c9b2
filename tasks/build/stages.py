"""The stages: ``candidates -> labels -> measure(shard) -> fetch(shard) -> assign -> write(block) -> commit``.

Each is a plain function of the job and of what stages before it returned, and records what it did in the ledger. So
any of them can run in any process, be killed, and be run again. Which comes when is said once, in
:mod:`tasks.build.line`.
"""

import hashlib
import shutil
import time
from dataclasses import replace

from tasks.build.job import Job
from tasks.build.tools import Tools, tools_of
from tasks.errors import DiskError, NothingSelectedError, TooManyFailedError
from tasks.imagery.protocol import Price
from tasks.labels.footprints import LabelReport
from tasks.labels.measure import measure as measure_windows
from tasks.labels.protocol import ANSWERS
from tasks.labels.registry import label_origin
from tasks.raster.resize import resize_image, resize_mask, resize_rgb
from tasks.samples.window import Candidates, Shard, only
from tasks.state import masks
from tasks.state.ledger import Ledger, Sample
from tasks.state.transitions import UNREAD, State
from tasks.versions.plan import Block, VersionPlan
from tasks.versions.write import Pixels, Written
from tasks.views.funnel import Funnel, describe_funnel

LABELS_LAST = 86_400.0  # seconds after which even the labels of an unfinished run are taken again


def check(job: Job) -> None:
    """See that the imagery may and can be asked for. Raises TermsError, CredentialError, SourceError, RecipeError."""
    tools = tools_of(job)
    tools.source.check()
    _ = tools.classes


def candidates(job: Job) -> Candidates:
    """Find the windows, enter them in the ledger, and cut them into shards. Raises AreaError, SourceError.

    Windows whose imagery is another than the one that was asked for are to be asked for again.
    """
    tools = tools_of(job)
    found = tools.source.candidates()
    key, fingerprints = tools.source.key, dict(tools.source.fingerprints())
    with tools.ledger() as ledger:
        ledger.set_candidates(window.name for window in found.windows())
        before = ledger.run_state()
        if before.imagery_key not in ("", key):
            ledger.forget_answers(ledger.known())
        changed = {scene for scene, now in fingerprints.items() if before.fingerprints.get(scene, now) != now}
        if changed:
            ledger.forget_answers(window.name for window in found.windows() if window.scene in changed)
        ledger.set_run_state(replace(before, imagery_key=key, fingerprints={**before.fingerprints, **fingerprints}))
    return found


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
        if state.labels_key != key or time.time() - state.labels_since > LABELS_LAST:
            # The files first: a run that is killed in between must not take them for those of the new key.
            shutil.rmtree(work.labels / ANSWERS, ignore_errors=True)
            work.footprints.unlink(missing_ok=True)
            ledger.set_run_state(replace(state, labels_key=key, labels_since=float(int(time.time()))))
    reused = drawn and work.footprints.exists()
    report = tools.labels.prepare(windows, work.labels)
    return replace(report, requests=0) if reused else report


def to_measure(job: Job, found: Candidates, report: LabelReport) -> list[Shard]:
    """The shards that hold a window whose class fractions are not known for these labels and this filter."""
    with tools_of(job).ledger() as ledger:
        return only(found.shards, ledger.unmeasured(_measure_key(job, report)))


def measure(job: Job, report: LabelReport, shard: Shard) -> int:
    """Make a shard's masks, record fractions and masks; returns how many windows pass the label filter."""
    tools = tools_of(job)
    found = measure_windows(shard.windows, tools.labels, tools.classes, job.recipe)
    unread = [one for one in found if one.reason == UNREAD]
    with tools.ledger() as ledger:
        ledger.record_measured([one for one in found if one.reason != UNREAD], _measure_key(job, report))
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


# ---- imagery -----------------------------------------------------------------------------------


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
        unread = ledger.reasons(State.REJECTED).get(UNREAD, 0)
        failed, of = found.failed + unread, found.selected + unread
        if failed <= allowed * of:
            return
        counts = ledger.reasons(State.FAILED) | ({UNREAD: unread} if unread else {})
        reasons = ", ".join(f"{count} x {reason}" for reason, count in counts.items())
        names = ", ".join(ledger.names(State.FAILED)[:5]) or "none of the imagery"
    raise TooManyFailedError(
        f"{failed} of {of} images failed, over limits.max_failed_fraction {allowed:g} "
        f"({reasons}; for example {names}); run the same command again to go on where this stopped"
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
    recipe = job.recipe
    laid = recipe.patch_grid or recipe.cells
    return _digest(
        report.sha256,
        recipe.filter.model_dump_json(include={"min_building_fraction", "min_fraction", "max_ignore_fraction"}),
        *(entry.model_dump_json() for entry in recipe.classes),
        recipe.ignore_index,
        recipe.ignore_values,
        recipe.ignore_colors,
        recipe.labels.model_dump_json(),
        laid.model_dump_json() if laid else "",
        tools_of(job).source.key if recipe.patch_grid else "",
    )


def _digest(*parts: object) -> str:
    """SHA-256 of the parts' text, as hex: a key that changes when one of them does."""
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()
