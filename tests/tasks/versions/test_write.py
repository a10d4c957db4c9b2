import dataclasses
import hashlib
import pickle
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import DiskError, StoreError
from tasks.geo.georeference import Georeference, tile_georeference
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.state.ledger import Sample
from tasks.versions import write
from tasks.versions.plan import Row, VersionPlan
from tasks.versions.read import open_repository, open_version, versions
from tasks.versions.schema import ARRAYS, SCHEMA_VERSION, SPLITS, Layout
from tasks.versions.write import Draft, Pixels, Written, heal_tags, open_or_create
from tests.support.versions import CLASSES, planned, write_plan

ATTRIBUTES = {"classes": CLASSES, "recipe_hash": "r", "software_version": "tilewright test"}
Rows = dict[str, list[Row]]


def sample(x: int, sha: str = "s") -> Sample:
    return Sample(f"20/{x}/7", "m", sha, 0.0, 1_700_000_000 + x, building_fraction=0.25)


def pixels(one: Sample, side: int = 16) -> Pixels:
    random = np.random.default_rng(Tile.parse(one.name).x)
    return Pixels(
        random.integers(0, 256, (3, side, side), dtype=np.uint8), random.integers(0, 2, (side, side), dtype=np.uint8)
    )


def layout(side: int = 16, **changes: Any) -> Layout:
    made = Layout(
        bands=("red", "green", "blue"), dtype="uint8", height=side, width=side, classes=("background", "building")
    )
    return dataclasses.replace(made, **changes)


def tile_row(one: Sample, side: int = 16) -> Row:
    tile = Tile.parse(one.name)
    return Row(one, tile.parent(17).name, tile_georeference(tile, side))


def three_splits(train: int, validation: int, test: int, side: int = 16) -> Rows:
    numbers = iter(range(10_000))
    counts = dict(zip(SPLITS, (train, validation, test), strict=True))
    return {split: [tile_row(sample(next(numbers)), side) for _ in range(count)] for split, count in counts.items()}


def write_version(uri: str, rows: Rows, side: int = 16, **attributes: Any) -> VersionPlan:
    plan = planned(uri, rows, layout(side))
    write_plan(uri, plan, lambda one: pixels(one, side), **attributes)
    return plan


@settings(max_examples=8)
@given(st.integers(0, 40), st.integers(0, 3), st.integers(0, 300))
def test_what_is_written_is_read(train: int, validation: int, test: int) -> None:
    rows = three_splits(train, validation, test, side=8)
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{folder}/store"
        write_version(uri, rows, side=8)
        version = open_version(uri)
        for split, members in rows.items():
            arrays = version.split(split)
            samples = [row.sample for row in members]
            assert len(arrays) == len(samples)
            assert arrays.sample_id == [s.name for s in samples]
            if train + validation + test:
                tiles = np.array([Tile.parse(s.name) for s in samples]).reshape(-1, 3)
                assert np.array_equal(arrays.array("tile"), tiles)
            images, masks = np.asarray(arrays.image[:]), np.asarray(arrays.mask[:])
            for i, one in enumerate(samples):
                image, mask, _ = pixels(one, 8)
                assert np.array_equal(images[i], image)
                assert np.array_equal(masks[i], mask)


@pytest.mark.parametrize("held", [1, 4, 64])
def test_the_train_statistics_are_those_of_all_train_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(write, "HELD_CHUNKS", held)
    uri = str(tmp_path / "store")
    rows = three_splits(300, 5, 5)
    write_version(uri, rows)
    version = open_version(uri)
    images = np.asarray(version.split("train").image[:]).astype(np.float64)
    assert np.allclose(version.attributes["mean"], images.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(version.attributes["std"], images.std(axis=(0, 2, 3)), rtol=1e-9)
    for i, row in enumerate(rows["train"]):
        assert np.array_equal(images[i], pixels(row.sample).image)
    assert version.attributes["splits"] == {"train": 300, "validation": 5, "test": 5}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_blocks_may_be_written_in_any_order_on_threads_and_elsewhere(tmp_path: Path, dtype: str) -> None:
    """What comes back is handed on pickled, as from another process, and the version is the same to the last bit."""
    found = []
    for name, order in (("one", 1), ("two", -1)):
        uri = str(tmp_path / name)
        plan = pickle.loads(pickle.dumps(planned(uri, three_splits(1100, 20, 20, side=4), layout(4, dtype=dtype))))
        draft = Draft.begin(uri, plan)
        with ThreadPoolExecutor(4) as pool:
            blocks = plan.blocks[::order]
            written = list(pool.map(lambda block, draft=draft: draft.write(block, lambda s: pixels(s, 4)), blocks))
        assert [(one.split, one.start, len(one)) for one in written][::order] == [
            ("train", 0, 512),
            ("train", 512, 512),
            ("train", 1024, 76),
            ("validation", 0, 20),
            ("test", 0, 20),
        ]
        assert [part.start for part in written[::order][1].moments] == list(range(512, 1024, 16))
        assert not written[::order][-1].moments
        draft.commit(pickle.loads(pickle.dumps(written)), ATTRIBUTES)
        version = open_version(uri)
        train = version.split("train")
        found.append((version.attributes["mean"], version.attributes["std"], train.array("image_sha256").tobytes()))
        assert np.array_equal(np.asarray(train.image[1099]), pixels(plan.rows["train"][1099].sample, 4).image)
    assert found[0] == found[1]


def test_sums_over_whole_numbers_are_exact(tmp_path: Path) -> None:
    uri, side = str(tmp_path / "store"), 8
    plan = planned(uri, three_splits(20, 0, 0, side), layout(side, dtype="uint16"))
    draft = Draft.begin(uri, plan)
    image = np.full((3, side, side), 65535, dtype=np.uint16)
    (written,) = [draft.write(block, lambda one: Pixels(image, pixels(one, side).mask)) for block in plan.blocks]
    first, second = written.moments
    assert (first.start, first.pixels, second.start, second.pixels) == (0, 16 * 64, 16, 4 * 64)
    assert first.total == (65535 * 16 * 64,) * 3
    assert second.squares == (65535**2 * 4 * 64,) * 3


def test_every_sample_has_hashes_of_its_image_its_mask_and_their_sources(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    rows = three_splits(40, 3, 0)
    write_version(uri, rows)
    for split, members in rows.items():
        arrays = open_version(uri).split(split)
        images, masks = np.asarray(arrays.image[:]), np.asarray(arrays.mask[:])
        columns = [arrays.array(f"{what}_sha256") for what in ("image", "mask", "source")]
        assert [(column.shape, column.dtype) for column in columns] == [((len(members), 32), np.uint8)] * 3
        for i, row in enumerate(members):
            told = [bytes(column[i]) for column in columns]
            source = f"{row.sample.sha256} {row.sample.mask_sha256}".encode()
            assert told == [hashlib.sha256(data).digest() for data in (images[i].tobytes(), masks[i].tobytes(), source)]


def test_a_source_hash_changes_with_the_image_and_with_the_mask(tmp_path: Path) -> None:
    ones = [sample(0), sample(0, "other"), dataclasses.replace(sample(0), mask_sha256="other"), sample(0)]
    ones = [dataclasses.replace(one, name=f"20/{i}/7") for i, one in enumerate(ones)]
    write_version(str(tmp_path / "store"), {"train": [tile_row(one) for one in ones]})
    first, *others, same = map(bytes, open_version(str(tmp_path / "store")).split("train").array("source_sha256"))
    assert first == same
    assert len({first, *others}) == 3


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
        root = open_version(uri).attributes
        for split in SPLITS:
            dataset = xarray.open_zarr(session.store, group=split)
            assert dataset.attrs == {name: root[name] for name in ("classes", "bands", "mean", "std")}


def test_the_arrays_are_those_of_the_list(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    write_version(uri, three_splits(5000, 2, 2, side=2), side=2)
    train = open_version(uri).split("train")
    specs = {spec.name: spec for spec in ARRAYS}
    assert set(train.group.array_keys()) == specs.keys() - {"cloud_mask"}
    for name, array in train.group.arrays():
        spec = specs[name]
        assert array.metadata.dimension_names == spec.dimensions
        assert array.attrs["long_name"] == spec.meaning
        assert array.chunks[0] == (16 if name in ("image", "mask") else 4096)
    assert train.group["class_fraction"].attrs["class"] == ["background", "building"]
    assert train.group["image"].attrs["bands"] == ["red", "green", "blue"]


def test_versions_are_numbered_and_old_ones_stay(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    write_version(uri, three_splits(4, 1, 1))
    write_version(uri, three_splits(5, 1, 1))
    assert [info.version for info in versions(uri)] == ["v1", "v2"]
    assert [info.message for info in versions(uri)] == ["v1: 6 samples", "v2: 7 samples"]
    assert versions(uri)[1].metadata == {
        "version": "v2",
        "content_hash": "c",
        "recipe_hash": "r",
        "software_version": "tilewright test",
        "train": 5,
        "validation": 1,
        "test": 1,
    }
    assert len(open_version(uri, "v1").split("train")) == 4
    assert len(open_version(uri).split("train")) == 5
    assert open_version(uri).attributes["version"] == "v2"
    assert open_version(uri).attributes["schema_version"] == SCHEMA_VERSION
    with pytest.raises(StoreError, match=r"no version 'v7'; there are v1, v2"):
        open_version(uri, "v7")
    with pytest.raises(StoreError, match=r"no split 'dev'; there are test, train, validation"):
        open_version(uri).split("dev")


def test_nothing_is_visible_before_the_commit(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    write_version(uri, three_splits(4, 1, 1))
    plan = planned(uri, three_splits(9, 1, 1), layout())
    draft = Draft.begin(uri, plan)
    for block in plan.blocks:
        draft.write(block, pixels)
    assert [info.version for info in versions(uri)] == ["v1"]
    assert len(open_version(uri).split("train")) == 4


def test_a_block_that_was_not_written_keeps_the_version_from_being_committed(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    plan = planned(uri, three_splits(600, 1, 1), layout())
    draft = Draft.begin(uri, plan)
    written = [draft.write(block, pixels) for block in plan.blocks]
    with pytest.raises(StoreError, match="store: train was not written whole; run the same command again"):
        draft.commit([written[0], *written[2:]], ATTRIBUTES)
    assert versions(uri) == []


def test_a_commit_whose_process_died_before_the_tag_is_healed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "store")

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(icechunk.Repository, "create_tag", dies)
        with pytest.raises(KeyboardInterrupt):
            write_version(uri, three_splits(4, 1, 1))
    assert versions(uri) == []
    with pytest.raises(StoreError, match="holds no version yet"):
        open_version(uri)
    heal_tags(open_or_create(uri))
    assert [info.version for info in versions(uri)] == ["v1"]


@pytest.mark.parametrize(("deleted", "left"), [(["v2"], ["v1", "v3"]), (["v1", "v2"], ["v3"]), (["v1"], ["v2", "v3"])])
def test_a_tag_that_was_deleted_by_hand_is_no_obstacle_and_never_used_again(
    tmp_path: Path, deleted: list[str], left: list[str]
) -> None:
    uri = str(tmp_path / "store")
    for count in (4, 5):
        write_version(uri, three_splits(count, 1, 1))
    repository = open_repository(uri)
    for tag in deleted:
        repository.delete_tag(tag)
    heal_tags(repository)
    write_version(uri, three_splits(6, 1, 1))
    assert [info.version for info in versions(uri)] == left
    assert len(open_version(uri).split("train")) == 6


def test_numbers_grow_beyond_what_an_older_program_reused(tmp_path: Path) -> None:
    """It counted tags alone: after v2 and v3 were deleted it made v2 again, of which Icechunk would set no tag."""
    uri = str(tmp_path / "store")
    for _ in range(3):
        write_version(uri, three_splits(4, 1, 1))
    repository = open_repository(uri)
    repository.delete_tag("v2")
    repository.delete_tag("v3")
    session = repository.writable_session("main")
    zarr.open_group(session.store).update_attributes({"version": "v2"})
    session.commit("v2: by an older program", metadata={"version": "v2"})
    write_version(uri, three_splits(5, 1, 1))
    assert [info.version for info in versions(uri)] == ["v1", "v4"]


def test_an_error_that_is_no_deleted_tag_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "store")
    write_version(uri, three_splits(4, 1, 1))
    repository = open_repository(uri)
    repository.delete_tag("v1")

    def refuses(*_: Any) -> None:
        raise icechunk.IcechunkError("access denied")

    monkeypatch.setattr(icechunk.Repository, "create_tag", refuses)
    with pytest.raises(icechunk.IcechunkError, match="access denied"):
        heal_tags(repository)


def test_two_writers_of_one_store_do_not_both_win(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    plan = planned(uri, three_splits(4, 1, 1), layout())
    drafts = [Draft.begin(uri, plan) for _ in range(2)]
    written: list[list[Written]] = [[draft.write(block, pixels) for block in plan.blocks] for draft in drafts]
    drafts[0].commit(written[0], ATTRIBUTES)
    with pytest.raises(StoreError, match="another build committed"):
        drafts[1].commit(written[1], ATTRIBUTES)
    with pytest.raises(StoreError, match="another build committed"):
        Draft.begin(uri, plan)


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


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 4, 13])
def test_windows_of_any_kind_are_read_as_written(tmp_path: Path, dtype: str, bands: int) -> None:
    uri, random = str(tmp_path / "store"), np.random.default_rng(bands)
    shape = (bands, 12, 20)
    names = [f"scene/{n}-0" for n in range(5)]
    values = {name: (random.random(shape) * 40_000 - 10_000 * (dtype[0] != "u")).astype(dtype) for name in names}
    clouds = {name: random.random(shape[1:]) < 0.5 for name in names}
    lies = Georeference("EPSG:32633", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))
    kind = Layout(
        bands=tuple(f"B{n}" for n in range(bands)),
        dtype=dtype,
        height=12,
        width=20,
        classes=("other", "water", "road"),
        cloud_mask=True,
        building=False,
    )
    samples = [
        Sample(name, "m", "s", 0.0, 5, (0.5, 0.25, 0.25), None, 0.5 if n else None, 7 if n else None, "item")
        for n, name in enumerate(names)
    ]
    rows = [Row(one, "scene", None if one.name == names[1] else lies) for one in samples]
    mask = np.full(shape[1:], 2, dtype=np.uint8)
    plan = planned(uri, {"train": rows}, kind)
    write_plan(uri, plan, lambda one: Pixels(values[one.name], mask, clouds[one.name]))
    version = open_version(uri)
    train = version.split("train")
    stack = np.stack([values[name] for name in train.sample_id])
    assert train.image.dtype == np.dtype(dtype)
    assert np.array_equal(np.asarray(train.image[:]), stack)
    assert train.cloud_mask is not None
    assert np.array_equal(np.asarray(train.cloud_mask[:]), np.stack([clouds[name] for name in train.sample_id]))
    assert np.allclose(version.attributes["mean"], stack.astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-9)
    assert np.allclose(version.attributes["std"], stack.astype(np.float64).std(axis=(0, 2, 3)), rtol=1e-6)
    assert list(train.array("crs")) == ["EPSG:32633", "", *["EPSG:32633"] * 3]
    assert np.isnan(train.array("transform")[1]).all()
    assert tuple(train.array("transform")[0]) == lies.transform
    assert np.isnan(train.array("bounds")[1]).all()
    assert np.allclose(train.array("bounds")[0][:2], (15.0, 45.15), atol=0.01)
    assert np.isnan(train.array("cloud_fraction")[0])
    assert train.array("class_fraction").tolist() == [[0.5, 0.25, 0.25]] * 5
    assert list(train.array("origin")) == ["item"] * 5
    assert train.unit_of == ["scene"] * 5
    assert "building_fraction" not in train
    assert "tile" not in train
    session = open_repository(uri).readonly_session(tag="v1")
    dataset = xarray.open_zarr(session.store, group="train")
    assert np.isnat(dataset.acquired_at.values[0])
    assert str(dataset.acquired_at.values[1]) == "1970-01-01T00:00:07.000000000"


def test_clouds_that_a_sample_does_not_tell_are_none(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    plan = planned(uri, three_splits(3, 0, 0), layout(cloud_mask=True))
    write_plan(uri, plan, pixels)
    clouds = open_version(uri).split("train").cloud_mask
    assert clouds is not None
    assert not np.asarray(clouds[:]).any()


def test_tiles_have_a_georeference(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    write_version(uri, three_splits(3, 1, 1))
    train = open_version(uri).split("train")
    for i, name in enumerate(train.sample_id):
        tile = Tile.parse(name)
        assert np.allclose(train.array("bounds")[i], lonlat_bounds(tile), rtol=0, atol=1e-9)
        assert tuple(train.array("transform")[i]) == tile_georeference(tile, 16).transform
        assert train.unit_of[i] == tile.parent(17).name
        assert tuple(train.array("tile")[i]) == tile
    assert np.isnan(train.array("class_fraction")).all()
    # What a slippy map does not tell is there all the same, so that whoever reads need not ask for the kind.
    assert np.isnan(train.array("cloud_fraction")).all()
    assert list(train.array("origin")) == [""] * 3
    assert (train.array("acquired_at") == np.iinfo(np.int64).min).all()


def test_one_sample_that_is_no_tile_leaves_the_tiles_out(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    rows = three_splits(3, 1, 1)
    rows["test"] = [rows["test"][0]._replace(georeference=None)]
    write_version(uri, rows)
    version = open_version(uri)
    assert not any("tile" in version.split(split) for split in SPLITS)


def test_a_store_whose_making_was_cut_short_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, made = str(tmp_path / "store"), icechunk.Repository.create

    def dies(storage: icechunk.Storage, **given: Any) -> None:
        made(storage, **given)
        raise KeyboardInterrupt

    monkeypatch.setattr(icechunk.Repository, "create", dies)
    with pytest.raises(KeyboardInterrupt):
        open_or_create(uri)
    monkeypatch.undo()
    assert not (tmp_path / "store").exists()
    write_version(uri, three_splits(4, 1, 1))
    assert [info.version for info in versions(uri)] == ["v1"]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_goes_wrong_with_a_sample_or_with_the_disk_ends_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(str(tmp_path / "store"), three_splits(100, 1, 1), layout())
    draft = Draft.begin(str(tmp_path / "store"), plan)

    def damaged(one: Sample) -> Pixels:
        if one.name == "20/70/7":
            raise DiskError("the image on disk is not the one that was staged")
        return pixels(one)

    with pytest.raises(DiskError, match="not the one that was staged"):
        draft.write(plan.blocks[0], damaged)

    async def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.AsyncArray, "setitem", full)
        with pytest.raises(DiskError, match="store: the disk is full"):
            draft.write(plan.blocks[0], pixels)
    written = [draft.write(block, pixels) for block in plan.blocks]  # and can be written again
    draft.commit(written, ATTRIBUTES)
    stored = open_version(str(tmp_path / "store")).split("train").image
    assert np.array_equal(np.asarray(stored[70]), pixels(plan.rows["train"][70].sample).image)
