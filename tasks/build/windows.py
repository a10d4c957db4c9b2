"""A build whose samples are windows: of STAC items, of an MLHub collection, or of a folder of scenes."""

import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from tasks.build.base import Build, digest, label_attributes
from tasks.errors import AreaError, DiskError, SourceError
from tasks.geo.georeference import Georeference
from tasks.imagery.registry import is_remote, open_labels, open_source
from tasks.imagery.select import Refusal, observe
from tasks.labels.classes import ClassMap, ignore_share, shares, why_rejected
from tasks.labels.footprints import LabelReport
from tasks.labels.rasterize import resize_mask
from tasks.labels.registry import label_origin
from tasks.recipe.windows import WindowRecipe
from tasks.samples.window import Shard, Window, WindowLabels, WindowReadError, WindowSource
from tasks.state import staging as kept
from tasks.state.ledger import UNREAD, Density, Fetched, Ledger, Sample, State
from tasks.versions.splits import RESERVED, named_splits
from tasks.versions.write import Layout, Pixels
from tasks.views.funnel import Estimate, Funnel

SHARD_WINDOWS = 256
RECORDED_AT_ONCE = 32  # outcomes in one transaction of the ledger


class WindowBuild(Build):
    """A build of windows."""

    recipe: WindowRecipe

    def check_imagery(self) -> None:
        """See that recipe and source can be used. Raises CredentialError, SourceError, RecipeError."""
        _ = self._classes, self._source

    def plan(self) -> list[Shard]:
        """Find the windows, enter them in the ledger, and cut them into shards. Raises SourceError, AreaError."""
        windows = self._source.windows()
        cap = self.recipe.limits.max_tiles
        if not windows:
            raise SourceError(
                "imagery: the source has no window; check imagery.windows or imagery.cells, and the files"
            )
        if len(windows) > cap:
            raise AreaError(
                f"the source has {len(windows):,} windows, over limits.max_tiles {cap:,}; take fewer scenes, a larger "
                "stride or a smaller area, or raise limits.max_tiles"
            )
        self._windows = {window.name: window for window in windows}
        if len(self._windows) < len(windows):
            raise SourceError("imagery: two windows have one name; give every scene a name of its own")
        with self._ledger() as ledger:
            ledger.set_candidates(self._windows)
            key = self._imagery_key()
            if ledger.fact("imagery_key") not in (None, key):
                ledger.forget_answers(ledger.known())
            ledger.set_fact("imagery_key", key)
            self._forget_changed(ledger)
        return [
            Shard(f"{start // SHARD_WINDOWS}", tuple(windows[start : start + SHARD_WINDOWS]))
            for start in range(0, len(windows), SHARD_WINDOWS)
        ]

    def _forget_changed(self, ledger: Ledger) -> None:
        """Have windows read again whose scene's files are not those that were read."""
        states = dict(self._source.states())
        noted: dict[str, str] = json.loads(ledger.fact("scene_states") or "{}")
        changed = {scene for scene, state in states.items() if noted.get(scene, state) != state}
        if changed:
            ledger.forget_answers(name for name, window in self._windows.items() if window.scene in changed)
        ledger.set_fact("scene_states", json.dumps(noted | states))

    # ---- labels first --------------------------------------------------------------------------

    def take_labels(self) -> LabelReport:
        """See :meth:`Build.take_labels`."""
        windows = list(self._windows.values())
        self._labels: WindowLabels = open_labels(self.recipe, self._source, self.work.footprints)
        origin = label_origin(self.recipe) if self.recipe.draws_footprints else ""
        key = digest(origin, *(f"{w.name} {w.georeference}" for w in windows))
        with self._ledger() as ledger:
            self._expire_labels(ledger, key)
            reused = self.recipe.draws_footprints and self.work.footprints.exists()
            self._report: LabelReport = self._labels.prepare(windows, self.work.labels)
        self._spent.labels += 0 if reused else self._report.requests
        return self._report

    def to_measure(self, planned: Sequence[Shard]) -> list[Shard]:
        """The shards that hold a window whose shares are not known for these labels and this filter."""
        with self._ledger() as ledger:
            return _only(planned, ledger.unmeasured(self._measure_key))

    def measure(self, shard: Shard) -> int:
        """Read a shard's labels and record shares and masks; returns how many windows pass the label filter."""
        densities = [self._measured(window) for window in shard.windows]
        unread = [density for density in densities if density.reason == UNREAD]
        with self._ledger() as ledger:
            ledger.record_densities([one for one in densities if one.reason != UNREAD], self._measure_key)
            ledger.record_densities(unread, "")  # so that the next run asks again
        return sum(density.passes for density in densities)

    def _measured(self, window: Window) -> Density:
        try:
            raw = self._labels.read(window)
        except WindowReadError:
            return Density(window.name, None, "", None, reason=UNREAD)
        if raw is None:
            return Density(window.name, None, "", None, reason="no label")
        if self.recipe.draws_footprints:
            mask = self._classes.from_footprints(raw.values)
            if raw.missing is not None:
                mask[raw.missing] = self.recipe.ignore
        else:
            mask = self._classes.apply(raw, window.name)
        found = shares(mask, self.recipe)
        reason = why_rejected(found, ignore_share(mask, self.recipe), self.recipe)
        data = mask.tobytes()
        names = [entry.name for entry in self.recipe.classes]
        building = found[names.index("building")] if "building" in names else None
        sha256 = hashlib.sha256(data).hexdigest()
        return Density(window.name, building, sha256, None if reason else data, found, reason or "")

    # ---- imagery -------------------------------------------------------------------------------

    def estimate(self, funnel: Funnel) -> Estimate:
        """Windows to read, and their bytes as they are stored before compression."""
        pending = funnel.pending + funnel.failed
        window = next(iter(self._windows.values()))
        per_window = window.width * window.height * (len(self._source.bands) * 2 + 1)
        return Estimate(requests=pending, bytes=pending * per_window, dollars=None, seconds=None)

    def to_fetch(self, planned: Sequence[Shard]) -> list[Shard]:
        """The shards that hold a window to read: selected, failed in an earlier run, or lost on disk."""
        with self._ledger() as ledger:
            ledger.retry_failed()
            ledger.forget_images(
                name for name in ledger.names(State.KEPT) if not kept.file_of(self.work.images, name).is_file()
            )
            return _only(planned, set(ledger.names(State.SELECTED)))

    def fetch(self, shard: Shard) -> None:
        """Read the images of a shard from :meth:`to_fetch` and record every outcome."""
        threads = self.recipe.imagery.connections if is_remote(self.recipe) else 1
        with self._ledger() as ledger, ThreadPoolExecutor(threads, "windows") as pool:
            for first in range(0, len(shard.windows), RECORDED_AT_ONCE):
                futures = [pool.submit(self._look_at, one) for one in shard.windows[first : first + RECORDED_AT_ONCE]]
                wait(futures)
                # Also when the source fails as a whole, which the line after it tells.
                ledger.record_fetched(future.result() for future in futures if future.exception() is None)
                for future in futures:
                    future.result()

    def _look_at(self, window: Window) -> Fetched:
        """Choose a look at a window, read it, and keep it. Raises SourceError, CredentialError, DiskError."""
        recipe, now = self.recipe, int(time.time())
        try:
            looks = self._source.looks(window)
            seen = observe(looks, recipe.imagery.dates, recipe.clouds, window.rank)
        except WindowReadError as error:
            return Fetched(window.name, State.FAILED, str(error), attempts=1, fetched_at=now)
        if isinstance(seen, Refusal):
            return Fetched(window.name, seen.state, seen.reason, 1, cloud_fraction=seen.cloud_fraction, fetched_at=now)
        inside = ~seen.padded if seen.padded is not None else np.ones_like(seen.nodata)
        nodata = float(np.count_nonzero(seen.nodata & inside)) / max(1, int(np.count_nonzero(inside)))
        about = {
            "nodata_fraction": nodata,
            "cloud_fraction": seen.cloud_fraction,
            "acquired_at": seen.acquired_at,
            "origin": seen.origin,
            "note": seen.note,
            "fetched_at": now,
        }
        if nodata > recipe.filter.max_nodata_fraction:
            return Fetched(window.name, State.REJECTED, "nodata", 1, **about)  # type: ignore[arg-type]
        hidden = seen.nodata if seen.padded is None else seen.nodata | seen.padded
        size, sha256 = kept.write(self.work.images, window.name, kept.Kept(seen.image, hidden, seen.unusable))
        return Fetched(window.name, State.KEPT, "", 1, size, sha256=sha256, **about)  # type: ignore[arg-type]

    # ---- what the version needs ----------------------------------------------------------------

    def _unit(self, name: str) -> str:
        window, by = self._windows[name], self.recipe.splits.by
        if by == "sample":
            return name
        if by == "scene":
            return window.scene + (RESERVED if window.group.endswith(RESERVED) else "")
        return window.group

    def _known_units(self, names: Mapping[str, str]) -> dict[str, str]:
        known = {self._unit(name): split for name, split in names.items() if name in self._windows}
        return known | named_splits({self._unit(name) for name in self._windows}, self.recipe.splits.groups)

    def _too_near(self, assigned: Mapping[str, str]) -> set[str]:  # noqa: ARG002 - windows have no buffer
        return set()

    def _georeference(self, name: str) -> Georeference | None:
        window = self._windows[name]
        if window.georeference is None or self.recipe.resize is None:
            return window.georeference
        return window.georeference.scaled(window.width / self.recipe.resize, window.height / self.recipe.resize)

    def _layout(self, samples: Sequence[Sample]) -> Layout:
        """Raises SourceError when the images differ in size or type."""
        kinds: dict[tuple[str, int, int, int], str] = {}
        for sample in samples:
            kinds.setdefault(kept.kind(kept.file_of(self.work.images, sample.name)), sample.name)
        if len(kinds) > 1:
            (one, a), (other, b) = list(kinds.items())[:2]
            raise SourceError(
                f"{a} is {one[1]} bands of {one[3]} x {one[2]} px {one[0]}, {b} is {other[1]} bands of "
                f"{other[3]} x {other[2]} px {other[0]}; the samples of a dataset are alike: set imagery.windows.size, "
                "or take the scenes apart into two recipes"
            )
        (dtype, _, height, width) = next(iter(kinds))
        side = self.recipe.resize
        return Layout(
            bands=self._source.bands,
            dtype=np.dtype(dtype),
            height=side or height,
            width=side or width,
            classes=tuple(entry.name for entry in self.recipe.classes),
            georeference=self._georeference,
            unit=self._unit,
            unusable=self.recipe.clouds.on_cloud == "mask" and self.recipe.clouds.mask != "none",
            building=self.recipe.building_value is not None,
        )

    def _read_sample(self, ledger: Ledger, sample: Sample) -> Pixels:
        file = kept.file_of(self.work.images, sample.name)
        found = kept.read(file, sample.sha256)
        if found is None:
            ledger.forget_images([sample.name])
            raise DiskError(
                f"{file}: the image on disk is not the one that was read; it is put back to be read, run the same "
                "command again"
            )
        mask = np.frombuffer(ledger.mask(sample.name), dtype=np.uint8).reshape(found.hidden.shape)
        # Where there is no image there is nothing to learn from.
        mask = np.where(found.hidden, np.uint8(self.recipe.ignore), mask)
        image, unusable, side = found.image, found.unusable, self.recipe.resize
        if side is not None:
            image = kept.resize_image(image, side)
            mask = resize_mask(mask, side)
            unusable = None if unusable is None else resize_mask(unusable.view(np.uint8), side).astype(np.bool_)
        return Pixels(image, mask, unusable)

    def _facts(self, ledger: Ledger) -> dict[str, Any]:
        recipe = self.recipe
        return {
            **label_attributes(self._report),
            "ignore": recipe.ignore,
            "about": recipe.about.model_dump(),
            "clouds": recipe.clouds.model_dump(),
            "value_rules": ledger.notes(),
        }

    @functools.cached_property
    def _source(self) -> WindowSource:
        source = open_source(self.recipe, self.work.root)
        self._exits.callback(source.close)
        return source

    @functools.cached_property
    def _classes(self) -> ClassMap:
        return ClassMap.of(self.recipe)

    def _left_out(self) -> dict[str, int]:
        return dict(self._source.left_out)

    def _imagery_requests(self) -> int:
        return self._source.requests

    def _imagery_key(self) -> str:
        """Changes when a kept image would not be what is asked for now."""
        recipe = self.recipe
        return digest(self._imagery_words(), recipe.clouds.model_dump_json(), recipe.filter.max_nodata_fraction)

    def _imagery_words(self) -> str:
        """What the recipe says of its imagery, without how hard to try and whose it is."""
        manner = {"attempts", "timeout", "connections", "attribution", "licence"}
        return self.recipe.imagery.model_dump_json(exclude=manner)

    @functools.cached_property
    def _measure_key(self) -> str:
        recipe = self.recipe
        classes = [entry.model_dump_json() for entry in recipe.classes]
        return digest(
            self._report.sha256,
            recipe.filter.model_dump_json(),
            *classes,
            recipe.ignore,
            recipe.ignore_values,
            recipe.ignore_colors,
            recipe.labels.model_dump_json(),
            self._imagery_words(),
        )


def _only(planned: Sequence[Shard], names: set[str]) -> list[Shard]:
    """``planned`` with only the windows of these names, and without the shards that have none left."""
    cut = (Shard(shard.name, tuple(one for one in shard.windows if one.name in names)) for shard in planned)
    return [shard for shard in cut if shard.windows]
