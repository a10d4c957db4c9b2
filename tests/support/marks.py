"""Marked secrets: a server that echoes whatever it is told, and where a value stands in what was written.

Files are read as what they are: databases statement by statement, Parquet and versions of stores with their metadata,
pictures with their texts; and every file by its name and bytes.
"""

import base64
import html
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, quote_plus

import numpy as np
import pyarrow.parquet as pq
from aiohttp import web
from PIL import Image

from infra.sandbox.services.background import GRACE_SECONDS, BackgroundServer
from tasks.versions.read import find_repository, open_version, versions


class EchoServer:
    """Answers with what it was asked: path, query and headers, as ``how`` says (tiles are answered by ``tile``)."""

    def __init__(self, tile: Callable[[str], bytes | None]) -> None:
        """``tile``: the image at a path."""
        self.tile = tile
        self.how = "tile"
        self.said = ""  # all that it was told
        self._server = BackgroundServer(
            lambda: web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=GRACE_SECONDS)
        )

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return self._server.url

    @property
    def place(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.__exit__(*error)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        # Values without their names, and those first that messages, which are short, are to hold.
        plain = ("Host", "User-Agent", "Accept", "Accept-Encoding", "Connection")
        told = " ".join([*(value for name, value in request.headers.items() if name not in plain), request.path_qs])
        self.said += f"{told}\n"
        match self.how:
            case "tile":
                image = self.tile(request.path)
                return web.Response(body=image, content_type="image/png", status=200 if image else 404)
            case "reason":
                return web.Response(status=500, reason=f"Broken by {told}", text=told)
            case "redirect":
                return web.Response(status=302, headers={"Location": f"http://localhost:1/?said={quote(told)}&{told}"})
            case "html":
                return web.Response(text=f"<html><p>{html.escape(told)}</p></html>", content_type="text/html")
            case "catalogue":
                catalogue = {"type": "Catalog", "id": told, "description": told, "stac_version": "1.0.0", "links": []}
                return web.json_response(catalogue | {"title": told})
        return web.json_response({"message": f"Forbidden for {told}", "error": told, "remark": told}, status=403)


def writings(value: str) -> set[str]:
    """The ways in which a value may stand in a text."""
    percent = quote(value, safe="")
    made = {value, percent, percent.replace("%2F", "%2f").replace("%3D", "%3d").replace("%2B", "%2b"), quote(value)}
    made |= {quote_plus(value), json.dumps(value)[1:-1], html.escape(value), repr(value)[1:-1]}
    made |= {base64.b64encode(text.encode()).decode().rstrip("=") for text in (value, f"me:{value}")}
    return made | {value[:12]}


def found(texts: Mapping[str, str], marks: Mapping[str, str]) -> list[str]:
    """``name of a mark in place`` for each text that holds one."""
    return [
        f"{name} in {place}: ...{text[max(0, text.find(written) - 80) : text.find(written) + 30]!r}"
        for place, text in texts.items()
        for name, value in marks.items()
        for written in writings(value)
        if written in text
    ]


def texts_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file with its name and what it says."""
    for path in sorted(folder.rglob("*")):
        yield f"the name of {path.name}", path.name
        if path.is_file():
            yield str(path), path.read_bytes().decode("latin-1")
            yield f"the content of {path}", _content(path)


def _content(path: Path) -> str:
    head = path.read_bytes()[:16]
    if head.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(path)) as database:
            return "\n".join(database.iterdump())
    if head.startswith(b"PAR1"):
        table = pq.read_table(path)
        return f"{table.schema.metadata} {table.to_pylist()[:50]}"
    if head.startswith((b"\x89PNG", b"II*", b"MM\x00*", b"\xff\xd8")):
        with Image.open(path) as picture:
            return f"{picture.info} {dict(picture.getexif())} {dict(getattr(picture, 'tag_v2', {}))}"
    return ""


def texts_of_store(store: Path) -> Iterator[tuple[str, str]]:
    """What every version of a store says beside its pixels."""
    if find_repository(str(store)) is None:
        return
    for info in versions(str(store)):
        opened = open_version(str(store), info.version)
        yield f"{store} {info.version} attributes", f"{info} {json.dumps(opened.attributes, default=str)}"
        for split in ("train", "validation", "test"):
            group = opened.split(split).group
            yield f"{store} {info.version} {split} attributes", str(dict(group.attrs))
            for name, array in group.arrays():
                said = "" if np.issubdtype(array.dtype, np.number) else list(np.asarray(array[:]).ravel())
                yield f"{store} {info.version} {split} {name}", f"{dict(array.attrs)} {said}"
