"""The reader gives every sample once an epoch, as it is in the store, in an order that the seed decides."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import StoreError
from tasks.store import DatasetVersion
from tests.training.samples import make_store
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
    monkeypatch.setattr(type(kept._image), "__getitem__", None)
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
    with pytest.raises(StoreError, match="the store"):
        list(SplitReader(broken.split("train"), 4, name="the store"))


def test_the_digest_is_of_the_contents(tmp_path: Path) -> None:
    first = make_store(tmp_path / "a", counts={"train": 2, "validation": 1, "test": 20})
    same = make_store(tmp_path / "b", counts={"train": 5, "validation": 2, "test": 20})
    other = make_store(tmp_path / "c", counts={"train": 2, "validation": 1, "test": 19})
    digest = content_digest(first.split("test"))
    assert digest == content_digest(same.split("test"))
    assert len({digest, content_digest(other.split("test")), content_digest(first.split("train"))}) == 3
