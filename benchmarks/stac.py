"""Reading the windows of STAC items: our source against odc.stac.load, on the same windows in the same process.

    python -m benchmarks.stac [--items FOLDER] [--bands blue,green,red,nir] [--step 10] [--runs 5] [--json]

Every window is read as every item saw it, four bands at a time. Plain odc.stac.load gets the items of a window in one
call and gives the files' numbers. Ours finds the items by the window's footprint, reads them one after the other, and
makes reflectance and a nodata mask of them. The two take turns, and who begins changes with every run; the first run
only warms up. Without ``--items`` (a folder of item files, their assets beside them) three items of 2,048 pixels are
made up in a temporary folder.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pystac
import rasterio
import shapely
import shapely.geometry
from affine import Affine

from benchmarks import machine
from tasks.geo.georeference import transformer
from tasks.imagery.stac.catalogue import StacCatalogue, grid_of
from tasks.recipe.model import Recipe
from tasks.samples.window import Window

BANDS = ("blue", "green", "red", "nir")
SIDE = 256  # pixels of a window
PIXELS = 2048  # of a made-up item
WEST, NORTH = 501_760.0, 5_002_240.0  # on the grid of 256 pixels of 10 m
OURS, PEER = "tilewright", "odc.stac.load"


def make_items(folder: Path) -> None:
    """Three items over one place, of four COGs each, as a catalogue would describe them."""
    random = np.random.default_rng(0)
    square = shapely.box(WEST, NORTH - PIXELS * 10, WEST + PIXELS * 10, NORTH)
    back = transformer("EPSG:32633", "EPSG:4326")
    geometry = shapely.transform(square, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))
    profile = {
        "driver": "COG", "count": 1, "width": PIXELS, "height": PIXELS, "dtype": "uint16", "nodata": 0,
        "crs": "EPSG:32633", "transform": Affine(10, 0, WEST, 0, -10, NORTH), "compress": "deflate",
    }  # fmt: skip
    about = {"raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": 0}]}
    for day in (1, 2, 3):
        place = folder / f"item-{day}"
        place.mkdir()
        for band in BANDS:
            smooth = random.integers(200, 4000, (PIXELS // 8, PIXELS // 8)).repeat(8, 0).repeat(8, 1)
            values = (smooth + random.integers(0, 200, (PIXELS, PIXELS))).astype(np.uint16)
            with rasterio.open(place / f"{band}.tif", "w", **profile) as file:
                file.write(values, 1)
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": place.name, "collection": "made-up", "links": [],
            "geometry": shapely.geometry.mapping(geometry), "bbox": list(geometry.bounds),
            "properties": {"datetime": f"2023-08-0{day}T10:00:00Z", "proj:epsg": 32633},
            "assets": {band: {"href": f"{band}.tif", "roles": ["data"]} | about for band in BANDS},
        }  # fmt: skip
        (place / f"{place.name}.json").write_text(json.dumps(item))


def read_all(folder: Path, bands: list[str]) -> list[dict[str, Any]]:
    """The items under a folder, with nothing but the bands, as absolute paths."""
    items = []
    for path in sorted(folder.rglob("*.json")):
        item = json.loads(path.read_text())
        if item.get("type") != "Feature":
            continue
        item["links"] = []
        item["assets"] = {key: asset for key, asset in item["assets"].items() if key in bands}
        for asset in item["assets"].values():
            asset["href"] = str((path.parent / asset["href"]).resolve())
        items.append(item)
    return items


def recipe_over(items: list[dict[str, Any]], path: Path, bands: list[str], step: float) -> Recipe:
    """A recipe whose cells lie over the ground that all items cover."""
    common = shapely.intersection_all([shapely.geometry.shape(item["geometry"]) for item in items])
    west, south, east, north = common.bounds
    inset = 0.05
    width, height = (east - west) * inset, (north - south) * inset
    return Recipe.model_validate(
        {
            "name": "benchmark", "title": "Benchmark",
            "area": {"bbox": [west + width, south + height, east - width, north - height]},
            "imagery": {
                "source": "stac", "api": str(path), "collection": items[0]["collection"], "bands": bands,
                "cells": {"kind": "utm", "size": SIDE, "resolution": step},
            },
            "labels": {"source": "vector", "path": "unused.geojson"},
            "classes": [
                {"name": "background", "value": 0, "color": "#000000"},
                {"name": "building", "value": 1, "color": "#ffffff"},
            ],
        }
    )  # fmt: skip


def measure(
    catalogue: StacCatalogue, windows: list[Window], items: list[pystac.Item], bands: list[str], runs: int
) -> Any:
    """Windows per second of both, run by run."""
    grids = [grid_of(window) for window in windows]

    def ours() -> None:
        for window in windows:
            for item in catalogue.acquisitions(window):
                item.read()

    def peer() -> None:
        for grid in grids:
            odc.stac.load(items, bands=bands, geobox=grid, groupby="id", chunks=None)

    rates: dict[str, list[float]] = {OURS: [], PEER: []}
    for run in range(runs + 1):
        pair: list[tuple[str, Callable[[], None]]] = [(OURS, ours), (PEER, peer)]
        for name, read in pair if run % 2 else reversed(pair):
            started = time.perf_counter()
            read()
            if run:
                rates[name].append(len(windows) / (time.perf_counter() - started))
    return rates


def check_same(catalogue: StacCatalogue, windows: list[Window], items: list[pystac.Item], bands: list[str]) -> None:
    """End the program when one window differs: there would be nothing to compare."""
    for window in windows[:: max(1, len(windows) // 4)]:
        theirs = odc.stac.load(items, bands=bands, geobox=grid_of(window), groupby="id", chunks=None)
        seen = {one.id: one.read() for one in catalogue.acquisitions(window)}
        for i, item in enumerate(items):
            numbers = np.stack([theirs[band].values[i] for band in bands])
            chip = seen[item.id]
            if not np.allclose(np.where(chip.nodata, 0, numbers * 1e-4), chip.image, atol=1e-6):
                raise SystemExit(f"{window.name} of {item.id} differs; no figure to compare")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=Path)
    parser.add_argument("--bands", default=",".join(BANDS))
    parser.add_argument("--step", type=float, default=10.0, help="metres a pixel of the windows")
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    # odc-geo was written for an older affine and shapely.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    bands = arguments.bands.split(",")
    with tempfile.TemporaryDirectory() as root:
        folder = arguments.items
        if folder is None:
            folder = Path(root) / "items"
            folder.mkdir()
            print("making items", file=sys.stderr)
            make_items(folder)
        found = read_all(folder, bands)
        if not found:
            raise SystemExit(f"{folder} holds no item")
        path = Path(root) / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
        items = sorted((pystac.Item.from_dict(item) for item in found), key=lambda item: (item.datetime, item.id))
        with StacCatalogue(recipe_over(found, path, bands, arguments.step), Path(root)) as catalogue:
            windows = catalogue.windows()[0][: arguments.windows]
            check_same(catalogue, windows, items, bands)
            rates = measure(catalogue, windows, items, bands, arguments.runs)
    ratios = [ours / peer for ours, peer in zip(rates[OURS], rates[PEER], strict=True)]
    versions = machine.versions("odc-stac", "odc-loader", "rasterio", "pystac-client")
    if arguments.json:
        figures = {"windows_per_second": rates, "ratio": ratios}
        print(json.dumps({"machine": machine.machine(), "versions": versions, **figures}))
        return
    print(
        f"{len(windows)} windows of {SIDE} pixels, {len(bands)} bands of {len(items)} items, "
        f"median of {arguments.runs} runs (least-most)"
    )
    print(f"{machine.described(versions)}\n")
    rows = [[name, machine.spread(values, 1)] for name, values in rates.items()]
    print(machine.table(["", "windows/s"], [*rows, ["ratio", machine.spread(ratios, 2)]]))
    print(f"\nload at the end {os.getloadavg()[0]:.1f}; median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
