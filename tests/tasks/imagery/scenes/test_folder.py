"""Which files of a pattern are which scene, and what is said when there are none."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.errors import LabelError, RecipeError, SourceError
from tasks.imagery.scenes.folder import folder_scenes
from tasks.raster.scene import IMAGE, LocalAsset
from tests.tasks.raster.made import scenes_recipe


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_inria(tmp_path: Path) -> None:
    names = ("austin1", "austin10", "tyrol-w2", "bellingham3")
    touch(tmp_path, *(f"train/{folder}/{name}.tif" for folder in ("images", "gt") for name in names))
    labels = {"source": "rasters", "path": "train/gt/{scene}.tif"}
    scenes = folder_scenes(scenes_recipe(tmp_path, "train/images/{scene}.tif", labels, group="^[a-z-]+"))
    assert [scene.name for scene in scenes] == ["austin1", "austin10", "bellingham3", "tyrol-w2"]
    assert [scene.group for scene in scenes] == ["austin", "austin", "bellingham", "tyrol-w"]
    assert scenes[0].labels == LocalAsset(tmp_path / "train/gt/austin1.tif")
    assert scenes[0].items[0].assets == {IMAGE: LocalAsset(tmp_path / "train/images/austin1.tif")}
    assert scenes[0].items[0].acquired_at is None


@pytest.mark.parametrize(
    ("pattern", "file", "scene"),
    [
        ("images/{scene}.tif", "images/M-33-20-D-c-4-2.tif", "M-33-20-D-c-4-2"),
        (
            "SAR-Intensity/SN6_Train_AOI_11_Rotterdam_SAR-Intensity_{scene}.tif",
            "SAR-Intensity/SN6_Train_AOI_11_Rotterdam_SAR-Intensity_20190804111224_20190804111453_tile_8679.tif",
            "20190804111224_20190804111453_tile_8679",
        ),
        ("labels/ref_v1_labels_{scene}/labels.tif", "labels/ref_v1_labels_28QDE_08/labels.tif", "28QDE_08"),
        ("{scene}/*/{scene}_image.tif", "D12/2019/D12_image.tif", "D12"),
        ("areas/site [1]?/{scene}.tif", "areas/site [1]?/a.tif", "a"),
        ("images/Zürich lake.tif", "images/Zürich lake.tif", "Z_rich_lake"),
        ("area/{band}.tif", "area/red.tif", "area"),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, file: str, scene: str) -> None:
    touch(tmp_path, file, "images/._M-33.tif", "other/x.png")
    scenes = folder_scenes(scenes_recipe(tmp_path, pattern))
    assert [one.name for one in scenes] == [scene]
    assert [asset.name for item in scenes[0].items for asset in item.assets.values()] == [str(tmp_path / file)]


def test_bands_layers_and_dates(tmp_path: Path) -> None:
    names = ("red", "green", "nir", "SCL", "thumbnail")
    touch(
        tmp_path, *(f"{tile}_{day}_{name}.tif" for tile in "ab" for day in ("20180105", "2018-02-04") for name in names)
    )
    scenes = folder_scenes(scenes_recipe(tmp_path, "{scene}_{date}_{band}.tif", bands=["red", "nir"]))
    assert [scene.name for scene in scenes] == ["a", "b"]
    first, second = scenes[1].items
    assert (first.id, second.id) == ("b_20180105", "b_20180204")
    assert first.acquired_at == datetime(2018, 1, 5, tzinfo=UTC).timestamp()
    assert set(first.assets) == {"red", "nir", "SCL"}
    assert second.assets["nir"].path() == tmp_path / "b_2018-02-04_nir.tif"


def test_a_band_that_is_the_end_of_another_name(tmp_path: Path) -> None:
    touch(tmp_path, "x_B8.tif", "x_B8A.tif")
    (scene,) = folder_scenes(scenes_recipe(tmp_path, "{scene}_{band}.tif", bands=["B8", "B8A"]))
    assert set(scene.items[0].assets) == {"B8", "B8A"}


def test_labels_that_are_missing(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.tif", "images/b.tif", "gt/a.tif")
    labels = {"source": "rasters", "path": "gt/{scene}.tif"}
    with pytest.raises(
        LabelError, match=r"scene b has no label raster; .*gt/b\.tif does not exist.*holds a\.tif.*skip"
    ):
        folder_scenes(scenes_recipe(tmp_path, "images/{scene}.tif", labels))
    scenes = folder_scenes(scenes_recipe(tmp_path, "images/{scene}.tif", labels | {"missing": "skip"}))
    assert [scene.labels is None for scene in scenes] == [False, True]
    with pytest.raises(RecipeError, match=r"labels\.path: gt/a\.tif has no \{scene\} in it, and there are 2 scenes"):
        folder_scenes(scenes_recipe(tmp_path, "images/{scene}.tif", labels | {"path": "gt/a.tif"}))


def test_folders_of_one_layout_are_one_recipe(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{folder}/{part}1.tif" for part in ("train", "val") for folder in ("images", "gt")))
    touch(tmp_path, "val/gt/._val1.tif", ".cache/gt/train1.tif")
    labels = {"source": "rasters", "path": "*/gt/{scene}.tif"}
    scenes = folder_scenes(scenes_recipe(tmp_path, "*/images/{scene}.tif", labels))
    assert [(one.name, one.labels) for one in scenes] == [
        (f"{part}1", LocalAsset(tmp_path / f"{part}/gt/{part}1.tif")) for part in ("train", "val")
    ]
    touch(tmp_path, "test/gt/val1.tif")
    with pytest.raises(
        LabelError, match=r"gt/\{scene\}\.tif means .*test/gt/val1\.tif and .*val/gt/val1\.tif for val1; "
    ):
        folder_scenes(scenes_recipe(tmp_path, "*/images/{scene}.tif", labels))
    gone = {"source": "rasters", "path": "*/masks/{scene}*.tif"}
    with pytest.raises(LabelError, match=r"scene train1 has no label raster; .*/masks/train1\*\.tif does not exist"):
        folder_scenes(scenes_recipe(tmp_path, "*/images/{scene}.tif", gone))


def test_a_name_with_a_star_or_bracket_means_itself(tmp_path: Path) -> None:
    touch(tmp_path, "images/a[1].tif", "gt/x_a[1].tif", "gt/x_a1.tif")
    labels = {"source": "rasters", "path": "g*/x_{scene}.tif"}
    (scene,) = folder_scenes(scenes_recipe(tmp_path, "images/{scene}.tif", labels))
    assert scene.labels == LocalAsset(tmp_path / "gt/x_a[1].tif")


def test_patterns_of_many_stars_take_no_time(tmp_path: Path) -> None:
    touch(tmp_path, "a" * 200 + "_20181.tif", "x_" + "b" * 100 + "_x.tif")
    began = time.monotonic()
    with pytest.raises(SourceError, match="no file matches"):
        folder_scenes(scenes_recipe(tmp_path, "*a" * 40 + "*{date}.tif"))
    with pytest.raises(SourceError, match="no file matches"):
        folder_scenes(scenes_recipe(tmp_path, "{scene}*b*b{scene}y*"))
    assert time.monotonic() - began < 10


def test_groups_are_matched_in_linear_time(tmp_path: Path) -> None:
    touch(tmp_path, "a" * 120 + "!.tif")
    began = time.monotonic()
    with pytest.raises(SourceError, match="matches nothing in the name of scene"):
        folder_scenes(scenes_recipe(tmp_path, "{scene}.tif", group="^(a+)+$"))
    assert time.monotonic() - began < 5


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.tif")).touch()
    with pytest.raises(SourceError, match=r"caf\?\.tif: its name is not UTF-8; rename the file"):
        folder_scenes(scenes_recipe(tmp_path, "{scene}.tif"))


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for folder in ("loop", "x" * 300):
        with pytest.raises(SourceError, match="no file matches"):
            folder_scenes(scenes_recipe(tmp_path, f"{folder}/{{scene}}.tif"))


def test_what_is_no_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.tif").mkdir()
    os.mkfifo(tmp_path / "b.tif")
    with pytest.raises(SourceError, match=r"no file matches .*holds a\.tif/, b\.tif"):
        folder_scenes(scenes_recipe(tmp_path, "{scene}.tif"))


def test_footprint_labels_need_no_raster(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.tif")
    (scene,) = folder_scenes(scenes_recipe(tmp_path, "images/{scene}.tif", {"source": "vector", "path": "b.geojson"}))
    assert scene.labels is None


def test_no_file_matches(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{n}.jpg" for n in range(12)))
    with pytest.raises(
        SourceError, match=r"no file matches .*/images/\{scene\}\.tif; .*images holds 0\.jpg, .* and 4 more"
    ):
        folder_scenes(scenes_recipe(tmp_path, "images/{scene}.tif"))
    recipe = scenes_recipe(
        tmp_path, "AerialImageDataset/{scene}.tif", about="Unpack the five parts\nof the archive here"
    )
    with pytest.raises(SourceError, match=r"AerialImageDataset does not\. Unpack the five parts of the archive here"):
        folder_scenes(recipe)


@pytest.mark.parametrize(
    ("pattern", "files", "changes", "error", "message"),
    [
        ("{scene}_{band}.tif", ["a_B1.tif", "a_B2.tif"], {}, SourceError, r"no file for any of red.*stand B1, B2"),
        ("{scene}*.tif", ["a.tif", "a1.tif"], {}, SourceError, "are the same image to the pattern"),
        ("{date}*.tif", ["20180101a.tif", "20180101b.tif"], {}, SourceError, "are the same image to the pattern"),
        ("{scene}_{date}.tif", ["a_20181350.tif"], {}, SourceError, r"a_20181350\.tif: 20181350 .* is no date"),
        ("{scene}.tif", ["a b.tif", "a_b.tif"], {}, SourceError, "would both be named a_b"),
        ("{scene}.tif", ["tile1.tif"], {"group": "^[A-Z]+"}, SourceError, "matches nothing in the name of scene tile1"),
    ],
)
def test_patterns_that_cannot_be_used(
    tmp_path: Path, pattern: str, files: list[str], changes: dict[str, str], error: type[Exception], message: str
) -> None:
    touch(tmp_path, *files)
    recipe = scenes_recipe(tmp_path, pattern, **changes)
    with pytest.raises(error, match=message):
        folder_scenes(recipe)
