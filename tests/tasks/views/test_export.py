import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tasks.errors import DiskError, StoreError
from tasks.geo.tiles import Tile, tile_bounds
from tasks.versions.read import DatasetVersion, open_version
from tasks.versions.schema import NOT_KNOWN, SPLITS
from tasks.views.export import PART, ExportSummary, export_version, file_names
from tasks.views.picture import viewable
from tests.support.continued import NAMES, unpack
from tests.support.stores import CLASSES, IGNORE, Split, draw, utm, write_store

COLORS = {0: (0, 0, 0), 3: (255, 170, 0), 7: (0, 0, 254), IGNORE: (255, 255, 255)}  # black is taken by a class
IDS = ["town/0-0", "town/0-64", "sea/0-0", "chip_3@20180827", "chip_3@2"]


def run(version: DatasetVersion, out: Path, file_format: str, splits: Any = SPLITS) -> ExportSummary:
    return export_version(version, out, file_format, splits, lambda done, total: None)


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def listed(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def png(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as opened:
        assert opened.mode in ("L", "RGB")
        return np.asarray(opened)


def tiff(path: Path) -> tuple[NDArray[Any], dict[str, Any], Any]:
    """Pixels, profile and colour table of a TIFF."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as opened:
            table = opened.colormap(1) if opened.colorinterp[0].name == "palette" else None
            profile = {**opened.profile, "descriptions": opened.descriptions, "interp": opened.colorinterp}
            return opened.read(), profile, table


def name(sample_id: str) -> str:
    return sample_id.replace("/", "_")


def test_pictures_and_masks_are_read_back_exactly(tmp_path: Path) -> None:
    split = draw(IDS)
    version = write_store(
        tmp_path / "store", {"train": split, "test": draw(["sea/64-0"])}, bands=["red", "green", "blue"]
    )
    summary = run(version, tmp_path / "out", "png")
    assert summary == ExportSummary(
        str(tmp_path / "out"), "v1", "png", {"train": 5, "validation": 0, "test": 1}, 6 * 3 + 2, 0
    )
    for i, sample_id in enumerate(IDS):
        folder, file = tmp_path / "out" / "train", f"{name(sample_id)}.png"
        assert np.array_equal(png(folder / "images" / file), np.moveaxis(split.image[i], 0, -1))
        assert np.array_equal(png(folder / "masks" / file), split.mask[i])
        colors = [[COLORS[value] for value in row] for row in split.mask[i].tolist()]
        assert png(folder / "masks_rgb" / file).tolist() == np.array(colors).tolist()
    assert len(files(tmp_path / "out")) == summary.files
    assert (tmp_path / "out/test/masks/sea_64-0.png").is_file()


@pytest.mark.parametrize(
    ("bands", "dtype"), [(1, "uint8"), (13, "uint16"), (4, "int16"), (2, "float32"), (3, "uint16")]
)
def test_other_images_are_pictures_for_people(tmp_path: Path, bands: int, dtype: str) -> None:
    split = draw(["a"], bands, dtype)
    version = write_store(tmp_path / "store", {"train": split})
    run(version, tmp_path / "out", "png")
    expected = viewable(split.image[0], version.attributes["bands"])
    assert np.array_equal(png(tmp_path / "out/train/images/a.png"), np.moveaxis(expected, 0, -1))


@pytest.mark.parametrize(
    ("bands", "dtype"), [(1, "float32"), (3, "uint8"), (4, "uint8"), (13, "uint16"), (4, "int16"), (2, "float32")]
)
def test_a_geotiff_keeps_values_and_georeference(tmp_path: Path, bands: int, dtype: str) -> None:
    split = draw(IDS, bands, dtype, **utm(len(IDS)))
    version = write_store(tmp_path / "store", {"train": split})
    summary = run(version, tmp_path / "out", "geotiff")
    assert (summary.georeferenced, summary.files) == (5, 5 * 2 + 2)
    for i, sample_id in enumerate(IDS):
        folder, file = tmp_path / "out" / "train", f"{name(sample_id)}.tif"
        pixels, profile, _ = tiff(folder / "images" / file)
        assert pixels.dtype == np.dtype(dtype)
        assert np.array_equal(pixels, split.image[i])
        assert profile["crs"].to_epsg() == 32633
        assert tuple(profile["transform"])[:6] == tuple(split.more["transform"][i])
        assert profile["descriptions"] == tuple(version.attributes["bands"])
        assert "alpha" not in [one.name for one in profile["interp"]]
        mask, about, table = tiff(folder / "masks" / file)
        assert np.array_equal(mask[0], split.mask[i])
        assert (about["dtype"], about["nodata"], about["transform"]) == ("uint8", IGNORE, profile["transform"])
        assert {value: table[value][:3] for value in COLORS} == COLORS


def test_samples_without_a_georeference_stand_beside_those_with_one(tmp_path: Path) -> None:
    places = utm(3)
    places["crs"][1], places["transform"][1] = "", np.nan
    version = write_store(tmp_path / "store", {"train": draw(["a", "b", "c"], **places)})
    assert run(version, tmp_path / "out", "geotiff").georeferenced == 2
    found = [tiff(tmp_path / "out/train/images" / f"{one}.tif")[1] for one in "abc"]
    assert [profile["crs"] is None for profile in found] == [False, True, False]
    assert found[1]["transform"].is_identity
    assert not found[2]["transform"].is_identity


def test_a_crs_may_be_wkt(tmp_path: Path) -> None:
    wkt = rasterio.crs.CRS.from_proj4("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m").to_wkt()
    places = utm(1) | {"crs": np.array([wkt], dtype=object)}
    run(write_store(tmp_path / "store", {"train": draw(["a"], **places)}), tmp_path / "out", "geotiff")
    assert tiff(tmp_path / "out/train/masks/a.tif")[1]["crs"] == rasterio.crs.CRS.from_wkt(wkt)


def test_a_crs_that_nobody_knows_is_told(tmp_path: Path) -> None:
    places = utm(1) | {"crs": np.array(["EPSG:1"], dtype=object)}
    version = write_store(tmp_path / "store", {"train": draw(["a"], **places)})
    with pytest.raises(StoreError, match=r"a: has the CRS 'EPSG:1', which PROJ does not know"):
        run(version, tmp_path / "out", "geotiff")
    assert not (tmp_path / "out").exists()


def test_tiles_of_a_store_of_schema_1_have_their_place(tmp_path: Path) -> None:
    tile = Tile(18, 132814, 90172)
    split = draw([tile.name], shape=(16, 16), tile=np.array([tile], dtype=np.int32))
    version = write_store(tmp_path / "store", {"train": split}, schema=1)
    assert run(version, tmp_path / "out", "geotiff").georeferenced == 1
    _, profile, _ = tiff(tmp_path / "out/train/images/18_132814_90172.tif")
    assert profile["crs"].to_epsg() == 3857
    west, south, east, north = tile_bounds(tile)
    assert rasterio.transform.array_bounds(16, 16, profile["transform"]) == pytest.approx((west, south, east, north))


@pytest.mark.parametrize(("schema", "array"), [(2, "unusable"), (3, "cloud_mask")])
@pytest.mark.parametrize("file_format", ["png", "geotiff"])
def test_cloud_masks_are_written_where_there_are_some(
    tmp_path: Path, file_format: str, schema: int, array: str
) -> None:
    clouds = np.arange(2 * 96).reshape(2, 8, 12).astype(np.uint8) % 2
    version = write_store(tmp_path / "store", {"train": draw(["a", "b"], **{array: clouds})}, schema=schema)
    assert run(version, tmp_path / "out", file_format).files == 2 * (4 if file_format == "png" else 3) + 2
    for i, one in enumerate("ab"):
        path = tmp_path / "out/train/unusable" / one
        found = png(path.with_suffix(".png")) if file_format == "png" else tiff(path.with_suffix(".tif"))[0][0]
        assert np.array_equal(found, clouds[i])


def test_the_folder_says_what_it_holds(tmp_path: Path) -> None:
    version = write_store(tmp_path / "store", {"train": draw(["b/1", "a/1"]), "test": draw(["c"])})
    run(version, tmp_path / "out", "png", ["test", "train", "test"])
    about = json.loads((tmp_path / "out/dataset.json").read_text())
    assert about["classes"] == CLASSES
    assert about["ignore"] == {"value": IGNORE, "color": "#ffffff"}
    assert (about["version"], about["snapshot"]) == ("v1", version.snapshot)
    assert about["licences"] == {"imagery": "CC0-1.0", "labels": "CC0-1.0"}
    assert about["attributions"]["labels"] == "© nobody"
    assert about["samples"] == {"test": 1, "train": 2}
    with (tmp_path / "out/samples.csv").open(newline="") as listing:
        rows = list(csv.DictReader(listing))
    assert [(row["split"], row["name"], row["sample_id"]) for row in rows] == [
        ("test", "c", "c"),
        ("train", "b_1", "b/1"),
        ("train", "a_1", "a/1"),
    ]
    assert {row["west"] for row in rows} == {""}  # this store does not say
    assert listed(tmp_path / "out") == ["dataset.json", "samples.csv", "test", "train"]


def test_a_version_without_an_ignore_value(tmp_path: Path) -> None:
    split = draw(["a"])
    version = write_store(tmp_path / "store", {"train": Split(["a"], split.image, split.mask % 1)}, ignore_index=None)
    run(version, tmp_path / "out", "geotiff")
    assert tiff(tmp_path / "out/train/masks/a.tif")[1]["nodata"] is None
    assert json.loads((tmp_path / "out/dataset.json").read_text())["ignore"] is None


def test_every_sample_has_files_of_its_own(tmp_path: Path) -> None:
    ids = ["a/b", "a_b", "A_b", "a_b-2", "x\\..\\y", "../../z"]
    split = draw(ids)
    version = write_store(tmp_path / "store", {"train": split})
    run(version, tmp_path / "out", "png")
    names = {"a_b": 0, "a_b-2": 1, "A_b-3": 2, "a_b-2-2": 3, "x_.._y": 4, ".._.._z": 5}
    assert listed(tmp_path / "out/train/masks") == sorted(f"{one}.png" for one in names)
    for one, i in names.items():
        assert np.array_equal(png(tmp_path / "out/train/masks" / f"{one}.png"), split.mask[i])
    assert listed(tmp_path) == ["out", "store"]


@given(st.lists(st.text("aA/_-2.é", min_size=1, max_size=4), unique=True, max_size=12))
def test_file_names_are_unique_also_without_case(ids: list[str]) -> None:
    names = file_names(ids)
    assert len({one.casefold() for one in names}) == len(ids)
    assert not any("/" in one or one in (".", "..") for one in (f"{one}.png" for one in names))


def test_progress_is_told_chunk_by_chunk(tmp_path: Path) -> None:
    version = write_store(tmp_path / "store", {"train": draw(IDS), "test": draw(["z"])}, chunk=2)
    told: list[tuple[int, int]] = []
    export_version(version, tmp_path / "out", "png", SPLITS, lambda done, total: told.append((done, total)))
    assert told == [(2, 6), (4, 6), (5, 6), (6, 6)]


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    version = write_store(tmp_path / "store", {"train": draw(["a"])})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DiskError, match=r"out: is not empty \(it holds mine.txt\); choose another --out, or empty it"):
        run(version, tmp_path / "out", "png")
    assert listed(tmp_path / "out") == ["mine.txt"]
    with pytest.raises(DiskError, match=r"mine.txt: cannot be written"):
        run(version, tmp_path / "out" / "mine.txt", "png")


def test_an_empty_folder_and_what_a_killed_export_left_are_taken(tmp_path: Path) -> None:
    version = write_store(tmp_path / "store", {"train": draw(["a"])})
    (tmp_path / "out" / PART / "train").mkdir(parents=True)
    (tmp_path / "out" / PART / "train" / "half.png").write_text("half")
    run(version, tmp_path / "out", "png", ["train"])
    assert listed(tmp_path / "out") == ["dataset.json", "samples.csv", "train"]
    assert not any("half" in one for one in files(tmp_path / "out"))


@pytest.mark.parametrize("made", [True, False])
def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, made: bool) -> None:
    version = write_store(tmp_path / "store", {"train": draw(IDS)}, chunk=2)
    if made:
        (tmp_path / "out").mkdir()

    def full(done: int, total: int) -> None:
        if done > 2:
            raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match=r"out: cannot be written \(No space left on device\); free space"):
        export_version(version, tmp_path / "out", "png", SPLITS, full)
    assert (tmp_path / "out").exists() == made
    assert not made or listed(tmp_path / "out") == []


def test_an_unknown_split_or_format_is_told_before_anything_is_written(tmp_path: Path) -> None:
    version = write_store(tmp_path / "store", {"train": draw(["a"])})
    with pytest.raises(StoreError, match=r"store@v1: no split 'val'; there are test, train, validation"):
        run(version, tmp_path / "out", "png", ["train", "val"])
    with pytest.raises(StoreError, match="no format 'jpg'; there are png and geotiff"):
        run(version, tmp_path / "out", "jpg")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("schema", [1, 2])
def test_the_ignore_index_of_an_older_schema(tmp_path: Path, schema: int) -> None:
    tile = np.array([[18, 132814, 90172]], dtype=np.int32)
    version = write_store(tmp_path / "store", {"train": draw(["a"], shape=(8, 8), tile=tile)}, schema=schema)
    run(version, tmp_path / "out", "geotiff")
    assert tiff(tmp_path / "out/train/masks/a.tif")[1]["nodata"] == IGNORE
    assert json.loads((tmp_path / "out/dataset.json").read_text())["ignore"]["value"] == IGNORE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("file_format", ["png", "geotiff"])
def test_datasets_of_the_earlier_program_are_exported(tmp_path: Path, name: str, file_format: str) -> None:
    version = open_version(str(unpack(name, tmp_path / "site").store))
    summary = run(version, tmp_path / "out", file_format)
    names = {split: version.split(split).sample_id for split in SPLITS}
    assert summary.splits == {split: len(found) for split, found in names.items()}
    for split, found in names.items():
        masks = np.asarray(version.split(split).mask[:])
        for sample_id, mask in zip(found, masks, strict=True):
            path = tmp_path / "out" / split / "masks" / sample_id.replace("/", "_")
            read = png(path.with_suffix(".png")) if file_format == "png" else tiff(path.with_suffix(".tif"))[0][0]
            assert np.array_equal(read, mask)
    assert (tmp_path / "out/train/unusable").is_dir() == (name == "schema-2-windows")


def test_the_older_version_is_the_one_exported(tmp_path: Path) -> None:
    first, second = draw(["a"], seed=1), draw(["a"], seed=2)
    version = write_store(tmp_path / "store", {"train": first})
    write_store(tmp_path / "store", {"train": second})
    run(version, tmp_path / "out", "png")
    assert np.array_equal(png(tmp_path / "out/train/masks/a.png"), first.mask[0])


def test_the_listing_says_all_that_is_known_of_a_sample(tmp_path: Path) -> None:
    known = {
        "bounds": np.array([[6.1, 45.9, 6.2, 46.0], [np.nan] * 4]),
        "acquired_at": np.array([1_700_000_000, NOT_KNOWN]),
        "fetched_at": np.array([1_700_000_001, 1_700_000_002]),
        "cloud_fraction": np.array([0.25, np.nan], dtype=np.float32),
        "nodata_fraction": np.array([0.0, 0.5], dtype=np.float32),
        "origin": np.array(["S2A_1", ""], dtype=object),
        "group": np.array(["33/1-2", "b"], dtype=object),
        "class_fraction": np.array([[0.5, 0.25, 0.25], [1, 0, 0]], dtype=np.float32),
    }
    version = write_store(tmp_path / "store", {"train": draw(["a", "b"], **known)})
    run(version, tmp_path / "out", "geotiff", ["train"])
    with (tmp_path / "out/samples.csv").open(newline="", encoding="utf-8") as listing:
        first, second = csv.DictReader(listing)
    assert [first[edge] for edge in ("west", "south", "east", "north")] == ["6.1", "45.9", "6.2", "46"]
    assert (first["acquired_at"], second["acquired_at"]) == ("2023-11-14T22:13:20Z", "")
    assert (first["cloud_fraction"], second["cloud_fraction"], second["nodata_fraction"]) == ("0.25", "", "0.5")
    assert (first["origin"], first["group"], second["west"]) == ("S2A_1", "33/1-2", "")
    assert [first[f"fraction_{entry['name']}"] for entry in CLASSES] == ["0.5", "0.25", "0.25"]


@pytest.mark.parametrize(
    ("dtype", "holes", "nodata"), [("uint8", 0.0, None), ("uint8", 0.5, 0), ("uint16", 0.0, 0), ("float32", 0.0, 0)]
)
def test_an_images_geotiff_tells_pixels_without_imagery(
    tmp_path: Path, dtype: str, holes: float, nodata: int | None
) -> None:
    fraction = np.array([holes], dtype=np.float32)
    version = write_store(tmp_path / "store", {"train": draw(["a"], dtype=dtype, nodata_fraction=fraction)})
    run(version, tmp_path / "out", "geotiff", ["train"])
    with rasterio.open(tmp_path / "out/train/images/a.tif") as file:
        assert file.nodata == nodata
