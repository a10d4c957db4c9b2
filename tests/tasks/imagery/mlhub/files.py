"""Collections in small, as folders, archives and servers."""

import gzip
import io
import random
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from infra.sandbox.services.background import GRACE_SECONDS, BackgroundServer
from tasks.recipe.model import Recipe

KENYA = "ref_african_crops_kenya_02"
LABELS, SOURCE = f"{KENYA}_labels", f"{KENYA}_source"
DATES = ("20190606", "20190721")


def body_of(name: str) -> bytes:
    """What the file of a name holds: the beginning of a TIFF, and the name."""
    return b"II*\0" + name.encode() * 20


def kenya(folder: Path, tiles: int = 2, bulk: int = 0) -> Path:
    """A dataset of both collections: every file holds its own name, and ``bulk`` bytes that no gzip makes smaller."""
    for tile in range(tiles):
        names = [f"{LABELS}/{KENYA}_tile_{tile:02}_label/{file}.tif" for file in ("labels", "field_ids")]
        for date in DATES:
            names += [f"{SOURCE}/{KENYA}_tile_{tile:02}_{date}/{band}.tif" for band in ("B02", "B03", "CLD")]
        for name in names:
            path = folder / KENYA / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body_of(name) + random.Random(name).randbytes(bulk))
    return folder


def recipe(folder: Path, **imagery: Any) -> Recipe:
    """A recipe in ``folder`` for a collection."""
    values = {
        "name": "crops",
        "title": "Crops",
        "imagery": {"source": "mlhub", "bands": ["B02"], "timeout": 5, "attempts": 3, **imagery},
        "labels": {"source": "provided"},
        "classes": [
            {"name": "none", "value": 0, "color": "#000000"},
            {"name": "maize", "value": 1, "color": "#ffff00"},
        ],
    }
    return Recipe.model_validate(values).in_folder(folder)


def tar_gz(path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]], mode: str = "w:gz") -> Path:
    """An archive of members as they are given."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for member, body in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isreg() and not info.size:
                info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def gzipped(path: Path, plain: bytes) -> Path:
    """A gzip file of any bytes."""
    path.write_bytes(gzip.compress(plain, 1))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def serving(*routes: web.RouteDef) -> Iterator[tuple[str, list[web.BaseRequest]]]:
    """A server of these routes; its URL, and the requests that it got."""
    got: list[web.BaseRequest] = []

    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:
        got.append(request)
        answer: web.StreamResponse = await handler(request)
        return answer

    def runner() -> web.AppRunner:
        app = web.Application(middlewares=[note])
        app.router.add_routes(routes)
        return web.AppRunner(app, access_log=None, shutdown_timeout=GRACE_SECONDS)

    with BackgroundServer(runner) as server:
        yield server.url, got
