"""Scenes of a collection cut and read as a build does it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from infra.sandbox.services.mlhub import PROXY_PATH, CoopProxy, pack
from tasks.imagery.mlhub.catalogue import mlhub_catalogue
from tests.support.catalogues import windows_of
from tests.tasks.imagery.mlhub.files import recipe, serving
from tests.tasks.raster.made import noise, write_raster

SIDE = 32


def chips(folder: Path) -> Path:
    """Two LandCoverNet chips as the mirror has them, with two dates of Sentinel-2 and one of Landsat."""
    for chip in ("00", "01"):
        place = folder / "landcovernet_as/data/v1.0/2018/36SWF" / chip
        write_raster(place / f"36SWF_{chip}_2018_LC_10m.tif", noise(2, SIDE, SIDE))
        for date in ("20180101", "20180301"):
            for number, band in enumerate(("B02", "B03", "CLD")):
                name = f"36SWF_{chip}_{date}"
                write_raster(place / "S2" / name / f"{name}_{band}_10m.tif", noise(SIDE, SIDE, seed=number))
        name = f"LC08_{chip}_20180105"
        write_raster(place / "L8" / name / f"{name}_B02_10m.tif", noise(SIDE, SIDE, seed=9))
    return folder


@pytest.mark.parametrize("bands", [["B03", "B02"], ["L8:B02"]])
def test_chips_of_the_mirror(tmp_path: Path, bands: list[str]) -> None:
    chips(tmp_path / "proxy" / "radiantearth" / "landcovernet")
    options = {"reader": "source-coop", "dataset": "radiantearth/landcovernet/landcovernet_as", "bands": bands}
    with serving(*CoopProxy(tmp_path / "proxy").routes()) as (url, got):
        made = recipe(tmp_path, url=url + PROXY_PATH, **options)
        with mlhub_catalogue(made, tmp_path / "work") as catalogue:
            windows = windows_of(catalogue)
            assert [(window.name, window.group, window.width) for window in windows] == [
                ("36SWF_00", "36SWF", SIDE),
                ("36SWF_01", "36SWF", SIDE),
            ]
            assert len(got) == 1 + 2  # the listing and the labels: no image before one is wanted
            items = [item for window in windows for item in catalogue.acquisitions(window)]
            with ThreadPoolExecutor(4) as pool:
                read = list(pool.map(lambda item: item.read().image, items))
            seeds = [9] if bands == ["L8:B02"] else [1, 0]
            assert len(read) == (2 if len(bands) == 1 else 4)
            for image in read:
                np.testing.assert_array_equal(image, np.stack([noise(SIDE, SIDE, seed=seed) for seed in seeds]))
            clouds = items[0].layer("CLD")
            assert (clouds is None) is (len(bands) == 1)
        assert catalogue.requests == len(got)


@pytest.mark.parametrize("mirror", [False, True])
def test_chips_of_ghana_without_a_place(tmp_path: Path, mirror: bool) -> None:
    if mirror:
        image, cloud, label = (
            "s2/s2_ghana_000007_2016_01_13/s2_ghana_000007_2016_01_13_data.tif",
            "s2/s2_ghana_000007_2016_01_13/s2_ghana_000007_2016_01_13_cloudmask.tif",
            "truth/truth_ghana_000007/truth_ghana_000007_label.tif",
        )
    else:
        item = "su_african_crops_ghana_source_s2_000007_2016_01_13"
        image, cloud = (f"{item}/{file}.tif" for file in ("source", "cloudmask"))
        label = "su_african_crops_ghana_labels_000007/labels.tif"
    values = {image: noise(3, SIDE, SIDE, dtype="uint16"), cloud: noise(SIDE, SIDE), label: noise(SIDE, SIDE)}
    for name, pixels in values.items():
        write_raster(tmp_path / "data" / name, pixels)
    (tmp_path / "ghana.tar.gz").write_bytes(pack(tmp_path / "data"))
    options = {"reader": "local", "path": "ghana.tar.gz", "file_bands": ["blue", "green", "red"]}
    made = recipe(tmp_path, bands=["red", "blue"], **options)
    with mlhub_catalogue(made, tmp_path / "work") as catalogue:
        (window,) = windows_of(catalogue)
        assert window.name == window.group == "ghana_000007"
        (item,) = catalogue.acquisitions(window)
        assert item.acquired_at == 1_452_643_200
        np.testing.assert_array_equal(item.read().image, noise(3, SIDE, SIDE, dtype="uint16")[[2, 0]])
        np.testing.assert_array_equal(item.layer("cloudmask"), noise(SIDE, SIDE))
