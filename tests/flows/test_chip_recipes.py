"""The shipped recipes of MLHub collections and of Sentinel-2, built from the running sandbox and from folders."""

import functools
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio.features
import shapely
from numpy.typing import NDArray

from infra.sandbox.files import chip_layouts, chips, sentinel
from infra.sandbox.files.chips import MadeChip, MadeLook
from infra.sandbox.files.originals import how_to_serve
from infra.sandbox.services.mlhub import SANDBOX_KEY
from infra.sandbox.services.server import Running, running
from infra.sandbox.world.osm import footprints_frame
from tasks.build.commit import BuildSummary
from tasks.versions.read import open_version, versions
from tests.support.builds import contents, run_build
from tests.support.versions import Stored, stored

REPOSITORY = Path(__file__).parents[2]
IGNORE = 255
ODC_GEO = (
    # odc-geo was written for an older affine.
    "ignore:Use `@` matmul instead of `\\*` mul operator:PendingDeprecationWarning"
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Running]:
    with running() as server:
        yield server


def build(name: str, store: Path, overrides: Sequence[str]) -> BuildSummary:
    return run_build(REPOSITORY / "datasets" / f"{name}.yaml", store, overrides)


def told(name: str, sandbox: Running) -> list[str]:
    """What the sandbox says when it starts how to build a recipe from it, as overrides."""
    (command,) = [one for one in how_to_serve(sandbox.url) if one.startswith(f"tilewright build {name} ")]
    words = shlex.split(command)[3:]
    assert set(words[::2]) == {"--set"}
    return words[1::2]


def assert_unchanged(name: str, store: Path, overrides: Sequence[str], sandbox: Running | None = None) -> None:
    """A second run makes no new version and gets no file from the server; it may ask whether archives are the same."""
    before = len(sandbox.requests) if sandbox else 0
    again = build(name, store, overrides)
    assert (again.version, again.new) == ("v1", False)
    assert [info.version for info in versions(str(store))] == ["v1"]
    files = {"source_coop_get", "mlhub_storage", "mlhub_files", "stac_files"}
    asked = sandbox.requests[before:] if sandbox else []
    assert {one.status for one in asked if one.endpoint in files} <= {304}


def least_cloudy(looks: Sequence[MadeLook]) -> MadeLook:
    return min(looks, key=lambda look: look.cloud.mean())


def assert_chip(
    sample: Stored, image: NDArray[np.generic], labels: NDArray[np.generic], cloud: float, values: Sequence[int]
) -> None:
    """Image and mask are those that were drawn; label 0 is ignored."""
    np.testing.assert_array_equal(sample.image, image)
    mask = np.where(labels == 0, IGNORE, labels)
    np.testing.assert_array_equal(sample.mask, mask)
    np.testing.assert_allclose(sample.class_fraction, [np.mean(mask == value) for value in values], atol=1e-6)
    assert sample.cloud_fraction == pytest.approx(cloud, abs=1e-6)
    assert sample.nodata_fraction == 0


def assert_nowhere(sample: Stored) -> None:
    assert sample.crs == ""
    assert np.isnan(sample.transform).all()


def assert_shares(summary: BuildSummary, kept: int, units: int) -> None:
    """80/10/10 of what is kept, as near as whole scenes allow, and every split has one."""
    assert sum(summary.splits.values()) == summary.accepted == kept
    assert min(summary.splits.values()) > 0
    assert abs(summary.splits["train"] - 0.8 * kept) <= max(1.0, kept / units)


# ---- LandCoverNet -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def landcovernet() -> list[MadeChip]:
    """As the sandbox serves them."""
    return chips.landcovernet_chips()


def assert_landcovernet(store: Path, made: Sequence[MadeChip]) -> None:
    found = stored(store)
    clear = [chip for chip in made if least_cloudy(chip.looks).cloud.mean() <= 0.05]
    assert found.keys() == {chip.name for chip in clear}
    assert len(clear) == len(made) - 1
    for chip in clear:
        sample, look = found[chip.name], least_cloudy(chip.looks)
        image = np.stack([look.bands[band] for band in ("B04", "B03", "B02")])
        assert sample.image.dtype == np.uint16
        assert_chip(sample, image, chip.labels, look.cloud.mean(), range(1, 8))
        assert chip.place is not None
        assert (sample.crs, sample.transform) == (chip.place.crs, tuple(chip.place.transform)[:6])
        assert sample.origin.endswith(f"{chip.name}_{look.date}")


def test_landcovernet_africa_from_the_mirror(tmp_path: Path, sandbox: Running, landcovernet: list[MadeChip]) -> None:
    overrides = told("landcovernet-africa", sandbox)
    before = len(sandbox.requests)
    summary = build("landcovernet-africa", tmp_path / "store", overrides)
    assert (summary.candidates, summary.rejected) == (6, {"clouds": 1})
    assert_landcovernet(tmp_path / "store", landcovernet)
    assert_shares(summary, 5, 5)
    asked = [one.key for one in sandbox.requests[before:] if one.endpoint == "source_coop_get"]
    # Of the bands only those of the chosen dates, of S1 nothing; CLD and SCL both tell of the clouds.
    names = ("B04", "B03", "B02", "B08", "VV", "SCL", "CLD")
    wanted = {name: sum(f"_{name}_10m" in key for key in asked) for name in names}
    assert wanted == {"B04": 5, "B03": 5, "B02": 5, "B08": 0, "VV": 0, "SCL": 24, "CLD": 24}
    assert len(asked) == len(set(asked))
    assert_unchanged("landcovernet-africa", tmp_path / "store", overrides, sandbox)


@pytest.mark.parametrize("layout", ["A", "B", "C", "archives"])
def test_landcovernet_africa_from_files(tmp_path: Path, layout: str) -> None:
    made = chips.landcovernet_chips(size=64, chips=5, bands=("B02", "B03", "B04"), dates=("20180106", "20180411"))
    data = tmp_path / "data"
    if layout == "archives":
        chip_layouts.archives(chip_layouts.write_landcovernet(tmp_path / "loose", made, "A"), data)
    else:
        chip_layouts.write_landcovernet(data, made, layout)  # type: ignore[arg-type]
    overrides = ["imagery.reader=local", f"imagery.path={data}"]
    summary = build("landcovernet-africa", tmp_path / "store", overrides)
    assert (summary.candidates, summary.rejected) == (10, {"clouds": 1})
    assert_landcovernet(tmp_path / "store", made)
    assert_shares(summary, 9, 9)
    assert_unchanged("landcovernet-africa", tmp_path / "store", overrides)


def test_landcovernet_africa_with_a_minimum_of_consensus(tmp_path: Path) -> None:
    made = chips.landcovernet_chips(size=64, bands=("B02", "B03", "B04"))
    chip_layouts.write_landcovernet(tmp_path / "data", made, "A")
    overrides = ["imagery.reader=local", f"imagery.path={tmp_path}/data", "labels.min_consensus=75"]
    build("landcovernet-africa", tmp_path / "store", overrides)
    by_name = {chip.name: chip for chip in made}
    found = stored(tmp_path / "store")
    assert len(found) == 5
    for name, sample in found.items():
        chip = by_name[name]
        assert chip.consensus is not None
        sure = (chip.consensus >= 75) & (chip.labels != 0)
        np.testing.assert_array_equal(sample.mask, np.where(sure, chip.labels, IGNORE))


# ---- Ghana --------------------------------------------------------------------------------------


def assert_ghana(store: Path, summary: BuildSummary, made: Sequence[MadeChip]) -> None:
    assert summary.candidates == len(made)
    assert summary.rejected == {"clouds": 1, "ignored labels": 1}
    found = stored(store)
    assert found.keys() == {f"ghana_{chip.name}" for chip in made[:-2]}
    for chip in made[:-2]:
        sample, look = found[f"ghana_{chip.name}"], least_cloudy(chip.looks)
        image = np.stack([look.bands[band] for band in ("red", "green", "blue")])
        assert_chip(sample, image, chip.labels, look.cloud.mean(), range(1, 25))
        assert_nowhere(sample)
    assert_shares(summary, len(made) - 2, len(made) - 2)


def test_crop_type_ghana_from_the_mirror(tmp_path: Path, sandbox: Running) -> None:
    overrides = told("crop-type-ghana", sandbox)
    summary = build("crop-type-ghana", tmp_path / "store", overrides)
    assert_ghana(tmp_path / "store", summary, chips.ghana_chips())
    assert_unchanged("crop-type-ghana", tmp_path / "store", overrides, sandbox)


def test_crop_type_ghana_from_mlhubs_files(tmp_path: Path) -> None:
    made = chips.ghana_chips(chips=22)
    chip_layouts.write_ghana_mlhub(tmp_path / "data", made)
    overrides = ["imagery.reader=local", f"imagery.path={tmp_path}/data"]
    summary = build("crop-type-ghana", tmp_path / "store", overrides)
    assert_ghana(tmp_path / "store", summary, made)
    assert summary.splits == {"train": 16, "validation": 2, "test": 2}
    assert_unchanged("crop-type-ghana", tmp_path / "store", overrides)


@pytest.mark.parametrize("copy", ["mlhub", "mirror"])
def test_crop_type_ghana_of_radar(tmp_path: Path, copy: str) -> None:
    """Files of Sentinel-1 have two bands, and no cloud layer."""
    made = chips.ghana_chips()
    write = {"mlhub": chip_layouts.write_ghana_mlhub, "mirror": chip_layouts.write_ghana_mirror}[copy]
    write(tmp_path / "data", made)
    overrides = ["imagery.reader=local", f"imagery.path={tmp_path}/data", "imagery.bands=[VV, VH]"]
    overrides.append("imagery.file_bands=[VV, VH]")
    build("crop-type-ghana", tmp_path / "store", overrides)
    found = stored(tmp_path / "store")
    assert found.keys() == {f"ghana_{chip.name}" for chip in made[:-1]}
    for chip in made[:-1]:
        assert chip.radar is not None
        np.testing.assert_array_equal(found[f"ghana_{chip.name}"].image, chip.radar)


# ---- Kenya --------------------------------------------------------------------------------------


def assert_kenya(store: Path, summary: BuildSummary, tiles: Sequence[MadeChip]) -> None:
    """128 px windows, the last ones padded; those without a field are left out, as are those under clouds."""
    found = stored(store)
    rejected: Counter[str] = Counter()
    expected = set()
    for tile in tiles:
        height, width = tile.labels.shape
        beyond = ((0, -height % 128), (0, -width % 128))
        labels = np.pad(tile.labels, beyond)
        for row in range(0, height, 128):
            for column in range(0, width, 128):
                part = np.s_[row : row + 128, column : column + 128]
                clouds = [np.pad(look.cloud, beyond, mode="symmetric")[part].mean() for look in tile.looks]
                look = tile.looks[int(np.argmin(clouds))]
                if np.mean(labels[part] == 0) > 0.999:
                    rejected["ignored labels"] += 1
                elif min(clouds) > 0.20:
                    rejected["clouds"] += 1
                else:
                    name = f"{tile.name}/{row}-{column}"
                    expected.add(name)
                    bands = [np.pad(look.bands[band], beyond, mode="symmetric")[part] for band in ("B04", "B03", "B02")]
                    assert_chip(found[name], np.stack(bands), labels[part], min(clouds), range(1, 8))
                    assert_nowhere(found[name])
    assert found.keys() == expected
    assert summary.rejected == dict(rejected)
    assert min(rejected["ignored labels"], len(expected)) > 0
    assert_shares(summary, len(expected), len(expected))


def test_crop_type_kenya_from_its_archives(tmp_path: Path) -> None:
    tiles = chips.kenya_tiles(bands=("B02", "B03", "B04"))
    chip_layouts.archives(chip_layouts.write_kenya(tmp_path / "loose", tiles), tmp_path / "data")
    overrides = [f"imagery.path={tmp_path}/data"]
    summary = build("crop-type-kenya", tmp_path / "store", overrides)
    assert summary.candidates == 4 * 3 * 3
    assert_kenya(tmp_path / "store", summary, tiles)
    assert_unchanged("crop-type-kenya", tmp_path / "store", overrides)


def test_crop_type_kenya_from_the_api(tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLHUB_API_KEY", SANDBOX_KEY)
    overrides = told("crop-type-kenya", sandbox)
    summary = build("crop-type-kenya", tmp_path / "store", overrides)
    tiles = chips.kenya_tiles()
    assert_kenya(tmp_path / "store", summary, tiles)
    assert_unchanged("crop-type-kenya", tmp_path / "store", overrides, sandbox)
    chip_layouts.write_kenya(tmp_path / "loose", tiles)
    build("crop-type-kenya", tmp_path / "local", [f"imagery.path={tmp_path}/loose"])
    assert contents(tmp_path / "local") == contents(tmp_path / "store")


# ---- Sentinel-2 ---------------------------------------------------------------------------------


@functools.cache
def scene_mask() -> NDArray[np.uint8]:
    """The sandbox's sound buildings on the grid of its scenes, by the pixel-centre rule."""
    frame = footprints_frame()
    sound = frame[frame.oddity.isna() | frame.oddity.isin(["bow_tie"])].to_crs(sentinel.CRS)
    shapes = shapely.make_valid(sound.geometry.to_numpy(), method="structure", keep_collapsed=False)
    place, width, height = sentinel.scene_grid()
    return rasterio.features.rasterize(list(shapes), out_shape=(height, width), transform=place.transform)


def window_of(values: NDArray[np.generic], west: int, north: int, side: int, step: int = 10) -> NDArray[np.generic]:
    """The part of a scene's raster with pixels of ``step`` metres; ``side`` is in its pixels."""
    corner = sentinel.scene_grid()[0].transform
    column, row = int(west - corner.c) // step, int(corner.f - north) // step
    return values[row : row + side, column : column + side]


def cloud_mask(item: sentinel.MadeItem, west: int, north: int) -> NDArray[np.bool_]:
    """What the recipe drops of a cell, at 20 m."""
    return np.isin(window_of(item.scl, west, north, SIDE // 2, 20), (0, 1, 3, 8, 9, 10))


SIDE = 32  # pixels of a cell in the command that the sandbox tells


@pytest.mark.filterwarnings(ODC_GEO)
def test_sentinel2_buildings(tmp_path: Path, sandbox: Running) -> None:
    overrides = told("sentinel2-buildings", sandbox)
    summary = build("sentinel2-buildings", tmp_path / "store", overrides)
    items = {item.id: item for item in sentinel.make_items()}
    # The query leaves the cloudiest out, the interval the last one.
    usable = [item for item in items.values() if item.seen.day < "2024-09" and item.seen.clouds < 0.4]
    assert len(usable) == 2
    found = stored(tmp_path / "store")
    assert summary.accepted == len(found) > 0
    for name, sample in found.items():
        match = re.fullmatch(r"32631/(\d+)-(\d+)", name)
        assert match
        west, north = int(match[1]), int(match[2])
        assert (sample.crs, sample.transform) == (sentinel.CRS, (10, 0, west, 0, -10, north))
        mask = window_of(scene_mask(), west, north, SIDE)
        np.testing.assert_array_equal(sample.mask, mask)
        np.testing.assert_allclose(sample.class_fraction, [1 - mask.mean(), mask.mean()], atol=1e-6)
        item = items[sample.origin]
        assert item in usable
        numbers = np.stack([window_of(item.bands[band], west, north, SIDE) for band in sentinel.BANDS])
        assert sample.image.dtype == np.float32
        np.testing.assert_allclose(sample.image, np.maximum(numbers * 1e-4 - 0.1, 0), atol=1e-6)
        assert sample.cloud_fraction == cloud_mask(item, west, north).mean() == 0
    assert {sample.origin for sample in found.values()} == {item.id for item in usable}
    # Every cell with enough buildings is there, or has a cloud in each pass.
    clear = {
        f"32631/{west}-{north}": any(not cloud_mask(item, west, north).any() for item in usable)
        for west, north in cells_of_the_scene()
        if window_of(scene_mask(), west, north, SIDE).mean() >= 0.15
    }
    assert found.keys() == {name for name, there in clear.items() if there}
    assert summary.rejected["clouds"] == len(clear) - len(found) > 0
    assert summary.selected == len(clear)
    rules = open_version(str(tmp_path / "store")).attributes["value_rules"]
    assert list(rules) == ["reflectance = DN * 0.0001 - 0.1 (raster:bands)"]
    assert_unchanged("sentinel2-buildings", tmp_path / "store", overrides, sandbox)


def cells_of_the_scene() -> Iterator[tuple[int, int]]:
    """Upper left corners, in metres, of the cells that scenes hold whole."""
    place, width, height = sentinel.scene_grid()
    west, north, span = int(place.transform.c), int(place.transform.f), SIDE * 10
    for x in range(west, west + width * 10, span):
        for y in range(north, north - height * 10, -span):
            yield x, y
