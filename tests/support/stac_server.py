"""Servers for tests of STAC sources: files with byte ranges and scripted faults, and STAC APIs over them."""

import asyncio
import copy
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from infra import processes
from infra.sandbox.services.background import GRACE_SECONDS, BackgroundServer
from infra.sandbox.services.faults import reset_connection, truncated
from infra.sandbox.services.scripted import Reply
from tests.support.servers import wait_until_it_answers


@dataclass(frozen=True)
class Asked:
    """A request as it came; status 0 is a connection that was broken off."""

    method: str
    path: str
    query: Mapping[str, str]
    status: int
    body: bytes
    headers: Mapping[str, str]


class FileServer:
    """A loopback server of bytes by path, with Range, so that GDAL reads rasters from it.

    ``script`` gives the first answers for a path; after them comes what ``handlers`` or ``files`` have for it. With
    ``tokens`` a request for a TIFF is answered 403 unless its ``sig`` is one of them.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.script: dict[str, list[Reply]] = {}
        self.handlers: dict[str, Callable[[Asked], Any]] = {}
        self.tokens: set[str] = set()
        self.asked: list[Asked] = []
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

    def asked_for(self, path: str) -> list[Asked]:
        """The requests for a path so far, in order."""
        with self._lock:
            return [asked for asked in self.asked if asked.path == path]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read() if request.can_read_body else b""
        with self._lock:
            replies = self.script.get(request.path, [])
            reply = replies.pop(0) if replies else None
        asked = Asked(request.method, request.path, dict(request.query), 0, body, dict(request.headers))
        if reply is None and request.path in self.handlers:
            found = self.handlers[request.path](asked)
            reply = (
                found if isinstance(found, Reply) else Reply(200, json.dumps(found).encode(), {}, "application/json")
            )
        if reply is not None and reply.delay:
            await asyncio.sleep(reply.delay)
        if reply is not None and (reply.reset or reply.cut):
            self._note(asked, 0)
            if reply.reset:
                return reset_connection(request)
            return await truncated(request, reply.body, reply.content_type, reply.status)
        response = self._file(request) if reply is None else self._reply(reply)
        self._note(asked, response.status)
        return response

    def _note(self, asked: Asked, status: int) -> None:
        with self._lock:
            self.asked.append(Asked(asked.method, asked.path, asked.query, status, asked.body, asked.headers))

    @staticmethod
    def _reply(reply: Reply) -> web.Response:
        headers = dict(reply.headers)
        return web.Response(status=reply.status, body=reply.body, headers=headers, content_type=reply.content_type)

    def _file(self, request: web.BaseRequest) -> web.Response:
        data = self.files.get(request.path)
        if data is None:
            return web.Response(status=404)
        if self.tokens and request.path.endswith(".tif") and request.query.get("sig") not in self.tokens:
            return web.Response(status=403, text="<Error><Code>AuthenticationFailed</Code></Error>")
        kind = "application/json" if request.path.endswith(".json") else "image/tiff"
        headers = {"Accept-Ranges": "bytes"}
        if request.http_range.start is None:
            return web.Response(body=data, headers=headers, content_type=kind)
        part = data[request.http_range]
        if not part:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
        first = request.http_range.start if request.http_range.start >= 0 else len(data) + request.http_range.start
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        return web.Response(status=206, body=part, headers=headers, content_type=kind)


class ScriptedApi(FileServer):
    """A STAC API that answers every search with ``items``, ``page`` at a time, whatever was asked."""

    def __init__(self, files: Mapping[str, bytes] | None = None, page: int = 100) -> None:
        super().__init__(files)
        self.items: list[dict[str, Any]] = []
        self.page = page
        self.conforms = [
            "https://api.stacspec.org/v1.0.0/item-search",
            "https://api.stacspec.org/v1.0.0/item-search#query",
        ]
        self.handlers["/"] = self._root
        self.handlers["/search"] = self._search

    def bodies(self) -> list[Any]:
        """What the searches asked for."""
        return [json.loads(asked.body) for asked in self.asked_for("/search") if asked.body]

    def _root(self, _: Asked) -> Any:
        search = {"rel": "search", "href": f"{self.url}/search", "method": "POST", "type": "application/geo+json"}
        about = {"type": "Catalog", "id": "scripted", "description": "made up", "stac_version": "1.0.0"}
        return about | {"conformsTo": self.conforms, "links": [search]}

    def _search(self, asked: Asked) -> Any:
        start = int(json.loads(asked.body or b"{}").get("token", 0))
        found = copy.deepcopy(self.items[start : start + self.page])
        links = []
        if start + self.page < len(self.items):
            body = {"token": start + self.page}
            links = [{"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": body, "merge": True}]
        return {"type": "FeatureCollection", "features": found, "links": links}


def absolute(item: Mapping[str, Any], base: str) -> dict[str, Any]:
    """An item with the relative hrefs of its assets made absolute."""
    made = copy.deepcopy(dict(item))
    for asset in made["assets"].values():
        if "://" not in asset["href"]:
            asset["href"] = f"{base}/{asset['href']}"
    return made


@contextmanager
def rustac_api(folder: Path, items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The URL of a STAC API in a process of its own (rustac) that serves ``items``; its files are put in ``folder``."""
    program = shutil.which("rustac", path=str(Path(sys.executable).parent)) or shutil.which("rustac")
    assert program, "the tests of a real STAC API need rustac; install the dev extra"
    data, log = folder / "items.json", folder / "rustac.log"
    data.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    with socket.create_server(("127.0.0.1", 0)) as chosen_by_the_system:
        port = chosen_by_the_system.getsockname()[1]
    command = [
        program,
        "serve",
        "--addr",
        f"127.0.0.1:{port}",
        "--create-collections",
        "--use-duckdb",
        "false",
        str(data),
    ]
    server = processes.start(command, cwd=folder, env=os.environ, log=log)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        processes.stop(server)
