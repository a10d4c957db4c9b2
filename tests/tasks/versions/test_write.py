import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import StoreError
from tasks.geo.georeference import Georeference, tile_georeference
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.state.ledger import Sample
from tasks.versions import write as publish
from tasks.versions.read import open_repository, open_version, parse_reference, versions
from tasks.versions.splits import SPLITS
from tasks.versions.write import Layout, Pixels, VersionWriter, content_hash, heal_tags, open_or_create, shuffled

ATTRIBUTES = {"content_hash": "c", "recipe_hash": "r", "software_version": "tilewright test"}


def sample(x: int, sha: str = "s") -> Sample:
    return Sample(f"20/{x}/7", 0.25, "m", 0.0, sha, 1_700_000_000 + x, None)


def pixels(one: Sample, side: int) -> Pixels:
    random = np.random.default_rng(Tile.parse(one.name).x)
    return Pixels(
        random.integers(0, 256, (3, side, side), dtype=np.uint8), random.integers(0, 2, (side, side), dtype=np.uint8)
    )


def layout(side: int, **changes: Any) -> Layout:
    made = Layout(
        bands=("red", "green", "blue"),
        dtype=np.dtype(np.uint8),
        height=side,
        width=side,
        classes=("background", "building"),
        georeference=lambda name: tile_georeference(Tile.parse(name), side),
        unit=lambda name: Tile.parse(name).parent(17).name,
        tiles=True,
    )
    return dataclasses.replace(made, **changes)


def write_version(uri: str, by_split: dict[str, list[Sample]], side: int = 16, **attributes: Any) -> None:
    writer = VersionWriter(uri, open_or_create(uri), by_split, layout(side))
    for block in writer.blocks:
        writer.write(block, lambda one: pixels(one, side))
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
            assert arrays.sample_id == [s.name for s in samples]
            assert np.array_equal(arrays.array("tile"), np.array([Tile.parse(s.name) for s in samples]).reshape(-1, 3))
            for i, one in enumerate(samples):
                image, mask, _ = pixels(one, 8)
                assert np.array_equal(arrays.image[i], image)
                assert np.array_equal(arrays.mask[i], mask)


@pytest.mark.parametrize("held", [1, 4, 64])
def test_the_train_statistics_are_those_of_all_train_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(publish, "HELD_CHUNKS", held)
    uri = str(tmp_path / "store")
    by_split = three_splits(300, 5, 5)
    write_version(uri, by_split)
    version = open_version(uri)
    images = np.asarray(version.split("train").image[:]).astype(np.float64)
    assert np.allclose(version.attributes["mean"], images.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(version.attributes["std"], images.std(axis=(0, 2, 3)), rtol=1e-9)
    for i, one in enumerate(by_split["train"]):
        assert np.array_equal(images[i], pixels(one, 16).image)
    assert version.attributes["splits"] == {"train": 300, "validation": 5, "test": 5}


def test_xarray_opens_a_split_as_it_is(tmp_path: Path) -> None:
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
    writer = VersionWriter(uri, open_or_create(uri), three_splits(9, 1, 1), layout(16))
    for block in writer.blocks:
        writer.write(block, lambda one: pixels(one, 16))
    assert [info.version for info in versions(uri)] == ["v1"]
    assert len(open_version(uri).split("train")) == 4


def test_a_commit_whose_process_died_before_the_tag_is_healed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "store")
    repository = open_or_create(uri)
    writer = VersionWriter(uri, repository, three_splits(4, 1, 1), layout(16))
    for block in writer.blocks:
        writer.write(block, lambda one: pixels(one, 16))

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
    writers = [VersionWriter(uri, open_or_create(uri), three_splits(4, 1, 1), layout(16)) for _ in range(2)]
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
    names = [s.name for s in first]
    second = shuffled([sample(x) for x in range(3, 33)], names, seed=1)
    stayed = [name for name in names if name not in {"20/0/7", "20/1/7", "20/2/7"}]
    assert [s.name for s in second][:27] == stayed
    assert {Tile.parse(s.name).x for s in second[27:]} == {30, 31, 32}


def test_the_content_hash_sees_every_change() -> None:
    base = three_splits(4, 2, 2)
    moved = {**base, "train": base["train"][1:], "test": [*base["test"], base["train"][0]]}
    other = {**base, "train": [dataclasses.replace(base["train"][0], sha256="t"), *base["train"][1:]]}
    mask = {**base, "train": [dataclasses.replace(base["train"][0], mask_sha256="n"), *base["train"][1:]]}
    hashes = {content_hash(one, "r") for one in (base, moved, other, mask)} | {content_hash(base, "q")}
    assert len(hashes) == 5
    assert content_hash({**base, "train": base["train"][::-1]}, "r") == content_hash(base, "r")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 4, 13])
def test_windows_of_any_kind_are_read_as_written(tmp_path: Path, dtype: str, bands: int) -> None:
    uri, random = str(tmp_path / "store"), np.random.default_rng(bands)
    shape = (bands, 12, 20)
    names = [f"scene/{n}-0" for n in range(5)]
    values = {name: (random.random(shape) * 40_000 - 10_000 * (dtype[0] != "u")).astype(dtype) for name in names}
    unusable = {name: random.random(shape[1:]) < 0.5 for name in names}
    lies = Georeference("EPSG:32633", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))
    kind = layout(
        0,
        bands=tuple(f"B{n}" for n in range(bands)),
        dtype=np.dtype(dtype),
        height=12,
        width=20,
        classes=("other", "water", "road"),
        georeference=lambda name: None if name == names[1] else lies,
        unit=lambda _: "scene",
        tiles=False,
        unusable=True,
        building=False,
    )
    samples = [
        Sample(name, None, "m", 0.0, "s", 5, None, (0.5, 0.25, 0.25), 0.5 if n else None, 7 if n else None, "item")
        for n, name in enumerate(names)
    ]
    writer = VersionWriter(uri, open_or_create(uri), {"train": samples, "validation": [], "test": []}, kind)
    mask = np.full(shape[1:], 2, dtype=np.uint8)
    for block in writer.blocks:
        writer.write(block, lambda one: Pixels(values[one.name], mask, unusable[one.name]))
    writer.commit(ATTRIBUTES)
    version = open_version(uri)
    train = version.split("train")
    stack = np.stack([values[name] for name in train.sample_id])
    assert train.image.dtype == np.dtype(dtype)
    assert np.array_equal(np.asarray(train.image[:]), stack)
    assert train.unusable is not None
    assert np.array_equal(np.asarray(train.unusable[:]), np.stack([unusable[name] for name in train.sample_id]))
    assert np.allclose(version.attributes["mean"], stack.astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-9)
    assert np.allclose(version.attributes["std"], stack.astype(np.float64).std(axis=(0, 2, 3)), rtol=1e-6)
    assert list(train.array("crs")) == ["EPSG:32633", "", *["EPSG:32633"] * 3]
    assert np.isnan(train.array("transform")[1]).all()
    assert tuple(train.array("transform")[0]) == lies.transform
    assert np.isnan(train.array("bounds")[1]).all()
    assert np.allclose(train.array("bounds")[0][:2], (15.0, 45.15), atol=0.01)
    assert np.isnan(train.array("cloud_fraction")[0])
    assert "building_fraction" not in train.group
    assert "tile" not in train.group
    session = open_repository(uri).readonly_session(tag="v1")
    dataset = xarray.open_zarr(session.store, group="train")
    assert np.isnat(dataset.acquired_at.values[0])
    assert str(dataset.acquired_at.values[1]) == "1970-01-01T00:00:07.000000000"


def test_tiles_have_a_georeference(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    write_version(uri, three_splits(3, 1, 1))
    train = open_version(uri).split("train")
    for i, name in enumerate(train.sample_id):
        tile = Tile.parse(name)
        assert np.allclose(train.array("bounds")[i], lonlat_bounds(tile), rtol=0, atol=1e-9)
        assert tuple(train.array("transform")[i]) == tile_georeference(tile, 16).transform
        assert train.array("group")[i] == tile.parent(17).name
    assert np.isnan(train.array("class_share")).all()


def test_large_samples_get_small_chunks() -> None:
    assert layout(224).samples_per_chunk == 16
    assert layout(512).samples_per_chunk == 16
    assert layout(512, bands=tuple("abcdefghijklm"), dtype=np.dtype("uint16")).samples_per_chunk == 2
    assert layout(4096, dtype=np.dtype("float32")).samples_per_chunk == 1


def test_a_store_whose_making_was_cut_short_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import icechunk

    uri, made = str(tmp_path / "store"), icechunk.Repository.create

    def dies(storage: icechunk.Storage) -> None:
        made(storage)
        raise KeyboardInterrupt

    monkeypatch.setattr(icechunk.Repository, "create", dies)
    with pytest.raises(KeyboardInterrupt):
        open_or_create(uri)
    monkeypatch.undo()
    assert not (tmp_path / "store").exists()
    assert versions_after_writing(uri) == ["v1"]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def versions_after_writing(uri: str) -> list[str]:
    write_version(uri, three_splits(4, 1, 1))
    return [info.version for info in versions(uri)]
