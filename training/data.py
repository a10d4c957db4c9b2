"""Reading a split of a pinned dataset version as batches, in a shuffled order that the seed alone decides.

The order of an epoch shuffles chunks, then the samples inside a window of chunks (:func:`epoch_order`), so
that every chunk is fetched and decoded once an epoch, and what is in memory is a window and a few chunks that
worker threads decode ahead of the batch that needs them. A split that fits in memory is read once; it is then
walked in the same order, so that training does not depend on the memory of the machine.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.versions.read import SplitArrays

Cache = Literal["auto", "host", "none"]
ImageDtype = Literal["uint8", "uint16", "int16", "float32"]

CACHED_SHARE_OF_FREE_MEMORY = 0.3  # of each split, and there are three
READ_AHEAD_CHUNKS = 8


class Batch(NamedTuple):
    """Some samples as the store has them.

    Images keep the store's dtype, so that no more bytes are copied to the device than need be. Of PyTorch's
    operations hardly any takes uint16: turn images into floats before anything else is done with them.
    """

    images: Tensor  # an ImageDtype, (n, bands, y, x)
    masks: Tensor  # uint8 (n, y, x), class values
    rows: Tensor  # int64 (n,), rows of the split
    ignored: Tensor | None = None  # bool (n, y, x): no usable label, or under a cloud; None where no pixel is


class _Chunk(NamedTuple):
    images: NDArray[Any]
    masks: NDArray[np.uint8]
    ignored: NDArray[np.bool_] | None  # None where no pixel is


def ignored_pixels(
    masks: NDArray[np.uint8], cloud_mask: NDArray[np.uint8] | None, ignore_index: int | None
) -> NDArray[np.bool_] | None:
    """Which pixels of some samples do not count, bool (n, y, x); None where all of them do.

    masks, cloud_mask: uint8 (n, y, x), those samples'. ignore_index: the version's.
    """
    if ignore_index is None and cloud_mask is None:
        return None
    found = np.zeros(masks.shape, dtype=np.bool_) if ignore_index is None else masks == ignore_index
    if cloud_mask is not None:
        found |= cloud_mask != 0
    return found if found.any() else None


def epoch_order(samples: int, chunk: int, window: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The rows of a split in the order of one epoch, cut into windows.

    samples: rows of the split. chunk: rows that are stored together. window: rows to shuffle among each
    other, rounded up to whole chunks. Every row is in exactly one window, and all rows of a chunk are in
    the same one.
    """
    rng = np.random.default_rng([seed, epoch])
    starts = rng.permutation(np.arange(0, samples, chunk, dtype=np.int64))
    chunks_per_window = -(-window // chunk)
    windows = []
    for first in range(0, len(starts), chunks_per_window):
        rows = [np.arange(start, min(start + chunk, samples)) for start in starts[first : first + chunks_per_window]]
        windows.append(rng.permutation(np.concatenate(rows)))
    return windows


class SplitReader:
    """Batches of one split. Each iteration is the next epoch, in an order of its own when shuffled."""

    def __init__(
        self,
        arrays: SplitArrays,
        batch: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        window: int = 1024,
        cache: Cache = "auto",
        threads: int | None = None,
        pin: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        """A reader of ``arrays``.

        batch: samples of a batch; the last of an epoch may have fewer. window: samples shuffled among each
        other, which also bounds the memory of a split that is not kept. cache: ``host`` keeps the split in
        memory, ``none`` streams it every epoch, ``auto`` keeps it when it takes at most 30% of the
        free memory. threads: that decode, by default one for each core, at most 8. pin: page-locked batches, for
        copies to a GPU. ignore_index: the masks' value for pixels without a usable label.
        """
        image, self._arrays, self._ignore_index = arrays.image, arrays, ignore_index
        self._dtype = torch.from_numpy(np.empty(0, dtype=image.dtype)).dtype
        self.samples, self.batch = len(arrays), batch
        self.chunk = int((image.shards or image.chunks)[0])
        self.window = window
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self._threads = threads or min(8, os.cpu_count() or 1)
        self._pin = pin
        layers = (
            1 if ignore_index is None and arrays.cloud_mask is None else 2
        )  # the second says which pixels are ignored
        size = int(image.nbytes) + layers * int(arrays.mask.nbytes)
        self.cached = cache == "host" or (cache == "auto" and size <= CACHED_SHARE_OF_FREE_MEMORY * free_memory())
        self._kept: dict[int, _Chunk] = {}
        self._checked: set[int] = set()  # chunks seen to be as they were written: once is enough

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-self.samples // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch. Raises StoreError when the store cannot be read."""
        windows = (
            epoch_order(self.samples, self.chunk, self.window, self.seed, self.epoch)
            if self.shuffle
            else [
                np.arange(first, min(first + self.chunk, self.samples)) for first in range(0, self.samples, self.chunk)
            ]
        )
        self.epoch += 1
        waiting: deque[tuple[int, _Chunk]] = deque()  # rows that are read and not yet in a batch
        with ThreadPoolExecutor(self._threads, "read") as pool:
            try:
                for window, chunks in self._read_windows(pool, windows):
                    waiting.extend((int(row), chunks[int(row) // self.chunk]) for row in window)
                    while len(waiting) >= self.batch:
                        yield self._gather([waiting.popleft() for _ in range(self.batch)])
                if waiting:
                    yield self._gather(list(waiting))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _read_windows(
        self, pool: ThreadPoolExecutor, windows: list[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], dict[int, _Chunk]]]:
        """Each window with its chunks by number; the chunks that come next are being read meanwhile."""
        plan = [(number, chunk) for number, rows in enumerate(windows) for chunk in np.unique(rows // self.chunk)]
        todo = iter(plan)
        running: deque[tuple[int, int, Future[_Chunk]]] = deque()
        ahead = max(READ_AHEAD_CHUNKS, 2 * self._threads)

        def start_next() -> None:
            number, chunk = next(todo, (-1, -1))
            if number >= 0:
                running.append((number, int(chunk), pool.submit(self._read_chunk, int(chunk))))

        for _ in range(ahead):
            start_next()
        for number, rows in enumerate(windows):
            chunks: dict[int, _Chunk] = {}
            while running and running[0][0] == number:
                _, chunk, future = running.popleft()
                chunks[chunk] = future.result()
                start_next()
            yield rows, chunks

    def _read_chunk(self, chunk: int) -> _Chunk:
        found = self._kept.get(chunk)
        if found is None:
            rows = slice(chunk * self.chunk, min((chunk + 1) * self.chunk, self.samples))
            images, masks, clouds = self._arrays.samples(rows, check=chunk not in self._checked)
            self._checked.add(chunk)
            found = _Chunk(images, masks, ignored_pixels(masks, clouds, self._ignore_index))
            if self.cached:
                self._kept[chunk] = found
        return found

    def _gather(self, rows: list[tuple[int, _Chunk]]) -> Batch:
        """One copy, from the decoded chunks into the batch."""
        n, first = len(rows), rows[0][1]
        images = torch.empty((n, *first.images.shape[1:]), dtype=self._dtype, pin_memory=self._pin)
        masks = torch.empty((n, *first.masks.shape[1:]), dtype=torch.uint8, pin_memory=self._pin)
        to_images, to_masks = images.numpy(), masks.numpy()
        for i, (row, chunk) in enumerate(rows):
            to_images[i] = chunk.images[row % self.chunk]
            to_masks[i] = chunk.masks[row % self.chunk]
        ignored = None
        if any(chunk.ignored is not None for _, chunk in rows):
            ignored = torch.zeros(masks.shape, dtype=torch.bool, pin_memory=self._pin)
            to_ignored = ignored.numpy()
            for i, (row, chunk) in enumerate(rows):
                if chunk.ignored is not None:
                    to_ignored[i] = chunk.ignored[row % self.chunk]
        return Batch(images, masks, torch.tensor([row for row, _ in rows]), ignored)


def free_memory() -> int:
    """Bytes of memory that are free now; all there is, where the system does not say (macOS)."""
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def content_digest(arrays: SplitArrays, ignore_index: int | None = None) -> str:
    """SHA-256 of a split's samples (id, image, mask, ignored pixels), whatever their order and chunks.

    Ignored pixels are part of it only in samples that have some: a version that gained the means to ignore pixels,
    and ignores none, has the digest it had. ignore_index: the masks' value for pixels without a usable label.
    """
    reader = SplitReader(arrays, 64, cache="none", ignore_index=ignore_index)
    ids = arrays.sample_id
    parts = []
    for batch in reader:
        images, masks = batch.images.numpy(), batch.masks.numpy()
        ignored = None if batch.ignored is None else batch.ignored.numpy()
        dtype = "" if images.dtype == np.uint8 else f" {images.dtype}"
        for i, row in enumerate(batch.rows.tolist()):
            digest = hashlib.sha256(f"{ids[row]} {images[i].shape}{dtype}\n".encode())
            digest.update(images[i].data)
            digest.update(masks[i].data)
            if ignored is not None and ignored[i].any():
                digest.update(ignored[i].data)
            parts.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()
