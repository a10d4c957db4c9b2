"""One HTTP exchange for a tile: in turn, bounded body, few redirects, the token kept at home, all requests counted."""

import asyncio
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from tasks.errors import SourceError
from tasks.web.bodies import BodyError, LongBodyError, decoded
from tasks.web.failures import TLS_ADVICE, is_passing, tls_reason
from tasks.web.origins import carries, is_downgrade, kept_headers, origin, same_origin, secrets_of
from tasks.web.reach import ANYWHERE, Reach

USER_AGENT = f"tilewright/{version('tilewright')}"
MAX_BODY = 4 << 20  # bytes, as sent and as unpacked; 512 px of four 16-bit bands take 2 MiB as they are
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


class _Resolver(aiohttp.ThreadedResolver):
    """Looks up names, and refuses those that lead to a private address that nobody named."""

    def __init__(self, reach: Reach) -> None:
        super().__init__()
        self._reach = reach

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        found = await super().resolve(host, port, family)
        for one in found:
            self._reach.admit(host, one["host"], f"{host}:{port}")
        return found


def open_session(connections: int, timeout: float, reach: Reach = ANYWHERE) -> aiohttp.ClientSession:
    """A session whose connections outlive single calls. To be called, and closed, within a running event loop.

    timeout: seconds for a whole request. reach: of the names that connections may be made to.
    """
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_count)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections, keepalive_timeout=60.0, ttl_dns_cache=300, resolver=_Resolver(reach)
        ),
        timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(10.0, timeout / 2)),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # images are compressed as they are; what is not is inflated here, bounded
        headers={"Accept-Encoding": "identity"},
        trace_configs=[tracing],
    )


async def _count(_session: aiohttp.ClientSession, context: SimpleNamespace, _sent: Any) -> None:
    """Also sees what aiohttp sends a second time because an idle connection had been closed by the server."""
    context.trace_request_ctx.requests += 1


async def ask(session: aiohttp.ClientSession, request: Request, tally: Tally, reach: Reach = ANYWHERE) -> Answer:
    """The answer to ``request`` after following redirects.

    Raises UnreachedError, LostAnswerError, and SourceError for a server that cannot show who it is, and for a redirect
    that would carry the token to another host, or lead to a private address.
    """
    url, headers = request.url, request.headers
    limit = session.timeout
    try:
        for _ in range(1 + MAX_REDIRECTS):
            started = time.monotonic()
            sent = session.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, trace_request_ctx=tally, timeout=limit
            )
            async with sent as response:
                target = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or target is None:
                    return Answer(response.status, response.headers, await _body(response))
            url, headers = _redirected(url, urljoin(url, target), headers, request.secret, reach)
            limit = _less(limit, time.monotonic() - started)
        raise LostAnswerError("too many redirects")
    except aiohttp.ClientSSLError as error:
        tally.requests += 1
        inner = (
            error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error.os_error
        )
        reason = tls_reason(inner) if isinstance(inner, ssl.SSLError) else "TLS failed"
        if is_passing(inner):
            raise UnreachedError(reason) from None
        raise SourceError(f"{origin(url)}: {reason}; {TLS_ADVICE}, or correct the source's URL") from None
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        tally.requests += 1  # tried, though it never got there
        raise UnreachedError(_unreached(error)) from None
    except TimeoutError:
        raise LostAnswerError("timeout") from None
    except aiohttp.ClientPayloadError:
        raise LostAnswerError("short body") from None
    except LongBodyError:
        raise LostAnswerError(f"body over {MAX_BODY >> 20} MiB") from None
    except BodyError as error:
        raise LostAnswerError(str(error)) from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        raise LostAnswerError("redirect to an invalid URL") from None
    except (aiohttp.ClientConnectionError, ConnectionError):
        raise LostAnswerError("connection lost") from None
    except (aiohttp.ClientError, ValueError):
        raise LostAnswerError("invalid HTTP answer") from None


def _redirected(
    url: str, target: str, headers: Mapping[str, str], secret: str, reach: Reach
) -> tuple[str, Mapping[str, str]]:
    """URL and headers of the next request. Raises SourceError for a target that is not followed."""
    reach.check_address(target)
    if same_origin(url, target):
        return target, headers
    secrets = secrets_of(url, headers) | ({secret} if secret else set())
    if secrets and (carries(target, secrets) or is_downgrade(url, target)):
        raise SourceError(
            f"{origin(url)} redirects to {origin(target)} and would hand it the token; "
            "set the source's URL to the host that answers, if you trust it"
        )
    return target, kept_headers(headers)


def _less(limit: aiohttp.ClientTimeout, seconds: float) -> aiohttp.ClientTimeout:
    """What is left of ``limit`` after ``seconds``."""
    left = None if limit.total is None else max(0.001, limit.total - seconds)
    return aiohttp.ClientTimeout(total=left, sock_connect=limit.sock_connect)


def _unreached(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "cannot connect: no such host, says the name service"
    if isinstance(error, TimeoutError):
        return "cannot connect: no connection in time"
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    return f"cannot connect: {os.strerror(inner.errno).lower()}" if inner and inner.errno else "cannot connect"


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The body without a gzip or deflate encoding that the server applied unasked. Raises BodyError."""
    if (response.content_length or 0) > MAX_BODY:
        raise LongBodyError
    try:
        await response.content.readexactly(MAX_BODY + 1)
    except asyncio.IncompleteReadError as error:
        return b"".join(decoded([error.partial], response.headers.get("Content-Encoding", ""), MAX_BODY))
    raise LongBodyError
