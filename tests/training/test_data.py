"""The reader gives every sample once an epoch, as it is in the store, in an order that the seed decides."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.errors import StoreError
from tasks.versions.read import DatasetVersion
from tasks.versions.schema import SPLITS
from tests.training.samples import make_store
from tests.training.stores import IGNORE, Samples, draw, write_store
from training.data import Cache, SplitReader, content_digest, epoch_order


@given(
    samples=st.integers(1, 300),
    chunk=st.integers(1, 40),
    window=st.integers(1, 100),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_an_epoch_has_every_row_once_and_chunks_stay_in_a_window(
    samples: int, chunk: int, window: int, seed: int, epoch: int
) -> None:
    windows = epoch_order(samples, chunk, window, seed, epoch)
    assert sorted(np.concatenate(windows).tolist()) == list(range(samples))
    for rows in windows:
        assert len(rows) <= max(window + chunk - 1, chunk)
    where = [{int(row) // chunk for row in rows} for rows in windows]
    assert sum(len(chunks) for chunks in where) == len(set.union(*where))


def test_orders_differ_by_seed_and_epoch() -> None:
    orders = [tuple(np.concatenate(epoch_order(200, 16, 64, *pair))) for pair in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert len(set(orders)) == 3
    assert orders[0] == orders[3]


@pytest.mark.parametrize("cache", ["none", "host"])
@pytest.mark.parametrize("batch", [1, 5, 24, 100])
def test_batches_hold_the_stores_samples_once_an_epoch(version: DatasetVersion, cache: Cache, batch: int) -> None:
    arrays = version.split("train")
    images, masks = np.asarray(arrays.image[:]), np.asarray(arrays.mask[:])
    reader = SplitReader(arrays, batch, shuffle=True, cache=cache, window=10)
    for _ in range(2):
        batches = list(reader)
        assert len(batches) == len(reader)
        rows = torch.cat([one.rows for one in batches])
        assert sorted(rows.tolist()) == list(range(24))
        assert [len(one.rows) for one in batches[:-1]] == [batch] * (len(batches) - 1)
        assert np.array_equal(torch.cat([one.images for one in batches]).numpy(), images[rows])
        assert np.array_equal(torch.cat([one.masks for one in batches]).numpy(), masks[rows])


def test_caching_does_not_change_the_order(version: DatasetVersion) -> None:
    def orders(cache: Cache, threads: int) -> list[list[int]]:
        reader = SplitReader(version.split("train"), 5, shuffle=True, seed=3, cache=cache, threads=threads, window=16)
        return [torch.cat([batch.rows for batch in reader]).tolist() for _ in range(3)]

    kept = orders("host", 1)
    assert kept == orders("none", 4)
    assert kept[0] != kept[1] != kept[2]


def test_without_shuffling_the_order_is_the_stores(version: DatasetVersion) -> None:
    reader = SplitReader(version.split("validation"), 3)
    for _ in range(2):
        assert torch.cat([batch.rows for batch in reader]).tolist() == list(range(8))


def test_a_split_is_read_once_when_it_is_kept(version: DatasetVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SplitReader(version.split("train"), 8, cache="auto")
    assert kept.cached
    first = [batch.images.clone() for batch in kept]
    monkeypatch.setattr(zarr.Array, "__getitem__", None)
    assert all(torch.equal(one, two.images) for one, two in zip(first, kept, strict=True))


def test_auto_streams_what_does_not_fit(version: DatasetVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.free_memory", lambda: 1000)
    assert not SplitReader(version.split("train"), 8, cache="auto").cached


def test_leaving_an_epoch_early_is_fine(version: DatasetVersion) -> None:
    reader = SplitReader(version.split("train"), 4, shuffle=True, cache="none")
    for batch in reader:
        assert len(batch.rows) == 4
        break
    assert sum(len(batch.rows) for batch in reader) == 24


def test_a_lost_chunk_is_told_with_the_store(tmp_path: Path) -> None:
    broken = make_store(tmp_path / "broken")
    for path in (tmp_path / "broken" / "chunks").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match="broken@v1"):
        list(SplitReader(broken.split("train"), 4))


def test_the_digest_is_of_the_contents(tmp_path: Path) -> None:
    first = make_store(tmp_path / "a", counts={"train": 2, "validation": 1, "test": 20})
    same = make_store(tmp_path / "b", counts={"train": 5, "validation": 2, "test": 20})
    other = make_store(tmp_path / "c", counts={"train": 2, "validation": 1, "test": 19})
    digest = content_digest(first.split("test"))
    assert digest == content_digest(same.split("test"))
    assert len({digest, content_digest(other.split("test")), content_digest(first.split("train"))}) == 3


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("cache", ["none", "host"])
def test_images_keep_their_dtype_and_ignored_pixels_come_along(cache: Cache, dtype: str, tmp_path: Path) -> None:
    samples = draw(10, 5, dtype)
    assert samples.cloud_mask is not None
    arrays = write_store(tmp_path / "store", dict.fromkeys(SPLITS, samples)).split("train")
    reader = SplitReader(arrays, 3, shuffle=True, cache=cache, ignore_index=IGNORE)
    for _ in range(2):
        for batch in reader:
            rows = batch.rows.numpy()
            images = batch.images.numpy()
            assert images.dtype == dtype
            assert np.array_equal(images, samples.image[rows])
            assert np.array_equal(batch.masks.numpy(), samples.mask[rows])
            assert batch.ignored is not None
            expected = (samples.mask[rows] == IGNORE) | (samples.cloud_mask[rows] == 1)
            assert np.array_equal(batch.ignored.numpy(), expected)


def test_only_clouds_and_only_missing_labels(tmp_path: Path) -> None:
    samples = draw(4, 1, "uint8")
    assert samples.cloud_mask is not None
    clouds = write_store(tmp_path / "clouds", dict.fromkeys(SPLITS, samples), ignore_index=None).split("train")
    labels = write_store(tmp_path / "labels", dict.fromkeys(SPLITS, samples._replace(cloud_mask=None))).split("train")
    (clouded,), (unlabelled,) = SplitReader(clouds, 4), SplitReader(labels, 4, ignore_index=IGNORE)
    assert np.array_equal(np.asarray(clouded.ignored), samples.cloud_mask == 1)
    assert np.array_equal(np.asarray(unlabelled.ignored), samples.mask == IGNORE)


def test_batches_in_which_no_pixel_is_ignored_say_so(version: DatasetVersion, tmp_path: Path) -> None:
    assert all(batch.ignored is None for batch in SplitReader(version.split("train"), 8))
    assert all(batch.ignored is None for batch in SplitReader(version.split("train"), 8, ignore_index=IGNORE))
    samples = draw(8, 1, "uint8")
    masks, cloud_mask = np.zeros_like(samples.mask), np.zeros_like(samples.mask)
    cloud_mask[5, 3, 2] = 1
    written = write_store(tmp_path / "store", dict.fromkeys(SPLITS, Samples(samples.image, masks, cloud_mask)))
    first, second = SplitReader(written.split("train"), 4, ignore_index=IGNORE)
    assert first.ignored is None
    assert second.ignored is not None
    assert second.ignored.nonzero().tolist() == [[1, 3, 2]]


def test_memory_is_counted_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = draw(4, 3, "float32")
    arrays = write_store(tmp_path / "store", dict.fromkeys(SPLITS, samples)).split("train")
    size = samples.image.nbytes + 2 * samples.mask.nbytes
    monkeypatch.setattr("training.data.CACHED_SHARE_OF_FREE_MEMORY", 1.0)
    for free, cached in ((size, True), (size - 1, False)):
        monkeypatch.setattr("training.data.free_memory", lambda free=free: free)
        assert SplitReader(arrays, 4, ignore_index=IGNORE).cached is cached


def test_the_digest_counts_ignored_pixels_where_there_are_any(tmp_path: Path) -> None:
    samples = draw(9, 3, "uint8")
    assert samples.cloud_mask is not None

    def digest(name: str, samples: Samples, ignore_index: int | None = None, chunk: int = 4) -> str:
        written = write_store(tmp_path / name, dict.fromkeys(SPLITS, samples), ignore_index=ignore_index, chunk=chunk)
        return content_digest(written.split("test"), ignore_index=ignore_index)

    plain = samples._replace(cloud_mask=None)

    def worked_out(clouds: NDArray[np.uint8]) -> str:
        parts = [
            f"test/{i} (3, 16, 16)\n".encode() + image.tobytes() + mask.tobytes() + cloud.tobytes() * int(cloud.any())
            for i, (image, mask, cloud) in enumerate(zip(samples.image, samples.mask, clouds, strict=True))
        ]
        return hashlib.sha256(b"".join(sorted(hashlib.sha256(part).digest() for part in parts))).hexdigest()

    as_ever = worked_out(np.zeros_like(samples.cloud_mask))
    assert digest("plain", plain) == as_ever
    assert digest("no value", plain, 77) == as_ever
    assert digest("no cloud", samples._replace(cloud_mask=np.zeros_like(samples.cloud_mask))) == as_ever
    clouded = digest("clouded", samples)
    assert clouded == worked_out(samples.cloud_mask)
    assert digest("other chunks", samples, chunk=1) == clouded
    signed = [plain._replace(image=samples.image.view(dtype)) for dtype in ("uint8", "int8")]
    kinds = [digest(f"dtype {i}", one) for i, one in enumerate(signed)]
    assert len({as_ever, clouded, digest("labels", plain, IGNORE), digest("both", samples, IGNORE), kinds[1]}) == 5
