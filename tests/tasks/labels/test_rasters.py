"""Label rasters: values, colours, consensus, what has no label, and files of no use."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import LabelError
from tasks.labels.rasters import SceneLabels
from tasks.raster.scene import LocalAsset, Scene
from tasks.recipe.windows import ProvidedLabels, RasterLabels
from tasks.samples.window import Window, WindowReadError
from tests.tasks.raster.made import noise, write_plain, write_raster

RASTERS = RasterLabels(source="rasters", path="gt/{scene}.tif")
SKIP = RasterLabels(source="rasters", path="gt/{scene}.tif", missing="skip")


def scene(path: Path | None, name: str = "a") -> Scene:
    return Scene(name, name, (), LocalAsset(path) if path else None)


def window(column: int = 0, row: int = 0, side: int = 32, name: str = "a") -> Window:
    return Window(f"{name}/{row}-{column}", name, name, column, row, side, side)


def read(path: Path, at: Window | None = None, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    found = SceneLabels([scene(path)], RASTERS, **options).read(at or window())
    assert found is not None
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
    with pytest.raises(LabelError, match=r"b\.tif: holds float32 values that are not whole numbers; expected classes"):
        read(write_raster(tmp_path / "b.tif", labels))
    with pytest.raises(LabelError, match="not whole numbers"):
        read(write_raster(tmp_path / "c.tif", labels.astype(np.complex64)))


def test_consensus_is_the_second_band(tmp_path: Path) -> None:
    both = noise(2, 32, 32, dtype="uint16") % np.uint16(101)
    path = write_raster(tmp_path / "a.tif", both)
    found = SceneLabels([scene(path)], ProvidedLabels(source="provided", min_consensus=60)).read(window())
    assert found is not None
    assert found.consensus is not None
    assert found.consensus.dtype == np.uint8
    assert np.array_equal(found.values, both[0])
    assert np.array_equal(found.consensus, both[1])
    assert np.array_equal(read(path)[0], both[0])  # not asked for
    one = write_raster(tmp_path / "one.tif", both[0])
    with pytest.raises(LabelError, match=r"one\.tif: has no consensus band .*leave labels\.min_consensus out"):
        SceneLabels([scene(one)], ProvidedLabels(source="provided", min_consensus=60)).read(window())


def test_a_scene_without_its_label(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(32, 32))
    scenes = [scene(path), scene(None, "b"), scene(None, "c")]
    windows = [window(name=name) for name in "abc"]
    labels = SceneLabels(scenes, SKIP)
    report = labels.prepare(windows, tmp_path)
    assert (report.read, report.kept, report.dropped) == (3, 1, {"scene without a label raster": 2})
    assert labels.read(windows[1]) is None
    labels = SceneLabels(scenes, RASTERS)
    with pytest.raises(LabelError, match=r"scene b has no label raster; .*missing: skip \(2 such scenes\)"):
        labels.prepare(windows, tmp_path)
    with pytest.raises(LabelError, match="scene c has no label raster"):
        labels.read(windows[2])
    with pytest.raises(LabelError, match="no scene x any more"):
        labels.read(window(name="x"))


def test_the_report_changes_with_the_labels(tmp_path: Path) -> None:
    values = noise(2, 32, 32)
    paths = [write_raster(tmp_path / f"{name}.tif", part) for name, part in zip("ab", values, strict=True)]
    scenes = [scene(path, path.stem) for path in paths]
    windows = [window(name=name) for name in "ba"] * 2

    def prepared() -> tuple[str, str]:
        report = SceneLabels(scenes, RASTERS).prepare(windows, tmp_path)
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
    labels = SceneLabels([scene(path), Scene("b", "b", (), Unreachable())], RASTERS)
    report = labels.prepare([window(), window(name="b")], tmp_path)
    assert (report.read, report.kept, report.dropped) == (2, 1, {"label raster cannot be fetched": 1})
    with pytest.raises(WindowReadError, match="503"):
        labels.read(window(name="b"))


def test_damaged_labels(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(256, 256), tiled=True, blockxsize=64, blockysize=64)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    labels = SceneLabels([scene(path)], RASTERS)
    assert labels.read(window()) is not None
    with pytest.raises(WindowReadError, match=r"a\.tif: columns 192-224, rows 192-224 cannot be read"):
        labels.read(window(192, 192))
    with pytest.raises(WindowReadError, match="lies outside scene a"):
        labels.read(window(300, 0))
    labels.close()
    path.write_bytes(data[:3])
    with pytest.raises(LabelError, match=r"a\.tif: is no raster that can be opened"):
        labels.read(window())
    path.unlink()
    with pytest.raises(LabelError, match=r"a\.tif: cannot be read \(No such file"):
        labels.prepare([window()], tmp_path)
