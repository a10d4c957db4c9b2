"""Rasterize 1,024 tiles over 25,600 buildings: ours against rasterio alone and against geomltoolkits.

    python -m benchmarks.rasterize [--runs 5] [--json]

Ours: footprints in degrees to exact masks, spatial index included, in one thread. The limit is
``rasterio.features.rasterize`` alone, given each tile's polygons ready to draw. geomltoolkits burns the same
buildings onto blank EPSG:3857 chips, 16 and then 64 of them; its time for all is extrapolated from the two.
Ours and the limit take turns in this process, so the figure a core is also given by processor time, which a
busy machine changes little.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.region import buildings, full_block, write_geojson
from tasks.geo.georeference import tile_georeference
from tasks.geo.tiles import Tile, mercator, tile_bounds
from tasks.labels.rasterize import FootprintIndex

PIXELS = 256
PEER, PEER_VERSION = "geomltoolkits", "2.1.2"
PEER_TILES = (16, 64)

_PEER_CODE = """
import json, logging, sys, time
from geomltoolkits.raster.burn import burn_labels
logging.disable(logging.CRITICAL)
labels, chips, out = sys.argv[1:]
started = time.perf_counter()
burn_labels(labels, chips, out)
print(json.dumps(time.perf_counter() - started))
"""

Mask = NDArray[np.bool_]


def transform_of(tile: Tile) -> rasterio.Affine:
    """From the tile's pixels to EPSG:3857 metres."""
    west, south, east, north = tile_bounds(tile)
    return rasterio.transform.from_bounds(west, south, east, north, PIXELS, PIXELS)


def prepared(tiles: Sequence[Tile], shapes: NDArray[np.object_]) -> list[tuple[list[dict[str, Any]], rasterio.Affine]]:
    """Each tile's polygons as GeoJSON in EPSG:3857, and its transform."""
    projected = shapely.transform(shapes, mercator)
    tree = shapely.STRtree(projected)
    found = [projected[tree.query(shapely.box(*tile_bounds(tile)))] for tile in tiles]
    return [([shapely.geometry.mapping(s) for s in f], transform_of(t)) for t, f in zip(tiles, found, strict=True)]


def timed(work: Callable[[], list[Mask]]) -> tuple[float, float, list[Mask]]:
    """Wall seconds, processor seconds and the masks."""
    wall, processor = time.perf_counter(), time.process_time()
    masks = work()
    return time.perf_counter() - wall, time.process_time() - processor, masks


def draw(index: FootprintIndex, tiles: Sequence[Tile]) -> list[Mask]:
    """Ours: the masks of the tiles."""
    return index.draw([(tile_georeference(tile, PIXELS), PIXELS, PIXELS) for tile in tiles])


def write_chip(path: Path, tile: Tile) -> None:
    """A blank EPSG:3857 GeoTIFF of the tile."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=PIXELS,
        height=PIXELS,
        count=1,
        dtype="uint8",
        crs="EPSG:3857",
        transform=transform_of(tile),
    ) as chip:
        chip.write(np.zeros((1, PIXELS, PIXELS), dtype=np.uint8))


def burn(python: Path, tiles: Sequence[Tile], shapes: NDArray[np.object_]) -> tuple[float, list[Mask]]:
    """Seconds of the peer for these tiles, and its masks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chips, out = folder / "chips", folder / "out"
        chips.mkdir()
        write_geojson(folder / "buildings.geojson", shapes)
        for i, tile in enumerate(tiles):
            write_chip(chips / f"{i}.tif", tile)
        seconds = machine.run_child([python, "-c", _PEER_CODE, folder / "buildings.geojson", chips, out])
        masks = []
        for i in range(len(tiles)):
            with rasterio.open(out / f"{i}.tif") as chip:
                masks.append(chip.read(1) > 0)
    return float(seconds), masks


def iou(ours: Sequence[Mask], theirs: Sequence[Mask]) -> float:
    """Intersection over union of all pixels of two lists of masks."""
    pairs = list(zip(ours, theirs, strict=True))
    return sum(int((a & b).sum()) for a, b in pairs) / sum(int((a | b).sum()) for a, b in pairs)


def measure(runs: int) -> dict[str, Any]:
    """All figures: seconds of every run, IoU against ours."""
    tiles = full_block()
    shapes = buildings(tiles)
    ready = prepared(tiles, shapes)

    def limit() -> list[Mask]:
        size = (PIXELS, PIXELS)
        return [
            rasterio.features.rasterize(polygons, out_shape=size, transform=transform, dtype="uint8").view(np.bool_)
            for polygons, transform in ready
        ]

    figures: dict[str, Any] = {name: [] for name in ("index", "wall", "processor", "limit wall", "limit processor")}
    for _ in range(runs):
        started = time.perf_counter()
        index = FootprintIndex(shapes)
        figures["index"].append(time.perf_counter() - started)
        wall, processor, ours = timed(functools.partial(draw, index, tiles))
        figures["wall"].append(wall)
        figures["processor"].append(processor)
        wall, processor, bare = timed(limit)
        figures["limit wall"].append(wall)
        figures["limit processor"].append(processor)
    figures |= {"tiles": len(tiles), "polygons": len(shapes), "not empty": sum(bool(mask.any()) for mask in ours)}
    figures["limit iou"] = iou(ours, bare)
    python = machine.peer_python(PEER, PEER_VERSION, PEER)
    if python:
        few, many = PEER_TILES
        short, _ = burn(python, tiles[:few], shapes)
        long, theirs = burn(python, tiles[:many], shapes)
        per_tile = (long - short) / (many - few)
        figures["peer"] = {"seconds a tile": per_tile, "seconds": long + per_tile * (len(tiles) - many)}
        figures["peer"]["iou"] = iou(ours[:many], theirs)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.runs)
    found = machine.versions("rasterio", "shapely", "numpy") | {"GDAL": rasterio.__gdal_version__}
    if arguments.json:
        print(json.dumps({"machine": machine.machine(), "versions": found, **figures}))
        return
    count, full = figures["tiles"], figures["not empty"]
    ours = [index + wall for index, wall in zip(figures["index"], figures["wall"], strict=True)]
    print(f"{count:,} tiles of zoom 18 over {figures['polygons']:,} buildings, {full:,} not empty, one thread")
    print(f"{machine.described(found)}; median of {arguments.runs} runs (least-most)\n")
    rows = [
        [
            "Tilewright",
            f"{machine.spread(ours, 2)}, of it index {statistics.median(figures['index']):.2f}",
            machine.spread([full / seconds for seconds in figures["wall"]]),
            machine.spread([full / seconds for seconds in figures["processor"]]),
            "1",
        ],
        [
            "limit: rasterio alone, polygons ready",
            machine.spread(figures["limit wall"], 2),
            machine.spread([full / seconds for seconds in figures["limit wall"]]),
            machine.spread([full / seconds for seconds in figures["limit processor"]]),
            f"{figures['limit iou']:.4f}",
        ],
    ]
    if "peer" in figures:
        peer = figures["peer"]
        name = f"{PEER} {PEER_VERSION}, extrapolated from {PEER_TILES[1]} tiles"
        rows.append([name, f"{peer['seconds']:,.0f}", f"{1 / peer['seconds a tile']:,.1f}", "", f"{peer['iou']:.4f}"])
    head = ["", "seconds for all", "non-empty tiles/s", "tiles/s a core (processor time)", "IoU with ours"]
    print(machine.table(head, rows))


if __name__ == "__main__":
    main()
