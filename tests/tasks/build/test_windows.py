"""A build of windows over a folder of made-up scenes: what is kept, rejected, ignored, and done again."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from tasks.errors import (
    DiskError,
    LabelError,
    NothingSelectedError,
    RecipeError,
    SourceError,
    StoreError,
    TooManyFailedError,
)
from tasks.recipe.load import load_recipe
from tasks.state.ledger import Ledger
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import State
from tasks.state.workdir import WorkDir
from tasks.versions.read import SplitArrays, open_version
from tests.support.builds import contents, run_build
from tests.tasks.raster.made import TRANSFORM, write_raster

SIDE, SCENE = 32, 96  # so nine windows a scene
DATES = ("20240601", "20240611")
SCENES = tuple(f"s{n}" for n in range(10))


@dataclass
class Site:
    """A folder of scenes with two dates each; the older is cloudy in the upper left window of every scene."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def recipe(self) -> Path:
        return self.folder / "made-up.yaml"

    def image(self, scene: str, date: str, band: str) -> np.ndarray:
        seed = [SCENES.index(scene), DATES.index(date), ["red", "nir"].index(band)]
        return np.random.default_rng(seed).integers(1, 5000, (SCENE, SCENE)).astype(np.uint16)

    def labels(self, scene: str) -> np.ndarray:
        """Stripes of 1, 2 and 7, and a window of 0 at the lower right."""
        values = np.tile(np.repeat([1, 2, 7, 2], SCENE // 4)[:, None], (1, SCENE)).astype(np.uint8)
        values[2 * SIDE :, 2 * SIDE :] = 0
        return values

    def scl(self, date: str) -> np.ndarray:
        """20 m classes under 10 m bands."""
        values = np.full((SCENE // 2, SCENE // 2), 4, dtype=np.uint8)
        if date == DATES[0]:
            values[: SIDE // 2, : SIDE // 4] = 9
        else:
            values[: SIDE // 4, : SIDE // 4] = 8
        return values

    def write(self) -> "Site":
        coarse = TRANSFORM @ TRANSFORM.scale(2)
        for scene in SCENES:
            write_raster(self.folder / "labels" / f"{scene}.tif", self.labels(scene))
            for date in DATES:
                for band in ("red", "nir"):
                    path = self.folder / "images" / f"{scene}_{date}_{band}.tif"
                    write_raster(path, self.image(scene, date, band), nodata=0)
                path = self.folder / "images" / f"{scene}_{date}_SCL.tif"
                write_raster(path, self.scl(date), transform=coarse)
        values = {
            "name": "made-up",
            "title": "Made up",
            "imagery": {
                "source": "scenes",
                "images": "images/{scene}_{date}_{band}.tif",
                "bands": ["red", "nir"],
                "windows": {"size": SIDE},
            },
            "labels": {"source": "rasters", "path": "labels/{scene}.tif"},
            "ignore_values": [0],
            "classes": [
                {"name": "water", "value": 1, "color": "#0000ff"},
                {"name": "building", "value": 3, "color": "#ff0000", "source_values": [2, 7]},
            ],
            "clouds": {"mask": "scl"},
            "filter": {"max_ignore_fraction": 0.5},
            "splits": {"train": 0.8, "validation": 0.1, "test": 0.1},
        }
        self.recipe.write_text(yaml.safe_dump(values))
        return self

    def ledger(self) -> Ledger:
        return open_ledger(WorkDir.of(str(self.store)).ledger)

    def by_name(self, *arrays: str) -> dict[str, tuple[np.ndarray, ...]]:
        """Of the newest version, by sample."""
        found = {}
        for split in ("train", "validation", "test"):
            group: SplitArrays = open_version(str(self.store)).split(split)
            columns = [group.array(name) for name in arrays]
            found.update({name: tuple(column[i] for column in columns) for i, name in enumerate(group.sample_id)})
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path).write()


def test_a_version_holds_what_the_scenes_show(site: Site) -> None:
    summary = run_build(site.recipe, site.store)
    # Of nine windows a scene the one without labels goes, and the one that is cloudy on both dates.
    assert (summary.candidates, summary.selected, summary.accepted) == (90, 80, 70)
    assert summary.rejected == {"clouds": 10, "ignored labels": 10}
    assert summary.splits == {"train": 56, "validation": 7, "test": 7}
    version = open_version(str(site.store))
    assert version.attributes["bands"] == ["red", "nir"]
    assert version.attributes["ignore_index"] == 255
    found = site.by_name("image", "mask", "class_fraction", "building_fraction", "cloud_fraction", "group", "transform")
    for name, (image, mask, shares, building, cloud, group, transform) in found.items():
        scene, at = name.split("/")
        row, column = (int(part) for part in at.split("-"))
        here = (slice(row, row + SIDE), slice(column, column + SIDE))
        assert image.dtype == np.uint16
        assert np.array_equal(image, np.stack([site.image(scene, DATES[0], band)[here] for band in ("red", "nir")]))
        raw = site.labels(scene)[here]
        expected = np.where(raw == 1, 1, 3).astype(np.uint8)
        assert np.array_equal(mask, expected)
        assert np.allclose(shares, [(expected == 1).mean(), (expected == 3).mean()])
        assert np.isclose(building, (expected == 3).mean())
        assert cloud == 0
        assert group == scene
        assert tuple(transform) == tuple(TRANSFORM @ TRANSFORM.translation(column, row))[:6]
    assert {site.by_name("origin")[name][0].endswith(DATES[0]) for name in found} == {True}
    by_group = {
        str(group): split for split in version.attributes["splits"] for group in version.split(split).array("group")
    }
    assert len(by_group) == 10
    again = run_build(site.recipe, site.store)
    assert (again.version, again.new) == ("v1", False)


def test_masked_clouds_are_stored_and_the_least_cloudy_date_is_taken(site: Site) -> None:
    summary = run_build(site.recipe, site.store, ["clouds.on_cloud=mask"])
    assert summary.accepted == 80
    found = site.by_name("cloud_mask", "cloud_fraction", "origin")
    for scene in SCENES:
        cloud_mask, cloud, origin = found[f"{scene}/0-0"]
        expected = np.zeros((SIDE, SIDE), dtype=np.uint8)
        expected[: SIDE // 2, : SIDE // 2] = 1
        assert np.array_equal(cloud_mask, expected)
        assert cloud == 0.25
        assert str(origin).endswith(DATES[1])
    assert sum(cloud > 0 for _, cloud, _ in found.values()) == 10


def test_other_clouds_are_another_question_and_old_answers_are_forgotten(site: Site) -> None:
    run_build(site.recipe, site.store)
    looser = run_build(site.recipe, site.store, ["clouds.max_fraction=0.3"])
    assert (looser.version, looser.accepted) == ("v2", 80)
    first, second = contents(site.store, "v1"), contents(site.store, "v2")
    assert all(second[name] == first[name] for name in first)  # split, image and mask
    back = run_build(site.recipe, site.store)
    assert contents(site.store, back.version) == first


def test_every_date_can_be_a_sample(site: Site) -> None:
    summary = run_build(site.recipe, site.store, ["imagery.dates.pick=all", "clouds.mask=none"])
    assert summary.accepted == 160
    found = site.by_name("image", "cloud_fraction", "acquired_at", "group")
    image, cloud, acquired, _ = found[f"s3/32-0@{DATES[1]}"]
    assert np.array_equal(image[0], site.image("s3", DATES[1], "red")[32:64, :32])
    assert np.isnan(cloud)
    assert acquired == 1718064000
    splits = {name: split for name, (split, _, _) in contents(site.store).items()}
    assert all(splits[f"s3/32-0@{date}"] == splits["s3/32-32@20240601"] for date in DATES)


def test_the_two_best_dates(site: Site) -> None:
    summary = run_build(site.recipe, site.store, ["imagery.dates.count=2", "clouds.max_fraction=1.0"])
    assert summary.accepted == 160
    found = site.by_name("origin", "cloud_fraction")
    assert [str(found[f"s0/0-0@{rank}"][0])[-8:] for rank in (0, 1)] == [DATES[1], DATES[0]]
    assert [found[f"s0/0-0@{rank}"][1] for rank in (0, 1)] == [0.25, 0.5]


def test_a_median_has_no_cloud_in_it(site: Site) -> None:
    overrides = ["imagery.dates.pick=median", "clouds.max_fraction=1.0"]
    assert run_build(site.recipe, site.store, overrides).rejected["nodata"] == 10
    assert run_build(site.recipe, site.store, [*overrides, "filter.max_nodata_fraction=0.5"]).accepted == 80
    image, mask, cloud = site.by_name("image", "mask", "cloud_fraction")["s1/0-0"]
    old, new = (site.image("s1", date, "red")[:SIDE, :SIDE] for date in DATES)
    assert cloud == 0.25
    # The older date is clouded in the left half, the newer one in its upper part: there nobody has seen the ground.
    assert np.array_equal(mask == 255, (image == 0).all(axis=0))
    assert (mask[: SIDE // 2, : SIDE // 2] == 255).all()
    assert np.array_equal(image[0][SIDE // 2 :, : SIDE // 2], new[SIDE // 2 :, : SIDE // 2])
    assert np.array_equal(image[0][:, SIDE // 2 :], np.rint(old[:, SIDE // 2 :] / 2 + new[:, SIDE // 2 :] / 2))


def test_changed_labels_give_a_version_without_reading_imagery_again(site: Site) -> None:
    run_build(site.recipe, site.store)
    images = {path: path.stat().st_mtime_ns for path in WorkDir.of(str(site.store)).images.rglob("*.npy")}
    changed = site.labels("s4")
    changed[:SIDE, SIDE : 2 * SIDE] = 1
    write_raster(site.folder / "labels" / "s4.tif", changed)
    assert run_build(site.recipe, site.store).version == "v2"
    (mask,) = site.by_name("mask")["s4/0-32"]
    assert (mask == 1).all()
    assert {path: path.stat().st_mtime_ns for path in WorkDir.of(str(site.store)).images.rglob("*.npy")} == images


def test_unknown_labels_are_listed_with_their_counts(site: Site) -> None:
    changed = site.labels("s4")
    changed[5, :7] = 99
    write_raster(site.folder / "labels" / "s4.tif", changed)
    with pytest.raises(
        LabelError, match=r"s4/0-0 \(.*s4\.tif\): labels that the recipe does not know.* 99 \(7\).*ignore_values"
    ):
        run_build(site.recipe, site.store)


def test_resized_samples_keep_masks_and_places(site: Site) -> None:
    run_build(site.recipe, site.store, ["resize=16", "clouds.on_cloud=mask"])
    image, mask, cloud_mask, transform = site.by_name("image", "mask", "cloud_mask", "transform")["s0/0-0"]
    assert image.shape == (2, 16, 16)
    assert set(np.unique(mask)) <= {1, 3}
    assert cloud_mask.sum() == 64
    assert tuple(transform) == tuple(TRANSFORM @ TRANSFORM.scale(2))[:6]


def test_padding_is_ignored_and_is_no_nodata(site: Site) -> None:
    summary = run_build(
        site.recipe, site.store, ["imagery.windows={size: 40, edge: pad, padding: 4}", "clouds.max_fraction=1.0"]
    )
    assert summary.accepted > 0
    found = site.by_name("image", "mask", "nodata_fraction")
    image, mask, nodata = found["s0/0-0"]
    red = site.image("s0", DATES[1], "red")
    assert nodata == 0
    assert np.array_equal(image[0], np.pad(red, 4, mode="symmetric")[:40, :40])
    assert (mask[4:36, 4:36] != 255).all()
    assert (mask[:4] == 255).all()
    assert (mask[:, 36:] == 255).all()


def test_pixels_without_an_image_are_ignored(site: Site) -> None:
    for scene in SCENES[:2]:
        for band in ("red", "nir"):
            values = site.image(scene, DATES[0], band)
            values[:1, 32:64] = 0
            values[:16, 64:] = 0
            for date in DATES:
                write_raster(site.folder / "images" / f"{scene}_{date}_{band}.tif", values, nodata=0)
    summary = run_build(site.recipe, site.store)
    assert summary.rejected["nodata"] == 2
    mask, nodata = site.by_name("mask", "nodata_fraction")["s0/0-32"]
    assert (mask[0] == 255).all()
    assert (mask[1:] != 255).all()
    assert np.isclose(nodata, 1 / 32)


def test_a_lost_image_is_read_again_and_a_changed_one_is_told(site: Site) -> None:
    run_build(site.recipe, site.store)
    files = sorted(WorkDir.of(str(site.store)).images.rglob("*.npy"))
    files[0].unlink()
    assert run_build(site.recipe, site.store, ["filter.max_ignore_fraction=0.4"]).version == "v2"
    assert files[0].exists()
    files[1].write_bytes(files[2].read_bytes())
    with pytest.raises(DiskError, match=r"is not the one that was staged"):
        run_build(site.recipe, site.store, ["filter.max_ignore_fraction=0.3"])
    assert run_build(site.recipe, site.store, ["filter.max_ignore_fraction=0.3"]).version == "v3"


def test_a_damaged_scene_fails_its_windows_and_the_run_says_which(site: Site) -> None:
    for date in DATES:
        path = site.folder / "images" / f"s5_{date}_red.tif"
        path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(TooManyFailedError, match=r"of 80 images failed, over limits\.max_failed_fraction.*s5/"):
        run_build(site.recipe, site.store)
    with site.ledger() as ledger:
        assert 0 < len(ledger.names(State.FAILED)) <= 8
    for date in DATES:
        write_raster(site.folder / "images" / f"s5_{date}_red.tif", site.image("s5", date, "red"), nodata=0)
    assert run_build(site.recipe, site.store).accepted == 70


def test_scenes_of_several_sizes_taken_whole_are_told(site: Site) -> None:
    for date in DATES:
        for band in ("red", "nir"):
            write_raster(site.folder / "images" / f"s5_{date}_{band}.tif", site.image("s5", date, band)[:80], nodata=0)
        write_raster(site.folder / "images" / f"s5_{date}_SCL.tif", np.full((40, 48), 4, np.uint8))
    write_raster(site.folder / "labels" / "s5.tif", site.labels("s5")[:80])
    with pytest.raises(SourceError, match=r"differ in size: .* 2 bands of 96 x (96|80) px uint16.*windows\.size"):
        run_build(site.recipe, site.store, ["imagery.windows.size=0", "clouds.mask=none"])


def test_nothing_that_passes_is_told(site: Site) -> None:
    with pytest.raises(NothingSelectedError, match=r"(?s)no window passes the filter.*90  candidate windows"):
        run_build(site.recipe, site.store, ["filter.min_fraction.water=0.99", "filter.max_ignore_fraction=0.1"])
    with pytest.raises(NothingSelectedError, match=r"(?s)no image was kept.*rejected for clouds"):
        run_build(site.recipe, site.store, ["clouds.drop=[4, 8, 9]"])


def test_another_recipe_is_refused(site: Site) -> None:
    run_build(site.recipe, site.store)
    with pytest.raises(StoreError, match=r"holds another recipe: imagery\.bands"):
        run_build(site.recipe, site.store, ["imagery.bands=[nir, red]"])


def test_too_many_windows_are_told(site: Site) -> None:
    from tasks.errors import AreaError

    with pytest.raises(AreaError, match=r"has 90 windows, over limits\.max_tiles 50"):
        run_build(site.recipe, site.store, ["limits.max_tiles=50"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("labels={source: provided}", "provided goes with imagery.source mlhub"),
        ("ignore=3", "3 is the value of a class"),
        ("filter.min_fraction={wood: 0.1}", "no class 'wood'; there are water, building"),
        ("imagery.windows.stride=64", "stride 64 is larger than the 32 labelled pixels"),
        ("imagery.windows={size: 32, padding: 16}", "padding 16 on both sides leaves nothing of size 32"),
        ("splits={by: sample, train: 0.5, validation: 0.25, test: 0.5}", "must sum to 1"),
        ("splits={by: tile}", "tile goes with slippy maps"),
        ("splits.reserve=1.5", "less than or equal to 1"),
        ("imagery.windows={size: 32, padding: 4, stride: 32}", "stride 32 is larger than the 24 labelled pixels"),
        ("area={bbox: [0, 0, 1, 1]}", "not used by imagery.source scenes"),
        ("imagery.dates={pick: median, count: 3}", "median gives what it gives"),
        ("clouds.mask=fmask", "unknown value 'fmask'"),
        ("labels={source: vector, path: x.geojson}", "expected a class with value 0"),
    ],
)
def test_recipes_that_cannot_be_are_told(site: Site, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(site.recipe, [override])


def test_overlapping_windows_cannot_be_split_one_by_one(site: Site) -> None:
    with pytest.raises(RecipeError, match="windows overlap"):
        load_recipe(site.recipe, ["splits.by=sample", "imagery.windows.stride=16"])
    with pytest.raises(RecipeError, match="would split a place"):
        load_recipe(site.recipe, ["splits.by=sample", "imagery.dates.pick=all"])


def test_a_scene_that_was_replaced_is_read_again_and_no_other(site: Site) -> None:
    run_build(site.recipe, site.store)
    files = {path: path.stat().st_mtime_ns for path in WorkDir.of(str(site.store)).images.rglob("*.npy")}
    other = site.image("s6", DATES[0], "red")[::-1].copy()
    write_raster(site.folder / "images" / f"s6_{DATES[0]}_red.tif", other, nodata=0)
    assert run_build(site.recipe, site.store).version == "v2"
    (image,) = site.by_name("image")["s6/32-0"]
    assert np.array_equal(image[0], other[32:64, :32])
    assert all((path.stat().st_mtime_ns != time) == ("s6" in path.parts) for path, time in files.items())


def test_splits_outlive_the_work_folder(site: Site) -> None:
    run_build(site.recipe, site.store)
    before = {name: split for name, (split, _, _) in contents(site.store).items()}
    shutil.rmtree(WorkDir.of(str(site.store)).root)
    run_build(site.recipe, site.store, ["clouds.max_fraction=0.3", "splits.train=0.2", "splits.test=0.7"])
    after = {name: split for name, (split, _, _) in contents(site.store).items()}
    assert {name: after[name] for name in before} == before
    scenes = {name.split("/")[0]: split for name, split in before.items()}
    assert all(scenes[name.split("/")[0]] == split for name, split in after.items())


def test_an_unknown_source_lists_them_all(site: Site) -> None:
    with pytest.raises(RecipeError, match=r"imagery\.source: unknown value 'scene'; did you mean 'scenes'.*xyz.*stac"):
        load_recipe(site.recipe, ["imagery.source=scene"])


def test_a_damaged_label_is_told_and_read_again_when_it_was_mended(site: Site) -> None:
    path = site.folder / "labels" / "s4.tif"
    write_raster(path, np.random.default_rng(1).choice(np.array([1, 2, 7], np.uint8), (SCENE, SCENE)))
    good = path.read_bytes()
    path.write_bytes(good[:6000])
    with pytest.raises(TooManyFailedError, match=r"of .* labels failed.* x label cannot be read.* for example s4/"):
        run_build(site.recipe, site.store)
    path.write_bytes(good)
    assert run_build(site.recipe, site.store).accepted == 71


def test_trying_harder_is_no_other_question(site: Site) -> None:
    run_build(site.recipe, site.store)
    images = {path: path.stat().st_mtime_ns for path in WorkDir.of(str(site.store)).images.rglob("*.npy")}
    run_build(site.recipe, site.store, ["imagery.attempts=9", "imagery.timeout=5.0"])
    assert {path: path.stat().st_mtime_ns for path in WorkDir.of(str(site.store)).images.rglob("*.npy")} == images


def test_colours_that_are_ignored_now_are_measured_again(site: Site) -> None:
    for scene in SCENES:
        values = np.where(site.labels(scene) == 1, np.uint8(255), np.uint8(0))
        rgb = np.stack([values, np.zeros_like(values), np.zeros_like(values)])
        rgb[2, :3] = 9  # a frame that is no class
        write_raster(site.folder / "labels" / f"{scene}.tif", rgb)
    colours = ["classes.0.source_colors=['#ff0000']", "classes.1.source_colors=['#000000']", "ignore_values=[]"]
    both = "ignore_colors=['#ff0009', '#000009']"
    run_build(site.recipe, site.store, [both, *colours])
    assert (site.by_name("mask")["s0/0-32"][0] == 255).sum() == 3 * SIDE
    with pytest.raises(LabelError, match=r"that the recipe does not know.*#ff0009 \(2880\)"):
        run_build(site.recipe, site.store, ["ignore_colors=['#000009']", *colours])
