"""Builds of real scenes and chips, from recipe to version."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
import yaml

from tasks.errors import NothingSelectedError
from tasks.versions.read import open_version
from tests.real.test_stac import CLOUDY, DROP, KEYS, Scenes, scenes
from tests.support.builds import run_build

__all__ = ["scenes"]  # a fixture

pytestmark = pytest.mark.real

CLASSES = [
    {"name": "background", "value": 0, "color": "#000000"},
    {"name": "building", "value": 1, "color": "#ffffff"},
]


def write(folder: Path, **values: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "real", "title": "Real", "classes": CLASSES, **values}))
    return path


def test_the_48_chips_of_banepa_pass_and_are_drawn_exactly(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "geotiff" / "banepa" / "train"
    recipe = write(
        tmp_path,
        imagery={
            "source": "scenes",
            "images": f"{folder}/images/{{scene}}.tif",
            "bands": ["red", "green", "blue"],
            "windows": {"size": 512},
        },
        labels={"source": "vector", "path": f"{folder}/buildings.geojson"},
        filter={"min_building_fraction": 0.15},
    )
    summary = run_build(recipe, tmp_path / "store")
    assert (summary.candidates, summary.selected, summary.accepted) == (48, 48, 48)
    version = open_version(str(tmp_path / "store"))
    footprints = [
        shapely.geometry.shape(feature["geometry"])
        for feature in json.loads((folder / "buildings.geojson").read_text())["features"]
    ]
    fractions = []
    for split in ("train", "validation", "test"):
        arrays = version.split(split)
        images, masks = np.asarray(arrays.image[:]), np.asarray(arrays.mask[:])
        for i, name in enumerate(arrays.sample_id):
            with rasterio.open(folder / "images" / f"{name}.tif") as file:
                assert np.array_equal(images[i], file.read())
                assert arrays.array("crs")[i] == "EPSG:4326"
                assert tuple(arrays.array("transform")[i]) == tuple(file.transform)[:6]
                here = shapely.box(*file.bounds)
                drawn = rasterio.features.rasterize(
                    [one for one in footprints if one.intersects(here)], file.shape, transform=file.transform
                )
            assert np.array_equal(masks[i], drawn)
            fractions.append(float(arrays.array("building_fraction")[i]))
    assert 0.205 < min(fractions) < 0.215
    assert 0.675 < max(fractions) < 0.685


def test_atlanta_fails_at_15_percent_and_passes_at_1(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "spacenet"
    recipe = write(
        tmp_path,
        imagery={
            "source": "scenes",
            "images": f"{folder}/{{scene}}-pan.tif",
            "bands": ["pan"],
            "windows": {"size": 900},
        },
        labels={"source": "vector", "path": f"{folder}/atlanta-buildings.geojson"},
        filter={"min_building_fraction": 0.15},
    )
    with pytest.raises(NothingSelectedError, match=r"(?s)no window passes.*would pass: 1 at 0\.03"):
        run_build(recipe, tmp_path / "store")
    summary = run_build(recipe, tmp_path / "store", ["filter.min_building_fraction=0.01"])
    assert summary.accepted == 1
    train = open_version(str(tmp_path / "store")).split("train")
    assert train.image.dtype == np.uint16
    assert 0.035 < train.array("building_fraction")[0] < 0.045
    assert train.array("crs")[0] == "EPSG:32616"


def test_sentinel_2_windows_are_accepted_as_their_scene_classes_say(scenes: Scenes, tmp_path: Path) -> None:
    # A building in every cell of 64 px of 120 m.
    from tasks.geo.georeference import transformer

    back = transformer("EPSG:32633", "EPSG:4326")
    west, north, side = 499_200.0, 5_099_520.0, 64 * 120.0
    cells = [(west + side * column, north - side * row) for row in range(2, 8) for column in range(2, 12)]
    boxes = [shapely.box(x + 1200, y - 3600, x + 3600, y - 1200) for x, y in cells]
    degrees = shapely.transform(boxes, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))
    features = [
        {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(one))} for one in degrees
    ]
    (tmp_path / "made-up.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    recipe = write(
        tmp_path,
        area={"bbox": [15.2, 45.55, 16.1, 45.9]},
        imagery={
            "source": "stac",
            "api": scenes.api,
            "collection": "sentinel-2-l2a",
            "datetime": "2023-08-01/2023-08-31",
            "bands": list(KEYS),
            "cells": {"kind": "utm", "size": 64, "resolution": 120},
            "dates": {"pick": "all"},  # every scene a sample
        },
        labels={"source": "vector", "path": "made-up.geojson"},
        clouds={"mask": "scl", "drop": DROP},
        filter={"min_building_fraction": 0.05},
        splits={"by": "block", "block": 2},
    )
    summary = run_build(recipe, tmp_path / "store")
    version = open_version(str(tmp_path / "store"))
    assert summary.selected == 180
    assert summary.requests["imagery"] > 0
    assert summary.accepted + summary.rejected["clouds"] + summary.rejected.get("nodata", 0) == summary.selected
    origins = []
    for split in ("train", "validation", "test"):
        arrays = version.split(split)
        images, masks = np.asarray(arrays.image[:]), np.asarray(arrays.mask[:])
        for i in range(len(arrays)):
            assert arrays.array("cloud_fraction")[i] == 0
            assert arrays.array("crs")[i] == "EPSG:32633"
            origin = str(arrays.array("origin")[i])
            origins.append(origin)
            transform = rasterio.Affine(*arrays.array("transform")[i])
            with rasterio.open(scenes.folder / origin / "SCL.tif") as file:
                window = rasterio.windows.from_bounds(
                    transform.c, transform.f - side, transform.c + side, transform.f, file.transform
                )
                # The cells lie 300 m off the pixels of the file: what is nearest is the pixel under the centre.
                scl = file.read(1, window=window.round_offsets(), boundless=True, fill_value=0)
            assert not np.isin(scl[1:-1, 1:-1], DROP).any()
            assert images[i].dtype == np.float32
            assert 0 <= np.median(images[i]) < 0.6
            assert masks[i].any()
    assert origins.count(CLOUDY) < 0.3 * len(origins)
    (rule,) = version.attributes["value_rules"]
    assert "boa_offset_applied" in rule
