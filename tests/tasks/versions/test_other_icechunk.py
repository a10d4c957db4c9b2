"""Stores that one Icechunk wrote and the other went on with are read and gone on with by whichever is installed.

tests/data/README.md says how they were made: with :func:`write_version` below, its first version by one major, its
second by the other. With the tests on Python 3.11 (Icechunk 1) and on a later one (Icechunk 2) both ways are tried.
"""

import hashlib
import tarfile
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from tasks.errors import StoreError
from tasks.geo.georeference import tile_georeference
from tasks.geo.tiles import Tile
from tasks.state.ledger import Sample
from tasks.versions.plan import Row
from tasks.versions.read import open_repository, open_version, storage_of, versions
from tasks.versions.schema import SPLITS, Layout
from tasks.versions.write import Pixels, heal_tags, open_or_create
from tests.support.versions import planned, write_plan

FOLDER = Path(__file__).parents[2] / "data" / "icechunk"
SIDE = 8
LAYOUT = Layout(
    bands=("red", "nir"), dtype="uint16", height=SIDE, width=SIDE, classes=("background", "building"), cloud_mask=True
)


def pixels(sample: Sample) -> Pixels:
    """Of a sample, by arithmetic: the same whatever the versions of the libraries."""
    seed = Tile.parse(sample.name).x
    image = (np.arange(2 * SIDE * SIDE, dtype=np.uint32) * 7919 + seed * 104_729) % 60_000
    mask = (np.arange(SIDE * SIDE, dtype=np.uint32) + seed) % 3 == 0
    image, mask = image.astype(np.uint16).reshape(2, SIDE, SIDE), mask.reshape(SIDE, SIDE)
    return Pixels(image, mask.astype(np.uint8), ~mask)


def rows(number: int) -> dict[str, list[Row]]:
    """Of the version of that number: its own number of samples in train, of which the first is another every time."""
    columns = {"train": range(number, 6 + 2 * number), "validation": range(40, 43), "test": range(50, 52)}
    found = {}
    for split in SPLITS:
        tiles = [Tile(18, x, 5) for x in columns[split]]
        found[split] = [
            Row(Sample(tile.name, "m", "s", 0.0, 1_700_000_000 + tile.x, origin=f"ü/{tile.x}"), "u", georeference)
            for tile in tiles
            for georeference in (tile_georeference(tile, SIDE),)
        ]
    return found


def write_version(store: Path, number: int) -> None:
    """Write that version of a store; version 1 makes it."""
    plan = planned(str(store), rows(number), LAYOUT, content=f"content {number}")
    assert plan.number == number
    write_plan(str(store), plan, pixels, ignore_index=255)


def assert_holds(store: Path, number: int) -> None:
    """That the store holds that version, every array as it was written."""
    version = open_version(str(store), f"v{number}")
    assert version.attributes["bands"] == list(LAYOUT.bands)
    assert version.ignore_index == 255
    for split, expected in rows(number).items():
        arrays = version.split(split)
        assert arrays.sample_id == [row.sample.name for row in expected]
        assert list(arrays.array("origin")) == [row.sample.origin for row in expected]
        assert arrays.array("fetched_at").tolist() == [row.sample.fetched_at for row in expected]
        assert np.isnan(arrays.array("cloud_fraction")).all()
        assert arrays.cloud_mask is not None
        for i, row in enumerate(expected):
            made = pixels(row.sample)
            assert np.array_equal(arrays.image[i], made.image)
            assert np.array_equal(arrays.mask[i], made.mask)
            assert np.array_equal(arrays.cloud_mask[i], made.cloud_mask)
            assert bytes(arrays.array("image_sha256")[i]) == hashlib.sha256(made.image.tobytes()).digest()


def files(store: Path) -> dict[str, bytes]:
    """All files of a store."""
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def assert_format_1(store: Path) -> None:
    """That it is of the format that Icechunk 1 reads: what 2 makes has no folder of references, but one file of all."""
    assert {name.split("/")[0] for name in files(store)} == {"manifests", "refs", "snapshots", "transactions", "chunks"}
    if hasattr(icechunk, "SpecVersion"):
        assert open_repository(str(store)).spec_version == 1


@pytest.fixture(params=["1-then-2", "2-then-1"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return unpack(request.param, tmp_path)


def unpack(name: str, folder: Path) -> Path:
    with tarfile.open(FOLDER / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "store"


def test_they_are_read_and_stay_as_they_are(store: Path) -> None:
    before = files(store)
    assert [info.version for info in versions(str(store))] == ["v1", "v2"]
    for number in (1, 2):
        assert_holds(store, number)
    assert_format_1(store)
    assert files(store) == before


def test_they_are_gone_on_with_in_their_format(store: Path) -> None:
    before = files(store)
    for number in (3, 4):
        write_version(store, number)
    for number in (1, 2, 3, 4):
        assert_holds(store, number)
    assert_format_1(store)
    after = files(store)
    assert {name for name in before if after.get(name) != before[name]} == {"refs/branch.main/ref.json"}


def test_a_new_store_is_of_the_format_that_both_read(tmp_path: Path) -> None:
    write_version(tmp_path / "store", 1)
    assert_holds(tmp_path / "store", 1)
    assert_format_1(tmp_path / "store")


def test_a_store_that_only_the_newer_reads_is_told_or_read(tmp_path: Path) -> None:
    """Made by Icechunk 2 as it likes, by somebody else's program."""
    store = unpack("format-2", tmp_path)
    if hasattr(icechunk, "SpecVersion"):
        assert zarr.open_group(open_repository(str(store)).readonly_session(tag="v1").store, mode="r").attrs["a"] == 1
        assert open_or_create(str(store)).spec_version == 2
        return
    for read in (open_version, versions, open_or_create):
        with pytest.raises(StoreError, match="store: this repository uses Icechunk v2 format, please upgrade the ice"):
            read(str(store))


@pytest.mark.skipif(not hasattr(icechunk, "SpecVersion"), reason="Icechunk 1 has no other format")
def test_a_store_of_the_newer_format_is_gone_on_with_in_that(tmp_path: Path) -> None:
    """Also where a tag was deleted by hand, which that format refuses in words of its own."""
    store = tmp_path / "store"
    icechunk.Repository.create(storage_of(str(store)), spec_version=2)
    for number in (1, 2):
        write_version(store, number)
    open_repository(str(store)).delete_tag("v2")
    heal_tags(open_repository(str(store)))
    write_version(store, 3)
    assert [info.version for info in versions(str(store))] == ["v1", "v3"]
    for number in (1, 3):
        assert_holds(store, number)
    assert open_repository(str(store)).spec_version == 2
