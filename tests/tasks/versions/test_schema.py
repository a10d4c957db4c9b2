"""The list of arrays, and how samples are cut into chunks."""

import dataclasses
import pickle
from typing import Any

import pytest

from tasks.state.ledger import Sample
from tasks.versions import read
from tasks.versions.plan import Row
from tasks.versions.schema import ARRAYS, READABLE, SCHEMA_VERSION, Layout, table


def layout(side: int, **changes: Any) -> Layout:
    made = Layout(("red", "green", "blue"), "uint8", side, side, ("background", "building"))
    return dataclasses.replace(made, **changes)


def test_large_samples_get_small_chunks() -> None:
    assert layout(224).samples_per_chunk == 16
    assert layout(512).samples_per_chunk == 16
    assert layout(512, bands=tuple("abcdefghijklm"), dtype="uint16").samples_per_chunk == 2
    assert layout(4096, dtype="float32").samples_per_chunk == 1


def test_what_is_known_of_samples_stands_in_chunks_of_its_own() -> None:
    specs = {spec.name: spec for spec in ARRAYS}
    made = layout(64, classes=("a", "b", "c"))
    assert specs["image"].chunks(10_000, made) == (16, 3, 64, 64)
    assert specs["mask"].chunks(10_000, made) == (16, 64, 64)
    assert specs["class_fraction"].shape(10_000, made) == (10_000, 3)
    assert specs["class_fraction"].chunks(10_000, made) == (4096, 3)
    assert specs["image_sha256"].chunks(10, made) == (10, 32)
    assert specs["sample_id"].chunks(0, made) == (1,)


def test_a_layout_can_be_handed_on() -> None:
    made = layout(64, cloud_mask=True)
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(made) == hash(layout(64, cloud_mask=True))


def test_names_stand_once_and_columns_are_those_of_a_row() -> None:
    names = [spec.name for spec in ARRAYS] + [spec.formerly for spec in ARRAYS if spec.formerly]
    assert len(set(names)) == len(names)
    for spec in ARRAYS:
        holder, _, attribute = spec.column.partition(".")
        assert not holder or holder in Row._fields
        assert not attribute or attribute in Sample.__dataclass_fields__


@pytest.mark.parametrize(
    ("changes", "tiles", "missing"),
    [
        ({}, True, {"cloud_mask"}),
        ({"cloud_mask": True}, False, {"tile"}),
        ({"building": False}, True, {"cloud_mask", "building_fraction"}),
    ],
)
def test_which_arrays_are_there(changes: dict[str, Any], tiles: bool, missing: set[str]) -> None:
    assert {spec.name for spec in ARRAYS if not spec.is_there(layout(16, **changes), tiles)} == missing


def test_the_list_is_what_the_reader_says_of_itself() -> None:
    assert READABLE[-1] == SCHEMA_VERSION
    lines = table().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split("`")[1] for line in lines[2:]] == [spec.name for spec in ARRAYS]
    assert table() in str(read.__doc__)
