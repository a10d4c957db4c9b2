"""A slippy map as a source of imagery: its tiles are windows, fetched in batches by one session a process."""

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.errors import RecipeError, TermsError
from tasks.geo.georeference import tile_at
from tasks.geo.tiles import Tile, grouped
from tasks.imagery.protocol import Price, Record
from tasks.imagery.slippy.fetch import Fetcher, FetchPolicy
from tasks.imagery.slippy.ign import IgnServer
from tasks.imagery.slippy.mapbox import MapboxServer
from tasks.imagery.slippy.protocol import TileServer
from tasks.imagery.slippy.xyz import XyzServer
from tasks.raster.scene import Scene
from tasks.recipe.model import Recipe
from tasks.recipe.sources import MapboxImagery, SlippyImagery, XyzImagery
from tasks.samples.cells import cells
from tasks.samples.window import Candidates, Shard, Window
from tasks.state.staging import ImageShape, Staging
from tasks.web.reach import Reach

TERMS_ENV = "TILEWRIGHT_ACCEPT_TERMS"  # comma-separated source names, or "all"
MAPBOX_TERMS_URL = "https://www.mapbox.com/legal/tos"
MAPBOX_PRODUCT_TERMS_URL = "https://www.mapbox.com/legal/product-terms"

# Mapbox's published price for raster tiles beyond the monthly free ones, as of 2026.
MAPBOX_FREE_REQUESTS = 200_000
MAPBOX_DOLLARS_PER_1000 = 0.25
# Median of 256 px aerial JPEG tiles at zoom 18; only a guess until a build has real ones.
ASSUMED_TILE_BYTES = 21_000
# Half of what benchmarks/fetch.py measures at 50 ms latency: a server far away is slower than one on this machine.
ASSUMED_TILES_PER_SECOND = 800.0
WRITTEN_PER_SECOND = 1000.0  # decode and write a version, on two cores (benchmarks/build.py: 2,048 tiles in 2 s)

_SERVERS: Mapping[str, Callable[[Any, int], TileServer]] = {  # from imagery and pixels along a tile's side
    "xyz": XyzServer,
    "mapbox": MapboxServer,
    "ign": IgnServer,
}


class SlippySource:
    """A :class:`tasks.imagery.protocol.Source` of a recipe whose imagery is a slippy map.

    All threads share one session and one rate, opened at the first fetch.
    """

    bands = ("red", "green", "blue")
    key = ""  # whatever else the recipe says of its map, a tile that is staged is not asked for, and billed, again

    def __init__(self, recipe: Recipe, work: Path) -> None:
        """``work`` is a folder for what the area needs. Neither terms nor token are looked at before :meth:`check`."""
        assert isinstance(recipe.imagery, SlippyImagery)
        assert recipe.grid is not None
        self._recipe, self._work = recipe, work
        self._imagery, self._pixels = recipe.imagery, recipe.grid.tile_size
        self.shape = ImageShape("uint8", len(self.bands), self._pixels, self._pixels)
        self._exits, self._lock = ExitStack(), threading.Lock()
        self._fetcher: Fetcher | None = None

    @property
    def requests(self) -> int:
        """Sent over HTTP so far."""
        return self._fetcher.requests if self._fetcher else 0

    def check(self) -> None:
        """See that tiles may and can be asked for, without asking. Raises as :func:`tile_server`."""
        _ = self._server

    def candidates(self) -> Candidates:
        """A window for each tile of the area, in shards that are the content of a tile. Raises as :func:`cells`."""
        windows = {_tile(window): window for window in cells(self._recipe, self._work)}
        shards = (
            Shard(parent.name.replace("/", "-"), tuple(windows[tile] for tile in tiles))
            for parent, tiles in grouped(windows)
        )
        return Candidates(tuple(shards), {})

    def former_key(self, _max_nodata_fraction: float) -> str:
        """The same."""
        return self.key

    def scenes(self) -> Sequence[Scene]:
        """None."""
        return ()

    def fetch(self, shard: Shard, staging: Staging, record: Record) -> None:
        """Fetch a shard's tiles and stage them as they were sent; see :meth:`Fetcher.fetch`.

        Raises also as :func:`tile_server`.
        """
        self._opened().fetch({window.name: _tile(window) for window in shard.windows}, staging, record)

    def fingerprints(self) -> Mapping[str, str]:
        """None: nothing is read from this machine."""
        return {}

    def price(self, pending: Sequence[Window], staged: int, mean_bytes: float | None) -> Price:
        """What asking for ``pending`` would take, and writing a version of them and of ``staged``."""
        requests = len(pending)
        per_second = min(ASSUMED_TILES_PER_SECOND, self._imagery.requests_per_second or ASSUMED_TILES_PER_SECOND)
        dollars = max(0, requests - MAPBOX_FREE_REQUESTS) / 1000 * MAPBOX_DOLLARS_PER_1000
        return Price(
            requests=requests,
            bytes=round(requests * (mean_bytes or ASSUMED_TILE_BYTES * (self._pixels / 256) ** 2)),
            dollars=round(dollars, 2) if isinstance(self._imagery, MapboxImagery) else None,
            seconds=round(requests / per_second + (requests + staged) / WRITTEN_PER_SECOND, 1),
        )

    def terms(self) -> Mapping[str, str] | None:
        """As :func:`accepted_terms`."""
        return accepted_terms(self._recipe)

    def close(self) -> None:
        """Let the session go. What is being fetched ends."""
        self._exits.close()

    @functools.cached_property
    def _server(self) -> TileServer:
        return tile_server(self._recipe)

    def _opened(self) -> Fetcher:
        with self._lock:
            if self._fetcher is None:
                how = self._imagery
                policy = FetchPolicy(
                    how.connections,
                    how.requests_per_second,
                    how.attempts,
                    how.timeout,
                    patience=self._recipe.limits.patience,
                    reach=self._reach(),
                )
                self._fetcher = self._exits.enter_context(Fetcher(self._server, policy))
            return self._fetcher

    def _reach(self) -> Reach:
        """The hosts of the recipe, and those that its tiles are asked at."""
        subdomains = self._imagery.subdomains if isinstance(self._imagery, XyzImagery) else []
        tiles = (Tile(16, x, 0) for x in range(max(1, len(subdomains))))
        return Reach.of(self._recipe, [self._server.request(tile).url for tile in tiles])


def accepted_terms(recipe: Recipe) -> dict[str, str] | None:
    """How the source's terms were accepted (source, accepted_by, accepted_at, terms_url), or None when it has none.

    Raises TermsError when they are not accepted.
    """
    imagery = recipe.imagery
    if not isinstance(imagery, MapboxImagery):
        return None
    named = {name.strip().lower() for name in os.environ.get(TERMS_ENV, "").split(",")}
    if not imagery.accept_terms and not named & {"mapbox", "all"}:
        raise TermsError(
            "imagery.accept_terms: Mapbox's terms restrict downloading, caching and storing its imagery and deriving "
            f"data from it, which is what a build does. Read {MAPBOX_TERMS_URL} and {MAPBOX_PRODUCT_TERMS_URL}; when "
            f"your use is allowed, set imagery.accept_terms: true in the recipe, or {TERMS_ENV}=mapbox in the "
            "environment. The source ign needs no such thing"
        )
    return {
        "source": imagery.source,
        "accepted_by": "recipe" if imagery.accept_terms else "environment",
        "accepted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "terms_url": MAPBOX_PRODUCT_TERMS_URL,
    }


def tile_server(recipe: Recipe) -> TileServer:
    """The server of a recipe's tiles, ready to be asked.

    Raises TermsError when its terms are not accepted, CredentialError when its token is missing, and
    RecipeError when it cannot serve the recipe's zoom or tile size.
    """
    assert recipe.grid is not None
    accepted_terms(recipe)
    server = _SERVERS[recipe.imagery.source](recipe.imagery, recipe.grid.tile_size)
    if server.max_zoom is not None and recipe.grid.zoom > server.max_zoom:
        raise RecipeError(
            f"grid.zoom: {server.name} has imagery up to zoom {server.max_zoom}, the recipe asks for {recipe.grid.zoom}"
        )
    return server


def _tile(window: Window) -> Tile:
    found = tile_at(window.georeference, window.width, window.height) if window.georeference else None
    if found is None:
        raise TypeError(f"{window.name} is no tile")
    return found
