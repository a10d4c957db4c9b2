"""What goes wrong at a STAC API and its files: faults that pass, refusals, broken files, hrefs that lead elsewhere."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from infra.sandbox.services.scripted import Reply
from tasks.errors import CredentialError, SourceError, WindowReadError
from tasks.imagery.stac.catalogue import StacCatalogue
from tasks.samples.window import Window
from tests.support.catalogues import windows_of
from tests.support.stac_items import NORTH, SCALE, SIDE, STEP, WEST, bbox, cog, item, numbers, recipe, simple
from tests.support.stac_server import ScriptedApi


def place(window: Window, size: int = SIDE) -> tuple[slice, slice]:
    """Where the window lies in a raster that starts at (WEST, NORTH)."""
    assert window.georeference is not None
    transform = window.georeference.transform
    column, row = round((transform[2] - WEST) / STEP), round((NORTH - transform[5]) / STEP)
    return slice(row, row + size), slice(column, column + size)


TROUBLE: list[tuple[str, Callable[[], list[Reply]]]] = [
    ("503 at first", lambda: [Reply(503)]),
    ("429, then a broken connection", lambda: [Reply(429), Reply(reset=True)]),
    ("an error page with status 200", lambda: [Reply(200, b"<html>busy</html>")]),
    ("no answer within a second", lambda: [Reply(delay=2.5)]),
    ("a broken connection, twice", lambda: [Reply(reset=True), Reply(reset=True)]),
]


@pytest.mark.parametrize(("_", "faults"), TROUBLE, ids=[name for name, _ in TROUBLE])
def test_a_server_that_recovers_costs_attempts_only(
    api: ScriptedApi, tmp_path: Path, caplog: pytest.LogCaptureFixture, _: str, faults: Callable[[], list[Reply]]
) -> None:
    values = simple(api)
    api.script["/1/red.tif"] = faults()
    with StacCatalogue(recipe(api.url, imagery={"timeout": 1}), tmp_path) as catalogue:
        window = windows_of(catalogue)[0]
        chip = catalogue.acquisitions(window)[0].read()
    # What was mended is no news; asyncio tells of the test's own servers.
    assert not [record for record in caplog.records if record.name != "asyncio"]
    assert (chip.image[0] == (values[place(window)] * 0.0001).astype(np.float32)).all()


def test_a_file_that_breaks_off_is_asked_for_again(
    api: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = simple(api)
    whole = api.files["/1/red.tif"]
    pauses = []

    def repaired(seconds: float) -> None:
        pauses.append(seconds)
        api.files["/1/red.tif"] = whole

    api.files["/1/red.tif"] = whole[:25_000]  # the header is whole, the pixels are not
    monkeypatch.setattr("tasks.web.retry.time", SimpleNamespace(sleep=repaired, monotonic=time.monotonic))
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        window = windows_of(catalogue)[0]
        chip = catalogue.acquisitions(window)[0].read()
    assert len(pauses) == 1
    assert (chip.image[0] == (values[place(window)] * 0.0001).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("status", "says"),
    [(503, "item-1, asset red: the server answered 503 Service Unavailable, in 3 attempts"), (404, "does not exist")],
)
def test_a_window_that_cannot_be_read_fails_with_a_short_reason(
    api: ScriptedApi, tmp_path: Path, status: int, says: str
) -> None:
    simple(api)
    api.script["/1/red.tif"] = [Reply(status)] * 50
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(WindowReadError, match=says) as caught:
            acquisition.read()
    assert len(str(caught.value)) < 200
    assert "http" not in str(caught.value)
    assert len(api.asked_for("/1/red.tif")) == (3 if status == 503 else 1)


def test_a_file_cut_short_fails_its_windows_only(api: ScriptedApi, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 10_000, (1024, 1024), dtype=np.uint16)
    whole = cog(values)
    api.files["/red.tif"] = whole[: len(whole) * 2 // 3]
    api.items.append(item("cut", {"red": f"{api.url}/red.tif"}, bands=SCALE, side=1024 * STEP))
    failed, good = 0, 0
    with StacCatalogue(recipe(api.url, area={"bbox": bbox(16, 16)}, imagery={"attempts": 1}), tmp_path) as catalogue:
        for window in windows_of(catalogue)[::16]:
            try:
                chip = catalogue.acquisitions(window)[0].read()
            except WindowReadError:
                failed += 1
            else:
                assert (chip.image[0] == (values[place(window)] * 0.0001).astype(np.float32)).all()
                good += 1
    assert failed
    assert good


def test_a_refusal_without_a_token_ends_the_run(api: ScriptedApi, tmp_path: Path) -> None:
    simple(api)
    api.tokens = {"secret"}
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(CredentialError, match=r"item-1, asset red: .* is refused \(403\); s3 URLs need"):
            acquisition.read()


def test_a_refusal_of_one_file_among_others_fails_its_windows(api: ScriptedApi, tmp_path: Path) -> None:
    simple(api, 1)
    simple(api, 2)
    api.script["/2/red.tif"] = [Reply(403)] * 9
    with StacCatalogue(recipe(api.url), tmp_path) as catalogue:
        first, second = catalogue.acquisitions(windows_of(catalogue)[0])
        first.read()
        with pytest.raises(WindowReadError, match=r"refused \(403\)"):
            second.read()


def test_a_text_that_names_other_files_is_no_raster(api: ScriptedApi, tmp_path: Path) -> None:
    """A VRT from a server could make GDAL read any file of this machine."""
    secret = tmp_path / "secret.tif"
    secret.write_bytes(cog(numbers(1)))
    vrt = (
        '<VRTDataset rasterXSize="128" rasterYSize="128"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>{WEST}, {STEP}, 0, {NORTH}, 0, -{STEP}</GeoTransform>"
        f'<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    api.files["/red.tif"] = vrt.encode()
    api.items.append(item("sly", {"red": f"{api.url}/red.tif"}, bands=SCALE))
    with StacCatalogue(recipe(api.url, imagery={"attempts": 1}), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(WindowReadError, match="sly, asset red"):
            acquisition.read()


@pytest.mark.parametrize(
    "href",
    ["/etc/passwd", "file:///etc/passwd", "/vsicurl/http://127.0.0.1/x.tif", " /vsimem/x", "ftp://host/x.tif",
     "/vsis3/bucket/x.tif", "C:/x.tif"],
)  # fmt: skip
def test_hrefs_of_a_remote_catalogue_that_lead_elsewhere_are_refused(
    api: ScriptedApi, tmp_path: Path, href: str
) -> None:
    simple(api)
    api.items[0]["assets"]["red"]["href"] = href
    with (
        StacCatalogue(recipe(api.url), tmp_path) as catalogue,
        pytest.raises(SourceError, match="is not read; expected http"),
    ):
        windows_of(catalogue)


def test_a_local_catalogue_has_its_files_beside_it(tmp_path: Path) -> None:
    values = numbers(1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "red.tif").write_bytes(cog(values))
    made = item("local", {"red": "./data/red.tif"}, bands=SCALE)
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [made]}))
    with StacCatalogue(recipe("items.json", folder=tmp_path), tmp_path) as catalogue:
        window = windows_of(catalogue)[0]
        chip = catalogue.acquisitions(window)[0].read()
        assert catalogue.requests == 0
    assert (chip.image[0] == (values[place(window)] * 0.0001).astype(np.float32)).all()
    (tmp_path / "data" / "red.tif").write_bytes(b"II*\0 cut short")
    with StacCatalogue(recipe("items.json", folder=tmp_path), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(window)[0]
        with pytest.raises(WindowReadError, match=r"local, asset red: .*red.tif cannot be read"):
            acquisition.read()


def test_a_file_cut_short_fails_windows_that_are_resampled_too(api: ScriptedApi, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 10_000, (1024, 1024), dtype=np.uint16)
    whole = cog(values)
    api.files["/red.tif"] = whole[: len(whole) // 2]
    api.items.append(item("cut", {"red": f"{api.url}/red.tif"}, bands=SCALE, side=1024 * STEP))
    made = recipe(
        api.url,
        area={"bbox": bbox(16, 16)},
        imagery={"attempts": 1, "cells": {"kind": "tiles", "zoom": 13, "size": 256}},
    )
    failed = 0
    with StacCatalogue(made, tmp_path) as catalogue:
        for window in windows_of(catalogue):
            for acquisition in catalogue.acquisitions(window):
                try:
                    acquisition.read()
                except WindowReadError as error:
                    failed += 1
                    assert str(error).startswith("cut, asset red: ")  # noqa: PT017 - some windows are whole
    assert failed


@pytest.fixture
def bucket(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> ScriptedApi:
    """An S3 endpoint on loopback, and an item in it."""
    for name, value in (
        ("S3_ENDPOINT", api.url.removeprefix("http://")),
        ("HTTPS", "NO"),
        ("VIRTUAL_HOSTING", "FALSE"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "TRUE")
    monkeypatch.setenv("CPL_AWS_AUTODETECT_EC2", "NO")
    simple(api)
    api.items[0]["assets"]["red"]["href"] = "s3://bucket/red.tif"
    api.files["/bucket/red.tif"] = api.files["/1/red.tif"]
    return api


def test_s3_urls_are_read_from_the_endpoint_of_the_environment(
    bucket: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    with StacCatalogue(recipe(bucket.url), tmp_path) as catalogue:
        assert not catalogue.acquisitions(windows_of(catalogue)[0])[0].read().nodata.any()


def test_s3_urls_without_credentials_end_the_run(bucket: ScriptedApi, tmp_path: Path) -> None:
    with StacCatalogue(recipe(bucket.url), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(CredentialError, match=r"asset red: s3://bucket/red.tif is refused .*AWS_ACCESS_KEY_ID"):
            acquisition.read()
