"""Mapbox's raster tile service, version 4, over the synthetic region: answers, errors and limits as documented.

https://docs.mapbox.com/api/maps/raster-tiles/
"""

import asyncio
import hashlib
import io
import re
import time
from collections.abc import Callable
from functools import lru_cache

from aiohttp import web
from PIL import Image

from infra.sandbox.services.faults import json_error
from infra.sandbox.world.region import ATTRIBUTION
from infra.sandbox.world.render import Renderer, has_imagery

SANDBOX_TOKEN = "pk.sandbox-synthetic-token"  # noqa: S105 - public, opens nothing but the sandbox
FORBIDDEN_TOKEN = "pk.sandbox-forbidden-token"  # noqa: S105 - the same, for an account without access
TILESETS = frozenset({"synthetic.satellite", "mapbox.satellite"})

CACHE_CONTROL = "max-age=43200,s-maxage=300"
_QUALITIES = {"jpg": 80, "jpg70": 70, "jpg80": 80, "jpg90": 90}
_OTHER_FORMATS = {"png", "png32", "png64", "png128", "png256", "webp"}
_MAX_TILESETS = 15
_CACHED_TILES = 2048


class RateLimit:
    """So many requests in each interval of so many seconds; and the headers that tell a client where it stands."""

    def __init__(self, limit: int = 100_000, interval: int = 60, clock: Callable[[], float] = time.time) -> None:
        self.limit, self.interval, self._clock = limit, interval, clock
        self._window, self._used = 0, 0

    def admit(self) -> bool:
        """Count a request; False when it is one too many for its interval."""
        window = int(self._clock() // self.interval)
        if window != self._window:
            self._window, self._used = window, 0
        self._used += 1
        return self._used <= self.limit

    def headers(self) -> dict[str, str]:
        """Mapbox's X-Rate-Limit headers; the reset is a Unix time in whole seconds."""
        return {
            "X-Rate-Limit-Interval": str(self.interval),
            "X-Rate-Limit-Limit": str(self.limit),
            "X-Rate-Limit-Reset": str((self._window + 1) * self.interval),
        }


class TileService:
    """The handler of ``/v4/{tileset}/{z}/{x}/{y}{@2x}.{format}``."""

    def __init__(self, renderer: Renderer, rate_limit: RateLimit) -> None:
        self._rate_limit = rate_limit
        self._encoded = lru_cache(maxsize=_CACHED_TILES)(lambda *tile: _encode(renderer, *tile))

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one tile request."""
        if not self._rate_limit.admit():
            return json_error(429, "Too Many Requests", self._rate_limit.headers())
        refusal = _refusal(request)
        if refusal is not None:
            refusal.headers.update(self._rate_limit.headers())
            return refusal
        z, x, y = (int(request.match_info[name]) for name in ("z", "x", "y"))
        if not has_imagery(z, x, y):
            return json_error(404, "Tile not found", self._rate_limit.headers())
        size = 512 if request.match_info["scale"] else 256
        # Imagery tilesets come as JPEG whatever format the address names.
        quality = _QUALITIES.get(request.match_info["format"], 80)
        body = await asyncio.to_thread(self._encoded, z, x, y, size, quality)
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {"ETag": etag, "Cache-Control": CACHE_CONTROL, **self._rate_limit.headers()}
        known = [tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")]
        if etag in known or "*" in known:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="image/jpeg", headers=headers)


def _refusal(request: web.Request) -> web.Response | None:
    """The error for a request that can have no tile, in the order in which the service looks; None when it may."""
    token = request.query.get("access_token", "")
    if not token:
        return json_error(401, "Not Authorized - No Token")
    if token == FORBIDDEN_TOKEN:
        return json_error(403, "Forbidden")
    if token != SANDBOX_TOKEN:
        return json_error(401, "Not Authorized - Invalid Token")
    tilesets = request.match_info["tileset"].split(",")
    if len(tilesets) > _MAX_TILESETS:
        return json_error(422, f"At most {_MAX_TILESETS} tilesets can be composed.")
    for tileset in tilesets:
        if tileset not in TILESETS:
            return json_error(404, f"Tileset {tileset} does not exist")
    if not 0 <= int(request.match_info["z"]) <= 30:
        return json_error(422, "Zoom level must be between 0-30.")
    form = request.match_info["format"]
    if form in _QUALITIES or form in _OTHER_FORMATS:
        return None
    quality = re.fullmatch(r"(jpg|png|webp)(\d+)", form)
    if quality:
        return json_error(422, f"Invalid quality value {quality[2]} for raster format {quality[1]}")
    return json_error(404, "Not Found")


def _encode(renderer: Renderer, z: int, x: int, y: int, size: int, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(renderer.tile(z, x, y, size)).save(buffer, "JPEG", quality=quality, comment=ATTRIBUTION)
    return buffer.getvalue()
