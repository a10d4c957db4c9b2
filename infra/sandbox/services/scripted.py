"""A small server that answers what a test tells it to: bytes by path, latency, faults, and scripted replies."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from infra.sandbox.services.background import GRACE_SECONDS, BackgroundServer
from infra.sandbox.services.faults import Fault, FaultMix, faulty, json_error, request_key, reset_connection, truncated


@dataclass(frozen=True)
class Reply:
    """One scripted answer. ``delay`` is in seconds; ``cut`` sends half the body; ``reset`` breaks the connection."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/octet-stream"
    delay: float = 0.0
    cut: bool = False
    reset: bool = False


def json_reply(status: int, text: str, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply with a JSON text as its body."""
    return Reply(status, text.encode(), headers or {}, "application/json")


@dataclass(frozen=True)
class Request:
    """A request as it came: ``key`` is the path with its query, the access token left out; ``at`` in seconds."""

    method: str
    key: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float


Content = Mapping[str, bytes] | Callable[[str], bytes | Reply | None]


class ScriptedServer:
    """A loopback server for tests and benchmarks.

        with ScriptedServer({"/18/1/2.png": png}, script={"/18/1/2.png": [Reply(503), Reply(delay=5)]}) as server:
            fetch(server.url + "/18/1/2.png")
        assert [r.status for r in server.requests] == [503, 200]

    ``content`` maps a key (path, with its query but no access token) to bytes, or is called with it; without an
    entry, or for None, the answer is 404 ``Tile not found``. ``script`` gives the first answers for a key, ``"*"``
    those for every key without its own; after them comes the content. ``faults`` spoils good answers; ``latency``
    delays all, in seconds.
    """

    def __init__(
        self,
        content: Content,
        *,
        script: Mapping[str, Iterable[Reply]] | None = None,
        faults: FaultMix | None = None,
        latency: float = 0.0,
        content_type: str = "image/jpeg",
        record: bool = True,
    ) -> None:
        self._content, self._faults, self._latency, self._type = content, faults, latency, content_type
        self._script = {key: list(replies) for key, replies in (script or {}).items()}
        self._played: Counter[str] = Counter()
        self._record, self._lock, self._in_flight = record, threading.Lock(), 0
        self._requests: list[Request] = []
        self._server = BackgroundServer(
            lambda: web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=GRACE_SECONDS)
        )
        self.max_in_flight = 0

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return self._server.url

    @property
    def requests(self) -> list[Request]:
        """All requests answered so far, in the order of their answers."""
        with self._lock:
            return list(self._requests)

    def counts(self) -> Counter[str]:
        """Requests by key."""
        return Counter(request.key for request in self.requests)

    def reset(self) -> None:
        """Forget requests, played replies and attempts."""
        with self._lock:
            self._requests.clear()
        self._played.clear()
        self.max_in_flight = 0
        if self._faults is not None:
            self._faults.reset()

    def __enter__(self) -> "ScriptedServer":
        self._server.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.__exit__(*error)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        key, arrived = request_key(request), time.monotonic()
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            body = await request.read() if request.can_read_body else b""
            if self._latency:
                await asyncio.sleep(self._latency)
            response = await self._respond(request, key)
        finally:
            self._in_flight -= 1
        if self._record:
            with self._lock:
                headers = dict(request.headers)
                self._requests.append(Request(request.method, key, response.status, headers, body, arrived))
        return response

    async def _respond(self, request: web.BaseRequest, key: str) -> web.StreamResponse:
        replies = self._script.get(key, self._script.get("*", []))
        if self._played[key] < len(replies):
            self._played[key] += 1
            return await _play(request, replies[self._played[key] - 1])
        found = self._content(key) if callable(self._content) else self._content.get(key)
        if isinstance(found, Reply):
            return await _play(request, found)
        if found is None:
            return json_error(404, "Tile not found")
        fault: Fault | None = self._faults.attempt(key) if self._faults is not None else None
        if fault is not None and self._faults is not None:
            return await faulty(request, fault, found, self._type, self._faults.retry_after)
        return web.Response(body=found, content_type=self._type)


async def _play(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    if reply.delay:
        await asyncio.sleep(reply.delay)
    if reply.reset:
        return reset_connection(request)
    if reply.cut:
        return await truncated(request, reply.body, reply.content_type, reply.status)
    return web.Response(
        status=reply.status, body=reply.body, headers=dict(reply.headers), content_type=reply.content_type
    )
