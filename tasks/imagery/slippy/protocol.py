"""What every imagery source owes: a request for a tile, and what its answers mean.

A source makes no request itself. It is built from a recipe without I/O (apart from looking up its
token), holds no state and may be used from any thread; :mod:`tasks.imagery.slippy.fetch` does the asking.
"""

import json
import re
from contextlib import suppress
from typing import Protocol

from tasks.errors import CredentialError, SourceError, TilewrightError
from tasks.geo.tiles import Tile
from tasks.secrets import redact
from tasks.web.exchange import Request

_MESSAGE_LENGTH = 200  # characters of an answer that go into a message
_TAG = re.compile(r"<[^>]*>")
_UNSAFE = re.compile(r"\s+|[^ -~]+")


class TileServer(Protocol):
    """What there is to know of a slippy map to ask it for tiles."""

    name: str
    tile_pixels: int  # side of the decoded image
    max_zoom: int | None

    def request(self, tile: Tile) -> Request:
        """The request whose answer is the tile's image."""

    def is_absent(self, status: int, body: bytes) -> bool:
        """Whether an answer says that the tile just does not exist (and need not be asked for again)."""

    def explain_refusal(self, status: int, body: bytes, url: str) -> TilewrightError:
        """The error for an answer that every other tile would get as well, saying what to do about it."""


def body_message(body: bytes) -> str:
    """What an error answer says, as one short line: the JSON ``message`` or ``error``, else its text without tags."""
    text = body[:4096].decode("utf-8", "replace")
    with suppress(ValueError):
        if isinstance(parsed := json.loads(text), dict):
            text = next((value for key in ("message", "error") if isinstance(value := parsed.get(key), str)), text)
    # Secrets first: of one that is cut off, the rest would stay.
    return redact(_UNSAFE.sub(" ", _TAG.sub(" ", text)).strip())[:_MESSAGE_LENGTH].strip()


def says(body: bytes, text: str) -> bool:
    """Whether ``text`` stands in the answer, in whatever case."""
    return text.lower() in body.decode("utf-8", "replace").lower()


def refusal(status: int, body: bytes, url: str, advice: str) -> TilewrightError:
    """CredentialError for 401 and 403, else SourceError: what was asked, what the answer was, and what to do."""
    message = body_message(body)
    answer = f"HTTP {status}" + (f" ({message})" if message else "")
    kind = CredentialError if status in (401, 403) else SourceError
    return kind(f"{redact(url)} answered {answer}; {advice}")
