"""Fetch, validate, write and record 1,024 tiles of 21 KB: ours against geomltoolkits, on the same machine.

    python -m benchmarks.fetch [--runs 5] [--json]

A tile server in its own process serves generated JPEGs at 0 and at 50 ms latency. The two clients take
turns, each run in a fresh process that times only the fetching; the figures are medians. geomltoolkits is
installed into a virtual environment of its own under the system's temporary folder; when that does not work,
only ours are shown. Ours decodes every image before it keeps it and records it in the ledger. geomltoolkits
does neither, so its files are also shown validated afterwards with the same function.
"""

import argparse
import asyncio
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image

from benchmarks import machine
from benchmarks.region import full_block
from tasks.geo.tiles import lonlat_bounds
from tasks.imagery.slippy.fetch import Fetcher, FetchPolicy
from tasks.imagery.slippy.xyz import XyzServer
from tasks.raster.encoded import check_image
from tasks.recipe.sources import XyzImagery
from tasks.state.ledger import Measured
from tasks.state.sqlite import open_ledger
from tasks.state.staging import Staging
from tasks.state.transitions import State

PEER = "geomltoolkits"
PEER_VERSION = "2.1.2"
PEER_CHECKED = f"{PEER}, then validated"
CONNECTIONS = 100  # geomltoolkits' default

_PEER_CODE = """
import asyncio, json, logging, sys, time
from pathlib import Path
from geomltoolkits.downloader.tms import download_tiles
url, out, bbox, connections = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
logging.disable(logging.CRITICAL)
started = time.perf_counter()
asyncio.run(download_tiles(url, zoom=18, out=out, bbox=bbox, extension="jpg", max_concurrency=connections))
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "tiles": len(list(Path(out).rglob("*.jpg")))}))
"""


def area_bbox() -> list[float]:
    """West, south, east, north of the area in degrees, drawn in so that no neighbouring tile is touched."""
    tiles = full_block()
    west, _, _, north = lonlat_bounds(tiles[0])
    _, south, east, _ = lonlat_bounds(tiles[-1])
    return [west + 1e-5, south + 1e-5, east - 1e-5, north - 1e-5]


def synthetic_jpegs(count: int) -> list[bytes]:
    """That many different noisy 256 px JPEGs of about 21 KB."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((256, 256), Image.Resampling.BICUBIC), dtype=np.float64)
        noisy = np.clip(smooth + random.normal(0, 9, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=80)
        images.append(buffer.getvalue())
    return images


async def serve(latency: float) -> None:
    """Serve tiles on a free port, which is printed, after ``latency`` seconds each, until stdin ends."""
    images = synthetic_jpegs(16)

    async def tile(request: web.Request) -> web.Response:
        if latency:
            await asyncio.sleep(latency)
        index = (int(request.match_info["x"]) * 7 + int(request.match_info["y"])) % len(images)
        return web.Response(body=images[index], content_type="image/jpeg")

    app = web.Application()
    app.router.add_get("/{z}/{x}/{y}.jpg", tile)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


def fetch_ours(url: str, folder: Path) -> dict[str, float]:
    """Seconds to fetch, validate, write and record the area, and how many tiles were staged."""
    server = XyzServer(XyzImagery(source="xyz", url=url), tile_pixels=256)
    tiles = {tile.name: tile for tile in full_block()}
    with open_ledger(folder / "ledger.sqlite") as ledger:
        ledger.set_candidates(tiles)
        ledger.record_measured([Measured(name, mask=b"", mask_sha256="") for name in tiles], "labels")
        started = time.perf_counter()
        with Fetcher(server, FetchPolicy(connections=CONNECTIONS)) as fetcher:
            fetcher.fetch(tiles, Staging(folder / "images"), ledger.record_fetched)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "tiles": ledger.counts()[State.STAGED]}


@contextmanager
def tile_server(latency: float) -> Iterator[str]:
    """The URL template of a running tile server."""
    command = [sys.executable, "-m", "benchmarks.fetch", "--serve", str(latency)]
    with subprocess.Popen(
        command, cwd=machine.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield f"http://127.0.0.1:{port}/{{z}}/{{x}}/{{y}}.jpg"
        finally:
            process.communicate(timeout=30)


def time_once(command: Sequence[str | Path]) -> float:
    """Seconds of one client run in a fresh process."""
    answer = machine.run_child(command)
    if answer["tiles"] != len(full_block()):
        raise SystemExit(f"{command[0]} fetched {answer['tiles']} of {len(full_block())} tiles; no figure to compare")
    return float(answer["seconds"])


def measure(latency: float, runs: int, peer: Path | None, root: Path) -> dict[str, list[float]]:
    """Tiles per second of every run, the two clients taking turns."""
    rates: dict[str, list[float]] = (
        {"tilewright": []} if peer is None else {"tilewright": [], PEER: [], PEER_CHECKED: []}
    )
    count = len(full_block())
    with tile_server(latency) as url:
        for _ in range(runs):
            folder = tempfile.mkdtemp(dir=root)
            rates["tilewright"].append(
                count / time_once([sys.executable, "-m", "benchmarks.fetch", "--fetch", url, folder])
            )
            if peer:
                folder = tempfile.mkdtemp(dir=root)
                seconds = time_once([peer, "-c", _PEER_CODE, url, folder, json.dumps(area_bbox()), str(CONNECTIONS)])
                rates[PEER].append(count / seconds)
                rates[PEER_CHECKED].append(count / (seconds + check_all(Path(folder))))
    return rates


def check_all(folder: Path) -> float:
    """Seconds to validate every image under ``folder`` as the fetcher does, one after the other."""
    started = time.perf_counter()
    for path in folder.rglob("*.jpg"):
        check_image(path.read_bytes(), 256)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--fetch", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve))
        return
    if arguments.fetch:
        print(json.dumps(fetch_ours(arguments.fetch[0], Path(arguments.fetch[1]))))
        return
    peer = machine.peer_python(PEER, PEER_VERSION, PEER)
    # Nothing is deleted until the end: ext4 is slow to make files where some were deleted a moment ago.
    with tempfile.TemporaryDirectory() as root:
        figures = {
            f"{round(1000 * latency)} ms": measure(latency, arguments.runs, peer, Path(root)) for latency in (0.0, 0.05)
        }
    found = machine.versions("aiohttp", "pillow") | ({PEER: PEER_VERSION} if peer else {})
    if arguments.json:
        print(json.dumps({"machine": machine.machine(), "versions": found, "tiles_per_second": figures}))
        return
    print(f"{len(full_block()):,} tiles, {CONNECTIONS} connections, median of {arguments.runs} runs (least-most)")
    print(f"{machine.described(found)}\n")
    rows = [
        [client, *(machine.spread(rates[client]) for rates in figures.values())]
        for client in next(iter(figures.values()))
    ]
    print(machine.table(["tiles/s", *(f"{latency} latency" for latency in figures)], rows))


if __name__ == "__main__":
    main()
