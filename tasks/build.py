"""One build of one store: the steps of the pipeline over its ledger, each by shard.

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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tasks.area import candidate_tiles
from tasks.errors import DiskError, NothingSelectedError, StoreError, TooManyFailedError
from tasks.grid import Shard, Tile, shards
from tasks.imagery.decode import decode_rgb, resize_rgb
from tasks.imagery.fetch import Fetcher, FetchPolicy, FetchSummary, image_path
from tasks.imagery.source import TermsRecord, check_terms, tile_source
from tasks.labels.footprints import LabelReport, read_footprints, read_report, write_footprints
from tasks.labels.source import ANSWERS, label_source
from tasks.ledger import Density, Ledger, Sample, State
from tasks.publish import Block, VersionWriter, content_hash, heal_tags, open_or_create, shuffled
from tasks.rasterize import FootprintIndex, pack_mask, resize_mask, unpack_mask
from tasks.recipe import OverpassLabels, Recipe
from tasks.report import Estimate, Funnel, describe_funnel, draw_samples, estimate
from tasks.splits import SPLITS, TRAIN, assign_splits, too_near
from tasks.store import VersionInfo, list_versions, open_repository, open_version, store_exists
from tasks.workdir import WorkDir

LABELS_LAST = 86_400.0  # seconds after which even the labels of an unfinished run are taken again


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


class Build:
    """A build in progress. Use it as a context manager: it holds the store's lock and the connections."""

    def __init__(self, recipe: Recipe, store: str) -> None:
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

    # ---- plan ----------------------------------------------------------------------------------

    def plan(self) -> list[Shard]:
        """Find the candidate tiles, enter them in the ledger, and cut them into shards. Raises AreaError."""
        tiles = candidate_tiles(self.recipe, self.work.root)
        with self._ledger() as ledger:
            ledger.set_candidates(tiles)
        self._candidates = tiles
        return shards(tiles)

    def check_imagery(self) -> None:
        """See that the imagery may and can be asked for. Raises TermsError, CredentialError, SourceError."""
        self._terms: TermsRecord | None = check_terms(self.recipe)
        source = tile_source(self.recipe)
        imagery = self.recipe.imagery
        policy = FetchPolicy(
            connections=imagery.connections,
            requests_per_second=imagery.requests_per_second,
            attempts=imagery.attempts,
            timeout=imagery.timeout,
            max_nodata_fraction=self.recipe.filter.max_nodata_fraction,
        )
        self._fetcher = Fetcher(source, policy, self.work.images)

    # ---- labels --------------------------------------------------------------------------------

    def take_labels(self) -> LabelReport:
        """Fetch the footprints of the candidates, or reuse those of a run that ended before its version.

        Labels are taken again when a version was made from them, so that a nightly run sees OSM's changes; when
        the recipe's labels or area differ or the label file changed; and after a day. Raises LabelError.
        """
        key = _digest(self._label_origin(), *(tile.name for tile in self._candidates))
        with self._ledger() as ledger:
            asked, _, since = (ledger.fact("labels_asked") or "").partition(" ")
            if asked != key or time.time() - float(since) > LABELS_LAST:
                shutil.rmtree(self.work.labels / ANSWERS, ignore_errors=True)
                ledger.set_fact("labels_open", "")
                ledger.set_fact("labels_asked", f"{key} {time.time():.0f}")
            if ledger.fact("labels_open") == key and self.work.footprints.exists():
                return read_report(self.work.footprints)
            footprints = label_source(self.recipe).fetch(self._candidates, self.work.labels)
            write_footprints(self.work.footprints, footprints)
            self._spent.labels += footprints.report.requests
            ledger.set_fact("labels_open", key)
        return footprints.report

    # ---- select --------------------------------------------------------------------------------

    def to_measure(self, planned: Sequence[Shard]) -> list[Shard]:
        """The shards that hold a tile whose density is not known for these footprints and this filter."""
        with self._ledger() as ledger:
            return _only(planned, ledger.unmeasured(self._measure_key))

    def measure(self, shard: Shard) -> int:
        """Rasterize a shard's footprints and record densities and masks; returns how many tiles pass."""
        pixels, minimum = self.recipe.grid.tile_size, self.recipe.filter.min_building_fraction
        densities = []
        for tile, mask in zip(shard.tiles, self._index.masks(shard.tiles, pixels), strict=True):
            bits = pack_mask(mask)
            fraction = float(np.count_nonzero(mask)) / mask.size
            densities.append(
                Density(tile, fraction, hashlib.sha256(bits).hexdigest(), bits if fraction >= minimum else None)
            )
        with self._ledger() as ledger:
            ledger.record_densities(densities, self._measure_key)
        return sum(density.passes for density in densities)

    def funnel(self) -> Funnel:
        """How many candidates got how far. Raises NothingSelectedError when none passes the density filter."""
        with self._ledger() as ledger:
            funnel = Funnel.of(ledger, self.recipe)
        if funnel.selected == 0:
            raise NothingSelectedError(f"no tile passes the filter, so no version was made\n{describe_funnel(funnel)}")
        return funnel

    def estimate(self, funnel: Funnel) -> Estimate:
        """What asking for the imagery that is not on disk would take."""
        with self._ledger() as ledger:
            return estimate(funnel, self.recipe, ledger.mean_bytes())

    # ---- fetch ---------------------------------------------------------------------------------

    def to_fetch(self, planned: Sequence[Shard]) -> list[Shard]:
        """The shards that hold a tile to ask imagery for: selected, failed in an earlier run, or lost on disk."""
        with self._ledger() as ledger:
            ledger.retry_failed()
            lost = [tile for tile in ledger.tiles(State.KEPT) if image_path(self.work.images, tile) is None]
            ledger.forget_images(lost)
            wanted = _only(planned, set(ledger.tiles(State.SELECTED)))
        if wanted:
            self._exits.enter_context(self._fetcher)
        return wanted

    def fetch(self, shard: Shard) -> FetchSummary:
        """Ask for the images of a shard from :meth:`to_fetch` and record every outcome."""
        with self._ledger() as ledger:
            summary = self._fetcher.fetch(shard.tiles, ledger.record_fetched)
        with self._spent.lock:
            self._spent.imagery += summary.requests
        return summary

    def check_failures(self) -> None:
        """Raise TooManyFailedError when more failed than the recipe allows, saying which and why."""
        with self._ledger() as ledger:
            funnel = Funnel.of(ledger, self.recipe)
            allowed = self.recipe.limits.max_failed_fraction
            if funnel.failed <= allowed * funnel.selected:
                return
            reasons = ", ".join(f"{count} x {reason}" for reason, count in ledger.reasons(State.FAILED).items())
            names = ", ".join(tile.name for tile in ledger.tiles(State.FAILED)[:5])
        raise TooManyFailedError(
            f"{funnel.failed} of {funnel.selected} images failed, over limits.max_failed_fraction {allowed:g} "
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
            stored, order = self._previous(list_versions(repository))
            self._assigned = assigned = assign_splits(
                [sample.tile for sample in kept],
                {**stored, **ledger.splits()},
                self.recipe.splits,
                self.recipe.block_zoom,
            )
        dropped = too_near(assigned, self.recipe.splits.buffer)
        by_split: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        for sample in kept:
            if sample.tile not in dropped:
                by_split[assigned[sample.tile]].append(sample)
        if not any(by_split.values()):
            raise NothingSelectedError(
                f"splits.buffer {self.recipe.splits.buffer} leaves no sample of {len(kept)}; lower splits.buffer "
                "or splits.block_zoom"
            )
        self._by_split = {
            split: shuffled(samples, order.get(split, []), self.recipe.splits.seed)
            for split, samples in by_split.items()
        }
        self._content = content_hash(self._by_split, self.recipe.hash())
        if self._latest is not None and self._latest.metadata.get("content_hash") == self._content:
            return []
        self._writer = VersionWriter(self.store, repository, self._by_split, self.recipe.sample_size)
        return self._writer.blocks

    def write(self, block: Block) -> int:
        """Decode and write a block of the version; returns its number of samples."""
        if self._writer is None:
            raise StoreError(f"{self.store}: no version is being written")
        with self._ledger() as ledger:
            self._writer.write(block, functools.partial(self._read_sample, ledger, {s.tile: s for s in block.samples}))
        return len(block.samples)

    def finish(self) -> BuildSummary:
        """Commit and tag what was written (or name the unchanged version) and sum the run up."""
        new = self._writer is not None
        with self._ledger() as ledger:
            funnel = Funnel.of(ledger, self.recipe)
            info = self._writer.commit(self._attributes(funnel)) if self._writer else self._latest
            if info is None:
                raise StoreError(f"{self.store}: no version was written")
            ledger.assign_splits(self._assigned)
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
            splits=splits,
            requests={"imagery": self._spent.imagery, "labels": self._spent.labels},
            seconds=round(time.monotonic() - self._spent.started, 3),
        )

    def draw_preview(self, count: int = 8) -> None:
        """Draw the first samples of the train split and their masks into the work directory."""
        samples = {sample.tile: sample for sample in self._by_split[TRAIN][:count]}
        with self._ledger() as ledger:
            draw_samples(self.work.preview, [self._read_sample(ledger, samples, tile) for tile in samples])

    # ---- what the steps share ------------------------------------------------------------------

    def _ledger(self) -> Ledger:
        return Ledger(self.work.ledger)

    @functools.cached_property
    def _index(self) -> FootprintIndex:
        return FootprintIndex(read_footprints(self.work.footprints).geometry)

    @functools.cached_property
    def _measure_key(self) -> str:
        report = read_report(self.work.footprints)
        return _digest(report.sha256, self.recipe.filter.min_building_fraction, self.recipe.grid.tile_size)

    def _label_origin(self) -> str:
        """What the labels are taken from: the recipe's words, and the state of a local file."""
        labels = self.recipe.labels
        path = None if isinstance(labels, OverpassLabels) or labels.path is None else self.recipe.resolve(labels.path)
        state = path.stat() if path is not None and path.exists() else None
        return labels.model_dump_json() + (f" {state.st_mtime_ns} {state.st_size}" if state else "")

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

    def _previous(self, known: Sequence[VersionInfo]) -> tuple[dict[Tile, str], dict[str, list[str]]]:
        """Splits by tile and sample order by split of the newest version."""
        self._latest = known[-1] if known else None
        if self._latest is None:
            return {}, {}
        version = open_version(self.store, self._latest.version)
        order = {split: version.split(split).sample_id for split in SPLITS}
        return {Tile.parse(name): split for split, names in order.items() for name in names}, order

    def _read_sample(
        self, ledger: Ledger, samples: dict[Tile, Sample], tile: Tile
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A sample's image (band, y, x) and class mask (y, x) as the version stores them."""
        pixels, side = self.recipe.grid.tile_size, self.recipe.sample_size
        path = image_path(self.work.images, tile)
        data = path.read_bytes() if path is not None else b""
        if hashlib.sha256(data).hexdigest() != samples[tile].sha256:
            ledger.forget_images([tile])
            raise DiskError(
                f"{path or tile.name}: the image on disk is not the one that was fetched; it is put back to be "
                "fetched, run the same command again"
            )
        image = decode_rgb(data)
        mask = unpack_mask(ledger.mask(tile), pixels) * np.uint8(self.recipe.building_value)
        if side != pixels:
            return resize_rgb(image, side), resize_mask(mask, side)
        return image, mask

    def _attributes(self, funnel: Funnel) -> dict[str, Any]:
        recipe, report = self.recipe, read_report(self.work.footprints)
        terms = self._terms
        return {
            "dataset": recipe.name,
            "title": recipe.title,
            "recipe": recipe.public(),
            "recipe_hash": recipe.hash(),
            "identity": recipe.identity(),
            "classes": [entry.model_dump() for entry in recipe.classes],
            "counts": dataclasses.asdict(funnel),
            "attributions": {"imagery": recipe.imagery.attribution, "labels": recipe.labels.attribution},
            "licences": {"imagery": recipe.imagery.licence, "labels": recipe.labels.licence},
            "terms_accepted": dataclasses.asdict(terms) if terms else None,
            "labels": {"source": report.source, "read": report.read, "kept": report.kept, "repaired": report.repaired},
            "label_timestamp": report.timestamp,
            "content_hash": self._content,
            "software_version": f"tilewright {package_version('tilewright')}",
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()


def _only(planned: Sequence[Shard], tiles: set[Tile]) -> list[Shard]:
    """``planned`` with only the tiles of ``tiles``, and without the shards that have none left."""
    cut = (Shard(shard.parent, tuple(tile for tile in shard.tiles if tile in tiles)) for shard in planned)
    return [shard for shard in cut if shard.tiles]
