"""One HTTP exchange for a tile: in turn, bounded body, few redirects, the token kept at home, all requests counted."""

import asyncio
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from tasks.errors import SourceError

USER_AGENT = f"tilewright/{version('tilewright')}"
MAX_BODY = 32 * 1024 * 1024  # bytes, as sent and as decompressed
MAX_REDIRECTS = 3


@dataclass(frozen=True, repr=False)
class Request:
    """A GET for one tile. Shows none of its fields when printed: each may hold the token."""

    url: str
    headers: Mapping[str, str]
    secret: str = ""  # what must not travel to another host


@dataclass(slots=True)
class Tally:
    """What was tried for one tile."""

    requests: int = 0  # sent, or tried to send
    failures: int = 0
    throttled: int = 0  # answers of 429


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said in the end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class LostAnswerError(Exception):
    """No usable answer came. The text is a short reason, fit for the ledger."""


class UnreachedError(LostAnswerError):
    """There was not even a connection."""


class Pacer:
    """A token bucket of one token, shared by all requests to a source, that can be held shut for a while.

    For one event loop. Requests start at least ``1 / rate`` seconds apart, at once when ``rate`` is None.
    """

    def __init__(self, rate: float | None) -> None:
        self._interval = 1.0 / rate if rate else 0.0
        self._next = 0.0  # when the next request may start, on the monotonic clock
        self._pauses = 0

    async def turn(self) -> None:
        """Wait until a request may start."""
        while True:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
            if start <= now:
                return
            pauses = self._pauses
            await asyncio.sleep(start - now)
            if self._pauses == pauses:  # else the turn was given before the server asked for a pause
                return

    def pause(self, seconds: float) -> None:
        """Let no request start for ``seconds``."""
        self._next = max(self._next, time.monotonic() + seconds)
        self._pauses += 1


def origin(url: str) -> str:
    """Scheme, host and port of ``url``: what a message may always show."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def open_session(connections: int, timeout: float) -> aiohttp.ClientSession:
    """A session whose connections outlive single calls. To be called, and closed, within a running event loop."""
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_count)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=60.0, ttl_dns_cache=300),
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(10.0, timeout / 2)),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # images are compressed as they are; what is not is inflated here, bounded
        headers={"Accept-Encoding": "identity"},
        trace_configs=[tracing],
    )


async def _count(_session: aiohttp.ClientSession, context: SimpleNamespace, _sent: Any) -> None:
    """Also sees what aiohttp sends a second time because an idle connection had been closed by the server."""
    context.trace_request_ctx.requests += 1


async def ask(session: aiohttp.ClientSession, request: Request, tally: Tally) -> Answer:
    """The answer to ``request`` after following redirects.

    Raises UnreachedError, LostAnswerError, and SourceError for a redirect that would carry the token to another host.
    """
    url, headers = request.url, request.headers
    try:
        for _ in range(1 + MAX_REDIRECTS):
            sent = session.get(URL(url, encoded=True), headers=headers, allow_redirects=False, trace_request_ctx=tally)
            async with sent as response:
                target = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or target is None:
                    body = _inflate(await _body(response), response.headers.get("Content-Encoding", ""))
                    return Answer(response.status, response.headers, body)
            target = urljoin(url, target)
            if origin(target) != origin(url):
                if request.secret and request.secret in unquote(target):
                    raise SourceError(
                        f"{origin(url)} redirects to {origin(target)} and would hand it the token; "
                        "set the source's URL to the host that answers, if you trust it"
                    )
                headers = {name: value for name, value in headers.items() if name.lower() == "user-agent"}
            url = target
        raise LostAnswerError("too many redirects")
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        tally.requests += 1  # tried, though it never got there
        raise UnreachedError("cannot connect") from None
    except TimeoutError:
        raise LostAnswerError("timeout") from None
    except aiohttp.ClientPayloadError:
        raise LostAnswerError("short body") from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        raise LostAnswerError("redirect to an invalid URL") from None
    except (aiohttp.ClientConnectionError, ConnectionError):
        raise LostAnswerError("connection lost") from None
    except (aiohttp.ClientError, ValueError):
        raise LostAnswerError("invalid HTTP answer") from None


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The body as sent, refused when longer than MAX_BODY."""
    try:
        await response.content.readexactly(MAX_BODY + 1)
    except asyncio.IncompleteReadError as error:
        return error.partial
    raise LostAnswerError(f"body over {MAX_BODY >> 20} MiB")


def _inflate(body: bytes, encoding: str) -> bytes:
    """The body without a gzip or deflate encoding that the server applied unasked, at most MAX_BODY long."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity") or not body:
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise LostAnswerError("unknown content encoding")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = inflater.decompress(body, MAX_BODY)
    except zlib.error:
        raise LostAnswerError("broken content encoding") from None
    if inflater.unconsumed_tail:
        raise LostAnswerError(f"body over {MAX_BODY >> 20} MiB")
    if not inflater.eof:
        raise LostAnswerError("short body")
    return plain
