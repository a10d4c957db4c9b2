"""Acquisitions and pixels of made-up items behind a scripted STAC API."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import pystac
import pytest

from tasks.errors import SourceError
from tasks.geo.georeference import transformer
from tasks.imagery.clouds import cloud_mask, fraction
from tasks.imagery.stac.catalogue import StacCatalogue, grid_of
from tasks.recipe.parts import Clouds
from tasks.samples.window import Window, of_item
from tests.support.catalogues import windows_of
from tests.support.stac_items import NORTH, SCALE, SIDE, STEP, WEST, bbox, cog, item, numbers, recipe, simple
from tests.support.stac_server import ScriptedApi


def place(window: Window, size: int = SIDE) -> tuple[slice, slice]:
    """Where the window lies in a raster that starts at (WEST, NORTH)."""
    assert window.georeference is not None
    transform = window.georeference.transform
    column, row = round((transform[2] - WEST) / STEP), round((NORTH - transform[5]) / STEP)
    return slice(row, row + size), slice(column, column + size)


def test_every_window_is_read_as_the_file_has_it(api: ScriptedApi, tmp_path: Path) -> None:
    values = simple(api)
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        windows = windows_of(catalogue)
        assert len(windows) == 4
        for window in windows:
            (acquisition,) = catalogue.acquisitions(window)
            chip = acquisition.read()
            assert (chip.image[0] == (values[place(window)] * 0.0001).astype(np.float32)).all()
            assert chip.image.dtype == np.float32
            assert not chip.nodata.any()
            assert acquisition.acquired_at == 1_690_884_000
        assert catalogue.requests == 3  # the root, one page, and where the asset lies
        assert catalogue.bands == ("red",)
    assert api.bodies()[0]["collections"] == ["made-up"]
    assert len(api.asked_for("/search")) == 1


def test_the_numbers_are_those_of_odc_stac(api: ScriptedApi, tmp_path: Path) -> None:
    """Windows of another grid, so that both have to resample."""
    simple(api)
    made = recipe(api.url, imagery={"reflectance": False, "cells": {"kind": "tiles", "zoom": 16, "size": 64}})
    plain = pystac.Item.from_dict(api.items[0])
    with StacCatalogue(made, tmp_path) as catalogue:
        window = next(window for window in windows_of(catalogue) if catalogue.acquisitions(window))
        chip = catalogue.acquisitions(window)[0].read()
        grid = grid_of(window)
    with pytest.warns(DeprecationWarning, match="shapely"):
        theirs = odc.stac.load([plain], bands=["red"], geobox=grid, resampling="bilinear")
    assert (theirs.red.values[0] == chip.image[0]).all()
    assert chip.image.any()


def test_threads_share_one_search_and_read_the_same(api: ScriptedApi, tmp_path: Path) -> None:
    values = simple(api)
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue, ThreadPoolExecutor(4) as pool:
        windows = windows_of(StacCatalogue(recipe(api.url), tmp_path)) * 4
        chips = list(pool.map(lambda window: catalogue.acquisitions(window)[0].read(), windows))
    assert len(api.asked_for("/search")) == 2
    for window, chip in zip(windows, chips, strict=True):
        assert (chip.image[0] == (values[place(window)] * 0.0001).astype(np.float32)).all()


def test_acquisitions_come_least_cloudy_first_then_oldest_first(api: ScriptedApi, tmp_path: Path) -> None:
    for seed, day, cloud in ((1, 9, 40.0), (2, 8, 3.0), (3, 7, None), (4, 6, 3.0)):
        simple(api, seed, day=day, cloud=cloud)
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        window = windows_of(catalogue)[0]
        assert [one.id for one in catalogue.acquisitions(window)] == ["item-4", "item-2", "item-1", "item-3"]
        assert [one.id for one in catalogue.acquisitions(of_item(window, "item-1"))] == ["item-1"]


def test_several_dates_of_a_cell_are_windows_of_their_own(api: ScriptedApi, tmp_path: Path) -> None:
    for seed, day in ((1, 9), (2, 8), (3, 7)):
        simple(api, seed, day=day)
    with StacCatalogue(recipe(api.url, imagery={"dates": {"pick": "all"}}), tmp_path) as catalogue:
        windows = windows_of(catalogue)
        assert len({window.name for window in windows}) == len(windows) == 4 * 3
        for window in windows:
            (acquisition,) = catalogue.acquisitions(window)
            assert window.name.endswith(f"@{acquisition.id}")
    for pick, count, expected in (("latest", 2, 2), ("least-cloudy", 5, 3)):  # no more than there are items
        with StacCatalogue(recipe(api.url, imagery={"dates": {"pick": pick, "count": count}}), tmp_path) as catalogue:
            windows = windows_of(catalogue)
            assert len(windows) == 4 * expected
            assert sorted(window.rank for window in windows) == sorted(list(range(expected)) * 4)
            assert len(catalogue.acquisitions(windows[0])) == 3


def test_pages_are_followed_and_doubles_dropped(api: ScriptedApi, tmp_path: Path) -> None:
    api.page = 2
    for seed in range(1, 6):
        simple(api, seed)
    api.items.insert(3, api.items[0])
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        acquisitions = catalogue.acquisitions(windows_of(catalogue)[0])
        assert sorted(acquisition.id for acquisition in acquisitions) == [f"item-{seed}" for seed in range(1, 6)]
        assert catalogue.requests == 4


def test_where_an_item_does_not_reach_is_nodata(api: ScriptedApi, tmp_path: Path) -> None:
    half = numbers(1, SIDE // 2)  # the north-west quarter of the first window
    api.files["/half.tif"] = cog(half)
    api.files["/scl.tif"] = cog(np.full(half.shape, 4, np.uint8))
    api.files["/cld.tif"] = cog(np.zeros(half.shape, np.uint8))
    assets = {"red": f"{api.url}/half.tif", "scl": f"{api.url}/scl.tif", "CLD": f"{api.url}/cld.tif"}
    api.items.append(item("half", assets, bands=SCALE, side=SIDE / 2 * STEP))
    with StacCatalogue(recipe(api.url, clouds={"mask": "scl"}), tmp_path) as catalogue:
        seen = {window.name: catalogue.acquisitions(window) for window in windows_of(catalogue)}
        (acquisition,) = next(acquisitions for acquisitions in seen.values() if acquisitions)
        assert sum(1 for acquisitions in seen.values() if acquisitions) == 1
        chip = acquisition.read()
        covered = np.zeros((SIDE, SIDE), dtype=bool)
        covered[: SIDE // 2, : SIDE // 2] = True
        assert (chip.nodata == ~covered).all()
        assert (chip.image[0][~covered] == 0).all()
        assert (chip.image[0][covered] == (half * 0.0001).astype(np.float32).ravel()).all()
        scl, cld = acquisition.layer("SCL"), acquisition.layer("CLD")
        assert scl is not None
        assert (scl == np.where(covered, 4, 0)).all()
        assert cld is not None  # a probability of 0 is no missing value, though the file says nodata 0
        assert (cld == np.where(covered, 0, 255)).all()
        assert acquisition.layer("cloudmask") is None
        mask = cloud_mask(acquisition, Clouds(mask="scl"))
        assert mask is not None
        assert fraction(mask) == pytest.approx(0.75)


def test_a_file_shorter_than_its_footprint_gives_nodata_only(api: ScriptedApi, tmp_path: Path) -> None:
    api.files["/away.tif"] = cog(numbers(1), west=WEST + 50_000)
    api.items.append(item("away", {"red": f"{api.url}/away.tif"}, bands=SCALE))
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        chip = catalogue.acquisitions(windows_of(catalogue)[0])[0].read()
    assert chip.nodata.all()
    assert not chip.image.any()


def test_one_acquisition_in_two_projections_counts_twice(api: ScriptedApi, tmp_path: Path) -> None:
    """One half comes in the zone of the window, the other in the neighbouring one; none is lost."""
    api.files["/east.tif"] = cog(np.full((128, 64), 5000, np.uint16), west=WEST + SIDE * STEP / 2)
    east, north = transformer("EPSG:32633", "EPSG:32632").transform(WEST, NORTH)
    west32, north32 = east // STEP * STEP - 1000, north // STEP * STEP + 1000
    api.files["/other.tif"] = cog(np.full((400, 400), 3000, np.uint16), west=west32, north=north32, crs="EPSG:32632")
    same = {"bands": SCALE, "day": 3}
    api.items = [
        item("east", {"red": f"{api.url}/east.tif"}, west=WEST + SIDE * STEP / 2, **same),
        item("other", {"red": f"{api.url}/other.tif"}, crs="EPSG:32632", west=west32, north=north32, side=4000, **same),
    ]
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        window = next(w for w in windows_of(catalogue) if w.name == f"32633/{WEST:.0f}-{NORTH:.0f}")
        chips = {one.id: one.read() for one in catalogue.acquisitions(window)}
    assert set(chips) == {"east", "other"}
    assert chips["east"].nodata[:, : SIDE // 2].all()
    assert not chips["east"].nodata[:, SIDE // 2 :].any()
    assert not chips["other"].nodata.any()
    np.testing.assert_allclose(chips["other"].image, 0.3, rtol=1e-6)


def test_items_that_lack_an_asset_are_left_out_and_counted(
    api: ScriptedApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simple(api, 1)
    simple(api, 2)
    api.items[1]["assets"]["green"] = api.items[1]["assets"].pop("red")
    api.items.append({**api.items[0], "id": "flat", "geometry": {"type": "Point", "coordinates": bbox()[:2]}})
    caplog.set_level(logging.WARNING)
    with StacCatalogue(recipe(api.url, area={"bbox": bbox()}), tmp_path) as catalogue:
        assert [one.id for one in catalogue.acquisitions(windows_of(catalogue)[0])] == ["item-1"]
        assert catalogue.windows()[1] == {"without asset red": 1, "without a polygon as geometry": 1}
    assert "1 of" in caplog.text
    assert "without asset red" in caplog.text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bands": ["nir"]}, "no item of made-up has asset 'nir'; there are red"),
        ({"layers": {"SCL": "scene"}}, "no item of made-up has asset 'scene' for SCL; there are red"),
    ],
)
def test_an_asset_that_no_item_has_is_an_error_with_the_keys(
    api: ScriptedApi, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    simple(api)
    made = recipe(api.url, changes.pop("bands", None), imagery=changes)
    with StacCatalogue(made, tmp_path) as catalogue, pytest.raises(SourceError) as caught:
        windows_of(catalogue)
    assert says in " ".join(str(caught.value).split()).replace("an asset", "asset")


def test_a_cloud_layer_that_no_item_has_is_an_error_before_any_window(api: ScriptedApi, tmp_path: Path) -> None:
    simple(api)
    with (
        StacCatalogue(recipe(api.url, clouds={"mask": "scl"}), tmp_path) as catalogue,
        pytest.raises(SourceError, match=r"'SCL' for SCL; there are red; name it, as in layers: \{SCL: scl\}"),
    ):
        windows_of(catalogue)


def test_layers_are_found_by_the_recipes_name(api: ScriptedApi, tmp_path: Path) -> None:
    simple(api)
    api.files["/scene.tif"] = cog(np.full((SIDE, SIDE), 9, np.uint8), step=2 * STEP)
    api.items[0]["assets"]["scene_20m"] = {"href": f"{api.url}/scene.tif"}
    with StacCatalogue(recipe(api.url, imagery={"layers": {"SCL": "scene_20m"}}), tmp_path) as catalogue:
        layer = catalogue.acquisitions(windows_of(catalogue)[0])[0].layer("SCL")
    assert layer is not None
    assert layer.shape == (SIDE, SIDE)
    assert (layer == 9).all()


def test_scene_classes_come_from_the_pixels_and_not_from_averages(api: ScriptedApi, tmp_path: Path) -> None:
    classes = np.where(np.indices((1024, 1024)).sum(axis=0) % 2, 4, 9).astype(np.uint8)
    api.files["/scl.tif"] = cog(classes, overview_resampling="average")
    simple(api, side=1024 * STEP)
    api.items[0]["assets"]["scl"] = {"href": f"{api.url}/scl.tif"}
    made = recipe(api.url, imagery={"cells": {"kind": "utm", "size": 32, "resolution": 8 * STEP}})
    with StacCatalogue(made, tmp_path) as catalogue:
        layer = catalogue.acquisitions(windows_of(catalogue)[0])[0].layer("SCL")
    assert layer is not None
    assert set(np.unique(layer)) <= {0, 4, 9}
    assert (layer > 0).any()


def test_coarser_bands_on_the_same_grid_are_repeated(api: ScriptedApi, tmp_path: Path) -> None:
    values = numbers(3, SIDE)
    api.files["/coarse.tif"] = cog(values, step=2 * STEP)
    api.items.append(item("coarse", {"red": f"{api.url}/coarse.tif"}, bands=SCALE))
    with StacCatalogue(recipe(api.url, imagery={"reflectance": False}), tmp_path) as catalogue:
        for window in windows_of(catalogue):
            chip = catalogue.acquisitions(window)[0].read()
            assert (chip.image[0] == values.repeat(2, 0).repeat(2, 1)[place(window)]).all()
            assert chip.image.dtype == np.uint16


def test_a_band_of_a_file_is_named_by_its_number(api: ScriptedApi, tmp_path: Path) -> None:
    values = np.stack([numbers(1), numbers(2)]).astype(np.int16)
    api.files["/two.tif"] = cog(values, nodata=None)
    api.items.append(item("two", {"image": f"{api.url}/two.tif"}))
    with StacCatalogue(recipe(api.url, ["image.2", "image.1"], imagery={"reflectance": False}), tmp_path) as catalogue:
        window = windows_of(catalogue)[0]
        chip = catalogue.acquisitions(window)[0].read()
    assert (chip.image == values[::-1, *place(window)]).all()
    with StacCatalogue(recipe(api.url, ["image"]), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(SourceError, match=r"two, asset image: the file has 2 bands; .*: image.1, image.2"):
            acquisition.read()
    with StacCatalogue(recipe(api.url, ["image.3"]), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(SourceError, match=r"the file has 2 bands; correct imagery.bands"):
            acquisition.read()


def test_nodata_comes_before_the_offset(api: ScriptedApi, tmp_path: Path) -> None:
    values = numbers(5, low=1000)
    values[:20, :20] = 0
    api.files["/red.tif"] = cog(values)
    api.items.append(item("pc", {"red": f"{api.url}/red.tif"}, **{"s2:processing_baseline": "05.09"}))
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        window = windows_of(catalogue)[2]
        chip = catalogue.acquisitions(window)[0].read()
    there = values[place(window)]
    assert (chip.nodata == (there == 0)).all()
    assert chip.nodata.any()
    expected = np.where(there == 0, 0, (there.astype(np.float64) - 1000) / 10_000)
    np.testing.assert_allclose(chip.image[0], expected, atol=1e-6)
    assert "offset -1000" in chip.note


def test_a_pixel_that_one_band_lacks_is_nodata_in_all(api: ScriptedApi, tmp_path: Path) -> None:
    red, nir = numbers(1), numbers(2)
    nir[::2, ::3] = 0
    api.files |= {"/red.tif": cog(red), "/nir.tif": cog(nir)}
    api.items.append(item("gaps", {"red": f"{api.url}/red.tif", "nir": f"{api.url}/nir.tif"}, bands=SCALE))
    for reflectance in (True, False):
        made = recipe(api.url, ["red", "nir"], imagery={"reflectance": reflectance})
        with StacCatalogue(made, tmp_path) as catalogue:
            window = windows_of(catalogue)[0]
            chip = catalogue.acquisitions(window)[0].read()
        assert (chip.nodata == (nir[place(window)] == 0)).all()
        assert not chip.image[:, chip.nodata].any()
        assert chip.image[:, ~chip.nodata].all()


def test_an_offset_applied_twice_is_an_error(api: ScriptedApi, tmp_path: Path) -> None:
    api.files["/red.tif"] = cog(numbers(5, high=900))
    api.items.append(item("dark", {"red": f"{api.url}/red.tif"}, **{"s2:processing_baseline": "05.09"}))
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(SourceError, match=r"dark: 100.0% .* negative with reflectance = DN \* 0.0001 - 0.1"):
            acquisition.read()
    with StacCatalogue(recipe(api.url, imagery={"max_negative_fraction": 1.0}), tmp_path) as catalogue:
        assert not catalogue.acquisitions(windows_of(catalogue)[0])[0].read().image.any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_without_a_scale_the_numbers_are_no_reflectance(api: ScriptedApi, tmp_path: Path, dtype: type) -> None:
    api.files["/red.tif"] = cog(numbers(1, high=255).astype(dtype))
    told = {"s2:processing_baseline": "05.09"} if dtype is np.uint8 else {}
    api.items.append(item("picture", {"red": f"{api.url}/red.tif"}, **told))
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(SourceError, match=r"picture, asset red: .* set imagery.reflectance: false"):
            acquisition.read()
    with StacCatalogue(recipe(api.url, imagery={"reflectance": False}), tmp_path) as catalogue:
        assert catalogue.acquisitions(windows_of(catalogue)[0])[0].read().image.dtype == dtype


def test_what_the_metadata_says_of_nodata_wins(api: ScriptedApi, tmp_path: Path) -> None:
    values = numbers(1, low=1, high=4)
    api.files["/red.tif"] = cog(values, nodata=None)
    bands = [{"nodata": 2, "scale": 1e-4, "offset": 0}]
    api.items.append(item("two", {"red": f"{api.url}/red.tif"}, bands=bands))
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        window = windows_of(catalogue)[0]
        chip = catalogue.acquisitions(window)[0].read()
    assert (chip.nodata == (values[place(window)] == 2)).all()
