"""The training reader over store layouts, a folder of PNGs and a memory map, in one run.

    python -m benchmarks.reader [--samples 1500] [--side 256] [--repeat 3]

Imagery: the built-up part of the sandbox's synthetic region, saved as JPEG and decoded again as real imagery
is; Zstandard makes of it what it makes of aerial photographs (0.87 of their size). Every reader gives the same
thing: uint8 batches of 32 images and masks, in a shuffled order, each sample once. Files are in the system's
cache: what is measured is decoding and copying, not the disk. The figure is the median of the repeats.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from zarr.codecs import BloscCodec, ZstdCodec

from benchmarks import machine
from infra.sandbox.world.region import FIRST_TILE_Z18
from infra.sandbox.world.render import Renderer
from infra.sandbox.world.world import build_world
from tasks.versions.read import SplitArrays, storage_of
from training.data import Batch, SplitReader

BATCH = 32
RANDOM_READS = 100
Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]

CODECS: dict[str, Any] = {
    "none": None,
    "lz4": BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle", typesize=1),
    "lz4 bitshuffle": BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle", typesize=1),
    "zstd-1": ZstdCodec(level=1),
    "zstd-3": ZstdCodec(level=3),
    "zstd-1 bitshuffle": BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=1),
    "zstd-3 bitshuffle": BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=1),
}


@dataclass(frozen=True)
class Layout:
    """How the two arrays of a split are stored. ``shard`` is None without sharding."""

    chunk: int
    shard: int | None
    codec: str

    @property
    def name(self) -> str:
        """For the table."""
        shards = f", shards of {self.shard}" if self.shard else ""
        return f"chunks of {self.chunk}{shards}, {self.codec}"


LAYOUTS = [
    *(Layout(chunk, None, "zstd-1") for chunk in (1, 4, 8, 16, 32, 64)),
    *(Layout(chunk, 64, "zstd-1") for chunk in (1, 4, 8, 16)),
    *(Layout(16, None, codec) for codec in CODECS if codec != "zstd-1"),
]


def make_samples(samples: int, side: int) -> Arrays:
    """Images (n, 3, side, side) and masks (n, side, side), uint8."""
    renderer = Renderer(build_world(0))
    rng = np.random.default_rng(0)
    tiles = rng.permutation([(x, y) for x in range(8, 24) for y in range(8, 24)])  # of zoom 19
    images = np.empty((samples, 3, side, side), dtype=np.uint8)
    masks = np.empty((samples, side, side), dtype=np.uint8)
    for i in range(0, samples, 4):  # one picture and three turns of it: rendering takes longer than all the rest
        x, y = tiles[(i // 4) % len(tiles)] + np.array(FIRST_TILE_Z18) * 2
        picture = renderer.tile(19, int(x), int(y))
        buffer = io.BytesIO()
        Image.fromarray(picture).resize((side, side)).save(buffer, "JPEG", quality=85)
        bands = np.moveaxis(np.asarray(Image.open(buffer)), -1, 0)
        drawn = Image.new("L", (side, side))
        for left, top, length, width, tilt in rng.uniform(0.05, 0.3, (12, 5)) * (3, 3, 1, 1, 0.5) * side:
            corners = [(0, 0), (length, tilt), (length - tilt, tilt + width), (-tilt, width)]
            ImageDraw.Draw(drawn).polygon([(float(left + x), float(top + y)) for x, y in corners], fill=1)
        for turn in range(min(4, samples - i)):
            images[i + turn] = np.rot90(bands, turn, (1, 2))
            masks[i + turn] = np.rot90(np.asarray(drawn), turn)
    return images, masks


def write_store(path: Path, layout: Layout, arrays: Arrays) -> float:
    """Write the split and commit; returns seconds."""
    started = time.perf_counter()
    repository = icechunk.Repository.create(storage_of(str(path)))
    session = repository.writable_session("main")
    group = zarr.create_group(session.store).create_group("train")
    codec = CODECS[layout.codec]
    for name, values in zip(("image", "mask"), arrays, strict=True):
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(layout.chunk, *values.shape[1:]),
            shards=(layout.shard, *values.shape[1:]) if layout.shard else None,
            compressors=[codec] if codec else None,
        )
        array[...] = values
    session.commit("benchmark")
    return time.perf_counter() - started


def open_store(path: Path) -> SplitArrays:
    """The split that ``write_store`` wrote."""
    repository = icechunk.Repository.open(storage_of(str(path)))
    group = zarr.open_group(repository.readonly_session("main").store, path="train", mode="r")
    return SplitArrays(group)


def images_per_second(batches: Callable[[], Iterator[Batch]], samples: int, repeat: int) -> float:
    """Median over ``repeat`` epochs, after checking that an epoch has every sample once."""
    rates = []
    for _ in range(repeat):
        started = time.perf_counter()
        seen = [batch.rows for batch in batches()]
        rates.append(samples / (time.perf_counter() - started))
        if sorted(torch.cat(seen).tolist()) != list(range(samples)):
            raise SystemExit("a reader did not give every sample exactly once")
    return statistics.median(rates)


def single_read_ms(split: SplitArrays) -> float:
    """Milliseconds to read one image anywhere in the split, as a user of xarray does."""
    rows = np.random.default_rng(1).integers(0, len(split), RANDOM_READS)
    image = split.image
    started = time.perf_counter()
    for row in rows:
        np.asarray(image[int(row)])
    return (time.perf_counter() - started) / RANDOM_READS * 1000


def png_reader(folder: Path, samples: int, side: int) -> Callable[[], Iterator[Batch]]:
    """A folder of PNGs decoded by Pillow, a batch to a thread, in as many threads as there are cores."""
    threads = os.cpu_count() or 1

    def read(rows: NDArray[np.int64]) -> Batch:
        images = torch.empty((len(rows), 3, side, side), dtype=torch.uint8)
        masks = torch.empty((len(rows), side, side), dtype=torch.uint8)
        for i, row in enumerate(rows):
            images.numpy()[i] = np.moveaxis(np.asarray(Image.open(folder / f"{row}.png")), -1, 0)
            masks.numpy()[i] = np.asarray(Image.open(folder / f"{row}.mask.png"))
        return Batch(images, masks, torch.from_numpy(rows))

    def epoch() -> Iterator[Batch]:
        order = np.random.default_rng(0).permutation(samples)
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(read, [order[first : first + BATCH] for first in range(0, samples, BATCH)])

    return epoch


def memory_map_reader(folder: Path, samples: int) -> Callable[[], Iterator[Batch]]:
    """Two uncompressed .npy files, memory-mapped."""
    images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "mask"))

    def epoch() -> Iterator[Batch]:
        order = np.random.default_rng(0).permutation(samples)
        for first in range(0, samples, BATCH):
            rows = order[first : first + BATCH]
            yield Batch(torch.from_numpy(images[rows]), torch.from_numpy(masks[rows]), torch.from_numpy(rows))

    return epoch


def write_folder(folder: Path, arrays: Arrays) -> tuple[float, float]:
    """Write the PNGs and the two .npy files; returns the seconds of each."""
    images, masks = arrays
    started = time.perf_counter()
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(np.moveaxis(image, 0, -1)).save(folder / f"{row}.png")
        Image.fromarray(mask).save(folder / f"{row}.mask.png")
    between = time.perf_counter()
    np.save(folder / "image.npy", images)
    np.save(folder / "mask.npy", masks)
    return between - started, time.perf_counter() - between


def disk_use(files: list[Path]) -> str:
    """Total size, number of files and the size of the largest, as table cells."""
    sizes = [file.stat().st_size for file in files]
    return f"{sum(sizes) / 1e6:,.0f} | {len(sizes):,} | {max(sizes) / 1e3:,.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    arrays = make_samples(options.samples, options.side)
    raw = sum(part.nbytes for part in arrays)
    print(f"{options.samples:,} samples of {options.side} px, {raw / 1e6:,.0f} MB; median of {options.repeat} epochs")
    print(f"{machine.described(machine.versions('torch', 'zarr', 'icechunk', 'pillow'))}\n")
    print("| layout | images/s | one image (ms) | write (s) | MB | files | largest file (KB) |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as name:
            seconds = write_store(Path(name) / "store", layout, arrays)
            split = open_store(Path(name) / "store")
            reader = SplitReader(split, BATCH, shuffle=True, cache="none")
            rate = images_per_second(reader.__iter__, options.samples, options.repeat)
            use = disk_use([file for file in Path(name).rglob("*") if file.is_file()])
            print(f"| {layout.name} | {rate:,.0f} | {single_read_ms(split):.1f} | {seconds:.1f} | {use} |", flush=True)
            if layout.chunk == 16 and layout.codec == "zstd-1" and not layout.shard:
                kept = SplitReader(split, BATCH, shuffle=True, cache="host")
                list(kept)
                rate = images_per_second(kept.__iter__, options.samples, options.repeat)
                print(f"| the same, kept in memory | {rate:,.0f} | | | | | |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        png_seconds, npy_seconds = write_folder(folder, arrays)
        rate = images_per_second(png_reader(folder, options.samples, options.side), options.samples, options.repeat)
        use = disk_use(list(folder.glob("*.png")))
        print(f"| folder of PNGs, Pillow in threads | {rate:,.0f} | | {png_seconds:.1f} | {use} |")
        rate = images_per_second(memory_map_reader(folder, options.samples), options.samples, options.repeat)
        use = disk_use(list(folder.glob("*.npy")))
        print(f"| memory map | {rate:,.0f} | | {npy_seconds:.1f} | {use} |")


if __name__ == "__main__":
    main()
