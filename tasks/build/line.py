"""The line: which stage comes when. Written once, for the flow, the plan, the tests and the benchmarks."""

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.build import stages
from tasks.build.assign import assign
from tasks.build.commit import BuildSummary, commit, draw_preview, held, labels_told
from tasks.build.job import Job
from tasks.build.runner import InTurn, Runner
from tasks.build.told import Contents, refuse_nothing_to_learn, warnings
from tasks.build.tools import close_tools, tools_of
from tasks.errors import StoreError
from tasks.imagery.protocol import Price
from tasks.labels.footprints import LabelReport
from tasks.samples.window import Candidates
from tasks.secrets import redact
from tasks.versions.read import find_repository, list_versions, open_version
from tasks.versions.write import heal_tags
from tasks.views.funnel import Funnel, describe_funnel

_LOG = logging.getLogger("tilewright")


@dataclass(frozen=True)
class Planned:
    """What labels alone decide, and what imagery would take."""

    shards: int
    funnel: Funnel
    price: Price
    labels: dict[str, Any]  # see BuildSummary
    contents: Contents  # of the next version, if all imagery that passes comes
    warnings: list[str]


class Warned:
    """The warnings of a run: each is logged at once, and never twice."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, *messages: str) -> None:
        """Say those that are no empty text and were not said before."""
        for message in map(redact, messages):
            if message and message not in self.said:
                self.said.append(message)
                _LOG.warning("%s", message)


def plan(job: Job, runner: Runner | None = None) -> Planned:
    """Take the labels, draw the masks, and say what the imagery would take. Asks for none.

    What is found is kept in the work directory, where a build goes on from it. Raises as the stages do, BusyError when
    another build holds the store, StoreError when the store is of another recipe.
    """
    warn = Warned()
    with running(job):
        found, report, funnel, expected = _select(job, runner or InTurn(), warn)
        return Planned(len(found.shards), funnel, stages.price(job, found), labels_told(report), expected, warn.said)


def build(job: Job, runner: Runner | None = None) -> BuildSummary:
    """Build the next version: a new one, or the last one when nothing changed. Raises as :func:`plan`."""
    runner, began, warn = runner or InTurn(), time.monotonic(), Warned()
    with running(job):
        stages.check(job)
        found, report, _, expected = _select(job, runner, warn)
        runner.each("fetch", functools.partial(stages.fetch, job), stages.to_fetch(job, found), 2)
        stages.check_failures(job)
        stages.judge(job, report)
        version = runner.once("split", functools.partial(assign, job, found))
        holds = held(version, job.recipe)
        refuse_nothing_to_learn(holds, job.recipe, report)
        # Not those of what was expected and did not come.
        guessed, told = warnings(expected, job.recipe), warnings(holds, job.recipe)
        warn(*told)
        blocks = () if version.unchanged else version.blocks
        written = runner.each("write", functools.partial(stages.write, job, version), blocks)
        summary = runner.once("commit", functools.partial(commit, job, found, report, version, holds, written, began))
        warn(draw_preview(job, version))
    return dataclasses.replace(summary, warnings=[one for one in warn.said if one in told or one not in guessed])


def _select(job: Job, runner: Runner, warn: Warned) -> tuple[Candidates, LabelReport, Funnel, Contents]:
    """Labels first: everything that needs no imagery, and whether it promises a version worth having."""
    found = runner.once("plan", functools.partial(stages.candidates, job))
    warn(stages.check_groups(job, found))
    report = runner.once("labels", functools.partial(stages.labels, job, found), 2)
    runner.tell(f"{len(found.shards)} shards, {report.kept} labels ({report.source})")
    stages.check_labels(job, found, report)
    stages.judge(job, report)
    runner.each("select", functools.partial(stages.measure, job, report), stages.to_measure(job, found, report))
    funnel = stages.funnel(job)
    runner.tell(f"the funnel:\n{describe_funnel(funnel)}")
    expected = stages.outlook(job, found, report)
    warn(*warnings(expected, job.recipe), stages.room(job, found))
    return found, report, funnel, expected


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
    """Refuse a store, or the ledger of an unfinished first build, that belongs to another recipe.

    A ledger without any answer of the source is no build yet: its recipe may have been refused, and be mended now.
    """
    mine: Mapping[str, object] = json.loads(json.dumps(job.recipe.identity()))
    with tools_of(job).ledger() as ledger:
        state = ledger.run_state()
        theirs = state.identity if ledger.answered() else {}
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
