"""One build of one store: the steps of the pipeline over its ledger, each by shard.

What a sample is, and how its labels and image are come by, is up to the two kinds of build:
:mod:`tasks.build.tiles` (tiles of a slippy map) and :mod:`tasks.build.windows` (windows of STAC items, MLHub
collections and scenes).

The flow decides what runs where and when; this class holds what the steps share (lock, ledger, label
index, fetcher, version writer) and does no scheduling. Order of the steps: :meth:`plan`,
:meth:`take_labels`, :meth:`measure` per shard, :meth:`fetch` per shard, :meth:`start_version`,
:meth:`write` per block, :meth:`finish`.
"""

import dataclasses
import functools
import hashlib
import json
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from types import TracebackType
from typing import Any, Protocol, Self

from tasks.errors import NothingSelectedError, StoreError, TooManyFailedError
from tasks.geo.georeference import Georeference
from tasks.labels.footprints import LabelReport
from tasks.labels.registry import ANSWERS
from tasks.recipe.load import AnyRecipe, WindowRecipe
from tasks.state.ledger import UNREAD, Ledger, Sample, State
from tasks.state.workdir import WorkDir
from tasks.versions.read import VersionInfo, list_versions, open_repository, open_version, store_exists
from tasks.versions.splits import SPLITS, TRAIN, assign_splits
from tasks.versions.write import Block, Layout, Pixels, VersionWriter, content_hash, heal_tags, open_or_create, shuffled
from tasks.views.funnel import Estimate, Funnel, describe_funnel, draw_samples

LABELS_LAST = 86_400.0  # seconds after which even the labels of an unfinished run are taken again


class Shard(Protocol):
    """The unit of work."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...


@dataclass(frozen=True)
class BuildSummary:
    """What a build came to; the command line's ``--json`` is this."""

    version: str
    snapshot: str
    new: bool
    candidates: int
    selected: int
    kept: int
    absent: int
    failed: int
    rejected: dict[str, int]  # by reason
    left_out: dict[str, int]  # what could not become a candidate, by reason
    splits: dict[str, int]
    requests: dict[str, int]
    seconds: float


@dataclass
class _Spent:
    """What this run asked of the sources."""

    imagery: int = 0
    labels: int = 0
    started: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Build(ABC):
    """A build in progress. Use it as a context manager: it holds the store's lock and the connections."""

    recipe: AnyRecipe

    def __init__(self, recipe: AnyRecipe, store: str) -> None:
        """Nothing is opened, made or asked for before the context is entered."""
        self.recipe, self.store = recipe, store
        self._exits = ExitStack()
        self._spent = _Spent()
        self._writer: VersionWriter | None = None

    def __enter__(self) -> Self:
        """Take the lock and open the ledger. Raises BusyError, StoreError, DiskError."""
        self.work = WorkDir(self.store)
        self._exits.enter_context(self.work.lock(f"build of {self.recipe.name}"))
        self._check_identity()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    # ---- what the two kinds of build do in their own way ----------------------------------------

    @abstractmethod
    def check_imagery(self) -> None:
        """See that the imagery may and can be asked for. Raises TermsError, CredentialError, SourceError."""

    @abstractmethod
    def plan(self) -> Sequence[Shard]:
        """Find the candidates, enter them in the ledger, and cut them into shards. Raises AreaError, SourceError."""

    @abstractmethod
    def take_labels(self) -> LabelReport:
        """Fetch the labels of the candidates, or reuse those of a run that ended before its version.

        Labels are taken again when a version was made from them, so that a nightly run sees what changed; when the
        recipe's labels or area differ or a label file changed; and after a day. Raises LabelError.
        """

    @abstractmethod
    def to_measure(self, planned: Sequence[Any]) -> Sequence[Shard]:
        """The shards that hold a candidate whose shares are not known for these labels and this filter."""

    @abstractmethod
    def measure(self, shard: Any) -> int:
        """Make a shard's masks and record shares and masks; returns how many samples pass the label filter."""

    @abstractmethod
    def estimate(self, funnel: Funnel) -> Estimate:
        """What asking for the imagery that is not on disk would take."""

    @abstractmethod
    def to_fetch(self, planned: Sequence[Any]) -> Sequence[Shard]:
        """The shards that hold a sample to ask imagery for: selected, failed in an earlier run, or lost on disk."""

    @abstractmethod
    def fetch(self, shard: Any) -> None:
        """Ask for the images of a shard from :meth:`to_fetch` and record every outcome."""

    @abstractmethod
    def _unit(self, name: str) -> str:
        """What a split keeps together with a sample."""

    @abstractmethod
    def _known_units(self, names: Mapping[str, str]) -> dict[str, str]:
        """The split of every unit that has one, from the splits of all samples there ever were."""

    @abstractmethod
    def _too_near(self, assigned: Mapping[str, str]) -> set[str]:
        """Samples that stand too near to another split to be kept."""

    @abstractmethod
    def _layout(self, kept: Sequence[Sample]) -> Layout:
        """How the version stores these samples."""

    @abstractmethod
    def _georeference(self, name: str) -> Georeference | None:
        """Where the stored pixels of a sample lie."""

    @abstractmethod
    def _read_sample(self, ledger: Ledger, sample: Sample) -> Pixels:
        """A sample's pixels as the version stores them. Raises DiskError when its image is not as it was fetched."""

    @abstractmethod
    def _facts(self, ledger: Ledger) -> dict[str, Any]:
        """Root attributes that only this kind of build knows."""

    def _expire_labels(self, ledger: Ledger, key: str) -> None:
        """Remove labels, and answers towards them, that are of another ``key``, of a version, or of another day."""
        asked, _, since = (ledger.fact("labels_asked") or "").partition(" ")
        if asked != key or time.time() - float(since) > LABELS_LAST:
            # The files first: a run that is killed in between must not take them for those of the new key.
            shutil.rmtree(self.work.labels / ANSWERS, ignore_errors=True)
            self.work.footprints.unlink(missing_ok=True)
            ledger.set_fact("labels_asked", f"{key} {time.time():.0f}")

    def _left_out(self) -> dict[str, int]:
        """What could not become a candidate, by reason."""
        return {}

    def _imagery_requests(self) -> int:
        """Requests that this run sent for imagery."""
        return self._spent.imagery

    # ---- select --------------------------------------------------------------------------------

    def funnel(self) -> Funnel:
        """How many candidates got how far. Raises NothingSelectedError when none passes the density filter."""
        with self._ledger() as ledger:
            funnel = Funnel.of(ledger, self.recipe)
        if funnel.selected == 0:
            raise NothingSelectedError(
                f"no {funnel.what} passes the filter, so no version was made\n{describe_funnel(funnel)}"
            )
        return funnel

    def check_failures(self) -> None:
        """Raise TooManyFailedError when more failed than the recipe allows, saying which and why."""
        with self._ledger() as ledger:
            funnel = Funnel.of(ledger, self.recipe)
            allowed = self.recipe.limits.max_failed_fraction
            unread = ledger.reasons(State.REJECTED).get(UNREAD, 0)
            failed, of = funnel.failed + unread, funnel.selected + unread
            if failed <= allowed * of:
                return
            counts = ledger.reasons(State.FAILED) | ({UNREAD: unread} if unread else {})
            reasons = ", ".join(f"{count} x {reason}" for reason, count in counts.items())
            names = ", ".join(ledger.names(State.FAILED)[:5]) or "none of the imagery"
        raise TooManyFailedError(
            f"{failed} of {of} images failed, over limits.max_failed_fraction {allowed:g} "
            f"({reasons}; for example {names}); run the same command again to go on where this stopped"
        )

    # ---- version -------------------------------------------------------------------------------

    def start_version(self) -> list[Block]:
        """Split the kept samples and open a version to write; no blocks when nothing changed since the last.

        Raises NothingSelectedError when no image was kept.
        """
        repository = open_or_create(self.store)
        with self._ledger() as ledger:
            kept = ledger.samples()
            if not kept:
                raise NothingSelectedError(
                    f"no image was kept, so no version was made\n{describe_funnel(Funnel.of(ledger, self.recipe))}"
                )
            stored, units, order = self._previous(list_versions(repository))
            known = self._known_units({**stored, **ledger.splits()}) | units | ledger.units()
        self._units = {sample.name: self._unit(sample.name) for sample in kept}
        self._assigned = assigned = assign_splits(self._units, known, self.recipe.splits)
        dropped = self._too_near(assigned)
        by_split: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        for sample in kept:
            if sample.name not in dropped:
                by_split[assigned[sample.name]].append(sample)
        self._by_split = {
            split: shuffled(samples, order.get(split, []), self.recipe.splits.seed)
            for split, samples in by_split.items()
        }
        self._content = content_hash(self._by_split, self.recipe.hash())
        if self._latest is not None and self._latest.metadata.get("content_hash") == self._content:
            return []
        self._writer = VersionWriter(self.store, repository, self._by_split, self._layout(kept))
        return self._writer.blocks

    def write(self, block: Block) -> int:
        """Decode and write a block of the version; returns its number of samples."""
        if self._writer is None:
            raise StoreError(f"{self.store}: no version is being written")
        with self._ledger() as ledger:
            self._writer.write(block, functools.partial(self._read_sample, ledger))
        return len(block.samples)

    def finish(self) -> BuildSummary:
        """Commit and tag what was written (or name the unchanged version) and sum the run up."""
        new = self._writer is not None
        with self._ledger() as ledger:
            funnel = Funnel.of(ledger, self.recipe)
            info = self._writer.commit(self._attributes(funnel)) if self._writer else self._latest
            if info is None:
                raise StoreError(f"{self.store}: no version was written")
            ledger.assign_splits(self._assigned, self._units)
            rejected = ledger.reasons(State.REJECTED)
            ledger.set_fact("labels_asked", "")
        splits = {split: len(samples) for split, samples in self._by_split.items()}
        return BuildSummary(
            version=info.version,
            snapshot=info.snapshot,
            new=new,
            candidates=funnel.candidates,
            selected=funnel.selected,
            kept=sum(splits.values()),
            absent=funnel.absent,
            failed=funnel.failed,
            rejected=rejected,
            left_out=self._left_out(),
            splits=splits,
            requests={"imagery": self._imagery_requests(), "labels": self._spent.labels},
            seconds=round(time.monotonic() - self._spent.started, 3),
        )

    def draw_preview(self, count: int = 8) -> None:
        """Draw the first samples of the train split and their masks into the work directory."""
        samples = self._by_split[TRAIN][:count]
        with self._ledger() as ledger:
            drawn = [self._read_sample(ledger, sample) for sample in samples]
        colors = {entry.value: entry.color for entry in self.recipe.classes}
        draw_samples(self.work.preview, [(one.image, one.mask) for one in drawn], self._layout(samples).bands, colors)

    # ---- what the steps share ------------------------------------------------------------------

    def _ledger(self) -> Ledger:
        return Ledger(self.work.ledger)

    def _check_identity(self) -> None:
        """Refuse a store, or the ledger of an unfinished first build, that belongs to another recipe."""
        mine = self.recipe.identity()
        with self._ledger() as ledger:
            noted = ledger.fact("identity")
            theirs: dict[str, Any] = json.loads(noted) if noted else {}
            if store_exists(self.store):
                repository = open_repository(self.store)
                heal_tags(repository)
                if list_versions(repository):
                    theirs = open_version(self.store).attributes.get("identity", {})
            differing = [key for key, value in mine.items() if theirs and theirs.get(key) != value]
            if differing:
                key = differing[0]
                raise StoreError(
                    f"{self.store}: holds another recipe: {key} is {theirs.get(key)!r} there and {mine[key]!r} here; "
                    f"choose another --store, change the recipe back, or delete it and {self.work.root}"
                )
            ledger.set_fact("identity", json.dumps(mine))

    def _previous(self, known: Sequence[VersionInfo]) -> tuple[dict[str, str], dict[str, str], dict[str, list[str]]]:
        """Of the newest version: splits by sample, splits by unit, and sample order by split."""
        self._latest = known[-1] if known else None
        if self._latest is None:
            return {}, {}, {}
        version = open_version(self.store, self._latest.version)
        order = {split: version.split(split).sample_id for split in SPLITS}
        groups = {split: version.split(split).group_of for split in SPLITS}
        units = {unit: split for split, names in groups.items() for unit in names}
        return {name: split for split, names in order.items() for name in names}, units, order

    def _attributes(self, funnel: Funnel) -> dict[str, Any]:
        recipe = self.recipe
        with self._ledger() as ledger:
            facts = self._facts(ledger)
        return {
            "dataset": recipe.name,
            "title": recipe.title,
            "recipe": recipe.public(),
            "recipe_hash": recipe.hash(),
            "identity": recipe.identity(),
            "classes": [entry.model_dump(exclude_none=True) for entry in recipe.classes],
            "counts": dataclasses.asdict(funnel),
            "attributions": {"imagery": recipe.imagery.attribution, "labels": recipe.labels.attribution},
            "licences": {"imagery": recipe.imagery.licence, "labels": recipe.labels.licence},
            "content_hash": self._content,
            "software_version": f"tilewright {package_version('tilewright')}",
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        }


def open_build(recipe: AnyRecipe, store: str) -> Build:
    """The build that a recipe asks for."""
    if isinstance(recipe, WindowRecipe):
        from tasks.build.windows import WindowBuild

        return WindowBuild(recipe, store)
    from tasks.build.tiles import TileBuild

    return TileBuild(recipe, store)


def label_attributes(report: LabelReport) -> dict[str, Any]:
    """What a version says of its labels."""
    return {
        "labels": {"source": report.source, "read": report.read, "kept": report.kept, "repaired": report.repaired},
        "label_timestamp": report.timestamp,
    }


def digest(*parts: object) -> str:
    """SHA-256 of the parts' text, as hex: a key that changes when one of them does."""
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()
