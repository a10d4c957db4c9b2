import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import publish
from tasks.errors import StoreError
from tasks.grid import Tile
from tasks.ledger import Sample
from tasks.publish import VersionWriter, content_hash, heal_tags, open_or_create, shuffled
from tasks.splits import SPLITS
from tasks.store import open_version, parse_reference, versions

ATTRIBUTES = {"content_hash": "c", "recipe_hash": "r", "software_version": "tilewright test"}


def sample(x: int, sha: str = "s") -> Sample:
    return Sample(Tile(20, x, 7), 0.25, "m", 0.0, sha, 1_700_000_000 + x, None)


def pixels(tile: Tile, side: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(tile.x)
    return random.integers(0, 256, (3, side, side), dtype=np.uint8), random.integers(0, 2, (side, side), dtype=np.uint8)


def write_version(uri: str, by_split: dict[str, list[Sample]], side: int = 16, **attributes: Any) -> None:
    writer = VersionWriter(uri, open_or_create(uri), by_split, side)
    for block in writer.blocks:
        writer.write(block, lambda tile: pixels(tile, side))
    writer.commit({**ATTRIBUTES, **attributes})


def three_splits(train: int, validation: int, test: int) -> dict[str, list[Sample]]:
    numbers = iter(range(10_000))
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))
    return {split: [sample(next(numbers)) for _ in range(count)] for split, count in counts.items()}


@settings(max_examples=8)
@given(st.integers(0, 40), st.integers(0, 3), st.integers(0, 300))
def test_what_is_written_is_read(train: int, validation: int, test: int) -> None:
    import tempfile

    by_split = three_splits(train, validation, test)
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{folder}/store"
        write_version(uri, by_split, side=8)
        version = open_version(uri)
        for split, samples in by_split.items():
            arrays = version.split(split)
            assert len(arrays) == len(samples)
            assert arrays.sample_id == [s.tile.name for s in samples]
            assert np.array_equal(arrays.array("tile"), np.array([s.tile for s in samples]).reshape(-1, 3))
            for i, one in enumerate(samples):
                image, mask = pixels(one.tile, 8)
                assert np.array_equal(arrays.image[i], image)
                assert np.array_equal(arrays.mask[i], mask)


@pytest.mark.parametrize("held", [16, 64, 1024])
def test_the_train_statistics_are_those_of_all_train_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(publish, "HELD_SAMPLES", held)
    uri = str(tmp_path / "store")
    by_split = three_splits(300, 5, 5)
    write_version(uri, by_split)
    version = open_version(uri)
    images = np.asarray(version.split("train").image[:]).astype(np.float64)
    assert np.allclose(version.attributes["mean"], images.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(version.attributes["std"], images.std(axis=(0, 2, 3)), rtol=1e-9)
    for i, one in enumerate(by_split["train"]):
        assert np.array_equal(images[i], pixels(one.tile, 16)[0])
    assert version.attributes["splits"] == {"train": 300, "validation": 5, "test": 5}


def test_xarray_opens_a_split_as_it_is(tmp_path: Path) -> None:
    from tasks.store import open_repository

    uri = str(tmp_path / "store")
    write_version(uri, three_splits(20, 2, 2))
    session = open_repository(uri).readonly_session(tag="v1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xarray.open_zarr(session.store, group="train")
        assert dataset.image.dims == ("sample", "band", "y", "x")
        assert dataset.mask.dims == ("sample", "y", "x")
        assert dataset.sample_id.values[3] == "20/3/7"
        assert str(dataset.fetched_at.values[0]) == "2023-11-14T22:13:20.000000000"
        assert dataset.bounds.shape == (20, 4)
        assert dataset.image.isel(sample=3).values.shape == (3, 16, 16)


def test_versions_are_numbered_and_old_ones_stay(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    write_version(uri, three_splits(4, 1, 1))
    write_version(uri, three_splits(5, 1, 1))
    assert [info.version for info in versions(uri)] == ["v1", "v2"]
    assert len(open_version(uri, "v1").split("train")) == 4
    assert len(open_version(uri).split("train")) == 5
    with pytest.raises(StoreError, match=r"no version 'v7'; there are v1, v2"):
        open_version(uri, "v7")
    with pytest.raises(StoreError, match=r"no split 'dev'; there are test, train, validation"):
        open_version(uri).split("dev")


def test_nothing_is_visible_before_the_commit(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    write_version(uri, three_splits(4, 1, 1))
    writer = VersionWriter(uri, open_or_create(uri), three_splits(9, 1, 1), 16)
    for block in writer.blocks:
        writer.write(block, lambda tile: pixels(tile, 16))
    assert [info.version for info in versions(uri)] == ["v1"]
    assert len(open_version(uri).split("train")) == 4


def test_a_commit_whose_process_died_before_the_tag_is_healed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "store")
    repository = open_or_create(uri)
    writer = VersionWriter(uri, repository, three_splits(4, 1, 1), 16)
    for block in writer.blocks:
        writer.write(block, lambda tile: pixels(tile, 16))

    class Dies:
        def __getattr__(self, name: str) -> Any:
            if name == "create_tag":
                raise KeyboardInterrupt
            return getattr(repository, name)

    monkeypatch.setattr(writer, "_repository", Dies())
    with pytest.raises(KeyboardInterrupt):
        writer.commit(ATTRIBUTES)
    assert versions(uri) == []
    with pytest.raises(StoreError, match="holds no version yet"):
        open_version(uri)
    heal_tags(open_or_create(uri))
    assert [info.version for info in versions(uri)] == ["v1"]


def test_two_writers_of_one_store_do_not_both_win(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    writers = [VersionWriter(uri, open_or_create(uri), three_splits(4, 1, 1), 16) for _ in range(2)]
    writers[0].commit(ATTRIBUTES)
    with pytest.raises(StoreError, match="another build committed"):
        writers[1].commit(ATTRIBUTES)


@pytest.mark.parametrize("make", ["missing", "file", "folder"])
def test_what_is_no_store_is_told(tmp_path: Path, make: str) -> None:
    path = tmp_path / "store"
    if make == "file":
        path.write_text("x")
    elif make == "folder":
        path.mkdir()
        (path / "photo.jpg").write_text("x")
    with pytest.raises(StoreError, match=r"store: (no store there|not an Icechunk store)"):
        open_version(str(path))
    if make != "missing":
        with pytest.raises(StoreError):
            open_or_create(str(path))


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://bucket"])
def test_a_uri_of_another_kind_is_told(uri: str) -> None:
    with pytest.raises(StoreError, match="expected"):
        open_version(uri)


def test_references() -> None:
    assert parse_reference("stores/x@v12") == ("stores/x", "v12")
    assert parse_reference("stores/x") == ("stores/x", None)
    assert parse_reference("s3://user@host/x") == ("s3://user@host/x", None)


def test_the_stored_order_keeps_what_was_and_appends_newcomers_by_hash() -> None:
    first = shuffled([sample(x) for x in range(30)], [], seed=1)
    assert first == shuffled([sample(x) for x in reversed(range(30))], [], seed=1)
    assert first != [sample(x) for x in range(30)]
    names = [s.tile.name for s in first]
    second = shuffled([sample(x) for x in range(3, 33)], names, seed=1)
    stayed = [name for name in names if name not in {"20/0/7", "20/1/7", "20/2/7"}]
    assert [s.tile.name for s in second][:27] == stayed
    assert {s.tile.x for s in second[27:]} == {30, 31, 32}


def test_the_content_hash_sees_every_change() -> None:
    base = three_splits(4, 2, 2)
    moved = {**base, "train": base["train"][1:], "test": [*base["test"], base["train"][0]]}
    other = {**base, "train": [dataclasses.replace(base["train"][0], sha256="t"), *base["train"][1:]]}
    mask = {**base, "train": [dataclasses.replace(base["train"][0], mask_sha256="n"), *base["train"][1:]]}
    hashes = {content_hash(one, "r") for one in (base, moved, other, mask)} | {content_hash(base, "q")}
    assert len(hashes) == 5
    assert content_hash({**base, "train": base["train"][::-1]}, "r") == content_hash(base, "r")
