"""Fetching from a scripted server, for the tests of the fetcher."""

from pathlib import Path
from typing import Any

from infra.sandbox.services.scripted import Reply, ScriptedServer
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.fetch import Fetcher, FetchPolicy, FetchSummary
from tasks.imagery.slippy.xyz import XyzSource
from tasks.recipe.load import XyzImagery
from tasks.state.ledger import Fetched
from tests.tasks.raster.pictures import SIDE, encode, picture

JPEG = encode(picture(1), "JPEG")
PNG = encode(picture(2), "PNG")
WEBP = encode(picture(3), "WEBP")
TILE = Tile(18, 5, 7)
KEY = "/18/5/7.png"


def policy(**changes: Any) -> FetchPolicy:
    return FetchPolicy(**{"connections": 8, "attempts": 4, "timeout": 5.0, "backoff": 0.01} | changes)


def source(url: str, pixels: int = SIDE, **imagery: Any) -> XyzSource:
    return XyzSource(XyzImagery(source="xyz", url=url, **imagery), pixels)


def fetch(
    url: str, folder: Path, tiles: list[Tile] | None = None, pixels: int = SIDE, **changes: Any
) -> tuple[dict[Tile, Fetched], FetchSummary]:
    """Fetch the tiles from ``url`` and return their outcomes; each comes once."""
    outcomes: list[Fetched] = []
    with Fetcher(source(url + "/{z}/{x}/{y}.png", pixels), policy(**changes), folder) as fetcher:
        summary = fetcher.fetch([TILE] if tiles is None else tiles, outcomes.extend)
    by_tile = {Tile.parse(outcome.name): outcome for outcome in outcomes}
    assert len(by_tile) == len(outcomes)
    assert summary.requests == sum(outcome.attempts for outcome in outcomes) == fetcher.requests
    return by_tile, summary


def fetch_one(folder: Path, *replies: Reply, content: bytes = PNG, **changes: Any) -> tuple[Fetched, ScriptedServer]:
    """Fetch one tile that is answered with ``replies``, then with ``content``."""
    with ScriptedServer({KEY: content}, script={KEY: replies}, content_type="image/png") as server:
        outcomes, summary = fetch(server.url, folder, **changes)
        assert summary.counts == {outcomes[TILE].state: 1}
        assert len(server.requests) == outcomes[TILE].attempts
        return outcomes[TILE], server
