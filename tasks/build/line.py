"""The line: which stage comes when. Written once, for the flow, the plan, the tests and the benchmarks."""

import dataclasses
import functools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.build import stages
from tasks.build.assign import assign
from tasks.build.commit import BuildSummary, commit, draw_preview
from tasks.build.job import Job
from tasks.build.runner import InTurn, Runner
from tasks.build.tools import close_tools, tools_of
from tasks.errors import StoreError
from tasks.imagery.protocol import Price
from tasks.labels.footprints import LabelReport
from tasks.samples.window import Candidates
from tasks.versions.read import find_repository, list_versions, open_version
from tasks.versions.write import heal_tags
from tasks.views.funnel import Funnel, describe_funnel


@dataclass(frozen=True)
class Planned:
    """What labels alone decide, and what imagery would take."""

    shards: int
    funnel: Funnel
    price: Price


def plan(job: Job, runner: Runner | None = None) -> Planned:
    """Take the labels, draw the masks, and say what the imagery would take. Asks for none.

    What is found is kept in the work directory, where a build goes on from it. Raises as the stages do, BusyError when
    another build holds the store, StoreError when the store is of another recipe.
    """
    with running(job):
        found, _, funnel = _select(job, runner or InTurn())
        return Planned(len(found.shards), funnel, stages.price(job, found))


def build(job: Job, runner: Runner | None = None) -> BuildSummary:
    """Build the next version: a new one, or the last one when nothing changed. Raises as :func:`plan`."""
    runner, began = runner or InTurn(), time.monotonic()
    with running(job):
        stages.check(job)
        found, report, _ = _select(job, runner)
        runner.each("fetch", functools.partial(stages.fetch, job), stages.to_fetch(job, found), 2)
        stages.check_failures(job)
        version = runner.once("split", functools.partial(assign, job, found))
        blocks = () if version.unchanged else version.blocks
        written = runner.each("write", functools.partial(stages.write, job, version), blocks)
        summary = runner.once("commit", functools.partial(commit, job, found, report, version, written, began))
        draw_preview(job, version)
    return summary


def _select(job: Job, runner: Runner) -> tuple[Candidates, LabelReport, Funnel]:
    """Labels first: everything that needs no imagery."""
    found = runner.once("plan", functools.partial(stages.candidates, job))
    report = runner.once("labels", functools.partial(stages.labels, job, found), 2)
    runner.tell(f"{len(found.shards)} shards, {report.kept} labels ({report.source})")
    runner.each("select", functools.partial(stages.measure, job, report), stages.to_measure(job, found, report))
    funnel = stages.funnel(job)
    runner.tell(f"the funnel:\n{describe_funnel(funnel)}")
    return found, report, funnel


@contextmanager
def running(job: Job) -> Iterator[None]:
    """Hold the store's lock, see that the store is this recipe's, and let go of everything at the end."""
    job.work.make()
    with job.work.lock(f"build of {job.recipe.name}"):
        try:
            _claim(job)
            yield
        finally:
            close_tools(job)


def _claim(job: Job) -> None:
    """Refuse a store, or the ledger of an unfinished first build, that belongs to another recipe."""
    mine: Mapping[str, object] = json.loads(json.dumps(job.recipe.identity()))
    with tools_of(job).ledger() as ledger:
        state = ledger.run_state()
        theirs = state.identity
        repository = find_repository(job.store)
        if repository is not None:
            heal_tags(repository)
            if list_versions(repository):
                theirs = open_version(job.store).attributes.get("identity", {})
        differing = [key for key, value in mine.items() if theirs and theirs.get(key) != value]
        if differing:
            key = differing[0]
            raise StoreError(
                f"{job.store}: holds another recipe: {key} is {theirs.get(key)!r} there and {mine[key]!r} here; "
                f"choose another --store, change the recipe back, or delete it and {job.work.root}"
            )
        ledger.set_run_state(dataclasses.replace(state, identity=mine))
