"""Fetching from a scripted server, for the tests of the fetcher."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infra.sandbox.services.scripted import Reply, ScriptedServer
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.fetch import Fetcher, FetchPolicy
from tasks.imagery.slippy.xyz import XyzServer
from tasks.recipe.sources import XyzImagery
from tasks.state.ledger import Fetched
from tasks.state.staging import Staging
from tests.tasks.raster.pictures import SIDE, encode, picture

JPEG = encode(picture(1), "JPEG")
PNG = encode(picture(2), "PNG")
WEBP = encode(picture(3), "WEBP")
TILE = Tile(18, 5, 7)
KEY = "/18/5/7.png"


def policy(**changes: Any) -> FetchPolicy:
    return FetchPolicy(**{"connections": 8, "attempts": 4, "timeout": 5.0, "backoff": 0.01} | changes)


def xyz(url: str, pixels: int = SIDE, **imagery: Any) -> XyzServer:
    return XyzServer(XyzImagery(source="xyz", url=url, **imagery), pixels)


def by_name(tiles: Iterable[Tile]) -> dict[str, Tile]:
    return {tile.name: tile for tile in tiles}


def fetch(
    url: str, folder: Path, tiles: Iterable[Tile] = (TILE,), pixels: int = SIDE, **changes: Any
) -> dict[Tile, Fetched]:
    """Fetch the tiles from ``url`` and return their outcomes; each comes once, and every request is counted."""
    outcomes: list[Fetched] = []
    with Fetcher(xyz(url + "/{z}/{x}/{y}.png", pixels), policy(**changes)) as fetcher:
        fetcher.fetch(by_name(tiles), Staging(folder), outcomes.extend)
    by_tile = {Tile.parse(outcome.name): outcome for outcome in outcomes}
    assert len(by_tile) == len(outcomes)
    assert fetcher.requests == sum(outcome.attempts for outcome in outcomes)
    return by_tile


def fetch_one(folder: Path, *replies: Reply, content: bytes = PNG, **changes: Any) -> tuple[Fetched, ScriptedServer]:
    """Fetch one tile that is answered with ``replies``, then with ``content``."""
    with ScriptedServer({KEY: content}, script={KEY: replies}, content_type="image/png") as server:
        outcomes = fetch(server.url, folder, **changes)
        assert list(outcomes) == [TILE]
        assert len(server.requests) == outcomes[TILE].attempts
        return outcomes[TILE], server
