"""Any slippy map, or a WMTS in its key-value form, told by a URL template."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

from tasks.errors import CredentialError, RecipeError, TilewrightError
from tasks.geo.tiles import Tile, quadkey
from tasks.imagery.slippy.protocol import refusal, says
from tasks.recipe.sources import XyzImagery
from tasks.recipe.tokens import filled, filled_header
from tasks.secrets import find_secret, redact, remember
from tasks.web.exchange import USER_AGENT, Request

_URL_SAFE = "%/:?#[]@!$&'()*+,;=~{}"  # what a template's author has written on purpose


def expand(template: str, tile: Tile, subdomains: Sequence[str] = (), token: str = "") -> str:
    """``template`` with its placeholders filled in for ``tile``.

    ``{-y}`` counts rows from the south (TMS), ``{q}`` is the quadkey, ``{s}`` is one of ``subdomains``,
    always the same one for a tile so that caches on the way keep working.
    """
    z, x, y = tile
    url = template.replace("{z}", str(z)).replace("{x}", str(x)).replace("{y}", str(y))
    url = url.replace("{-y}", str((1 << z) - 1 - y)).replace("{q}", quadkey(tile) if "{q}" in url else "")
    url = url.replace("{s}", subdomains[(x + y) % len(subdomains)] if subdomains else "")
    return url.replace("{token}", token)  # last: nothing in it is a placeholder


class XyzServer:
    """A :class:`tasks.imagery.slippy.protocol.TileServer` for ``imagery: {source: xyz}``."""

    name = "xyz"
    max_zoom: int | None = None

    def __init__(self, imagery: XyzImagery, tile_pixels: int) -> None:
        """Raises CredentialError when the token's variable is not set, RecipeError for a URL that cannot be asked."""
        self.tile_pixels = tile_pixels
        self._template = quote(filled(imagery.url, "imagery.url"), safe=_URL_SAFE)
        self._subdomains = tuple(imagery.subdomains)
        self._absent = imagery.absent
        self._token_env = imagery.token_env
        self._token = (find_secret(imagery.token_env) or "") if imagery.token_env else ""
        if imagery.token_env and not self._token:
            raise CredentialError(
                f"imagery.token_env: the environment variable {imagery.token_env} is not set; "
                f"set it to the token for {redact(imagery.url)}"
            )
        self._headers = _headers(imagery.headers, self._token)
        try:
            parts = urlsplit(expand(self._template, Tile(0, 0, 0), self._subdomains))
            if not parts.hostname or parts.port == 0:
                raise ValueError("no host or port")
        except ValueError:  # also for a port that is no number, or a broken IPv6 address
            raise RecipeError(
                f"imagery.url: {redact(imagery.url)} has no valid host and port; expected http(s)://host[:port]/"
            ) from None

    def request(self, tile: Tile) -> Request:
        """The request for ``tile``."""
        url = expand(self._template, tile, self._subdomains, quote(self._token, safe=""))
        return Request(url, self._headers, self._token)

    def is_absent(self, status: int, body: bytes) -> bool:
        """A 404 that says what the recipe's ``absent`` says, or a 204, which is HTTP for "there is nothing here"."""
        return status == 204 or (status == 404 and says(body, self._absent))

    def explain_refusal(self, status: int, body: bytes, url: str) -> TilewrightError:
        """What to change in the recipe or the environment."""
        advice = "the source would refuse every tile so; check imagery.url and grid.zoom"
        if status == 404:
            advice = "check imagery.url; if this is how the source says that a single tile does not exist, "
            advice += "set imagery.absent to a part of that message"
        elif status in (401, 403) and self._token_env:
            advice = f"check the token in {self._token_env}"
        elif status in (401, 403):
            advice = (
                "give its credentials in imagery.headers or imagery.url, by {env:NAME}, which stands for a variable"
            )
        return refusal(status, body, url, advice)


def _headers(given: Mapping[str, str], token: str) -> dict[str, str]:
    """The headers to send: ours, then the recipe's with ``{token}`` filled in."""
    headers = {} if any(name.lower() == "user-agent" for name in given) else {"User-Agent": USER_AGENT}
    for name, value in given.items():
        said = filled_header(value, f"imagery.headers.{name}").replace("{token}", token)
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[\t\x20-\x7e]*", said):
            raise RecipeError(f"imagery.headers.{name}: expected one line of printable ASCII characters")
        if said != value:  # as a whole too: the value of a cookie, say
            remember(said)
        headers[name] = said
    return headers
