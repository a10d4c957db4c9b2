"""What assets may be, where they may lie, and what is read beside them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from infra.sandbox.services.scripted import Reply
from tasks.errors import SourceError, WindowReadError
from tasks.imagery.protocol import Chip
from tasks.imagery.stac.catalogue import StacCatalogue
from tasks.imagery.stac.items import read_items
from tasks.recipe.model import Recipe
from tests.support.catalogues import windows_of
from tests.support.stac_items import NORTH, SCALE, SIDE, STEP, WEST, bbox, cog, item, numbers, recipe, simple
from tests.support.stac_server import FileServer, ScriptedApi


def first_chip(made: Recipe, work: Path) -> Chip:
    """Of the first window, in the first item over it."""
    with StacCatalogue(made, work) as catalogue:
        return catalogue.acquisitions(windows_of(catalogue)[0])[0].read()


def on_disk(folder: Path, name: str = "red.tif", **more: Any) -> None:
    """A file of items that names a file beside it."""
    made = item("local", {"red": name}, **({"bands": SCALE} | more))
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [made]}))


def test_a_file_whose_place_is_told_beside_it_is_read(tmp_path: Path) -> None:
    """As Sentinel-2 files are delivered: the georeference in .aux.xml, the overviews in .ovr."""
    (tmp_path / "whole.tif").write_bytes(cog(numbers(1)))
    profile = {"driver": "GTiff", "count": 1, "height": 128, "width": 128, "dtype": "uint16"}
    with rasterio.open(tmp_path / "red.tif", "w", **profile) as file:
        file.write(numbers(1), 1)
    with rasterio.open(tmp_path / "whole.tif") as whole:
        wkt = whole.crs.to_wkt()
    place = ", ".join(str(number) for number in Affine(STEP, 0, WEST, 0, -STEP, NORTH).to_gdal())
    said = f"<PAMDataset><SRS>{wkt.replace('<', '&lt;')}</SRS><GeoTransform>{place}</GeoTransform></PAMDataset>"
    (tmp_path / "red.tif.aux.xml").write_text(said)
    on_disk(tmp_path)
    chip = first_chip(recipe("items.json", folder=tmp_path), tmp_path)
    on_disk(tmp_path, "whole.tif")
    assert np.array_equal(chip.image, first_chip(recipe("items.json", folder=tmp_path), tmp_path).image)


def test_overviews_beside_a_file_are_used(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "count": 1, "height": 128, "width": 128, "dtype": "uint16", "crs": "EPSG:32633"}
    path = tmp_path / "red.tif"
    with rasterio.open(path, "w", **profile, transform=Affine(STEP, 0, WEST, 0, -STEP, NORTH)) as file:
        file.write(np.full((128, 128), 1000, dtype=np.uint16), 1)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as file:
        file.build_overviews([4])
    with rasterio.open(tmp_path / "red.tif.ovr", "r+") as overview:
        overview.write(np.full((32, 32), 3000, dtype=np.uint16), 1)
    on_disk(tmp_path)
    coarse = {"cells": {"kind": "utm", "size": 32, "resolution": 40}, "reflectance": False}
    chip = first_chip(recipe("items.json", folder=tmp_path, area={"bbox": bbox(1, 1)}, imagery=coarse), tmp_path)
    assert 3000 in chip.image


@pytest.mark.parametrize("name", ["pipe", "missing.tif", ".", "a\0b"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    on_disk(tmp_path, name)
    with pytest.raises((WindowReadError, SourceError), match=r"^local, asset red: .*(no such file|is not read)"):
        first_chip(recipe("items.json", folder=tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            np.full((128, 128), 2**31 + 1, dtype=np.uint32),
            "holds the uint32 2147483649, which no image can keep exactly",
        ),
        (
            np.full((128, 128), 1 + 1j, dtype=np.complex64),
            "the file holds complex64; expected whole or floating numbers",
        ),
    ],
)
def test_numbers_that_no_image_can_keep_are_refused(tmp_path: Path, values: Any, says: str) -> None:
    (tmp_path / "red.tif").write_bytes(cog(values, nodata=None))
    on_disk(tmp_path)
    with pytest.raises(SourceError, match=f"^local, asset red: {says}"):
        first_chip(recipe("items.json", folder=tmp_path, imagery={"reflectance": False}), tmp_path)


@pytest.mark.parametrize(
    ("bands", "says"),
    [
        ([{"scale": "0.0001"}], "local, asset red, raster:bands: scale is '0.0001'; expected a number"),
        ([{"scale": 0.0001, "nodata": "0"}], "local, asset red, raster:bands: nodata is '0'; expected a number"),
        ([{"scale": 0.0001, "nodata": True}], "local, asset red, raster:bands: nodata is True; expected a number"),
        ("none", "local, asset red: raster:bands is 'none'; expected a list"),
        ([{"scale": 1e300}], "local: reflectance is not finite with reflectance = DN"),
    ],
)
def test_a_field_of_another_type_is_told_with_its_asset(tmp_path: Path, bands: Any, says: str) -> None:
    (tmp_path / "red.tif").write_bytes(cog(numbers(1)))
    on_disk(tmp_path, bands=bands)
    with pytest.raises(SourceError, match=f"^{says}"):
        first_chip(recipe("items.json", folder=tmp_path), tmp_path)


def test_a_layer_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "red.tif").write_bytes(cog(numbers(1)))
    (tmp_path / "cld.tif").write_bytes(cog(np.ones((128, 128), dtype=np.int8), nodata=None))
    made = item("local", {"red": "red.tif", "CLD": "cld.tif"}, bands=SCALE)
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [made]}))
    with StacCatalogue(recipe("items.json", folder=tmp_path), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(
            SourceError, match=r"local, asset CLD: holds int8, which no CLD layer does; correct imagery.l"
        ):
            acquisition.layer("CLD")


def test_a_small_file_of_a_huge_raster_is_not_unpacked(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "count": 1, "height": 131_072, "width": 131_072, "dtype": "uint8"}
    profile |= {"crs": "EPSG:32633", "SPARSE_OK": "TRUE", "transform": Affine(0.01, 0, WEST, 0, -0.01, NORTH)}
    with rasterio.open(tmp_path / "red.tif", "w", **profile, tiled=True):
        pass
    on_disk(tmp_path)
    with pytest.raises(
        SourceError, match=r"local, asset red: one window takes 4\.1e\+09 of its pixels, over 1\.07e\+09"
    ):
        first_chip(recipe("items.json", folder=tmp_path), tmp_path)
    with rasterio.open(tmp_path / "red.tif", "w", **profile, blockysize=12_288):
        pass
    with pytest.raises(
        WindowReadError, match=r"asset red: the file has blocks of 1,610,612,736 bytes; 1,073,741,824 are"
    ):
        first_chip(recipe("items.json", folder=tmp_path), tmp_path)


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest", "http://localhost:9/x.tif", "http://[::ffff:127.0.0.1]/x", "http://2130706433/x"],
)
@pytest.mark.parametrize("by", ["href", "redirect"])
def test_assets_in_private_networks_are_refused(api: ScriptedApi, tmp_path: Path, target: str, by: str) -> None:
    simple(api)
    api.script["/moved.tif"] = [Reply(302, headers={"Location": target})]
    api.items[0]["assets"]["red"]["href"] = target if by == "href" else f"{api.url}/moved.tif"
    with pytest.raises(SourceError, match=r"^item-1, asset red: leads to a private address .* limits.private_hosts"):
        first_chip(recipe(api.url), tmp_path)


def test_an_asset_on_a_private_host_that_is_named_is_read(api: ScriptedApi, tmp_path: Path) -> None:
    simple(api)
    api.items[0]["assets"]["red"]["href"] = api.items[0]["assets"]["red"]["href"].replace("127.0.0.1", "localhost")
    with pytest.raises(SourceError, match=r"add localhost to limits.private_hosts"):
        first_chip(recipe(api.url), tmp_path)
    assert not first_chip(recipe(api.url, limits={"private_hosts": ["localhost"]}), tmp_path).nodata.any()


def test_a_redirect_that_runs_out_is_asked_for_again(api: ScriptedApi, tmp_path: Path) -> None:
    """As of servers that redirect to a URL which is signed for a time."""
    with FileServer({"/red.tif": cog(numbers(1, 1024))}) as storage:
        given: list[str] = []

        def moved(_: Any) -> Reply:
            given.append(f"sig{len(given)}")
            return Reply(302, headers={"Location": f"{storage.url}/red.tif?sig={given[-1]}"})

        api.handlers["/red.tif"] = moved
        api.items.append(item("wide", {"red": f"{api.url}/red.tif"}, bands=SCALE, side=1024 * STEP))
        with StacCatalogue(recipe(api.url, area={"bbox": bbox(16, 16)}), tmp_path) as catalogue:
            windows = {window.name: window for window in windows_of(catalogue)}
            first, last = (windows[f"32633/{WEST + at:.0f}-{NORTH - at:.0f}"] for at in (0, 15 * SIDE * STEP))
            storage.tokens = {"sig0"}
            catalogue.acquisitions(first)[0].read()
            assert given == ["sig0"]  # GDAL is led to the place itself
            storage.tokens = {"sig1"}
            assert not catalogue.acquisitions(last)[0].read().nodata.any()
        assert given == ["sig0", "sig1"]
        assert {asked.path for asked in storage.asked} == {"/red.tif"}


@pytest.mark.parametrize(
    "href",
    ["http://h\\@127.0.0.1/x.tif", "http://h/x\n.tif", "s3://a?b/x.tif", "s3://a@b/x.tif", "s3://a", "http:///x.tif",
     "http://[::1/x.tif", "http://h/" + "x" * 9000],
)  # fmt: skip
def test_hrefs_that_programs_read_in_different_ways_are_refused(href: str) -> None:
    made = item("sly", {"red": href}) | {"self": "http://127.0.0.1/i.json"}
    with pytest.raises(SourceError, match=r"sly, asset red: its href .* is not read") as caught:
        read_items([made], recipe("http://127.0.0.1"), remote=True)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("href", [None, 5, ["x"], {}])
def test_an_asset_without_an_href_is_told(href: Any) -> None:
    made = item("sly", {"red": "x"}) | {"self": "http://127.0.0.1/i.json"}
    made["assets"]["red"]["href"] = href
    with pytest.raises(SourceError, match=r"sly, asset red: href is .*; expected a URL or path"):
        read_items([made], recipe("http://127.0.0.1"), remote=True)


def test_names_too_long_for_files_are_shortened_and_stay_apart() -> None:
    made = [item("x" * 10_000 + end, {"red": "http://127.0.0.1/x.tif"}) | {"self": ""} for end in "ab"]
    items, _ = read_items(made, recipe("http://127.0.0.1"), remote=True)
    assert len({one.id for one in items}) == 2
    assert all(len(one.id) <= 100 for one in items)


def test_layers_that_a_list_names_must_be_there_and_a_union_takes_what_there_is() -> None:
    all_of_them = dict.fromkeys(("red", "SCL", "CLD"), "http://127.0.0.1/x.tif")
    made = [item("both", all_of_them), item("one", {key: all_of_them[key] for key in ("red", "CLD")})]
    found = [one | {"self": ""} for one in made]
    items, left_out = read_items(found, recipe("http://127.0.0.1", clouds={"mask": ["scl", "cld"]}), remote=True)
    assert [one.id for one in items] == ["both"]
    assert left_out == {"without asset SCL": 1}
    items, left_out = read_items(found, recipe("http://127.0.0.1", clouds={"mask": "union"}), remote=True)
    assert [sorted(one.layers) for one in items] == [["CLD", "SCL"], ["CLD"]]
    assert not left_out
