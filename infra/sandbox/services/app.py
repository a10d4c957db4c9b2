"""The sandbox as one web application: tiles, Overpass, an OSM extract, STAC, MLHub, and a page that says what it is."""

import asyncio
import html
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from infra.sandbox.files.originals import Originals
from infra.sandbox.files.pbf import write_pbf
from infra.sandbox.services.faults import FaultMix, Handler, fault_middleware, request_key
from infra.sandbox.services.mapbox import SANDBOX_TOKEN, RateLimit, TileService
from infra.sandbox.services.mlhub import API_PATH, PROXY_PATH
from infra.sandbox.services.overpass import Overpass, QueryError
from infra.sandbox.services.stac_api import STAC_PATH
from infra.sandbox.world.osm import build_osm
from infra.sandbox.world.region import ATTRIBUTION, FIRST_TILE_Z18, REGION_BOUNDS
from infra.sandbox.world.render import Renderer
from infra.sandbox.world.world import build_world

PBF_NAME = "synthetic-latest.osm.pbf"
_LOGGED_REQUESTS = 100_000
_TILE_ROUTE = r"/v4/{tileset}/{z:-?\d+}/{x:\d{1,10}}/{y:\d{1,10}}{scale:(?:@2x)?}.{format}"


@dataclass(frozen=True)
class Settings:
    """How the sandbox behaves: its seed, the name of a fault mix or None, and seconds of latency for tiles."""

    seed: int = 0
    faults: str | None = None
    latency: float = 0.0
    rate_limit: int = 100_000  # tile requests in each interval
    rate_interval: int = 60  # seconds


@dataclass(frozen=True)
class Logged:
    """One answered request; ``key`` is its path and query without the access token, ``seconds`` what it took."""

    method: str
    key: str
    endpoint: str
    status: int
    seconds: float


@dataclass
class Log:
    """What was asked of the server."""

    counts: dict[str, Counter[int]] = field(default_factory=dict)
    requests: deque[Logged] = field(default_factory=lambda: deque(maxlen=_LOGGED_REQUESTS))

    def add(self, entry: Logged) -> None:
        """Record one request."""
        self.requests.append(entry)
        self.counts.setdefault(entry.endpoint, Counter())[entry.status] += 1

    def clear(self) -> None:
        """Forget everything."""
        self.requests.clear()
        self.counts.clear()

    def stats(self) -> dict[str, Any]:
        """Counts by endpoint and status; JSON."""
        by_endpoint = {name: {str(s): n for s, n in sorted(c.items())} for name, c in sorted(self.counts.items())}
        return {
            "synthetic": True,
            "requests": sum(sum(c.values()) for c in self.counts.values()),
            "by_endpoint": by_endpoint,
        }


class Sandbox:
    """The region of a seed, ready to serve. Making one takes some seconds the first time in a process."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.log = settings, Log()
        self._faults = FaultMix.named(settings.faults, seed=settings.seed) if settings.faults else FaultMix({})
        osm = build_osm(settings.seed)
        self._tiles = TileService(
            Renderer(build_world(settings.seed)), RateLimit(settings.rate_limit, settings.rate_interval)
        )
        self._overpass = Overpass(osm)
        # A stop may come while files are being written.
        self._folder = tempfile.TemporaryDirectory(prefix="tilewright-sandbox-", ignore_cleanup_errors=True)
        self._pbf = Path(self._folder.name) / PBF_NAME
        self._md5 = write_pbf(osm, self._pbf)
        self.originals = Path(self._folder.name) / "originals"  # the files it serves, made when first asked for
        self._originals = Originals(self.originals, settings.seed)

    def application(self) -> web.Application:
        """The web application; its cleanup removes the temporary files."""
        spoil = fault_middleware(self._faults, "/v4/", self.settings.latency)
        app = web.Application(middlewares=[self._logging, spoil], client_max_size=16 * 2**20)
        app.router.add_get("/", self._index, name="index")
        app.router.add_get(_TILE_ROUTE, self._tiles.handle, name="tiles")
        app.router.add_get("/api/status", self._overpass_status, name="overpass_status")
        app.router.add_route("*", "/api/interpreter", self._interpreter, name="overpass")
        app.router.add_get(f"/{PBF_NAME}", self._extract, name="pbf")
        app.router.add_get(f"/{PBF_NAME}.md5", self._checksum, name="md5")
        app.router.add_routes(self._originals.routes())
        app.router.add_get("/_stats", self._stats, name="_stats")
        app.router.add_post("/_reset", self._reset, name="_reset")
        app.on_response_prepare.append(_sign)
        app.on_cleanup.append(self._close)
        return app

    @web.middleware
    async def _logging(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        route = request.match_info.route
        name = (route.resource.name if route.resource is not None else None) or "unknown"
        started, status = time.perf_counter(), 500
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as refusal:
            status = refusal.status
            raise
        finally:
            if not name.startswith("_"):
                seconds = time.perf_counter() - started
                self.log.add(Logged(request.method, request_key(request), name, status, seconds))
        return response

    async def _overpass_status(self, _: web.Request) -> web.Response:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines = [
            "Connected as: 2130706433",
            f"Current time: {now}",
            "Announced endpoint: synthetic sandbox",
            "Rate limit: 2",
            "2 slots available now.",
            "Currently running queries (pid, space limit, time limit, start time):",
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def _interpreter(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            form = await request.post() if request.content_type == "application/x-www-form-urlencoded" else {}
            query = str(form.get("data", "")) or await request.text()
        else:
            query = request.query.get("data", "")
        try:
            return web.json_response(await asyncio.to_thread(self._overpass.answer, query))
        except QueryError as error:
            return web.Response(
                status=400, text=_OVERPASS_ERROR.format(html.escape(str(error))), content_type="text/html"
            )

    async def _extract(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(self._pbf, headers={"Content-Type": "application/octet-stream"})

    async def _checksum(self, _: web.Request) -> web.Response:
        return web.Response(text=f"{self._md5}  {PBF_NAME}\n")

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.log.stats())

    async def _reset(self, _: web.Request) -> web.Response:
        self.log.clear()
        self._faults.reset()
        return web.json_response({"reset": True})

    async def _index(self, _: web.Request) -> web.Response:
        return web.Response(text=index_page(self.settings), content_type="text/html")

    async def _close(self, _: web.Application) -> None:
        self._folder.cleanup()


async def _sign(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "Tilewright sandbox (synthetic)"


_OVERPASS_ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<html><head><title>Synthetic OSM3S Response</title></head><body>
<p>Synthetic data of the Tilewright sandbox.</p>
<p><strong style="color:#FF0000">Error</strong>: line 1: {} </p>
</body></html>
"""


def index_page(settings: Settings) -> str:
    """The start page: what this is, what can be asked, and some tiles."""
    column, row = FIRST_TILE_Z18
    rows = "".join(
        "<br>" + "".join(f'<img src="/v4/synthetic.satellite/18/{x}/{y}.jpg?access_token={SANDBOX_TOKEN}">' for x in xs)
        for y in range(row + 8, row + 11)
        for xs in [range(column + 7, column + 11)]
    )
    west, south, east, north = REGION_BOUNDS
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tilewright sandbox (synthetic)</title>
<style>body{{font:16px/1.5 sans-serif;max-width:1040px;margin:2em auto}}img{{width:256px;height:256px}}</style></head>
<body><h1>Tilewright sandbox: a synthetic region</h1>
<p>Everything here is generated (seed {settings.seed}). It shows no place on Earth and holds no OpenStreetMap data.
Region: west {west}, south {south}, east {east}, north {north}. {ATTRIBUTION}.</p>
<ul><li>Tiles: <code>/v4/synthetic.satellite/{{z}}/{{x}}/{{y}}.jpg?access_token={SANDBOX_TOKEN}</code>, zoom 14
to 21</li>
<li>Overpass: <code>/api/interpreter</code>, <a href="/api/status">/api/status</a></li>
<li>OSM extract: <a href="/{PBF_NAME}">{PBF_NAME}</a>, <a href="/{PBF_NAME}.md5">.md5</a></li>
<li>Sentinel-2: the STAC API <a href="{STAC_PATH}">{STAC_PATH}</a></li>
<li>Chips: the Radiant MLHub API <code>{API_PATH}</code>, Source Cooperative's proxy <code>{PROXY_PATH}</code></li>
<li>Requests so far: <a href="/_stats">/_stats</a>; forget them: POST <code>/_reset</code></li></ul>
<p>{rows}</p></body></html>
"""
