"""Label rasters: values, colours, consensus, what has no label, and files of no use."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio import Affine

from tasks.errors import LabelError, WindowReadError
from tasks.geo.georeference import MERCATOR, Georeference, tile_georeference
from tasks.geo.tiles import Tile
from tasks.labels.protocol import Labels, RawLabels
from tasks.labels.rasters import CellLabels, SceneLabels
from tasks.raster.scene import LocalAsset, Scene
from tasks.recipe.sources import ProvidedLabels, RasterLabels
from tasks.samples.window import Window
from tests.tasks.raster.made import TRANSFORM, noise, write_plain, write_raster

RASTERS = RasterLabels(source="rasters", path="gt/{scene}.tif")
SKIP = RasterLabels(source="rasters", path="gt/{scene}.tif", missing="skip")


def scene(path: Path | None, name: str = "a") -> Scene:
    return Scene(name, name, (), LocalAsset(path) if path else None)


def window(column: int = 0, row: int = 0, side: int = 32, name: str = "a") -> Window:
    return Window(f"{name}/{row}-{column}", name, name, column, row, side, side)


def one_of(labels: Labels, at: Window) -> RawLabels | WindowReadError | None:
    (found,) = labels.read([at])
    return found


def of(scenes: list[Scene], labels: RasterLabels | ProvidedLabels = RASTERS, **options: Any) -> SceneLabels:
    return SceneLabels(lambda: scenes, labels, **options)


def read(path: Path, at: Window | None = None, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    found = one_of(of([scene(path)], **options), at or window())
    assert isinstance(found, RawLabels)
    assert found.missing is not None
    assert found.consensus is None
    return found.values, found.missing


def test_classes_of_a_window(tmp_path: Path) -> None:
    labels = noise(40, 50) % np.uint8(5)
    values, missing = read(write_raster(tmp_path / "a.tif", labels), window(18, 8))
    assert np.array_equal(values, labels[8:, 18:])
    assert values.dtype == np.uint8
    assert not missing.any()


def test_outside_the_scene_and_in_the_rim_there_is_no_label(tmp_path: Path) -> None:
    labels = noise(40, 40) + np.uint8(1)
    values, missing = read(write_raster(tmp_path / "a.tif", labels), window(-10, 20), padding=6)
    known = np.zeros((32, 32), dtype=bool)
    known[6:20, 10:26] = True
    assert np.array_equal(missing, ~known)
    assert np.array_equal(values, np.where(known, np.pad(labels, 40)[60:92, 30:62], 0))


def test_nodata_of_the_file_is_no_label_unless_a_class_names_it(tmp_path: Path) -> None:
    labels = noise(32, 32) % np.uint8(3)
    path = write_raster(tmp_path / "a.tif", labels, nodata=0)
    assert np.array_equal(read(path)[1], labels == 0)
    assert not read(path, listed=[0, 1])[1].any()


def test_colours(tmp_path: Path) -> None:
    colours = noise(32, 32, 3)
    values, missing = read(write_plain(tmp_path / "a.png", colours))
    assert np.array_equal(values, colours.transpose(2, 0, 1))
    assert not missing.any()
    clear = np.concatenate([colours, np.where(colours[..., :1] < 50, 0, 255).astype(np.uint8)], axis=2)
    values, missing = read(write_plain(tmp_path / "b.png", clear))
    assert np.array_equal(missing, colours[..., 0] < 50)
    assert values.shape == (3, 32, 32)


def test_whole_numbers_in_floating_files(tmp_path: Path) -> None:
    labels = (noise(32, 32) % 7).astype(np.float32)
    labels[3, 3] = np.nan
    values, missing = read(write_raster(tmp_path / "a.tif", labels))
    assert values.dtype == np.int32
    assert np.argwhere(missing).tolist() == [[3, 3]]
    assert np.array_equal(values[4:], labels[4:])
    labels[5, 5] = 0.5
    with pytest.raises(LabelError, match=r"b\.tif: holds float32 values that .* such as 0\.5; expected classes"):
        read(write_raster(tmp_path / "b.tif", labels))
    with pytest.raises(LabelError, match=r"c\.tif: holds complex64 values; expected whole numbers"):
        read(write_raster(tmp_path / "c.tif", labels.astype(np.complex64)))


def test_consensus_is_the_second_band(tmp_path: Path) -> None:
    both = noise(2, 32, 32, dtype="uint16") % np.uint16(101)
    path = write_raster(tmp_path / "a.tif", both)
    agreed = ProvidedLabels(source="provided", min_consensus=60)
    found = one_of(of([scene(path)], agreed), window())
    assert isinstance(found, RawLabels)
    assert found.consensus is not None
    assert found.consensus.dtype == np.uint8
    assert np.array_equal(found.values, both[0])
    assert np.array_equal(found.consensus, both[1])
    assert np.array_equal(read(path)[0], both[0])  # not asked for
    one = write_raster(tmp_path / "one.tif", both[0])
    with pytest.raises(LabelError, match=r"one\.tif: has no consensus band .*leave labels\.min_consensus out"):
        one_of(of([scene(one)], agreed), window())


def test_a_scene_without_its_label(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(32, 32))
    scenes = [scene(path), scene(None, "b"), scene(None, "c")]
    windows = [window(name=name) for name in "abc"]
    labels = of(scenes, SKIP)
    report = labels.prepare(windows, tmp_path)
    assert (report.read, report.kept, report.dropped) == (3, 1, {"scene without a label raster": 2})
    assert [raw is None for raw in labels.read(windows)] == [False, True, True]
    labels = of(scenes)
    with pytest.raises(LabelError, match=r"scene b has no label raster; .*missing: skip \(2 such scenes\)"):
        labels.prepare(windows, tmp_path)
    with pytest.raises(LabelError, match="scene c has no label raster"):
        one_of(labels, windows[2])
    with pytest.raises(LabelError, match="no scene x any more"):
        one_of(labels, window(name="x"))


def test_the_report_changes_with_the_labels(tmp_path: Path) -> None:
    values = noise(2, 32, 32)
    paths = [write_raster(tmp_path / f"{name}.tif", part) for name, part in zip("ab", values, strict=True)]
    scenes = [scene(path, path.stem) for path in paths]
    windows = [window(name=name) for name in "ba"] * 2

    def prepared() -> tuple[str, str]:
        report = of(scenes).prepare(windows, tmp_path)
        assert (report.source, report.read, report.kept, report.dropped) == ("rasters gt/{scene}.tif", 2, 2, {})
        return report.sha256, report.timestamp

    os.utime(paths[0], (1_000_000_000, 1_000_000_000))
    os.utime(paths[1], (1_500_000_000, 1_500_000_000))
    before = prepared()
    assert before[1] == "2017-07-14T02:40:00+00:00"
    os.utime(paths[0], (1_600_000_000, 1_600_000_000))
    assert prepared() == (before[0], "2020-09-13T12:26:40+00:00")
    write_raster(paths[0], values[0] + np.uint8(1))
    assert prepared()[0] != before[0]


class Unreachable:
    name = "https://example.org/labels.tif"

    def path(self) -> Path:
        raise WindowReadError(f"{self.name}: 503")


def test_labels_that_cannot_be_fetched_now(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(32, 32))
    labels = of([scene(path), Scene("b", "b", (), Unreachable())])
    report = labels.prepare([window(), window(name="b")], tmp_path)
    assert (report.read, report.kept, report.dropped) == (2, 1, {"label raster cannot be fetched": 1})
    first, second = labels.read([window(), window(name="b")])
    assert isinstance(first, RawLabels)
    assert isinstance(second, WindowReadError)
    assert str(second) == "https://example.org/labels.tif: 503"


def test_damaged_labels(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(256, 256), tiled=True, blockxsize=64, blockysize=64)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    labels = of([scene(path)])
    whole, damaged, beyond, again = labels.read([window(), window(192, 192), window(300, 0), window()])
    assert isinstance(whole, RawLabels)
    assert isinstance(again, RawLabels)
    assert isinstance(damaged, WindowReadError)
    assert "a.tif: columns 192-224, rows 192-224 cannot be read" in str(damaged)
    assert isinstance(beyond, WindowReadError)
    assert "lies outside scene a" in str(beyond)
    labels.close()
    path.write_bytes(data[:3])
    with pytest.raises(LabelError, match=r"a\.tif: is no raster that can be opened"):
        one_of(labels, window())
    path.unlink()
    with pytest.raises(LabelError, match=r"a\.tif: cannot be read \(No such file"):
        labels.prepare([window()], tmp_path)


def test_scenes_are_asked_for_once_and_not_before() -> None:
    asked = []

    def ask() -> list[Scene]:
        asked.append(1)
        return [scene(None)]

    labels = SceneLabels(ask, SKIP)
    assert not asked
    assert list(labels.read([window(), window(4)])) == [None, None]
    assert len(asked) == 1


# ---- a file for each cell -----------------------------------------------------------------------

TILE = Tile(16, 34_000, 22_000)
CELL = Georeference("EPSG:32631", (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_800_000.0))  # of write_raster


def cell(name: str = "c", lies: Georeference | None = CELL, side: int = 32) -> Window:
    return Window(f"{name}@0", name, name, 0, 0, side, side, lies)


def tile(tile: Tile = TILE, side: int = 256) -> Window:
    return Window(tile.name, tile.name, "g", 0, 0, side, side, tile_georeference(tile, side))


def cells(folder: Path, form: str = "tif", **more: Any) -> CellLabels:
    labels = RasterLabels.model_validate({"source": "rasters", "path": f"{{scene}}.{form}", **more})
    return CellLabels(folder / f"{{scene}}.{form}", labels, listed=[0, 1])


def test_a_cell_s_file_holds_its_labels(tmp_path: Path) -> None:
    values = noise(2, 32, 32) % np.uint8(3)
    for name, part in zip("cd", values, strict=True):
        write_raster(tmp_path / f"{name}.tif", part, nodata=0)
    labels = cells(tmp_path)
    windows = [cell("d"), cell("c"), cell("c")]
    report = labels.prepare(windows, tmp_path)
    assert (report.source, report.read, report.kept, report.dropped) == ("rasters {scene}.tif", 2, 2, {})
    found = list(labels.read(windows))
    for raw, part in zip(found, (values[1], values[0], values[0]), strict=True):
        assert isinstance(raw, RawLabels)
        assert np.array_equal(raw.values, part)
        assert raw.missing is not None
        assert not raw.missing.any()
    labels.close()


def test_a_tile_s_file_is_named_z_x_y(tmp_path: Path) -> None:
    values = noise(256, 256) % np.uint8(3)
    lies = tile_georeference(TILE, 256)
    write_raster(tmp_path / f"{TILE.name}.tif", values, MERCATOR, Affine(*lies.transform))
    raw = one_of(cells(tmp_path), tile())
    assert isinstance(raw, RawLabels)
    assert np.array_equal(raw.values, values)


def test_a_picture_without_a_georeference_will_do(tmp_path: Path) -> None:
    colours = noise(256, 256, 3)
    write_plain(tmp_path / f"{TILE.name}.png", colours)
    raw = one_of(cells(tmp_path, "png"), tile())
    assert isinstance(raw, RawLabels)
    assert np.array_equal(raw.values, colours.transpose(2, 0, 1))


def test_a_cell_without_its_file(tmp_path: Path) -> None:
    write_raster(tmp_path / "c.tif", noise(32, 32))
    windows = [cell("c"), cell("d"), cell("e")]
    skipping = cells(tmp_path, missing="skip")
    assert skipping.prepare(windows, tmp_path).dropped == {"scene without a label raster": 2}
    assert [raw is None for raw in skipping.read(windows)] == [False, True, True]
    message = r"labels\.path: d has no label raster; .*d\.tif does not exist\. Put it there, .*missing: skip"
    with pytest.raises(LabelError, match=message + r" \(2 such scenes\)"):
        cells(tmp_path).prepare(windows, tmp_path)
    with pytest.raises(LabelError, match=message):
        list(cells(tmp_path).read(windows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crs": "EPSG:32632"}, r"c\.tif is in EPSG:32632, c is in EPSG:32631: they must have the same CRS"),
        ({"transform": Affine(0.5, 0, 500_010, 0, -0.5, 5_800_000)}, r"c\.tif does not lie where c does: .*20\.00 col"),
        ({"transform": TRANSFORM * Affine.scale(2)}, r"c\.tif does not lie where c does"),
        ({"side": 33}, r"c\.tif is 33x33 pixels, c is 32x32: they must have the same size"),
    ],
)
def test_a_file_of_another_grid(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    side = options.pop("side", 32)
    write_raster(tmp_path / "c.tif", noise(side, side), **options)
    with pytest.raises(LabelError, match=message + r".*\. Write it on .* its cell, set labels\.align: nearest, or"):
        one_of(cells(tmp_path), cell())


def test_a_damaged_file_of_a_cell(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "c.tif", noise(32, 32))
    path.write_bytes(path.read_bytes()[:-500])
    assert isinstance(one_of(cells(tmp_path), cell()), WindowReadError)
    path.write_text("not a raster")
    with pytest.raises(LabelError, match=r"c\.tif: is no raster that can be opened"):
        one_of(cells(tmp_path), cell())


# ---- rasters on another grid --------------------------------------------------------------------

NEAREST = RasterLabels(source="rasters", path="gt/{scene}.tif", align="nearest")


def placed(column: int, row: int, side: int) -> Window:
    """A window of an image whose grid is that of ``write_raster``."""
    lies = Georeference("EPSG:32631", tuple(TRANSFORM * Affine.translation(column, row))[:6])
    return Window(f"a/{row}-{column}", "a", "a", column, row, side, side, lies)


@pytest.mark.parametrize("moved", [0.0, 0.3, 0.5, 1.0, -2.25])
def test_aligned_labels_are_those_under_the_pixels_centres(tmp_path: Path, moved: float) -> None:
    labels = noise(60, 60) + np.uint8(1)
    path = write_raster(tmp_path / "a.tif", labels, transform=TRANSFORM * Affine.translation(moved, 0))
    at = placed(10, 20, 16)
    raw = one_of(of([scene(path)], NEAREST), at)
    assert isinstance(raw, RawLabels)
    columns = np.floor(np.arange(10, 26) + 0.5 - moved).astype(int)
    assert np.array_equal(raw.values, labels[20:36][:, columns])
    assert raw.missing is not None
    assert not raw.missing.any()
    assert raw.name == str(path)
    exact, _ = read(path, window(10, 20, 16))
    assert np.array_equal(raw.values, exact) == (-0.5 < moved <= 0.5)


def test_aligned_labels_of_another_resolution_and_crs(tmp_path: Path) -> None:
    coarse = noise(40, 40)
    half = TRANSFORM * Affine.scale(2) * Affine.translation(-2, -2)
    path = write_raster(tmp_path / "a.tif", coarse, transform=half)
    raw = one_of(of([scene(path)], NEAREST), placed(0, 0, 32))
    assert isinstance(raw, RawLabels)
    assert np.array_equal(raw.values, coarse[2:18, 2:18].repeat(2, 0).repeat(2, 1))


def test_aligned_labels_beyond_the_image_or_the_raster_are_none(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(60, 60), transform=TRANSFORM * Affine.translation(-10, 4))
    image = Scene("a", "a", (), LocalAsset(path), size=(30, 30))
    raw = one_of(of([image], NEAREST, padding=1), placed(-4, -4, 20))
    assert isinstance(raw, RawLabels)
    known = np.zeros((20, 20), dtype=bool)
    known[8:19, 4:19] = True  # below the raster's first row, inside the image, inside the rim
    assert np.array_equal(raw.missing, ~known)
    with pytest.raises(LabelError, match=r"a/200-200: .*a\.tif does not reach it; .*missing: skip"):
        one_of(of([image], NEAREST), placed(200, 200, 20))


def test_aligned_labels_without_a_place_are_cut(tmp_path: Path) -> None:
    labels = noise(40, 40)
    raw = one_of(of([scene(write_plain(tmp_path / "a.png", labels))], NEAREST), placed(4, 8, 16))
    assert isinstance(raw, RawLabels)
    assert np.array_equal(raw.values, labels[8:24, 4:20])


@pytest.mark.parametrize("columns", [0.5, 1.0, 0.02])
def test_a_cell_s_file_that_lies_a_little_off(tmp_path: Path, columns: float) -> None:
    values = noise(40, 40) % np.uint8(2)
    write_raster(tmp_path / "c.tif", values[:32, :32], transform=TRANSFORM * Affine.translation(columns, 0))
    with pytest.raises(LabelError, match=rf"{columns:.2f} columns and 0.00 rows off\. .*set labels\.align: nearest"):
        one_of(cells(tmp_path), cell())
    write_raster(tmp_path / "c.tif", values, transform=TRANSFORM * Affine.translation(columns - 4, -4))
    raw = one_of(cells(tmp_path, align="nearest"), cell())
    assert isinstance(raw, RawLabels)
    start = int(np.floor(4.5 - columns))
    assert np.array_equal(raw.values, values[4:36, start : start + 32])


def test_a_cell_s_file_in_any_of_several_folders(tmp_path: Path) -> None:
    values = noise(2, 32, 32)
    for folder, part in zip(("train", "val"), values, strict=True):
        write_raster(tmp_path / folder / "32631" / f"{folder}.tif", part)
    labels = CellLabels(tmp_path / "*" / "{scene}.tif", RASTERS)
    for name, part in zip(("32631/train", "32631/val"), values, strict=True):
        raw = one_of(labels, cell(name))
        assert isinstance(raw, RawLabels)
        assert np.array_equal(raw.values, part)
    write_raster(tmp_path / "test/32631/val.tif", values[0])
    with pytest.raises(LabelError, match=r"means .*test/32631/val\.tif and .*val/32631/val\.tif for 32631/val; each"):
        one_of(CellLabels(tmp_path / "*" / "{scene}.tif", RASTERS), cell("32631/val"))


def test_nan_is_no_label(tmp_path: Path) -> None:
    values = np.array([[0, 1], [np.nan, np.inf]], dtype=np.float32)
    found, missing = read(write_raster(tmp_path / "a.tif", values), window(side=2))
    assert found.tolist() == [[0, 1], [0, 0]]
    assert missing.tolist() == [[False, False], [True, True]]
    huge = write_raster(tmp_path / "b.tif", np.full((2, 2), -3.4e38, dtype=np.float32))
    with pytest.raises(LabelError, match=r"b\.tif: .* such as -3\.4e\+38; expected classes\. .*nodata value"):
        read(huge, window(side=2))
