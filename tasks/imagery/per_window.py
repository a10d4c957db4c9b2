"""From a catalogue of acquisitions to a source: window by window the items are selected, read and staged."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np

from tasks.errors import AreaError, SourceError, WindowReadError
from tasks.imagery.protocol import Catalogue, Price, Record
from tasks.imagery.select import Refusal, select
from tasks.raster.scene import Scene
from tasks.recipe.model import Recipe
from tasks.recipe.parts import Filter
from tasks.recipe.sources import BandImagery
from tasks.samples.window import Candidates, Shard, Window, in_order
from tasks.state.ledger import Fetched
from tasks.state.staging import ImageShape, Staged, Staging
from tasks.state.transitions import Image

RECORDED_AT_ONCE = 32  # outcomes in one transaction of the ledger


class PerWindow:
    """Imagery of a catalogue; a :class:`tasks.imagery.protocol.Source`."""

    shape: ImageShape | None = None  # each image tells its own

    def __init__(self, recipe: Recipe, catalogue: Catalogue) -> None:
        """Owns the catalogue: it is closed with this."""
        assert isinstance(recipe.imagery, BandImagery)
        self.bands = catalogue.bands
        self._recipe, self._imagery, self._catalogue = recipe, recipe.imagery, catalogue

    @property
    def requests(self) -> int:
        """Sent over HTTP so far."""
        return self._catalogue.requests

    @property
    def key(self) -> str:
        """Changes when a staged image would not be what is asked for now."""
        models = type(self._imagery).model_fields
        bounds: dict[str, Any] = {name: models[name].default for name in ("max_bytes", "max_items") if name in models}
        # The end is where the filter stood once, which is no part of the question any more: its default stays there.
        return self._key(self._imagery.model_copy(update=bounds), Filter().max_nodata_fraction)

    def former_key(self, max_nodata_fraction: float) -> str:
        """What :attr:`key` was to programs that did not stage images over that share of nodata."""
        return self._key(self._imagery, max_nodata_fraction)

    def _key(self, imagery: BandImagery, nodata: float) -> str:
        # How hard to try, and whose it is, changes no image.
        said = imagery.model_dump_json(exclude={"attempts", "timeout", "connections", "attribution", "licence"})
        said += f"\n{self._recipe.clouds.model_dump_json()}\n{nodata}"
        return hashlib.sha256(said.encode()).hexdigest()

    def check(self) -> None:
        """Nothing: whether a catalogue can be asked shows when its windows are listed."""

    def candidates(self) -> Candidates:
        """Every window of the catalogue. Raises SourceError, AreaError."""
        windows, left_out = self._catalogue.windows()
        cap = self._recipe.limits.max_tiles
        if not windows:
            raise SourceError(
                "imagery: the source has no window; check imagery.windows or imagery.cells, and the files"
            )
        if len(windows) > cap:
            raise AreaError(
                f"the source has {len(windows):,} windows, over limits.max_tiles {cap:,}; take fewer scenes, a larger "
                "stride or a smaller area, or raise limits.max_tiles"
            )
        if len({window.name for window in windows}) < len(windows):
            raise SourceError("imagery: two windows have one name; give every scene a name of its own")
        return Candidates(in_order(windows), left_out)

    def scenes(self) -> Sequence[Scene]:
        """The scenes that windows are cut from; none where they are cells."""
        return self._catalogue.scenes()

    def fetch(self, shard: Shard, staging: Staging, record: Record) -> None:
        """Read a shard's windows, several at once where they are read from another machine, and stage them."""
        threads = self._imagery.connections if self._catalogue.remote else 1
        with ThreadPoolExecutor(threads, "windows") as pool:
            for first in range(0, len(shard.windows), RECORDED_AT_ONCE):
                futures = [
                    pool.submit(self._take, staging, one) for one in shard.windows[first : first + RECORDED_AT_ONCE]
                ]
                wait(futures)
                # Also when the source fails as a whole, which the line after it tells.
                record([future.result() for future in futures if future.exception() is None])
                for future in futures:
                    future.result()

    def _take(self, staging: Staging, window: Window) -> Fetched:
        """Select, read and stage one window. Raises SourceError, CredentialError, DiskError."""
        outcome = Fetched(window.name, Image.FAILED, attempts=1, fetched_at=int(time.time()))
        try:
            items = self._catalogue.acquisitions(window)
            found = select(items, self._imagery.dates, self._recipe.clouds, window.rank)
        except WindowReadError as error:
            return replace(outcome, reason=str(error))
        if isinstance(found, Refusal):
            return replace(outcome, image=found.image, reason=found.reason, cloud_fraction=found.cloud_fraction)
        padded = np.zeros_like(found.nodata) if found.padded is None else found.padded
        nodata = float(np.count_nonzero(found.nodata & ~padded)) / max(1, int(np.count_nonzero(~padded)))
        outcome = replace(
            outcome,
            image=Image.STAGED,
            nodata_fraction=nodata,
            cloud_fraction=found.cloud_fraction,
            acquired_at=found.acquired_at,
            origin=found.origin,
            note=found.note,
        )
        staged = Staged(found.image, found.nodata | padded, found.cloud_mask)
        size, sha256 = staging.write_array(window.name, staged)
        return replace(outcome, bytes=size, sha256=sha256)

    def fingerprints(self) -> Mapping[str, str]:
        """Of the scenes that are files on this machine."""
        return self._catalogue.fingerprints()

    def price(self, pending: Sequence[Window], staged: int, mean_bytes: float | None) -> Price:  # noqa: ARG002
        """Windows to read, and their bytes as they are stored before compression."""
        pixels = sum(window.width * window.height for window in pending)
        return Price(requests=len(pending), bytes=pixels * (len(self.bands) * 2 + 1))

    def terms(self) -> None:
        """None: these sources have no terms to accept."""
        return

    def close(self) -> None:
        """Let files and connections go."""
        self._catalogue.close()
