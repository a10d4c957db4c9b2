"""The whole build of 2,048 tiles, with and without Prefect, against rslearn's imagery alone.

    python -m benchmarks.build [--runs 3] [--json]

Ours: tile list and 51,200 buildings (GeoJSON) to a committed version: plan, labels, select, fetch (JPEGs of
21 KB from a server in a process of its own, on the same cores), split, write, commit. With Prefect means the
flow against a standing server, without it the same steps on as many threads; every build runs in a fresh
process. rslearn gets the first half of the tiles as windows and makes a GeoTIFF of each (``dataset prepare`` and
``dataset materialize``, two workers); it reads no labels, draws no masks and splits nothing.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.fetch import tile_server
from benchmarks.region import FIRST, chequered, write_recipe
from benchmarks.timed import STAGES, BuildTime, prefect_server, time_build
from tasks.geo.tiles import Tile

BLOCKS = 4  # of 512 tiles
PEER, PEER_VERSION = "rslearn", "0.1.19"
PEER_TILES = 1024
WORKERS = 2

_PEER_CODE = """
import json, subprocess, sys, time
from datetime import datetime
from pathlib import Path
from rslearn.data_sources.xyz_tiles import XyzTiles
from rslearn.dataset import Dataset, Window
from upath import UPath
root, url, tiles, workers = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_text()), sys.argv[4]
zoom = tiles[0][0]
days = ["2024-01-01T00:00:00+00:00", "2024-12-31T00:00:00+00:00"]
source = {
    "class_path": "rslearn.data_sources.xyz_tiles.XyzTiles",
    "init_args": {"url_templates": [url], "time_ranges": [days], "zoom": zoom},
    "ingest": False,
}
bands = [{"dtype": "uint8", "bands": ["R", "G", "B"], "nodata_value": 0}]
layer = {"type": "raster", "band_sets": bands, "data_source": source}
(root / "config.json").write_text(json.dumps({"layers": {"imagery": layer}}))
span = tuple(datetime.fromisoformat(day) for day in days)
grid = XyzTiles([url], [span], zoom)
storage = Dataset(UPath(root)).storage
for z, x, y in tiles:
    left, top = x * 256 - grid.pixel_offset, y * 256 - grid.pixel_offset
    Window(storage, "default", f"{z}-{x}-{y}", grid.projection, (left, top, left + 256, top + 256), span).save()
seconds = {}
for command in ("prepare", "materialize"):
    started = time.perf_counter()
    arguments = [Path(sys.executable).parent / "rslearn", "dataset", command, "--root", root, "--workers", workers]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds[command] = time.perf_counter() - started
print(json.dumps({**seconds, "tiles": len(list(root.rglob("*.tif")))}))
"""


def time_peer(python: Path, url: str, tiles: Sequence[Tile], folder: Path) -> dict[str, float]:
    """Seconds of the peer's two commands, each from the start of its program to its end."""
    root = Path(tempfile.mkdtemp(dir=folder))
    try:
        (folder / "windows.json").write_text(json.dumps(tiles))
        answer = machine.run_child([python, "-c", _PEER_CODE, root, url, folder / "windows.json", str(WORKERS)])
    finally:
        shutil.rmtree(root)
    if answer["tiles"] != len(tiles):
        raise SystemExit(f"{PEER} made {answer['tiles']} of {len(tiles)} images; no figure to compare")
    return {command: float(answer[command]) for command in ("prepare", "materialize")}


def measure(runs: int) -> tuple[dict[str, list[BuildTime]], list[dict[str, float]], int]:
    """Times of our builds and of the peer's, taking turns, and the number of our tiles."""
    tiles = chequered(BLOCKS)
    python = machine.peer_python(PEER, PEER_VERSION, "rslearn.data_sources.xyz_tiles", "einops")
    ours: dict[str, list[BuildTime]] = {"bare": [], "flow": []}
    theirs = []
    with tempfile.TemporaryDirectory() as name, tile_server(0.0) as url, prefect_server(Path(name)) as env:
        folder = Path(name)
        recipe = write_recipe(folder, url, tiles)
        for _ in range(runs):
            for how, times in ours.items():
                times.append(time_build(how, recipe, env))
                if times[-1].accepted != len(tiles):
                    raise SystemExit(f"{times[-1].accepted} of {len(tiles)} tiles were accepted; no figure to compare")
            if python:
                theirs.append(time_peer(python, url, tiles[:PEER_TILES], folder))
    return ours, theirs, len(tiles)


def report(ours: dict[str, list[BuildTime]], theirs: list[dict[str, float]], count: int) -> str:
    """The two tables."""
    names = {"bare": "Tilewright, the steps alone", "flow": "Tilewright with Prefect"}
    rows = [
        [names[how], f"{count:,}", machine.spread([t.total for t in times], 1)]
        + [
            machine.spread([count / seconds for seconds in rate])
            for rate in ([t.total for t in times], [t.steps for t in times])
        ]
        for how, times in ours.items()
    ]
    if theirs:
        totals = [sum(seconds.values()) for seconds in theirs]
        both, second = (
            machine.spread([PEER_TILES / seconds for seconds in part])
            for part in (totals, [one["materialize"] for one in theirs])
        )
        label = f"{PEER} {PEER_VERSION}, imagery only, {WORKERS} workers"
        rows.append([label, f"{PEER_TILES:,}", machine.spread(totals, 1), both, second])
    head = ["", "tiles", "seconds", "tiles/s", "tiles/s, first to last step (rslearn: materialize)"]
    stages = [
        [stage, *(f"{statistics.median(t.stages[stage] for t in times):.2f}" for times in ours.values())]
        for stage in STAGES
    ]
    stages.append(["around them", *(f"{statistics.median(t.around for t in times):.2f}" for times in ours.values())])
    return machine.table(head, rows) + "\n\n" + machine.table(["seconds in", "steps alone", "with Prefect"], stages)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ours, theirs, count = measure(arguments.runs)
    found = machine.versions("prefect", "icechunk", "zarr", "rasterio", "pillow") | {PEER: PEER_VERSION}
    if arguments.json:
        figures: dict[str, Any] = {how: [vars(one) for one in times] for how, times in ours.items()}
        print(json.dumps({"machine": machine.machine(), "versions": found, "tiles": count, **figures, PEER: theirs}))
        return
    print(f"{count:,} tiles of zoom {FIRST.z}, 256 px, shards of 512, all pass")
    print(f"{machine.described(found)}; median of {arguments.runs} builds (least-most)\n")
    print(report(ours, theirs, count))


if __name__ == "__main__":
    main()
