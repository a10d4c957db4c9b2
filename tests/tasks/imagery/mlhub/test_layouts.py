from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SourceError
from tasks.imagery.mlhub.layouts import KNOWN, Choice, Collector, Hit, choose, recognise
from tasks.raster.scene import IMAGE, LocalAsset, Scene

AF, V1, GHANA = "ref_landcovernet_af_v1", "ref_landcovernet_v1", "su_african_crops_ghana"
KENYA = "ref_african_crops_kenya_02"


def seconds(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


LABELS = [
    (f"{AF}_labels/{AF}_labels_28QDE_04/labels.tif", "28QDE_04", "28QDE"),
    (f"data/{V1}_labels/{V1}_labels_28QDE_04/labels.tif", "28QDE_04", "28QDE"),
    (f"landcovernet/{V1}_labels_38PKT_28/38PKT_28_2018_LC_10m.tif", "38PKT_28", "38PKT"),
    (f"landcovernet/{V1}_labels_38PKT_28/2018_01_01/38PKT_28_2018_LC_10m.tif", "38PKT_28", "38PKT"),
    ("landcovernet_as/data/v1.0/2018/36SWF/00/36SWF_00_2018_LC_10m.tif", "36SWF_00", "36SWF"),
    ("36SWF_00_2018_LC_10m.tif", "36SWF_00", "36SWF"),
    (f"{GHANA}_labels/{GHANA}_labels_000123/labels.tif", "ghana_000123", "ghana_000123"),
    ("truth/truth_ghana_000123/truth_ghana_000123_label.tif", "ghana_000123", "ghana_000123"),
    (f"{KENYA}_labels/{KENYA}_tile_03_label/labels.tif", "tile_03", "tile_03"),
]


@pytest.mark.parametrize(("name", "scene", "group"), LABELS)
def test_labels_of_every_layout(name: str, scene: str, group: str) -> None:
    hit = recognise(name)
    assert hit is not None
    assert (hit.scene, hit.group, hit.key, hit.item, hit.sensor) == (scene, group, "labels", "", "")
    assert hit.file == f"{scene}/labels.tif"


SUMMER, JANUARY, WINTER = seconds(2018, 8, 27), seconds(2018, 1, 1), seconds(2016, 1, 13)
C, MIRROR = "landcovernet_as/data/v1.0/2018/36SWF/00", "s2_ghana_000123_2016_01_13"
IMAGES = [
    (f"{AF}_source_sentinel_2/{AF}_source_sentinel_2_39VXD_23_20180827/B02.tif", "39VXD_23", "S2", "B02", SUMMER),
    (f"x/{AF}_source_sentinel_2_39VXD_23_20180827/B8A.tif", "39VXD_23", "S2", "B8A", SUMMER),
    (f"x/{AF}_source_sentinel_2_39VXD_23_20180827/SCL.tif", "39VXD_23", "S2", "SCL", SUMMER),
    (f"x/{AF}_source_sentinel_2_39VXD_23_20180827/CLD.tif", "39VXD_23", "S2", "CLD", SUMMER),
    (f"x/{AF}_source_sentinel_1_39VXD_23_20180827/VV.tif", "39VXD_23", "S1", "VV", SUMMER),
    (f"x/{AF}_source_landsat_8_39VXD_23_20180827/B02.tif", "39VXD_23", "L8", "B02", SUMMER),
    (f"{V1}_source/{V1}_source_39VXD_23_20180827/B02.tif", "39VXD_23", "S2", "B02", SUMMER),
    (f"x/{V1}_labels_38PKT_28/2018_01_01/38PKT_28_20180101_B04_10m.tif", "38PKT_28", "S2", "B04", JANUARY),
    (f"x/{V1}_source_38PKT_28/2018_01_01/38PKT_28_20180101_SCL_10m.tif", "38PKT_28", "S2", "SCL", JANUARY),
    (f"x/{V1}_source_38PKT_28_20180101/38PKT_28_20180101_SCL_10m.tif", "38PKT_28", "S2", "SCL", JANUARY),
    (f"{C}/S2/36SWF_00_20180101/36SWF_00_20180101_B8A_10m.tif", "36SWF_00", "S2", "B8A", JANUARY),
    ("S2/36SWF_00_20180101/36SWF_00_20180101_CLD_10m.tif", "36SWF_00", "S2", "CLD", JANUARY),
    (f"{C}/S1/36SWF_00_20180101/36SWF_00_20180101_VV_10m.tif", "36SWF_00", "S1", "VV", JANUARY),
    (f"{C}/S1/S1A_IW_20180101T1_x/S1A_IW_20180101T1_x_VH_10m.tif", "36SWF_00", "S1", "VH", JANUARY),
    (f"{C}/L8/LC08_175035_20180101/LC08_175035_20180101_B04_10m.tif", "36SWF_00", "L8", "B04", JANUARY),
    (f"{C}/L8/undated/undated_B04_10m.tif", "36SWF_00", "L8", "B04", None),
    (f"{GHANA}_source_s2_000123_2016_01_13/source.tif", "ghana_000123", "S2", IMAGE, WINTER),
    (f"{GHANA}_source_s2_000123_2016_01_13/cloudmask.tif", "ghana_000123", "S2", "cloudmask", WINTER),
    (f"{GHANA}_source_s1/{GHANA}_source_s1_000123_2016_01_13/source.tif", "ghana_000123", "S1", IMAGE, WINTER),
    (f"{GHANA}_source_planet_000123_2016_01_13/source.tif", "ghana_000123", "planet", IMAGE, WINTER),
    (f"s2/{MIRROR}/{MIRROR}_data.tif", "ghana_000123", "S2", IMAGE, WINTER),
    (f"s2/{MIRROR}/{MIRROR}_cloudmask.tif", "ghana_000123", "S2", "cloudmask", WINTER),
    (f"s2/s2_ghana_000123/{MIRROR}.tif", "ghana_000123", "S2", IMAGE, WINTER),
    ("s2/s2_ghana_000123_20160113/data.tif", "ghana_000123", "S2", IMAGE, WINTER),
    ("s2/s2_ghana_000123_2016-01-13/cloud_mask.tif", "ghana_000123", "S2", "cloudmask", WINTER),
    ("s2/s2_ghana_000123/s2_ghana_000123_data.tif", "ghana_000123", "S2", IMAGE, None),
    ("s1/s1_ghana_000123_20160113/s1_ghana_000123_20160113_data.tif", "ghana_000123", "S1", IMAGE, WINTER),
    (f"{KENYA}_source/{KENYA}_tile_02_20190721/B01.tif", "tile_02", "S2", "B01", seconds(2019, 7, 21)),
    (f"{KENYA}_tile_02_20190721/CLD.tif", "tile_02", "S2", "CLD", seconds(2019, 7, 21)),
    (f"{KENYA}_tile_02_20191399/CLD.tif", "tile_02", "S2", "CLD", None),
]


@pytest.mark.parametrize(("name", "scene", "sensor", "key", "acquired_at"), IMAGES)
def test_images_of_every_layout(name: str, scene: str, sensor: str, key: str, acquired_at: int | None) -> None:
    hit = recognise(name)
    assert hit is not None
    assert (hit.scene, hit.sensor, hit.key, hit.acquired_at) == (scene, sensor, key, acquired_at)
    assert hit.item


def test_files_of_one_folder_are_one_item_and_sensors_never_share_one() -> None:
    hits = [recognise(name) for name, *_ in IMAGES if name.startswith(C)]
    items = {hit.item: hit.sensor for hit in hits if hit}
    assert len(items) == 5
    assert {"36SWF_00_20180101", "S1_36SWF_00_20180101"} < items.keys()
    assert {hit.item for name, *_ in IMAGES if MIRROR in name and (hit := recognise(name))} == {MIRROR}


@pytest.mark.parametrize(
    "name",
    [
        f"{KENYA}_labels/{KENYA}_tile_03_label/field_ids.tif",
        f"{KENYA}_labels/{KENYA}_tile_03_label/stac.json",
        f"{AF}_labels/{AF}_labels_28QDE_04/source_dates.csv",
        f"{C}/36SWF_00_labeling_dates.csv",
        f"{C}/S1/../.._VV_10m.tif",
        "S1/36SWF_00_20180101/36SWF_00_20180101_VV_10m.tif",
        "original/s2_npy/s2_ghana_000123.npy",
        "truth/truth_ghana_000123/truth_ghana_000124_label.tif",
        "labels.tif",
        "chip.tif",
        "",
    ],
)
def test_other_names_are_nothing(name: str) -> None:
    assert recognise(name) is None


@given(st.sampled_from([name for name, *_ in LABELS + IMAGES]), st.text(max_size=8), st.integers(0, 80))
def test_our_own_names_stay_below_their_folder(name: str, piece: str, place: int) -> None:
    hit = recognise(name[:place] + piece + name[place:])
    if hit is not None:
        parts = Path(hit.file).parts
        assert len(parts) in (2, 3)
        assert all(part not in ("..", ".") and part[0].isalnum() for part in parts)


def test_bands_decide_the_sensor() -> None:
    assert choose(["B02", "B8A", "SCL"]) == Choice("S2", {"B02": "B02", "B8A": "B8A", "SCL": "SCL"})
    assert choose(["red", "nir"]).sensor == "S2"
    assert choose(["VV", "VH"]).sensor == "S1"
    assert choose(["L8:B02"]) == Choice("L8", {"B02": "L8:B02"})
    assert choose(["odd:B02"]) == Choice("S2", {"odd:B02": "odd:B02"})
    with pytest.raises(SourceError, match=r"imagery\.bands: B02, VV are of S1 and S2, which were never taken"):
        choose(["B02", "VV"])


def test_collections_of_other_sensors_are_left_alone() -> None:
    two = choose(["B02"])
    assert two.may_hold(f"{AF}_source_sentinel_2")
    assert two.may_hold(f"{AF}_labels")
    assert two.may_hold(f"{KENYA}_source")
    assert not two.may_hold(f"{AF}_source_landsat_8")
    assert not two.may_hold(f"{GHANA}_source_planet")
    assert choose(["planet:red"]).may_hold(f"{GHANA}_source_planet")


def collect(names: list[str], *bands: str) -> list[Scene]:
    collector = Collector(choose(bands or ("B02",)), "a folder")
    for name in names:
        if hit := collector.offer(name):
            collector.add(hit, LocalAsset(Path(name)))
    return collector.scenes()


def test_scenes_of_the_mirror_keep_sensors_apart() -> None:
    def of(chip: str, *rest: str) -> str:
        return "/".join(("2018/36SWF", chip, *rest))

    names = [of("01", "36SWF_01_2018_LC_10m.tif"), of("01", "36SWF_01_labeling_dates.csv")]
    for date in ("20180301", "20180101"):
        for band in ("B02", "B03", "CLD"):
            names.append(of("00", "S2", f"36SWF_00_{date}", f"36SWF_00_{date}_{band}_10m.tif"))
        names.append(of("00", "S1", f"36SWF_00_{date}", f"36SWF_00_{date}_VV_10m.tif"))
        names.append(of("00", "L8", f"36SWF_00_{date}", f"36SWF_00_{date}_B02_10m.tif"))
    first, second = collect(names)
    assert (first.name, first.group, first.labels) == ("36SWF_00", "36SWF", None)
    assert [item.id for item in first.items] == ["36SWF_00_20180101", "36SWF_00_20180301"]
    assert [item.acquired_at for item in first.items] == [seconds(2018, 1, 1), seconds(2018, 3, 1)]
    assert {key: Path(asset.name).name for key, asset in first.items[0].assets.items()} == {
        "B02": "36SWF_00_20180101_B02_10m.tif",
        "CLD": "36SWF_00_20180101_CLD_10m.tif",
    }
    assert (second.name, second.items) == ("36SWF_01", ())
    assert second.labels is not None
    radar = collect(names, "VV")[0].items
    assert [(item.id, list(item.assets)) for item in radar] == [
        ("S1_36SWF_00_20180101", ["VV"]),
        ("S1_36SWF_00_20180301", ["VV"]),
    ]
    landsat = collect(names, "L8:B02")[0].items
    assert [list(item.assets) for item in landsat] == [["L8:B02"], ["L8:B02"]]
    assert "/L8/" in landsat[0].assets["L8:B02"].name


def test_files_of_several_bands_come_whole() -> None:
    names = [f"{GHANA}_source_s2_000000_2016_01_13/{file}.tif" for file in ("source", "cloudmask")]
    names += [f"{GHANA}_source_s1_000000_2016_01_13/source.tif", f"{GHANA}_labels_000000/labels.tif"]
    (scene,) = collect(names, "blue", "green", "red")
    (item,) = scene.items
    assert set(item.assets) == {IMAGE, "cloudmask"}
    assert "_s2_" in item.assets[IMAGE].name


def test_nothing_known_is_an_error_that_shows_names_and_layouts() -> None:
    with pytest.raises(SourceError) as caught:
        collect(["a/x.tif", "b.png", "c.json", "d.json"])
    assert "a folder: no file has a name of a known layout (there are a/x.tif, b.png, c.json, ...)" in str(caught.value)
    assert KNOWN in str(caught.value)
    with pytest.raises(SourceError, match="there are none at all"):
        collect([])


def test_two_datasets_in_one_place() -> None:
    with pytest.raises(SourceError, match=r"holds files of Kenya \(.*tile_03.*\) and LandCoverNet \(.*28QDE.*\); give"):
        collect([LABELS[0][0], LABELS[-1][0]])
    with pytest.raises(SourceError, match=r"x/.*labels\.tif and y/.*labels\.tif are both the labels of tile_03; give"):
        collect([f"x/{LABELS[-1][0]}", f"y/{LABELS[-1][0]}"])
    with pytest.raises(SourceError, match=r"are both the labels of tile_03"):
        collect([LABELS[-1][0]] * 2)


def test_band_that_is_nowhere_is_told_with_those_that_are() -> None:
    names = [name for name, *_ in IMAGES if name.startswith(f"x/{AF}")]
    with pytest.raises(SourceError, match=r"a folder: no file of band B99; there are B8A, CLD, SCL; correct im"):
        collect(names, "B8A", "B99")
    with pytest.raises(SourceError, match=r"neither labels nor images of planet, .*; it has B02 of L8, VV of S1, "):
        collect(names, "planet:red")


def test_labels_alone_are_scenes() -> None:
    (scene,) = collect([LABELS[-1][0]], "B99")
    assert (scene.name, scene.items) == ("tile_03", ())


def test_a_hit_is_a_value() -> None:
    assert recognise(LABELS[-1][0]) == Hit("Kenya", "tile_03", "tile_03", "labels")
