"""``tilewright export`` as a user meets it."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from tests.support.commands import Tilewright, assert_told, tilewright_started
from tests.support.stores import draw, utm, write_store


@pytest.fixture
def store(tmp_path: Path) -> str:
    for seed in (1, 2):
        splits = {"train": draw(["a/0", "a/1"], seed=seed, **utm(2)), "test": draw(["b/0"], seed=seed, **utm(1))}
        write_store(tmp_path / "store", splits, bands=["red", "green", "blue"])
    return str(tmp_path / "store")


def test_pictures_of_a_pinned_version(store: str, tmp_path: Path) -> None:
    result = tilewright_started("export", f"{store}@v1", "--format", "png", "--out", str(tmp_path / "out"), "--json")
    assert (result.returncode, result.stderr) == (0, "")
    summary = json.loads(result.stdout)
    assert summary["splits"] == {"train": 2, "validation": 0, "test": 1}
    assert (summary["version"], summary["files"]) == ("v1", 11)
    with Image.open(tmp_path / "out/train/masks/a_1.png") as mask:
        assert np.array_equal(np.asarray(mask), draw(["a/0", "a/1"], seed=1).mask[1])


def test_geotiffs_of_one_split_for_a_person(store: str, tmp_path: Path, tilewright: Tilewright) -> None:
    result = tilewright("export", store, "--format", "geotiff", "--out", str(tmp_path / "out"), "--split", "test")
    assert (result.returncode, result.stderr) == (0, "")
    assert "v2 exported to" in result.stdout
    assert "test 1" in result.stdout
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["dataset.json", "samples.csv", "test"]
    with rasterio.open(tmp_path / "out/test/images/b_0.tif") as image:
        assert image.crs.to_epsg() == 32633
        assert np.array_equal(image.read(), draw(["b/0"], seed=2).image[0])


@pytest.mark.parametrize(
    ("words", "parts", "code"),
    [
        (["{store}@v9"], ["no version 'v9'; there are v1, v2"], 1),
        (["{store}-none"], ["no store there; give the path of one, or build it first"], 1),
        (["{store}", "--split", "train", "--split", "val"], ["no split 'val'; there are test, train, validation"], 1),
        (["{store}", "--format", "jpg"], ["Invalid value for '--format'", "png", "geotiff"], 2),
    ],
)
def test_bad_input_is_told(
    store: str, tmp_path: Path, tilewright: Tilewright, words: list[str], parts: list[str], code: int
) -> None:
    filled = [word.format(store=store) for word in words]
    assert_told(tilewright("export", *filled, "--out", str(tmp_path / "out")), *parts, code=code)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_told(store: str, tilewright: Tilewright) -> None:
    assert_told(tilewright("export", store, "--out", store), f"{store}: is not empty (it holds", "choose another --out")
