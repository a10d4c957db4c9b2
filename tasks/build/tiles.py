"""A build whose samples are tiles of a slippy map: footprints drawn, density measured, tiles fetched."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.build.base import Build, digest, label_attributes
from tasks.errors import DiskError, NothingSelectedError
from tasks.geo.georeference import Georeference, tile_georeference
from tasks.geo.tiles import Shard, Tile, shards
from tasks.imagery.slippy.fetch import Fetcher, FetchPolicy, image_path
from tasks.imagery.slippy.source import TermsRecord, check_terms, tile_source
from tasks.labels.footprints import LabelReport, read_footprints, read_report, write_footprints
from tasks.labels.rasterize import FootprintIndex, pack_mask, resize_mask, unpack_mask
from tasks.labels.registry import label_origin, label_source
from tasks.raster.encoded import decode_rgb, resize_rgb
from tasks.recipe.load import Recipe
from tasks.samples.area import candidate_tiles
from tasks.state.ledger import Density, Ledger, Sample, State
from tasks.versions.splits import tile_unit, too_near
from tasks.versions.write import Layout, Pixels
from tasks.views.funnel import Estimate, Funnel, estimate

BANDS = ("red", "green", "blue")


class TileBuild(Build):
    """A build of tiles."""

    recipe: Recipe

    def plan(self) -> list[Shard]:
        """Find the candidate tiles, enter them in the ledger, and cut them into shards. Raises AreaError."""
        tiles = candidate_tiles(self.recipe, self.work.root)
        with self._ledger() as ledger:
            ledger.set_candidates(tile.name for tile in tiles)
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

    def take_labels(self) -> LabelReport:
        """See :meth:`Build.take_labels`."""
        key = digest(label_origin(self.recipe), *(tile.name for tile in self._candidates))
        with self._ledger() as ledger:
            self._expire_labels(ledger, key)
            if self.work.footprints.exists():
                return read_report(self.work.footprints)
            footprints = label_source(self.recipe).fetch(self._candidates, self.work.labels)
            write_footprints(self.work.footprints, footprints)
            self._spent.labels += footprints.report.requests
        return footprints.report

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
                Density(
                    tile.name,
                    fraction,
                    hashlib.sha256(bits).hexdigest(),
                    bits if fraction >= minimum else None,
                    self._shares(fraction),
                )
            )
        with self._ledger() as ledger:
            ledger.record_densities(densities, self._measure_key)
        return sum(density.passes for density in densities)

    def estimate(self, funnel: Funnel) -> Estimate:
        """What asking for the imagery that is not on disk would take."""
        with self._ledger() as ledger:
            return estimate(funnel, self.recipe, ledger.mean_bytes())

    def to_fetch(self, planned: Sequence[Shard]) -> list[Shard]:
        """The shards that hold a tile to ask imagery for: selected, failed in an earlier run, or lost on disk."""
        with self._ledger() as ledger:
            ledger.retry_failed()
            kept = ledger.names(State.KEPT)
            ledger.forget_images(name for name in kept if image_path(self.work.images, Tile.parse(name)) is None)
            wanted = _only(planned, set(ledger.names(State.SELECTED)))
        if wanted:
            self._exits.enter_context(self._fetcher)
        return wanted

    def fetch(self, shard: Shard) -> None:
        """Ask for the images of a shard from :meth:`to_fetch` and record every outcome."""
        with self._ledger() as ledger:
            summary = self._fetcher.fetch(shard.tiles, ledger.record_fetched)
        with self._spent.lock:
            self._spent.imagery += summary.requests

    # ---- what the version needs ----------------------------------------------------------------

    def _shares(self, building: float) -> tuple[float, ...]:
        """Shares of the recipe's classes: what is no building is the class of value 0."""
        by_value = {self.recipe.building_value: building, 0: 1.0 - building}
        return tuple(by_value.get(entry.value, 0.0) for entry in self.recipe.classes)

    def _unit(self, name: str) -> str:
        return tile_unit(Tile.parse(name), self.recipe.splits, self.recipe.block_zoom)

    def _known_units(self, names: Mapping[str, str]) -> dict[str, str]:
        known: dict[str, str] = {}
        for name, split in names.items():
            known.setdefault(self._unit(name), split)
        return known

    def _too_near(self, assigned: Mapping[str, str]) -> set[str]:
        tiles = {Tile.parse(name): split for name, split in assigned.items()}
        buffer = self.recipe.splits.buffer
        dropped = too_near(tiles, buffer)
        if len(dropped) == len(tiles):
            raise NothingSelectedError(
                f"splits.buffer {buffer} leaves no sample of {len(tiles)}; lower splits.buffer or splits.block_zoom"
            )
        return {tile.name for tile in dropped}

    def _georeference(self, name: str) -> Georeference:
        return tile_georeference(Tile.parse(name), self.recipe.sample_size)

    def _layout(self, kept: Sequence[Sample]) -> Layout:  # noqa: ARG002 - tiles are all alike
        side = self.recipe.sample_size
        return Layout(
            bands=BANDS,
            dtype=np.dtype(np.uint8),
            height=side,
            width=side,
            classes=tuple(entry.name for entry in self.recipe.classes),
            georeference=self._georeference,
            unit=self._unit,
            tiles=True,
        )

    def _read_sample(self, ledger: Ledger, sample: Sample) -> Pixels:
        pixels, side = self.recipe.grid.tile_size, self.recipe.sample_size
        path = image_path(self.work.images, Tile.parse(sample.name))
        data = path.read_bytes() if path is not None else b""
        if hashlib.sha256(data).hexdigest() != sample.sha256:
            ledger.forget_images([sample.name])
            raise DiskError(
                f"{path or sample.name}: the image on disk is not the one that was fetched; it is put back to be "
                "fetched, run the same command again"
            )
        image = decode_rgb(data)
        mask = unpack_mask(ledger.mask(sample.name), pixels) * np.uint8(self.recipe.building_value)
        if side != pixels:
            return Pixels(resize_rgb(image, side), resize_mask(mask, side))
        return Pixels(image, mask)

    def _facts(self, ledger: Ledger) -> dict[str, Any]:  # noqa: ARG002 - the footprints say it all
        terms = self._terms
        return {
            **label_attributes(read_report(self.work.footprints)),
            "terms_accepted": dataclasses.asdict(terms) if terms else None,
        }

    @functools.cached_property
    def _index(self) -> FootprintIndex:
        return FootprintIndex(read_footprints(self.work.footprints).geometry)

    @functools.cached_property
    def _measure_key(self) -> str:
        report = read_report(self.work.footprints)
        return digest(report.sha256, self.recipe.filter.min_building_fraction, self.recipe.grid.tile_size)


def _only(planned: Sequence[Shard], names: set[str]) -> list[Shard]:
    """``planned`` with only the tiles of these names, and without the shards that have none left."""
    cut = (Shard(shard.parent, tuple(tile for tile in shard.tiles if tile.name in names)) for shard in planned)
    return [shard for shard in cut if shard.tiles]
