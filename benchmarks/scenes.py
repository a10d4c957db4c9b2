"""Cut a 9000 x 9500 RGB scene with its label raster into 512 px windows: ours, the published way, and torchgeo.

    python -m benchmarks.scenes [--runs 3] [--json]

The scene is generated twice: uncompressed in strips that are whole rows, as Inria's, and deflated in 256 px blocks.
Ours is measured up to four points: windows read; read with their class masks; both stored, as a version's writer does;
and the whole build of a recipe, which also filters by labels, records every window, stages what it read, shuffles and
splits. The published way is LandCover.ai's: image and labels whole in memory, then a JPEG (quality 95)
and a PNG for each window. torchgeo reads the same windows with their labels and stores nothing; it is installed into a
virtual environment of its own under the system's temporary folder. Every run is a fresh process, so that peak memory
is its own; "after start" is the peak less what the process held once all was imported.
"""

import argparse
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine
from rasterio.windows import Window as PixelWindow

from benchmarks import machine
from tasks.build import line
from tasks.build.job import Job
from tasks.build.runner import OnThreads
from tasks.imagery.scenes.folder import folder_catalogue
from tasks.labels.classes import ClassMap
from tasks.labels.protocol import RawLabels
from tasks.labels.registry import open_labels
from tasks.recipe.model import Recipe
from tasks.samples.window import Window
from tasks.state.ledger import Sample
from tasks.versions.plan import Block, Row, VersionPlan
from tasks.versions.schema import Layout
from tasks.versions.write import Draft, Pixels

WIDTH, HEIGHT, SIDE = 9000, 9500, 512
CLASSES = 5
BANDS = ("red", "green", "blue")
PEER, PEER_VERSION = "torchgeo", "0.8.1"
KINDS: dict[str, dict[str, Any]] = {
    "striped": {"interleave": "pixel"},
    "tiled": {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "interleave": "pixel"},
}
OURS = {
    "read": "windows read",
    "mask": "read, class masks",
    "store": "read, class masks, stored",
    "build": "a whole build, from plan to commit",
}
PUBLISHED = "published: whole in memory, then JPEG and PNG"
THREADS = (1, 2)

_PEER_CODE = """
import json, resource, sys, time
from pathlib import Path
from torchgeo.datasets import RasterDataset
from torchgeo.samplers import GridGeoSampler
folder, side = Path(sys.argv[1]), int(sys.argv[2])
class Images(RasterDataset):
    filename_glob = "*.tif"
class Labels(RasterDataset):
    filename_glob = "*.tif"
    is_image = False
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
dataset = Images(folder / "images") & Labels(folder / "gt")
count = 0
for where in GridGeoSampler(dataset, size=side, stride=side):
    sample = dataset[where]
    assert sample["image"].shape[-2:] == sample["mask"].shape[-2:] == (side, side)
    count += 1
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "windows": count, "peak": peak, "held": held}))
"""


def rows_of(generator: np.random.Generator) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    """The scene from top to bottom: row, image (3, rows, WIDTH) and labels (rows, WIDTH)."""
    step = 500
    for row in range(0, HEIGHT, step):
        coarse = generator.integers(0, 255, (3, step // 10, WIDTH // 10), dtype=np.uint8)
        smooth = coarse.repeat(10, axis=1).repeat(10, axis=2).astype(np.int16)
        noisy = smooth + generator.integers(-9, 10, smooth.shape, dtype=np.int16)
        labels = generator.integers(0, CLASSES, (step // 50, WIDTH // 50), dtype=np.uint8)
        yield row, np.clip(noisy, 0, 255).astype(np.uint8), labels.repeat(50, axis=0).repeat(50, axis=1)


def write_scene(folder: Path, layout: dict[str, Any]) -> None:
    """``images/scene.tif`` and ``gt/scene.tif`` below ``folder``."""
    for name in ("images", "gt"):
        (folder / name).mkdir(parents=True)
    shape = {"driver": "GTiff", "width": WIDTH, "height": HEIGHT, "dtype": "uint8", "crs": "EPSG:2180"}
    shape["transform"] = Affine(0.25, 0, 500_000, 0, -0.25, 500_000)
    with (
        rasterio.open(folder / "images/scene.tif", "w", count=3, **shape, **layout) as image_file,
        rasterio.open(folder / "gt/scene.tif", "w", count=1, compress="lzw", **shape) as label_file,
    ):
        for row, image, labels in rows_of(np.random.default_rng(0)):
            window = PixelWindow(0, row, *image.shape[:0:-1])
            image_file.write(image, window=window)
            label_file.write(labels, 1, window=window)


def recipe_of(folder: Path) -> Recipe:
    """The recipe that cuts the scene in ``folder``."""
    recipe = Recipe.model_validate(
        {
            "name": "scene",
            "title": "Scene",
            "imagery": {
                "source": "scenes",
                "images": "images/{scene}.tif",
                "bands": list(BANDS),
                "windows": {"size": SIDE, "edge": "drop"},
            },
            "labels": {"source": "rasters", "path": "gt/{scene}.tif"},
            "classes": [{"name": f"class {n}", "value": n, "color": f"#0000{n:02d}"} for n in range(CLASSES)],
        }
    )
    return recipe.in_folder(folder)


def cut_ours(folder: Path, until: str, threads: int) -> int:
    """Read, label or store every window of the scene in ``folder``; returns how many there are."""
    recipe = recipe_of(folder)
    with folder_catalogue(recipe) as catalogue, ThreadPoolExecutor(threads) as pool:
        windows = {window.name: window for window in catalogue.windows()[0]}
        classes, labels = ClassMap.of(recipe), open_labels(recipe, catalogue.scenes, folder / "unused")

        def image_of(window: Window) -> NDArray[Any]:
            return catalogue.acquisitions(window)[0].read().image

        def mask_of(window: Window) -> NDArray[np.uint8]:
            (raw,) = labels.read([window])
            assert isinstance(raw, RawLabels)
            return classes.apply(raw, window.name)

        def pixels_of(sample: Sample) -> Pixels:
            window = windows[sample.name]
            return Pixels(image_of(window), mask_of(window))

        if until == "store":
            write_version(str(folder / "store"), recipe, windows, pixels_of, pool)
        else:
            work: Callable[[Window], Any] = image_of
            if until == "mask":
                work = lambda window: (image_of(window), mask_of(window))  # noqa: E731
            for _ in pool.map(lambda window: work(window) is None, windows.values()):
                pass
        labels.close()
    return len(windows)


def build_ours(folder: Path, threads: int) -> int:
    """The line of the flow for the scene in ``folder``; returns how many samples the version has."""
    recipe = recipe_of(folder).replaced(splits={"by": "sample"})
    return line.build(Job.of(recipe, str(folder / "store")), OnThreads(threads)).accepted


def write_version(
    uri: str,
    recipe: Recipe,
    windows: dict[str, Window],
    pixels_of: Callable[[Sample], Pixels],
    pool: ThreadPoolExecutor,
) -> None:
    """A version of all windows, in their order, written chunk by chunk on the pool's threads."""
    layout = Layout(
        bands=BANDS,
        dtype="uint8",
        height=SIDE,
        width=SIDE,
        classes=tuple(entry.name for entry in recipe.classes),
        building=False,
    )
    samples = [Sample(name, "", "", 0.0, 0, (0.0,) * CLASSES) for name in windows]
    rows = tuple(Row(one, windows[one.name].group, windows[one.name].georeference) for one in samples)
    planned = {"train": rows, "validation": (), "test": ()}
    draft = Draft.begin(uri, VersionPlan(planned, layout, content="", number=1, previous=None, assigned={}, units={}))
    chunk = layout.samples_per_chunk
    blocks = [Block("train", at, tuple(samples[at : at + chunk])) for at in range(0, len(samples), chunk)]
    written = list(pool.map(lambda block: draft.write(block, pixels_of), blocks))
    draft.commit(written, {"classes": [], "recipe_hash": "", "software_version": ""})


def cut_published(folder: Path) -> int:
    """LandCover.ai's script: both rasters whole in memory, then two files for each window that is full."""
    out = folder / "out"
    out.mkdir()
    with rasterio.open(folder / "images/scene.tif") as file:
        image = np.ascontiguousarray(file.read().transpose(1, 2, 0))
    with rasterio.open(folder / "gt/scene.tif") as file:
        labels = file.read(1)
    count = 0
    for row in range(0, HEIGHT - SIDE + 1, SIDE):
        for column in range(0, WIDTH - SIDE + 1, SIDE):
            at = slice(row, row + SIDE), slice(column, column + SIDE)
            Image.fromarray(image[at]).save(out / f"{count}.jpg", quality=95)
            Image.fromarray(labels[at]).save(out / f"{count}_m.png")
            count += 1
    return count


def child(side: str, folder: Path, threads: int) -> dict[str, float]:
    """One side's figures, in this process."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if side == "published":
        count = cut_published(folder)
    else:
        count = build_ours(folder, threads) if side == "build" else cut_ours(folder, side, threads)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "windows": count, "peak": peak, "held": held}


def measure(runs: int) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Figures by kind of scene and by side, the sides taking turns."""
    python = machine.peer_python(PEER, PEER_VERSION, "torchgeo.datasets", "requests")
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # In a process of its own: a child's peak begins with what its parent held.
            machine.run_child([sys.executable, "-m", "benchmarks.scenes", "--write", kind, "--folder", name])
            ours = {
                f"{OURS[until]}, threads: {n}": ["--side", until, "--threads", f"{n}"]
                for until in OURS
                for n in THREADS
            }
            sides = ours | {PUBLISHED: ["--side", "published"]}
            figures: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            peer = f"{PEER} {PEER_VERSION}: windows and labels read"
            for _ in range(runs):
                for side, arguments in sides.items():
                    command = [sys.executable, "-m", "benchmarks.scenes", *arguments, "--folder", name]
                    figures[side].append(machine.run_child(command))
                    for left in ("store", "store.work", "out"):
                        shutil.rmtree(folder / left, ignore_errors=True)
                if python:
                    figures.setdefault(peer, []).append(
                        machine.run_child([python, "-W", "ignore", "-c", _PEER_CODE, name, str(SIDE)])
                    )
            found[kind] = figures
    return found


def report(found: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """One table for all kinds."""
    rows = []
    for kind, figures in found.items():
        for side, runs in figures.items():
            rates = [run["windows"] / run["seconds"] for run in runs]
            peak, after = (
                statistics.median(values) / 1024
                for values in ([run["peak"] for run in runs], [run["peak"] - run["held"] for run in runs])
            )
            rows.append(
                [f"{kind}: {side}", f"{runs[0]['windows']:.0f}", machine.spread(rates), f"{peak:,.0f}", f"{after:,.0f}"]
            )
    return machine.table(["", "windows", "windows/s", "peak MiB", "after start"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=[*OURS, "published"], help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", choices=list(KINDS), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.write:
        write_scene(given.folder, KINDS[given.write])
        print("{}")
        return
    if given.side:
        print(json.dumps(child(given.side, given.folder, given.threads)))
        return
    found = measure(given.runs)
    versions = machine.versions("rasterio", "numpy", "pillow", "icechunk", "zarr") | {"GDAL": rasterio.__gdal_version__}
    if given.json:
        print(json.dumps({"machine": machine.machine(), "versions": versions, "figures": found}))
        return
    print(f"{WIDTH} x {HEIGHT} RGB uint8, windows of {SIDE} px; {machine.described(versions)}")
    print(f"median of {given.runs} runs (least-most)\n")
    print(report(found))


if __name__ == "__main__":
    main()
