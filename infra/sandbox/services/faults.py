"""Faults as sources on the network show them: which request fails, how, and how often before it succeeds.

Everything is decided by a hash of the request and a seed, so two runs meet the same faults. The mix is the one that the
peers were measured with: of 1,024 tiles 23 do not exist, and the first two attempts of 50 are answered 429, of 34 503,
of 35 with an error in JSON under status 200, and of 20 with a body that is cut short.
"""

import asyncio
import hashlib
import json
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import StrEnum

from aiohttp import web

from tasks.errors import SandboxError


class Fault(StrEnum):
    """What goes wrong with a request."""

    ABSENT = "absent"
    RATE_LIMITED = "rate-limited"
    UNAVAILABLE = "unavailable"
    ERROR_BODY = "error-body"
    TRUNCATED = "truncated"
    RESET = "reset"


PEER_MIX: Mapping[Fault, int] = {
    Fault.ABSENT: 23,
    Fault.RATE_LIMITED: 50,
    Fault.UNAVAILABLE: 34,
    Fault.ERROR_BODY: 35,
    Fault.TRUNCATED: 20,
}
"""Requests with each fault, of ``MIX_TOTAL``."""
MIX_TOTAL = 1024
FAILING_ATTEMPTS = 2  # attempts that meet a passing fault; ABSENT never passes
MIXES = {"peers": PEER_MIX}
"""The mixes by the name that the command line takes."""


class FaultMix:
    """Tells for every attempt of every request which fault it meets. Not shared between processes.

    Made by name it decides for any request by its hash, so that counts are near the mix's shares; ``FaultMix.exact``
    decides over a known list, so that the counts are exact.
    """

    def __init__(self, mix: Mapping[Fault, int] = PEER_MIX, *, seed: int = 0, retry_after: int = 1) -> None:
        self._mix, self._seed = dict(mix), seed
        self._assigned: dict[str, Fault | None] | None = None
        self._attempts: Counter[str] = Counter()
        self.retry_after = retry_after  # seconds that a 429 asks for

    @classmethod
    def exact(
        cls, keys: Iterable[str], mix: Mapping[Fault, int] = PEER_MIX, *, seed: int = 0, retry_after: int = 1
    ) -> "FaultMix":
        """A mix over these requests alone, others stay clean: of 1,024 keys exactly the mix's counts.

        For n keys each count is scaled by n / 1024 and rounded down. Raises SandboxError when a key comes twice.
        """
        made = cls(mix, seed=seed, retry_after=retry_after)
        ordered = sorted(keys, key=made._draw)
        if len(set(ordered)) != len(ordered):
            raise SandboxError("a fault mix was given the same request twice; give each path once")
        faults = [fault for fault, count in mix.items() for _ in range(count * len(ordered) // MIX_TOTAL)]
        made._assigned = dict(zip(ordered, faults, strict=False))
        return made

    @classmethod
    def named(cls, name: str, *, seed: int = 0) -> "FaultMix":
        """The mix of that name. Raises SandboxError for a name that is not in ``MIXES``."""
        if name not in MIXES:
            raise SandboxError(f"there is no fault mix {name!r}; choose from: {', '.join(sorted(MIXES))}")
        return cls(MIXES[name], seed=seed)

    def fault_of(self, key: str) -> Fault | None:
        """The fault that belongs to a request, whichever attempt it is; None when it is clean."""
        if self._assigned is not None:
            return self._assigned.get(key)
        place = self._draw(key) * MIX_TOTAL
        for fault, count in self._mix.items():
            if place < count:
                return fault
            place -= count
        return None

    def attempt(self, key: str) -> Fault | None:
        """Count one more attempt of a request, and tell the fault that it meets."""
        fault = self.fault_of(key)
        self._attempts[key] += 1
        if fault is None or fault is Fault.ABSENT or self._attempts[key] <= FAILING_ATTEMPTS:
            return fault
        return None

    def reset(self) -> None:
        """Forget all attempts: every passing fault comes again."""
        self._attempts.clear()

    def _draw(self, key: str) -> float:
        digest = hashlib.sha256(f"{self._seed} {key}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64


def request_key(request: web.BaseRequest) -> str:
    """What names a request here and in logs: its path, and its query without the access token."""
    if not request.query_string:
        return request.path
    query = [(name, value) for name, value in request.query.items() if name != "access_token"]
    return request.path if not query else str(request.rel_url.with_query(query))


def json_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as the tile services give it."""
    return web.json_response({"message": message}, status=status, headers=headers)


async def faulty(
    request: web.BaseRequest, fault: Fault, body: bytes, content_type: str, retry_after: int
) -> web.StreamResponse:
    """The answer to a request that meets a fault, where ``body`` would have been the right one."""
    if fault is Fault.ABSENT:
        return json_error(404, "Tile not found")
    if fault is Fault.RATE_LIMITED:
        return json_error(429, "Too Many Requests", {"Retry-After": str(retry_after)})
    if fault is Fault.UNAVAILABLE:
        return json_error(503, "Service Unavailable")
    if fault is Fault.ERROR_BODY:
        error = json.dumps({"message": "Internal error"}).encode()
        return web.Response(body=error, content_type="application/json")
    if fault is Fault.TRUNCATED:
        return await truncated(request, body, content_type)
    return reset_connection(request)


async def truncated(request: web.BaseRequest, body: bytes, content_type: str, status: int = 200) -> web.StreamResponse:
    """Promise the whole body, send half of it and close the connection."""
    response = web.StreamResponse(status=status, headers={"Content-Type": content_type})
    response.content_length = len(body)
    response.force_close()
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return response


def reset_connection(request: web.BaseRequest) -> web.StreamResponse:
    """Break the connection off with a TCP reset before any answer; what is returned reaches nobody."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def fault_middleware(mix: FaultMix, prefix: str, latency: float = 0.0) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Middleware that spoils good answers under a path prefix, and delays every answer there by ``latency`` seconds.

    Requests that fail anyway (no token, no such tileset) keep their own error and count as no attempt.
    """

    @web.middleware
    async def inject(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if not request.path.startswith(prefix):
            return response
        if latency:
            await asyncio.sleep(latency)
        if response.status != 200 or not isinstance(response, web.Response) or not isinstance(response.body, bytes):
            return response
        fault = mix.attempt(request_key(request))
        if fault is None:
            return response
        return await faulty(request, fault, response.body, response.content_type, mix.retry_after)

    return inject
