"""Scenes, chips and label rasters that exist: SAR, multispectral and panchromatic images, side files, consensus."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tasks.errors import SourceError
from tasks.imagery.scenes.catalogue import SceneCatalogue
from tasks.imagery.scenes.folder import folder_catalogue, folder_scenes
from tasks.labels.protocol import RawLabels
from tasks.labels.rasters import SceneLabels
from tasks.raster.scene import LocalAsset, Scene, SceneItem
from tasks.recipe.sources import ProvidedLabels
from tasks.views.picture import span_picture, viewable
from tests.support.catalogues import windows_of
from tests.tasks.raster.made import scenes_recipe

pytestmark = pytest.mark.real


def opened(folder: Path, pattern: str, **imagery: Any) -> SceneCatalogue:
    return folder_catalogue(scenes_recipe(folder, pattern, **imagery))


def test_quad_pol_sar_in_a_file_for_each_polarisation(shared_data: Path) -> None:
    folder = shared_data / "spacenet"
    names = ["hh", "hv", "vh", "vv"]
    with opened(folder, "{scene}/sar_{band}.tif", bands=names, windows={"size": 128}) as catalogue:
        windows = windows_of(catalogue)
        assert [window.name for window in windows] == [
            f"rotterdam/{row}-{column}" for row in (0, 72) for column in (0, 72)
        ]
        window = windows[1]
        chip = catalogue.acquisitions(window)[0].read()
        assert chip.image.dtype == np.float32
        assert not chip.nodata.any()
        for name, band in zip(names, chip.image, strict=True):
            with rasterio.open(folder / f"rotterdam/sar_{name}.tif") as file:
                complex_values = file.read(1)[:128, 72:]
                whole = file.transform
            assert np.array_equal(band, np.abs(complex_values))
        assert window.georeference is not None
        assert window.georeference.crs == "EPSG:32631"
        a, b, x, d, e, y = window.georeference.transform
        assert (a, b, d, e) == (whole.a, whole.b, whole.d, whole.e)
        assert abs(b) > 2  # the images lie on their side
        assert (x, y) == pytest.approx((whole.c + 72 * whole.a, whole.f + 72 * whole.d))
        seen = viewable(chip.image, names)
        assert np.array_equal(seen[0], seen[1])
        span = (chip.image.astype(np.float64) ** 2).sum(axis=0)
        assert np.allclose(span_picture(chip.image), np.sqrt(span))
        assert len(np.unique(seen)) > 200


def test_multispectral_of_doubles(shared_data: Path) -> None:
    bands = ["blue", "green", "red", "nir"]
    with opened(shared_data / "spacenet/rotterdam", "{scene}1.tif", bands=bands, windows={"size": 150}) as catalogue:
        assert [scene.name for scene in catalogue.scenes()] == ["ms", "pan"]
        with pytest.raises(SourceError, match=r"pan1\.tif: has 1 bands, the recipe names blue, green, red, nir"):
            catalogue.windows()
    with opened(shared_data / "spacenet/rotterdam", "ms{scene}.tif", bands=bands, windows={"size": 150}) as catalogue:
        windows, left_out = catalogue.windows()
        assert left_out == {}
        chips = [catalogue.acquisitions(window)[0].read().image for window in windows]
        with rasterio.open(shared_data / "spacenet/rotterdam/ms1.tif") as file:
            whole = file.read()
        assert whole.dtype == np.float64
        assert chips[0].dtype == np.float32
        top, bottom = np.concatenate(chips[:2], axis=2), np.concatenate(chips[2:], axis=2)
        assert np.array_equal(np.concatenate([top, bottom], axis=1), whole.astype(np.float32))
        assert viewable(chips[0], bands).std() > 10


def test_sar_that_is_masked_by_nan(shared_data: Path) -> None:
    with opened(shared_data / "spacenet/rotterdam", "{scene}_masked.tif", bands=["a", "b", "c", "d"]) as catalogue:
        with rasterio.open(shared_data / "spacenet/rotterdam/sar_masked.tif") as file:
            whole = file.read()
        nan = np.isnan(whole).any(axis=0)
        assert 0 < nan.mean() < 1
        for window in windows_of(catalogue):
            chip = catalogue.acquisitions(window)[0].read()
            at = slice(window.row, window.row + 64), slice(window.column, window.column + 64)
            assert np.array_equal(chip.nodata, nan[at])
            assert np.array_equal(chip.image, np.nan_to_num(whole[:, at[0], at[1]], nan=0.0))


def test_panchromatic_windows_at_a_stride(shared_data: Path) -> None:
    with opened(
        shared_data / "spacenet", "{scene}-pan.tif", bands=["pan"], windows={"size": 364, "stride": 120}
    ) as catalogue:
        windows = windows_of(catalogue)
        assert len(windows) == 6 * 6
        assert windows[-1].name == "atlanta/536-536"
        with rasterio.open(shared_data / "spacenet/atlanta-pan.tif") as file:
            whole = file.read()
        chip = catalogue.acquisitions(windows[-1])[0].read()
        assert chip.image.dtype == np.uint16
        assert np.array_equal(chip.image, whole[:, 536:, 536:])
        assert windows[-1].georeference == ("EPSG:32616", (0.5, 0.0, 733_601 + 268.0, 0.0, -0.5, 3_725_139 - 268.0))


@pytest.mark.parametrize(("nodata", "white"), [(None, 0), (255, 4)])
def test_chips_whose_georeference_stands_beside_them(shared_data: Path, nodata: float | None, white: int) -> None:
    chips = {"bands": ["red", "green", "blue"], "windows": {"size": 0}, "nodata": nodata}
    with opened(shared_data / "geotiff/banepa/train/images", "{scene}.tif", **chips) as catalogue:
        windows = windows_of(catalogue)
        assert len(windows) == 48
        assert {(window.width, window.height) for window in windows} == {(512, 512)}
        assert {window.georeference.crs for window in windows if window.georeference} == {"EPSG:4326"}
    with opened(shared_data / "geotiff/banepa/predict/images", "OAM-{scene}.tif", **chips) as catalogue:
        windows = windows_of(catalogue)
        assert len(windows) == 16
        found = [catalogue.acquisitions(window)[0].read().nodata.mean() for window in windows]
        assert sum(fraction > 0.01 for fraction in found) == white  # the files do not say that white is nodata


def test_label_chips_with_consensus(shared_data: Path) -> None:
    folder = shared_data / "landcovernet"
    pattern = "labels/ref_landcovernet_af_v1_labels_{scene}/labels.tif"
    recipe = scenes_recipe(folder, pattern, bands=["class", "consensus"], windows={"size": 0})
    found = folder_scenes(recipe)
    assert [scene.name for scene in found] == [f"28QDE_{n:02d}" for n in range(10)]
    scenes = [Scene(one.name, one.group, one.items, one.items[0].assets["image"]) for one in found]
    labels = SceneLabels(lambda: scenes, ProvidedLabels(source="provided", min_consensus=60))
    with SceneCatalogue(recipe, lambda: scenes) as catalogue:
        windows = windows_of(catalogue)
    report = labels.prepare(windows, folder)
    assert (report.read, report.kept) == (10, 10)
    seen: set[int] = set()
    for window, raw in zip(windows, labels.read(windows), strict=True):
        assert window.georeference is not None
        assert window.georeference.crs == "EPSG:32628"
        assert isinstance(raw, RawLabels)
        assert raw.consensus is not None
        assert raw.missing is not None
        with rasterio.open(folder / f"labels/ref_landcovernet_af_v1_labels_{window.scene}/labels.tif") as file:
            classes, consensus = file.read()
        assert np.array_equal(raw.values, classes)
        assert np.array_equal(raw.consensus, consensus)
        assert np.array_equal(raw.missing, classes == 0)  # the files call 0, unknown, nodata
        seen |= set(np.unique(raw.values).tolist())
    assert seen <= set(range(8))
    assert len(seen) > 2


def test_a_sentinel_2_chip_with_its_layers(shared_data: Path) -> None:
    folder = shared_data / "landcovernet/sentinel2-chip"
    names = {"B04": "red", "B03": "green", "B02": "blue", "SCL": "Scene Classification Layer", "CLD": "Cloud Mask"}
    item = SceneItem("chip", {key: LocalAsset(folder / f"{name}.tif") for key, name in names.items()})
    recipe = scenes_recipe(folder, "x", bands=["B04", "B03", "B02"], windows={"size": 128})
    with SceneCatalogue(recipe, lambda: [Scene("chip", "chip", (item,))]) as catalogue:
        windows = windows_of(catalogue)
        assert len(windows) == 4
        (acquisition,) = catalogue.acquisitions(windows[3])
        chip = acquisition.read()
        assert chip.image.dtype == np.uint16
        for key, found in (("B04", chip.image[0]), ("B02", chip.image[2]), ("SCL", None), ("CLD", None)):
            with rasterio.open(folder / f"{names[key]}.tif") as file:
                wanted = file.read(1)[128:, 128:]
            seen = acquisition.layer(key) if found is None else found
            assert seen is not None
            assert np.array_equal(seen, wanted)
        assert acquisition.layer("cloudmask") is None
        assert viewable(chip.image, catalogue.bands, chip.nodata).std() > 10
