"""Whole builds over label rasters that lie on another grid than their images."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from rasterio import Affine

from tasks.errors import LabelError
from tasks.versions.read import open_version
from tests.support.builds import run_build
from tests.tasks.raster.made import TRANSFORM, noise, write_raster


def site(folder: Path, moved: float) -> Path:
    """Three scenes of 64 x 64 in two folders; their labels are 96 x 96, shifted by so many columns."""
    for number, part in enumerate(("train", "train", "val")):
        write_raster(folder / f"{part}/images/s{number}.tif", noise(3, 64, 64, seed=number))
        place = TRANSFORM * Affine.translation(moved - 16, -16)
        write_raster(folder / f"{part}/gt/s{number}.tif", noise(96, 96, seed=number) % np.uint8(2), transform=place)
    recipe = {
        "name": "made-up",
        "title": "Made up",
        "imagery": {
            "source": "scenes",
            "images": "*/images/{scene}.tif",
            "bands": ["red", "green", "blue"],
            "windows": {"size": 40, "padding": 4, "edge": "pad"},
        },
        "labels": {"source": "rasters", "path": "*/gt/{scene}.tif", "align": "nearest"},
        "classes": [
            {"name": "other", "value": 0, "color": "#000000"},
            {"name": "building", "value": 1, "color": "#ffffff"},
        ],
        "splits": {"by": "scene", "groups": {"validation": ["s1"], "test": ["s2"]}},
    }
    path = folder / "made-up.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("moved", [0.0, 0.3, 1.0])
def test_masks_lie_where_the_images_do(tmp_path: Path, moved: float) -> None:
    recipe = site(tmp_path, moved)
    with pytest.raises(LabelError, match=r"scene s0: .*train/gt/s0\.tif is 96x96 pixels, .*Set labels\.align: nearest"):
        run_build(recipe, tmp_path / "refused", ["labels.align=exact"])
    run_build(recipe, tmp_path / "store")
    seen = 0
    for split in ("train", "validation", "test"):
        arrays = open_version(str(tmp_path / "store")).split(split)
        for name, mask in zip(arrays.sample_id, np.asarray(arrays.mask[:]), strict=True):
            scene, _, place = name.partition("/")
            row, column = (int(part) - 4 for part in place.split("-"))
            labels = noise(96, 96, seed=int(scene[1:])) % np.uint8(2)
            down, along = np.arange(row, row + 40), np.arange(column, column + 40)
            columns = np.floor(along + 0.5 - moved + 16).astype(int)
            wanted = np.pad(labels, 64, mode="edge")[np.ix_(down + 16 + 64, columns + 64)]
            core = np.zeros((40, 40), dtype=bool)
            core[4:36, 4:36] = True
            core &= ((down >= 0) & (down < 64))[:, None] & ((along >= 0) & (along < 64))[None, :]
            assert np.array_equal(mask, np.where(core, wanted, 255))
            seen += 1
    assert seen == 3 * 4
