"""References, versions of older schemas by the present names, and what reading drags in: little."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from tasks.errors import StoreError
from tasks.versions.read import Previous, next_number, open_repository, open_version, parse_reference, previous_of
from tasks.versions.schema import SPLITS
from tasks.versions.write import open_or_create
from tests.support.continued import unpack
from tests.support.stores import IGNORE, Split, draw, write_store


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://bucket"])
def test_a_uri_of_another_kind_is_told(uri: str) -> None:
    with pytest.raises(StoreError, match="expected"):
        open_version(uri)


def test_references() -> None:
    assert parse_reference("stores/x@v12") == ("stores/x", "v12")
    assert parse_reference("stores/x") == ("stores/x", None)
    assert parse_reference("s3://user@host/x") == ("s3://user@host/x", None)


@pytest.mark.parametrize(
    ("name", "ignore_index", "has", "has_not"),
    [
        ("schema-1", None, {"tile", "building_fraction"}, {"group", "crs", "class_fraction", "cloud_mask"}),
        ("schema-2-tiles", None, {"tile", "class_fraction", "group"}, {"cloud_mask", "image_sha256", "origin"}),
        ("schema-2-windows", 255, {"class_fraction", "cloud_mask", "origin"}, {"tile", "source_sha256"}),
    ],
)
def test_older_schemas_are_read_by_the_present_names(
    tmp_path: Path, name: str, ignore_index: int | None, has: set[str], has_not: set[str]
) -> None:
    version = open_version(str(unpack(name, tmp_path).store))
    assert version.root.attrs["schema_version"] == int(name.split("-")[1])
    assert version.ignore_index == version.attributes.get("ignore_index") == ignore_index
    assert "ignore" not in version.attributes
    for split in SPLITS:
        arrays = version.split(split)
        assert len(arrays) == len(arrays.sample_id) == len(arrays.array("fetched_at"))
        assert all(array in arrays for array in has)
        assert not any(array in arrays for array in has_not)
        assert len(arrays.unit_of) == (0 if name == "schema-1" else len(arrays))
        assert (arrays.cloud_mask is None) == ("cloud_mask" in has_not)
        if arrays.cloud_mask is not None:
            assert arrays.cloud_mask.shape == arrays.mask.shape
        if "class_fraction" in has:
            fractions = arrays.array("class_fraction")
            assert fractions.shape == (len(arrays), len(version.attributes["classes"]))
            assert np.array_equal(fractions, arrays.group["class_share"][:])


def test_an_array_that_is_not_there_is_told(tmp_path: Path) -> None:
    arrays = write_store(tmp_path / "store", {"train": draw(["a"])}).split("train")
    with pytest.raises(StoreError, match=r"train/origin: no such array in this version; there are crs, image, mask"):
        arrays.array("origin")


def test_a_schema_of_the_future_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="store@v1: schema 4, this program reads 3; use the program that wrote it"):
        write_store(tmp_path / "store", {"train": draw(["a"])}, schema=4)


@pytest.mark.parametrize("schema", [1, 2, 3])
@pytest.mark.parametrize("ignore_index", [None, IGNORE])
def test_the_ignore_index_whatever_it_is_called(tmp_path: Path, schema: int, ignore_index: int | None) -> None:
    version = write_store(tmp_path / "store", {"train": draw(["a"])}, schema=schema, ignore_index=ignore_index)
    assert version.ignore_index == ignore_index


def test_a_store_without_versions_is_gone_on_from_its_beginning(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    assert previous_of(uri, open_or_create(uri)) == Previous(1)


@pytest.mark.parametrize("name", ["schema-1", "schema-2-tiles", "schema-2-windows"])
def test_what_the_next_version_goes_on_from(tmp_path: Path, name: str) -> None:
    store = str(unpack(name, tmp_path).store)
    previous, newest = previous_of(store, open_repository(store)), open_version(store, "v2")
    assert previous.number == 3
    assert previous.newest is not None
    assert (previous.newest.version, previous.newest.snapshot) == ("v2", newest.snapshot)
    assert {split: list(names) for split, names in previous.names.items()} == {
        split: newest.split(split).sample_id for split in SPLITS
    }
    units = {unit for _, unit, _ in previous.members()}
    assert units == {""} if name == "schema-1" else "" not in units
    assert len(list(previous.members())) == sum(len(newest.split(split)) for split in SPLITS)


def test_tags_and_branches_of_others_do_not_count(tmp_path: Path) -> None:
    write_store(tmp_path / "store", {"train": draw(["a"])})
    repository = open_repository(str(tmp_path / "store"))
    assert next_number(repository) == 2
    repository.create_tag("v9-rc1", repository.lookup_tag("v1"))
    repository.create_tag("best", repository.lookup_tag("v1"))
    assert next_number(repository) == 2
    session = repository.writable_session("main")
    zarr.open_group(session.store).update_attributes({"note": "by hand"})
    session.commit("by hand", metadata={"version": "v7"})
    assert next_number(repository) == 8


@pytest.mark.parametrize("module", ["training.module", "tasks.versions.read", "tasks.versions.schema"])
def test_importing_a_reader_drags_in_no_build(module: str) -> None:
    heavy = ["shapely", "rasterio", "prefect", "tasks.recipe.model", "tasks.recipe.parts", "tasks.versions.write"]
    heavy += ["icechunk", "zarr", "pydantic"] if module == "tasks.versions.schema" else []
    heavy += ["torch"] if module.startswith("tasks.") else []
    script = f"import sys, {module}; print(sorted(sys.modules.keys() & set({heavy!r})))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# ---- damage -------------------------------------------------------------------------------------


def chunk_files(store: Path) -> list[Path]:
    """Those of pixels, the largest first."""
    files = sorted((store / "chunks").iterdir(), key=lambda path: path.stat().st_size, reverse=True)
    return files


def hashed(count: int) -> dict[str, Split]:
    """A train split with hashes."""
    made = draw([f"a/{i}" for i in range(count)], shape=(32, 32))
    hashes = {
        f"{name}_sha256": np.array([list(hashlib.sha256(one.tobytes()).digest()) for one in pixels], dtype=np.uint8)
        for name, pixels in (("image", made.image), ("mask", made.mask))
    }
    return {"train": replace(made, more=hashes)}


def read_all(store: Path) -> None:
    arrays = open_version(str(store)).split("train")
    arrays.samples(slice(0, len(arrays)))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_chunk_is_told(tmp_path: Path, damage: str) -> None:
    store = tmp_path / "store"
    write_store(store, hashed(12))
    read_all(store)
    for path in chunk_files(store)[:6]:
        before = path.read_bytes()
        if damage == "flip":
            middle = len(before) // 2
            path.write_bytes(before[:middle] + bytes(8) + before[middle + 8 :])
        elif damage == "gone":
            path.unlink()
        else:
            path.write_bytes(before[: len(before) // 2 if damage == "cut" else 0])
        if path.is_file() and path.read_bytes() == before:
            continue  # there were eight zeros
        with pytest.raises(StoreError, match=str(store)) as caught:
            read_all(store)
        assert "\n" not in str(caught.value)
        path.write_bytes(before)
    read_all(store)


def test_a_changed_sample_is_named(tmp_path: Path) -> None:
    """Bytes that decode, and are not those that were written."""
    store = tmp_path / "store"
    write_store(store, hashed(12))
    repository = open_repository(str(store))
    session = repository.writable_session("main")
    group = zarr.open_group(session.store, mode="r+")
    mask = group["train/mask"]
    assert isinstance(mask, zarr.Array)
    mask[3, 4, 5] = 1 - np.asarray(mask[3, 4, 5])
    snapshot = session.commit("by hand", metadata={"version": "v7"})
    repository.create_tag("v7", snapshot)
    arrays = open_version(str(store), "v7").split("train")
    arrays.samples(slice(0, 3))
    arrays.samples(slice(4, len(arrays)))
    with pytest.raises(StoreError, match=f"@v7, train: the mask of sample {arrays.sample_id[3]} is not the one"):
        arrays.samples(slice(2, 6))
    assert len(arrays.samples(slice(2, 6), check=False).masks) == 4


# ---- forks --------------------------------------------------------------------------------------

_FORKED = """
import os, sys
from tasks.versions.read import open_version
from tasks.errors import StoreError

def read(version):
    try:
        version = version or open_version(sys.argv[1])
        arrays = version.split("train")
        arrays.samples(slice(0, 2))
        return "read"
    except StoreError as error:
        return str(error)

before = open_version(sys.argv[1]) if sys.argv[2] == "before" else None
for version in (before, None):
    child = os.fork()
    if not child:
        print(read(version), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("when", ["before", "in the child"])
def test_a_forked_child_reads_or_refuses_and_never_hangs(tmp_path: Path, when: str) -> None:
    """PyTorch's loader forks its workers on Linux."""
    write_store(tmp_path / "store", hashed(4))
    command = [sys.executable, "-c", _FORKED, str(tmp_path / "store"), when]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    for line in result.stdout.splitlines():
        # Icechunk 2 starts its threads when it is imported.
        reads = when == "in the child" and not hasattr(icechunk, "SpecVersion")
        assert line == "read" if reads else "multiprocessing_context" in line
    assert len(result.stdout.splitlines()) == 2
