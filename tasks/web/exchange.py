"""One HTTP exchange for a tile: bounded body, few redirects, the token kept at home, every request counted."""

import zlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urljoin

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from tasks.errors import SourceError
from tasks.imagery.slippy.protocol import TileRequest, origin

MAX_BODY = 32 * 1024 * 1024  # bytes, as sent and as decompressed
MAX_REDIRECTS = 3
CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 60.0

_REDIRECTS = {301, 302, 303, 307, 308}


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


def open_session(connections: int, timeout: float) -> aiohttp.ClientSession:
    """A session whose connections outlive single calls. To be called, and closed, within a running event loop."""
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_count)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEPALIVE_SECONDS, ttl_dns_cache=300),
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_SECONDS, timeout / 2)),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # images are compressed as they are; what is not is inflated here, bounded
        headers={"Accept-Encoding": "identity"},
        trace_configs=[tracing],
    )


async def _count(_session: aiohttp.ClientSession, context: SimpleNamespace, _sent: Any) -> None:
    """Also sees what aiohttp sends a second time because an idle connection had been closed by the server."""
    context.trace_request_ctx.requests += 1


async def ask(session: aiohttp.ClientSession, request: TileRequest, tally: Tally) -> Answer:
    """The answer to ``request`` after following redirects.

    Raises UnreachedError, LostAnswerError, and SourceError for a redirect that would carry the token to another host.
    """
    url, headers = request.url, request.headers
    try:
        for _ in range(1 + MAX_REDIRECTS):
            async with session.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, trace_request_ctx=tally
            ) as response:
                target = response.headers.get("Location")
                if response.status not in _REDIRECTS or target is None:
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
    if response.content_length is not None and response.content_length <= MAX_BODY:
        return await response.read()
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_BODY:
            raise LostAnswerError(f"body over {MAX_BODY >> 20} MiB")
        parts.append(part)
    return b"".join(parts)


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
