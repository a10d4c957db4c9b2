"""Everything that recipes of windows take from a disk or a server, written in the published layouts.

Folders for a user's own disk are written by :func:`write_all`. What the running sandbox serves is written into its
temporary folder when it is first asked for, so that its start stays quick.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from infra.sandbox.files import chip_layouts, chips, scene_folders, sentinel
from infra.sandbox.services.mlhub import API_PATH, PROXY_PATH, CoopProxy, Mlhub
from infra.sandbox.services.stac_api import STAC_PATH, Items, StacApi
from infra.sandbox.world.region import REGION_BOUNDS
from tasks.errors import DiskError, SandboxError

KENYA_FOLDER = "crop-type-kenya"
GHANA_FOLDER = "crop-type-ghana"
LANDCOVERNET_FOLDER = "landcovernet-africa"

_WRITERS: dict[str, Callable[[Path, int], object]] = {
    scene_folders.LANDCOVER_AI: lambda folder, seed: scene_folders.landcover_ai(folder, seed=seed),
    scene_folders.INRIA: lambda folder, seed: scene_folders.inria(folder, seed=seed),
    scene_folders.SPACENET6: lambda folder, seed: scene_folders.spacenet6(folder, seed=seed),
    scene_folders.EMERGENCY: lambda folder, seed: scene_folders.emergency(folder, seed=seed),
    KENYA_FOLDER: lambda folder, seed: _kenya_archives(folder, seed),
    GHANA_FOLDER: lambda folder, seed: chip_layouts.write_ghana_mlhub(folder, chips.ghana_chips(seed=seed)),
    LANDCOVERNET_FOLDER: lambda folder, seed: chip_layouts.write_landcovernet(
        folder, chips.landcovernet_chips(seed=seed), "A"
    ),
}


def write_all(folder: Path, seed: int = 0) -> list[Path]:
    """One folder in ``folder`` for each recipe that reads files, named as the recipe; returns them. Takes some 20 s.

    Raises SandboxError when one of them holds something already, DiskError when they cannot be written.
    """
    targets = [folder / name for name in _WRITERS]
    for target in targets:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise SandboxError(
                f"{target}: is there already, and made-up files are not put beside what may be real ones; move it away "
                "or give --files another folder"
            )
    for target, write in zip(targets, _WRITERS.values(), strict=True):
        try:
            target.mkdir(parents=True, exist_ok=True)
            write(target, seed)
        except OSError as error:  # rasterio's are of this kind too
            raise DiskError(f"{target}: cannot be written ({error.strerror or error}); free space there") from None
    return targets


def how_to_serve(url: str) -> list[str]:
    """Commands that build from a running sandbox, for the welcome."""
    return [
        f"tilewright build sentinel2-buildings --set imagery.api={url}{STAC_PATH} --set labels.url={url}/api"
        f' --set "area.bbox={list(REGION_BOUNDS)}" --set imagery.cells.size=32',
        f"tilewright build landcovernet-africa --set imagery.url={url}{PROXY_PATH}",
        f"tilewright build crop-type-ghana --set imagery.url={url}{PROXY_PATH}",
        f"tilewright build crop-type-kenya --set imagery.reader=api --set imagery.url={url}{API_PATH}"
        f" --set imagery.dataset={chip_layouts.KENYA_DATASET}",
    ]


def _kenya_archives(folder: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="tilewright-sandbox-") as unpacked:
        chip_layouts.archives(chip_layouts.write_kenya(Path(unpacked), chips.kenya_tiles(seed=seed)), folder)


class Originals:
    """The routes of STAC, MLHub and Source Cooperative over files of a seed, which are written on demand."""

    def __init__(self, folder: Path, seed: int) -> None:
        """``folder`` is for the files; nothing is written yet."""
        self._folder, self._seed = folder, seed
        self._items: list[dict[str, Any]] = []
        self._locks: dict[Callable[[], None], asyncio.Lock] = {}
        self._done: set[Callable[[], None]] = set()

    def routes(self) -> list[web.RouteDef]:
        """To be added to an application's router."""
        mlhub, mirror = self._folder / "mlhub", self._folder / "mirror"
        stac = StacApi(self._folder / "stac", self._stac_items)
        return [
            *stac.routes(),
            *(self._after(self._write_mlhub, route) for route in Mlhub(mlhub).routes()),
            *(self._after(self._write_mirror, route) for route in CoopProxy(mirror).routes()),
        ]

    def _after(self, write: Callable[[], None], route: web.RouteDef) -> web.RouteDef:
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = route.handler

        async def handle(request: web.Request) -> web.StreamResponse:
            await self._once(write)
            return await handler(request)

        return web.RouteDef(route.method, route.path, handle, route.kwargs)

    async def _once(self, write: Callable[[], None]) -> None:
        async with self._locks.setdefault(write, asyncio.Lock()):
            if write not in self._done:
                await asyncio.to_thread(write)
                self._done.add(write)

    async def _stac_items(self) -> Items:
        await self._once(self._write_stac)
        return self._items

    def _write_stac(self) -> None:
        self._items = sentinel.write_items(sentinel.make_items(self._seed), self._folder / "stac")

    def _write_mlhub(self) -> None:
        folder, seed = self._folder / "mlhub", self._seed
        chip_layouts.write_landcovernet(folder, chips.landcovernet_chips(seed=seed), "A")
        chip_layouts.write_ghana_mlhub(folder, chips.ghana_chips(seed=seed))
        chip_layouts.write_kenya(folder, chips.kenya_tiles(seed=seed))

    def _write_mirror(self) -> None:
        folder, seed = self._folder / "mirror", self._seed
        chip_layouts.write_landcovernet(folder, chips.landcovernet_chips(seed=seed), "C")
        chip_layouts.write_ghana_mirror(folder, chips.ghana_chips(seed=seed))
