"""Mapbox raster tiles (the v4 "Raster Tiles API").

GET {base}/v4/{tileset}/{z}/{x}/{y}{@2x}.{format}?access_token=... : 256 px, or 512 px with @2x. Satellite
tiles come as JPEG whatever the name says. A 404 has three meanings, told apart by its message; only
"Tile not found" is about the one tile.
"""

import os
from urllib.parse import quote, urlsplit

from tasks.errors import CredentialError, RecipeError, TilewrightError
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.protocol import refusal, says
from tasks.recipe.sources import MapboxImagery
from tasks.secrets import find_secret, remember_url
from tasks.web.exchange import USER_AGENT, Request

API_URL = "https://api.mapbox.com"
TOKEN_ENV = "MAPBOX_ACCESS_TOKEN"  # noqa: S105 - a name, not a token
TOKEN_BLOCK = "mapbox-access-token"  # noqa: S105 - a name, not a token
TOKEN_PAGE = "https://account.mapbox.com/access-tokens/"  # noqa: S105 - a page, not a token


class MapboxServer:
    """A :class:`tasks.imagery.slippy.protocol.TileServer` for ``imagery: {source: mapbox}``."""

    name = "mapbox"
    max_zoom: int | None = 22

    def __init__(self, imagery: MapboxImagery, tile_pixels: int) -> None:
        """At ``MAPBOX_API_URL`` if set. Raises CredentialError without a token, RecipeError for what is no URL."""
        self._token = find_secret(TOKEN_ENV, TOKEN_BLOCK) or ""
        if not self._token:
            raise CredentialError(
                f"no Mapbox token: set the environment variable {TOKEN_ENV}, or make a Prefect Secret block named "
                f"{TOKEN_BLOCK} that holds it; {TOKEN_PAGE} gives tokens"
            )
        api_url = os.environ.get("MAPBOX_API_URL", "").strip() or API_URL
        remember_url(api_url)
        try:
            parts = urlsplit(api_url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise ValueError("no host or port")
        except ValueError:  # also for a port that is no number
            raise RecipeError(f"MAPBOX_API_URL: {api_url!r} is no base URL; expected for example {API_URL}") from None
        self.tile_pixels = tile_pixels
        self._tileset = imagery.tileset
        self._base = f"{api_url.rstrip('/')}/v4/{quote(imagery.tileset, safe=',')}"
        scale = "@2x" if tile_pixels == 512 else ""
        self._ending = f"{scale}.{imagery.format}?access_token={quote(self._token, safe='')}"
        self._headers = {"User-Agent": USER_AGENT}

    def request(self, tile: Tile) -> Request:
        """The request for ``tile``."""
        url = f"{self._base}/{tile.z}/{tile.x}/{tile.y}{self._ending}"
        return Request(url, self._headers, self._token)

    def is_absent(self, status: int, body: bytes) -> bool:
        """A 404 that says "Tile not found"; the other two are about the tileset."""
        return status == 404 and says(body, "Tile not found")

    def explain_refusal(self, status: int, body: bytes, url: str) -> TilewrightError:
        """What to change in the recipe or at Mapbox."""
        advice = {
            401: f"give a valid token in {TOKEN_ENV} or in the Prefect Secret {TOKEN_BLOCK} ({TOKEN_PAGE})",
            403: f"the token may not read {self._tileset}: check its scopes and URL restrictions on {TOKEN_PAGE}",
            404: f"correct imagery.tileset ({self._tileset}), or make the tileset readable for this token's account",
            422: "correct grid.zoom (0 to 22) or imagery.format",
        }
        other = "Mapbox would refuse every tile so; see https://docs.mapbox.com/api/maps/raster-tiles/"
        return refusal(status, body, url, advice.get(status, other))
