"""Windows of scenes: which there are, what they hold, and what is said of scenes that do not fit."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from rasterio import Affine

from tasks.errors import AreaError, LabelError, SourceError, WindowReadError
from tasks.imagery.scenes.catalogue import SceneCatalogue, item_names
from tasks.imagery.scenes.folder import folder_catalogue
from tasks.raster.scene import IMAGE, Asset, LocalAsset, Scene, SceneItem
from tasks.samples.window import Window
from tests.support.catalogues import windows_of
from tests.support.odd_rasters import LONG, image_tags, picture, tiff
from tests.tasks.imagery.mlhub.files import recipe
from tests.tasks.raster.made import TRANSFORM, noise, scenes_recipe, write_plain, write_raster

ALIGNED = {"source": "rasters", "path": "gt/{scene}.tif", "missing": "skip", "align": "nearest"}
JANUARY, DAY = 1_514_678_400, 86_400  # the day before the first of January 2018


def over(scenes: Sequence[Scene], splits: Mapping[str, Any] | None = None, **imagery: Any) -> SceneCatalogue:
    recipe = scenes_recipe(Path(), "x", splits=splits, **{"windows": {"size": 32}, **imagery})
    return SceneCatalogue(recipe, lambda: scenes)


def scene(name: str, labels: Path | None = None, **files: Path) -> Scene:
    assets: dict[str, Asset] = {key: LocalAsset(path) for key, path in files.items()}
    return Scene(name, name, (SceneItem(name, assets),), LocalAsset(labels) if labels else None)


def dated(name: str, files: Mapping[str, Mapping[str, Path]]) -> Scene:
    """A scene with an item for each day of January 2018."""
    items = [
        SceneItem(f"{name}_{day}", {key: LocalAsset(path) for key, path in assets.items()}, JANUARY + int(day) * DAY)
        for day, assets in files.items()
    ]
    return Scene(name, name, tuple(items))


class Far:
    """An asset that is not here, and must not be fetched, or is found to be fetched."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.fetched = 0

    @property
    def name(self) -> str:
        return "https://example.org/far.tif"

    def path(self) -> Path:
        self.fetched += 1
        if self.file is None:
            raise WindowReadError(f"{self.name}: 503")
        return self.file


def test_windows_of_a_folder(tmp_path: Path) -> None:
    images = {name: noise(3, 70, 100, seed=n) for n, name in enumerate("ab")}
    for name, image in images.items():
        write_raster(tmp_path / f"images/{name}.tif", image)
        write_raster(tmp_path / f"gt/{name}.tif", image[0])
    recipe = scenes_recipe(tmp_path, "images/{scene}.tif", windows={"size": 32})
    with folder_catalogue(recipe) as catalogue:
        windows = windows_of(catalogue)
        assert len(windows) == len({window.name for window in windows}) == 2 * 4 * 3
        assert [window.name for window in windows[:4]] == ["a/0-0", "a/0-32", "a/0-64", "a/0-68"]
        for window in windows:
            (item,) = catalogue.acquisitions(window)
            chip = item.read()
            rows, columns = slice(window.row, window.row + 32), slice(window.column, window.column + 32)
            assert np.array_equal(chip.image, images[window.scene][:, rows, columns])
            assert chip.image.dtype == np.uint8
            assert not chip.nodata.any()
            assert chip.padded is None
            assert item.layer("SCL") is None
        assert windows[1].georeference == ("EPSG:32631", (0.5, 0, 500_016, 0, -0.5, 5_800_000))
        assert (catalogue.bands, catalogue.requests, catalogue.windows()[1]) == (("red", "green", "blue"), 0, {})


def test_a_rotated_transform_is_kept(tmp_path: Path) -> None:
    transform = Affine(-0.03, -2.5, 593_124, 2.5, -0.03, 5_749_208)
    path = write_raster(tmp_path / "a.tif", noise(3, 40, 40), transform=transform)
    window = windows_of(over([scene("a", image=path)]))[-1]
    assert window.georeference is not None
    assert window.georeference.transform == pytest.approx((-0.03, -2.5, 593_124 - 20.24, 2.5, -0.03, 5_749_208 + 19.76))


def test_scenes_without_a_georeference(tmp_path: Path) -> None:
    image = noise(40, 50, 3)
    path = write_plain(tmp_path / "a.png", image)
    catalogue = over([scene("a", image=path)], windows={"size": 0})
    (window,) = windows_of(catalogue)
    assert (window.name, window.width, window.height, window.georeference) == ("a", 50, 40, None)
    assert np.array_equal(catalogue.acquisitions(window)[0].read().image, image.transpose(2, 0, 1))


def test_padding_is_mirrored_and_called_so(tmp_path: Path) -> None:
    image = noise(3, 40, 40)
    image[:, 0, 0] = 255
    path = write_raster(tmp_path / "a.tif", image)
    catalogue = over([scene("a", image=path)], windows={"size": 40, "padding": 10}, nodata=255)
    window = windows_of(catalogue)[0]
    assert (window.name, window.column, window.row) == ("a/0-0", -10, -10)
    chip = catalogue.acquisitions(window)[0].read()
    assert np.array_equal(chip.image, np.pad(image, ((0, 0), (10, 0), (10, 0)), mode="symmetric")[:, :40, :40])
    assert chip.padded is not None
    assert np.array_equal(chip.padded, np.pad(np.zeros((30, 30), dtype=bool), ((10, 0), (10, 0)), constant_values=True))
    assert np.argwhere(chip.nodata).tolist() == [[10, 10]]  # its mirror image is no nodata


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("uint8", "uint8"), ("uint16", "uint16"), ("int16", "int16"), ("int8", "int16"), ("int32", "float32"),
     ("float32", "float32"), ("float64", "float32"), ("complex64", "float32"), ("complex128", "float32")],
)  # fmt: skip
def test_types(tmp_path: Path, dtype: str, kept: str) -> None:
    image = noise(13, 32, 32, dtype="int8").astype(dtype)
    if dtype.startswith("complex"):
        image = image * np.dtype(dtype).type(1 + 2j)
    bands = [f"B{n:02d}" for n in range(1, 14)]
    path = write_raster(tmp_path / "a.tif", image)
    catalogue = over([scene("a", image=path)], bands=bands)
    chip = catalogue.acquisitions(windows_of(catalogue)[0])[0].read()
    assert chip.image.dtype.name == kept
    assert np.allclose(chip.image, np.abs(image) if dtype.startswith("complex") else image, rtol=1e-6)


def test_nodata_of_whole_and_of_floating_numbers(tmp_path: Path) -> None:
    whole = noise(2, 32, 32) + np.uint8(1)
    whole[0, 0, 0] = whole[:, 1, 1] = 0
    floats = whole.astype(np.float64)
    floats[0, 2, 2], floats[1, 3, 3] = np.nan, 1e300
    files = {name: write_raster(tmp_path / f"{name}.tif", values, nodata=0) for name, values in
             (("whole", whole), ("floats", floats))}  # fmt: skip
    chips = {}
    for name, path in files.items():
        catalogue = over([scene("a", image=path)], bands=["x", "y"])
        chips[name] = catalogue.acquisitions(windows_of(catalogue)[0])[0].read()
    assert np.argwhere(chips["whole"].nodata).tolist() == [[1, 1]]  # 0 in one band alone may be a colour
    assert np.array_equal(chips["whole"].image, whole)
    assert np.argwhere(chips["floats"].nodata).tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert (chips["floats"].image[0, 2, 2], chips["floats"].image[1, 3, 3]) == (0, 0)


def test_bands_in_files_of_their_own_and_the_order_of_a_file(tmp_path: Path) -> None:
    image = noise(4, 32, 32, dtype="uint16")
    one = {name: write_raster(tmp_path / f"{name}.tif", image[n]) for n, name in enumerate("BGRI")}
    many = write_raster(tmp_path / "all.tif", image)
    for found, changes in ((scene("a", **one), {}), (scene("a", image=many), {"file_bands": list("BGRI")})):
        catalogue = over([found], bands=["R", "I", "B"], **changes)
        chip = catalogue.acquisitions(windows_of(catalogue)[0])[0].read()
        assert np.array_equal(chip.image, image[[2, 3, 0]])


def test_four_bands_of_bytes_are_four_bands(tmp_path: Path) -> None:
    image = noise(4, 32, 32)
    path = write_raster(tmp_path / "a.tif", image, photometric="RGB", alpha="YES")  # as GDAL writes B, G, R, IR
    catalogue = over([scene("a", image=path)], bands=["B", "G", "R", "IR"])
    chip = catalogue.acquisitions(windows_of(catalogue)[0])[0].read()
    assert np.array_equal(chip.image, image)
    assert not chip.nodata.any()


def test_dates(tmp_path: Path) -> None:
    images = {day: noise(3, 40, 32, seed=int(day)) for day in ("01", "09", "05")}
    files = {day: {IMAGE: write_raster(tmp_path / f"{day}.tif", image)} for day, image in images.items()}
    place = dated("28QDE_08", files)
    catalogue = over([place])
    items = catalogue.acquisitions(windows_of(catalogue)[0])
    assert [item.id for item in items] == ["28QDE_08_01", "28QDE_08_05", "28QDE_08_09"]
    assert [np.array_equal(item.read().image, images[item.id[-2:]][:, :32]) for item in items] == [True] * 3

    catalogue = over([place], dates={"pick": "all"})
    windows = windows_of(catalogue)
    assert [window.name for window in windows] == [
        f"28QDE_08/{row}-0@201801{day}" for day in ("01", "05", "09") for row in (0, 8)
    ]
    assert [item.id for item in catalogue.acquisitions(windows[2])] == ["28QDE_08_05"]

    catalogue = over([place], dates={"count": 2})
    assert [(window.name, window.rank) for window in windows_of(catalogue)[:3]] == [
        ("28QDE_08/0-0@0", 0), ("28QDE_08/0-0@1", 1), ("28QDE_08/8-0@0", 0)]  # fmt: skip
    assert len(windows_of(over([place], dates={"count": 9}))) == 2 * 3  # there are no more dates


def test_names_of_items() -> None:
    def items(*given: tuple[str, int | None]) -> list[SceneItem]:
        return [SceneItem(name, {}, at) for name, at in given]

    assert item_names(items(("x", 0), ("y", 90_000))) == ["19700101", "19700102"]
    assert item_names(items(("x y", 0), ("z", 10))) == ["x_y", "z"]
    assert item_names(items(("x", None))) == ["x"]
    with pytest.raises(SourceError, match="two images of one scene are both named x_y"):
        item_names(items(("x y", None), ("x_y", None)))


def test_layers_come_by_nearest_neighbour_on_the_windows_grid(tmp_path: Path) -> None:
    half = Affine(1, 0, 500_000, 0, -1, 5_800_000)
    scl, cld = noise(20, 20), noise(40, 40)
    found = scene(
        "a",
        image=write_raster(tmp_path / "a.tif", noise(3, 40, 40)),
        SCL=write_raster(tmp_path / "scl.tif", scl, transform=half),
        CLD=write_raster(tmp_path / "cld.tif", cld),
        cloudmask=write_raster(tmp_path / "elsewhere.tif", scl),
    )
    catalogue = over([found], windows={"size": 40, "padding": 4})
    window = windows_of(catalogue)[0]
    item = catalogue.acquisitions(window)[0]
    wanted = np.pad(scl.repeat(2, 0).repeat(2, 1), 4, mode="symmetric")[:40, :40]
    assert np.array_equal(item.layer("SCL"), wanted)
    assert np.array_equal(item.layer("CLD"), np.pad(cld, 4, mode="symmetric")[:40, :40])
    with pytest.raises(SourceError, match=r"elsewhere\.tif does not lie where .* A layer must cover the ground"):
        item.layer("cloudmask")


def test_a_part_of_each_scene_is_held_out(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 160, 320))
    scenes = [scene(name, image=path) for name in ("D1", "D12", "D22")]
    splits = {"groups": {"test": ["D12"]}, "holdout": 0.2}
    windows, left_out = over(scenes, splits, windows={"size": 32, "stride": 16}).windows()
    groups: dict[str, list[Window]] = {}
    for window in windows:
        groups.setdefault(window.group, []).append(window)
    assert sorted(groups) == ["D1", "D12", "D1:reserved", "D22", "D22:reserved"]
    assert len(groups["D12"]) == 19 * 9
    assert left_out == {"windows astride a holdout": 3 * 19 * 9 - len(windows)} == {"windows astride a holdout": 2 * 9}
    for name in ("D1", "D22"):
        kept = {x for window in groups[name + ":reserved"] for x in range(window.column, window.column + 32)}
        seen = {x for window in groups[name] for x in range(window.column, window.column + 32)}
        assert len(kept) == 64  # 20% of 320 columns
        assert not kept & seen


def test_blocks_of_a_scene_share_a_group_over_all_dates(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 100, 160))
    scenes = [dated("D1", {"01": {IMAGE: path}, "02": {IMAGE: path}}), scene("D2", image=path)]
    splits = {"by": "block", "block": 2}
    for dates in ({"pick": "all"}, {"count": 2}):
        windows = windows_of(over(scenes, splits, dates=dates))
        assert len({window.name for window in windows}) == len(windows) == 3 * 4 * 5
        for window in windows:
            row, column = window.row // 64, window.column // 64  # of rows at 0, 32, 64 and 68, which is 64's
            assert window.group == f"{window.scene}/{row}-{column}"
    (whole,) = windows_of(over(scenes[1:], splits, windows={"size": 160, "edge": "pad"}))
    assert whole.group == "D2/0-0"


def test_a_header_is_read_of_labels_and_not_of_imagery_that_is_far(tmp_path: Path) -> None:
    labels = write_raster(tmp_path / "labels.tif", noise(64, 64))
    far = Far(write_raster(tmp_path / "a.tif", noise(3, 64, 64)))
    catalogue = over([Scene("a", "a", (SceneItem("a", {IMAGE: far}),), LocalAsset(labels))])
    windows = windows_of(catalogue)
    assert len(windows) == 4
    assert far.fetched == 0
    catalogue.acquisitions(windows[0])[0].read()
    assert far.fetched == 1


def test_a_scene_whose_header_cannot_be_fetched() -> None:
    catalogue = over([Scene("a", "a", (SceneItem("a", {IMAGE: Far()}),))])
    with pytest.raises(SourceError, match=r"scene a: its size cannot be learnt \(https://example.org/far.tif: 503\)"):
        windows_of(catalogue)


def test_bands_that_do_not_exist(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(4, 32, 32, dtype="uint16"))
    with pytest.raises(SourceError, match=r"no image has B99; there are B02, B03"):
        windows_of(over([scene("a", B02=path, B03=path)], bands=["B02", "B99"]))
    changes = {"bands": ["red", "swir"], "file_bands": ["red", "green", "blue", "nir"]}
    with pytest.raises(SourceError, match=r"no image has swir; there are red, green, blue, nir\. Name the bands"):
        windows_of(over([scene("a", image=path)], **changes))
    with pytest.raises(SourceError, match=r"a\.tif: has 4 bands, the recipe names red, green, blue; list .*file_bands"):
        windows_of(over([scene("a", image=path)]))
    with pytest.raises(SourceError, match=r"a\.tif: has 4 bands, its name stands for one"):
        windows_of(over([scene("a", hh=path)], bands=["hh"]))
    with pytest.raises(SourceError, match="none of the 1 scenes has an image, among them a"):
        windows_of(over([Scene("a", "a")]))
    apart = dated("a", {"01": {"B02": path}, "02": {"B03": path}})
    with pytest.raises(SourceError, match="no image has all of B02, B03; there are B02, B03"):
        windows_of(over([apart], bands=["B02", "B03"]))
    with pytest.raises(SourceError, match="there are no scenes"):
        windows_of(over([]))


def test_items_and_scenes_that_lack_a_band_are_left_out(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "b.tif", noise(32, 32))
    scenes = [dated("a", {"01": {"B02": path}, "02": {"B02": path, "B03": path}}), dated("b", {"01": {"B02": path}})]
    catalogue = over(scenes, bands=["B03", "B02"])
    (window,), left_out = catalogue.windows()
    assert [item.id for item in catalogue.acquisitions(window)] == ["a_02"]
    assert left_out == {"scenes without all bands": 1}
    assert [one.name for one in catalogue.scenes()] == ["a", "b"]


def test_images_of_one_scene_of_two_sizes(tmp_path: Path) -> None:
    paths = [write_raster(tmp_path / f"{side}.tif", noise(3, side, side)) for side in (32, 48)]
    catalogue = over([dated("a", {"01": {IMAGE: paths[0]}, "02": {IMAGE: paths[1]}})])
    items = catalogue.acquisitions(windows_of(catalogue)[0])
    items[0].read()
    with pytest.raises(SourceError, match=r"scene a: .*48\.tif is 48x48 pixels, .*32\.tif is 32x32.*have one grid"):
        items[1].read()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {},
            r"gt\.tif is 32x48 pixels, .*image\.tif is 32x32: they must have the same size\. Set labels\.align: near",
        ),
        (
            {"crs": "EPSG:32632"},
            r"gt\.tif is in EPSG:32632, .*image\.tif is in EPSG:32631: they must have",
        ),
        ({"transform": Affine(0.5, 0, 500_100, 0, -0.5, 5_800_000)}, r"gt\.tif does not lie where .*200\.00 columns"),
    ],
)
def test_labels_that_do_not_fit_their_image(tmp_path: Path, labels: dict[str, Any], message: str) -> None:
    image = write_raster(tmp_path / "image.tif", noise(3, 32, 32))
    gt = write_raster(tmp_path / "gt.tif", noise(32 if labels else 48, 32), **labels)
    with pytest.raises(LabelError, match=message):
        windows_of(over([scene("a", gt, image=image)]))
    far = Scene("a", "a", (SceneItem("a", {IMAGE: Far(image)}),), LocalAsset(gt))
    catalogue = over([far])
    (window, *_) = windows_of(catalogue)  # the image is not here to compare
    with pytest.raises(LabelError, match=r"labels: scene a: .*(they must have|not lie where)"):
        catalogue.acquisitions(window)[0].read()


@pytest.mark.parametrize("columns", [0.5, 1.0, 0.02])
def test_labels_that_lie_a_little_off(tmp_path: Path, columns: float) -> None:
    image = write_raster(tmp_path / "image.tif", noise(3, 32, 32))
    gt = write_raster(tmp_path / "gt.tif", noise(32, 32), transform=TRANSFORM * Affine.translation(columns, 0))
    message = rf"labels: scene a: .*gt\.tif does not lie .*is {columns:.2f} columns .* off\. Set labels\.align: nearest"
    with pytest.raises(LabelError, match=message):
        windows_of(over([scene("a", gt, image=image)]))
    far = over([Scene("a", "a", (SceneItem("a", {IMAGE: Far(image)}),), LocalAsset(gt))])
    with pytest.raises(LabelError, match=message):
        far.acquisitions(windows_of(far)[0])[0].read()


def test_aligned_labels_leave_the_grid_to_the_image(tmp_path: Path) -> None:
    image = write_raster(tmp_path / "image.tif", noise(3, 40, 50))
    gt = write_raster(tmp_path / "gt.tif", noise(30, 30), transform=TRANSFORM * Affine.translation(0.5, 7))
    recipe = scenes_recipe(tmp_path, "x", ALIGNED, windows={"size": 0})
    catalogue = SceneCatalogue(recipe, lambda: [scene("a", gt, image=image), Scene("b", "b")])
    (window,) = windows_of(catalogue)
    assert (window.width, window.height) == (50, 40)
    assert window.georeference == ("EPSG:32631", tuple(TRANSFORM)[:6])
    assert [one.size for one in catalogue.scenes()] == [(50, 40), None]
    bare = write_plain(tmp_path / "gt.png", noise(30, 30))
    catalogue = SceneCatalogue(recipe, lambda: [scene("a", bare, image=image)])
    with pytest.raises(LabelError, match=r"gt\.png is 30x30 pixels, .* Warp the label raster"):
        windows_of(catalogue)  # nobody can tell where it lies


def test_images_of_two_types_are_told_as_that(tmp_path: Path) -> None:
    scenes = [
        scene(name, image=write_raster(tmp_path / f"{name}.tif", noise(3, 32, 32, dtype=dtype)))
        for name, dtype in (("a", "uint8"), ("b", "uint8"), ("c", "uint16"))
    ]
    with pytest.raises(
        SourceError, match=r"c\.tif: is uint16, .*a\.tif is uint8; all images of a dataset have one type"
    ):
        windows_of(over(scenes))
    floats = [
        scene(name, image=write_raster(tmp_path / f"f{name}.tif", noise(3, 32, 32, dtype=name)))
        for name in ("float64", "float32", "int32")  # which are all stored as float32
    ]
    assert len(windows_of(over(floats))) == 3
    dates = dated("a", {"01": {IMAGE: tmp_path / "a.tif"}, "02": {IMAGE: tmp_path / "c.tif"}})
    catalogue = over([dates])
    with pytest.raises(SourceError, match=r"is uint16, .* is uint8"):
        catalogue.acquisitions(windows_of(catalogue)[0])[1].read()


def test_a_palette_is_told_as_that(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(picture(Random(1), "PNG", "P"))
    with pytest.raises(SourceError, match=r"p\.png: has 1 bands, .* its numbers stand for colours of a table"):
        windows_of(over([scene("a", image=path)]))
    assert windows_of(over([scene("a", image=path)], bands=["class"]))  # which may be meant


def test_headers_that_promise_too_much(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    tags = [tag for tag in image_tags(1_000_000, 1_000_000) if tag[0] not in (273, 278, 279)]
    path.write_bytes(tiff([*tags, (322, LONG, [256]), (323, LONG, [256]), (324, LONG, [8]), (325, LONG, [0])]))
    began = time.monotonic()
    with pytest.raises(AreaError, match=r"scene a is 1000000x1000000 pixels, which makes 976,562,500 windows or more"):
        windows_of(over([scene("a", image=path)]))
    with pytest.raises(SourceError, match=r"a window of 1000000x1000000 pixels takes 2,861,022 MiB, over 1,024; set"):
        windows_of(over([scene("a", image=path)], windows={"size": 0}))
    assert time.monotonic() - began < 5


def test_an_image_that_is_gone(tmp_path: Path) -> None:
    catalogue = over([scene("a", image=tmp_path / "gone.tif")])
    with pytest.raises(SourceError, match=r"gone\.tif: cannot be looked at \(No such file"):
        catalogue.fingerprints()


def test_one_damaged_image_fails_at_its_windows(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 64, 64), compress="deflate", blockysize=32)
    path.write_bytes(path.read_bytes()[:-100])
    catalogue = over([scene("a", image=path)])
    *others, last = windows_of(catalogue)
    for window in (others[0], others[1]):
        catalogue.acquisitions(window)[0].read()
        with pytest.raises(WindowReadError, match=r"a\.tif: columns 32-64, rows 32-64 cannot be read"):
            catalogue.acquisitions(last)[0].read()


def test_a_window_of_another_run(tmp_path: Path) -> None:
    catalogue = over([scene("a", image=write_raster(tmp_path / "a.tif", noise(3, 32, 32)))])
    with pytest.raises(WindowReadError, match=r"window a/0-64 \(columns 64 to 96, .* outside scene a, which is 32x32"):
        catalogue.acquisitions(Window("a/0-64", "a", "a", 64, 0, 32, 32))[0].read()
    with pytest.raises(SourceError, match="there is no scene b any more"):
        catalogue.acquisitions(Window("b", "b", "b", 0, 0, 32, 32))


def test_threads_see_what_one_sees(tmp_path: Path) -> None:
    image = noise(3, 256, 256)
    write_raster(tmp_path / "a.tif", image, tiled=True, blockxsize=64, blockysize=64, compress="lzw")
    windows = {"size": 48, "edge": "pad"}
    made = recipe(tmp_path, reader="local", path=".", bands=["red", "green", "blue"], windows=windows)
    with SceneCatalogue(made, lambda: [scene("a", image=tmp_path / "a.tif")]) as catalogue:
        padded = np.pad(image, ((0, 0), (0, 32), (0, 32)), mode="symmetric")

        def right(window: Window) -> bool:
            found = catalogue.acquisitions(window)[0].read().image
            at = slice(window.row, window.row + 48), slice(window.column, window.column + 48)
            return np.array_equal(found, padded[:, at[0], at[1]])

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(right, windows_of(catalogue) * 4))


@pytest.mark.parametrize(
    ("dtype", "value"), [("uint32", 4_000_000_001), ("int32", -20_000_001), ("float64", 2.0**24 + 1)]
)
def test_whole_numbers_that_no_image_can_keep_are_refused(tmp_path: Path, dtype: str, value: float) -> None:
    image = np.ones((1, 32, 32), dtype=dtype)
    image[0, 5, 5] = value
    path = write_raster(tmp_path / "a.tif", image)
    catalogue = over([scene("a", image=path)], bands=["x"])
    with pytest.raises(
        SourceError, match=f"^scene a, image .*: holds the {dtype} {value:.0f}.*, which no image can keep"
    ):
        catalogue.acquisitions(windows_of(catalogue)[0])[0].read()
    declared = write_raster(tmp_path / "b.tif", image, nodata=value)  # as nodata it says no number
    catalogue = over([scene("b", image=declared)], bands=["x"])
    chip = catalogue.acquisitions(windows_of(catalogue)[0])[0].read()
    assert np.argwhere(chip.nodata).tolist() == [[5, 5]]
    assert chip.image.dtype == np.float32
