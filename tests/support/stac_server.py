"""Servers for tests of STAC sources: files with byte ranges and scripted faults, and a STAC API over them."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from infra.sandbox.background import GRACE_SECONDS, BackgroundServer
from infra.sandbox.faults import reset_connection
from infra.sandbox.scripted import Reply


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    status: int
    body: bytes = b""


@dataclass
class FileServer:
    """A loopback server of bytes by path, with Range, so that GDAL reads rasters from it.

    ``files`` maps a path to its bytes. ``script`` gives the first answers for a path, after which the file comes.
    ``token`` is what ``?sig=`` must be, or the answer is 403; empty asks for none.
    """

    files: dict[str, bytes]
    script: dict[str, list[Reply]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._server = BackgroundServer(
            lambda: web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=GRACE_SECONDS)
        )

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return self._server.url

    def __enter__(self) -> "FileServer":
        self._server.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.__exit__(*error)

    def paths(self, status: int | None = None) -> list[str]:
        """Paths asked for so far, in order, of answers with ``status`` or of all."""
        with self._lock:
            return [asked.path for asked in self.asked if status in (None, asked.status)]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read() if request.can_read_body else b""
        with self._lock:
            replies = self.script.get(request.path, [])
            reply = replies.pop(0) if replies else None
        if reply is not None and reply.reset:
            self._note(request, 0, body)
            return reset_connection(request)
        response = self._scripted(reply) if reply is not None else self._file(request)
        self._note(request, response.status, body)
        return response

    def _note(self, request: web.BaseRequest, status: int, body: bytes) -> None:
        with self._lock:
            self.asked.append(Asked(request.method, request.path, dict(request.query), status, body))

    @staticmethod
    def _scripted(reply: Reply) -> web.Response:
        return web.Response(
            status=reply.status, body=reply.body, headers=dict(reply.headers), content_type=reply.content_type
        )

    def _file(self, request: web.BaseRequest) -> web.Response:
        if self.tokens and request.query.get("sig") not in self.tokens:
            return web.Response(status=403, text="<Error><Code>AuthenticationFailed</Code></Error>")
        data = self.files.get(request.path)
        if data is None:
            return web.Response(status=404)
        kind = "application/json" if request.path.endswith(".json") else "image/tiff"
        headers = {"Accept-Ranges": "bytes"}
        asked = request.http_range
        if asked.start is None and asked.stop is None:
            return web.Response(body=data, headers=headers, content_type=kind)
        part = data[asked]
        if not part:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
        start = asked.start if asked.start >= 0 else len(data) + asked.start
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        return web.Response(status=206, body=part, headers=headers, content_type=kind)
