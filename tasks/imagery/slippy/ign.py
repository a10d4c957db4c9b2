"""The orthophotos of IGN, the French mapping agency: WMTS in key-value form, no key, open licence.

Its tile matrix set PM is the slippy-map grid with the same indices. WMTS is exempt from the service's
rate limits; the recipe's default rate is modest all the same.
"""

from urllib.parse import quote

from tasks.errors import RecipeError, TilewrightError
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.protocol import refusal, says
from tasks.recipe.sources import IgnImagery
from tasks.web.exchange import USER_AGENT, Request

WMTS_URL = "https://data.geopf.fr/wmts"
LAYERS_PAGE = "https://geoservices.ign.fr/services-web-experts-ortho"


class IgnServer:
    """A :class:`tasks.imagery.slippy.protocol.TileServer` for ``imagery: {source: ign}``."""

    name = "ign"
    tile_pixels = 256  # PM has no other size
    max_zoom: int | None = 19

    def __init__(self, imagery: IgnImagery, tile_pixels: int) -> None:
        """Raises RecipeError for a tile size that it does not serve."""
        if tile_pixels != self.tile_pixels:
            raise RecipeError(f"grid.tile_size: ign serves 256 px tiles only (got {tile_pixels}); set it to 256")
        self._layer = imagery.layer
        self._query = (
            f"{WMTS_URL}?SERVICE=WMTS&REQUEST=GetTile&VERSION=1.0.0&LAYER={quote(imagery.layer, safe='')}"
            "&STYLE=normal&FORMAT=image/jpeg&TILEMATRIXSET=PM"
        )
        self._headers = {"User-Agent": USER_AGENT}

    def request(self, tile: Tile) -> Request:
        """The request for ``tile``."""
        return Request(f"{self._query}&TILEMATRIX={tile.z}&TILEROW={tile.y}&TILECOL={tile.x}", self._headers)

    def is_absent(self, status: int, body: bytes) -> bool:
        """A 404 whose exception report says "No data found"."""
        return status == 404 and says(body, "No data found")

    def explain_refusal(self, status: int, body: bytes, url: str) -> TilewrightError:
        """What to change in the recipe."""
        if status in (401, 403):
            advice = f"the layer {self._layer} is not open to all; choose an open one from {LAYERS_PAGE}"
        else:
            advice = f"check imagery.layer ({self._layer}) against {LAYERS_PAGE}, and grid.zoom (0 to {self.max_zoom})"
        return refusal(status, body, url, advice)
