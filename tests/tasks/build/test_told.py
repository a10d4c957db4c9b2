"""What is told, or refused, before imagery is asked for: empty splits and classes, labels elsewhere, names, room."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.sandbox.services.scripted import Reply, ScriptedServer
from tasks.build import line, ready
from tasks.build.told import Contents, contents, warnings
from tasks.errors import DiskError, NothingSelectedError, RecipeError, SourceError, TooManyFailedError
from tasks.state.workdir import WorkDir
from tasks.versions.read import versions
from tests.support.builds import job_of, run_build
from tests.support.recipes import recipe_of
from tests.support.small import SmallRegion
from tests.tasks.build.test_windows import DATES, SCENE, Site
from tests.tasks.raster.made import TRANSFORM, write_raster


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    region = SmallRegion(side=6)
    with ScriptedServer(region.image, content_type="image/png") as running:
        yield running


@pytest.fixture
def tiles(tmp_path: Path, server: ScriptedServer) -> Path:
    return SmallRegion(side=6).write_recipe(tmp_path, server.url)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path).write()


ONE = ["imagery.images=images/s0_{date}_{band}.tif", "labels.path=labels/s0.tif", "clouds.mask=none"]


# ---- splits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shares", ["train: 0.7, validation: 0.15, test: 0.15", "train: 0.4, validation: 0.6, test: 0.0"]
)
def test_one_scene_by_scene_trains_and_says_what_is_empty(site: Site, shares: str) -> None:
    """It once went into validation without a word, and the build ended in a traceback after its commit."""
    change = [*ONE, f"splits={{{shares}}}"]
    planned = line.plan(job_of(site.recipe, site.store, change))
    summary = run_build(site.recipe, site.store, change)
    assert {split for split, count in summary.splits.items() if count} == {"train"}
    assert summary.warnings == planned.warnings
    for text in planned.warnings:
        assert re.search(r"no sample for .*choose splits\.by: block, splits\.holdout.*splits\.groups", text)


@pytest.mark.parametrize(
    ("splits", "held"),
    [
        ("{train: 1.0, validation: 0.0, test: 0.0}", {"train"}),
        ("{train: 0.0, validation: 0.0, test: 1.0}", {"test"}),
        ("{train: 1.0, validation: 0.0, test: 0.0, holdout: 0.34}", {"train", "validation"}),
        ("{train: 0.7, validation: 0.15, test: 0.15, by: block, block: 1}", {"train", "validation", "test"}),
        ("{train: 0.0, validation: 0.0, test: 1.0, groups: {test: [images]}}", {"test"}),
    ],
)
def test_one_scene_has_other_ways(site: Site, splits: str, held: set[str]) -> None:
    summary = run_build(site.recipe, site.store, [*ONE, f"splits={splits}"])
    assert {split for split, count in summary.splits.items() if count} == held
    assert WorkDir.of(str(site.store)).preview.exists()
    assert not any("no sample for" in text for text in summary.warnings)


def test_an_empty_train_split_is_refused_before_anything_is_read(site: Site) -> None:
    groups = "splits={train: 0.8, validation: 0.1, test: 0.1, groups: {test: ['s*']}}"
    with pytest.raises(
        NothingSelectedError, match=r"train would be empty: of 80 samples, of 10 scenes, are in test 80"
    ):
        run_build(site.recipe, site.store, ["clouds.mask=none", groups])
    assert list(WorkDir.of(str(site.store)).images.iterdir()) == []
    with pytest.raises(NothingSelectedError, match="train would be empty"):
        line.plan(job_of(site.recipe, site.store, ["clouds.mask=none", groups]))


def test_a_train_split_whose_images_do_not_come_is_refused_before_the_commit(site: Site) -> None:
    groups = "splits={train: 0.0, validation: 0.0, test: 1.0, groups: {train: [s3]}}"
    for date in DATES:
        clouded = np.full((SCENE // 2, SCENE // 2), 9, np.uint8)
        write_raster(site.folder / "images" / f"s3_{date}_SCL.tif", clouded, transform=TRANSFORM @ TRANSFORM.scale(2))
    with pytest.raises(NothingSelectedError, match="train would be empty"):
        run_build(site.recipe, site.store, [groups])
    assert not site.store.exists()


def test_another_empty_split_is_told_at_once_and_in_the_summary(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    groups = "splits={train: 0.8, validation: 0.1, test: 0.1, groups: {train: ['s*']}}"
    with caplog.at_level(logging.WARNING, "tilewright"):
        planned = line.plan(job_of(site.recipe, site.store, ["clouds.mask=none", groups]))
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition(":")[0] for text in told] == ["no sample for validation", "no sample for test"]
    assert planned.warnings == told
    summary = run_build(site.recipe, site.store, ["clouds.mask=none", groups])
    assert summary.warnings == told
    assert [text for name, text in summary.rows() if name == "warning"] == told


# ---- names -------------------------------------------------------------------------------------


def test_a_misspelt_group_is_refused_with_the_nearest(site: Site) -> None:
    groups = "splits={train: 0.8, validation: 0.2, test: 0.0, groups: {test: [s1, s22]}}"
    with pytest.raises(RecipeError, match=r"splits\.groups\.test: no scene is named 's22'; did you mean 's2'.*\(10 in"):
        run_build(site.recipe, site.store, [groups])
    with pytest.raises(RecipeError, match=r"no scene is named 'x\*'\. There are s0, s1, s2, s3, s4, \.\.\. \("):
        line.plan(job_of(site.recipe, site.store, [groups.replace("s22", "'x*'")]))
    catch_all = "splits={train: 0.8, validation: 0.2, test: 0.0, groups: {train: ['*'], test: [s22]}}"
    with pytest.raises(RecipeError, match="no scene is named 's22'"):
        run_build(site.recipe, site.store, [catch_all])


def test_blocks_of_tiles_are_compared_too(tiles: Path, tmp_path: Path, server: ScriptedServer) -> None:
    with pytest.raises(RecipeError, match=r"no block is named '15/16500/1100'; did you mean .*'15/16500/11000'"):
        run_build(tiles, tmp_path / "store", ["splits.groups={test: [15/16500/1100]}"])
    assert server.requests == []


def test_names_of_what_is_not_here_are_told_where_all_is_named(site: Site) -> None:
    groups = "splits={train: 1.0, validation: 0.0, test: 0.0, groups: {train: ['s*'], test: [t1, 't2*']}}"
    summary = run_build(site.recipe, site.store, ["clouds.mask=none", groups])
    assert "splits.groups: 2 names meet no scene (t1, t2*); if those are not here, all is well" in summary.warnings


def test_what_was_a_candidate_once_may_be_named(site: Site) -> None:
    groups = "splits={train: 0.8, validation: 0.1, test: 0.1, groups: {test: [s9]}}"
    run_build(site.recipe, site.store, ["clouds.mask=none", groups])
    for path in [*(site.folder / "images").glob("s9_*"), site.folder / "labels" / "s9.tif"]:
        path.unlink()
    assert run_build(site.recipe, site.store, ["clouds.mask=none", groups]).version == "v2"


# ---- labels and classes ------------------------------------------------------------------------


def test_labels_of_elsewhere_are_refused_whatever_the_filter(
    tiles: Path, tmp_path: Path, server: ScriptedServer
) -> None:
    file = tmp_path / "buildings.geojson"
    ring = [[10, 50], [10.001, 50], [10.001, 50.001], [10, 50]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    for minimum in (0.0, 0.15):
        with pytest.raises(
            NothingSelectedError,
            match=r"no footprint of .* lies on any of 36 candidates; .* lie in 10, 50, 10.*same place",
        ):
            run_build(tiles, tmp_path / "store", [f"filter.min_building_fraction={minimum}"])
    assert server.requests == []


def test_a_version_of_background_only_is_refused(tiles: Path, tmp_path: Path, server: ScriptedServer) -> None:
    """A footprint lies on a candidate, but is too small to be drawn."""
    region, file = SmallRegion(side=6), tmp_path / "buildings.geojson"
    west, south, *_ = region.bbox()
    ring = [[west, south], [west + 1e-7, south], [west + 1e-7, south + 1e-7], [west, south]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(NothingSelectedError, match=r"no building on any of the 36 samples.*would be background"):
        run_build(tiles, tmp_path / "store", ["filter.min_building_fraction=0.0"])
    assert server.requests == []


def test_a_version_of_ignored_pixels_only_is_refused(site: Site) -> None:
    with pytest.raises(NothingSelectedError, match="every pixel of the 90 samples that pass the filter is ignored"):
        run_build(
            site.recipe,
            site.store,
            [
                "ignore_values=[0, 1, 2, 7]",
                "classes.0.source_values=[8]",
                "classes.1.source_values=[9]",
                "filter.max_ignore_fraction=1.0",
            ],
        )
    assert list(WorkDir.of(str(site.store)).images.iterdir()) == []


def test_a_class_that_is_nowhere_is_told(site: Site) -> None:
    third = "classes=[{name: water, value: 1, color: '#0000ff'}, {name: building, value: 3, color: '#ff0000', "
    third += "source_values: [2, 7]}, {name: snow, value: 4, color: '#ffffff'}]"
    summary = run_build(site.recipe, site.store, [third])
    assert "no pixel of snow in any sample; check the labels' values and the area" in summary.warnings


def test_the_summary_shows_labels_and_class_shares(tiles: Path, tmp_path: Path) -> None:
    planned = line.plan(job_of(tiles, tmp_path / "store"))
    summary = run_build(tiles, tmp_path / "store")
    region = SmallRegion(side=6)
    built = len(region.selected)
    assert (summary.labels["read"], summary.labels["kept"]) == (built, built)
    assert set(summary.class_shares) == {split for split, count in summary.splits.items() if count}
    for shares in summary.class_shares.values():
        assert sum(shares.values()) == pytest.approx(1)
    total = sum(summary.class_shares[split]["building"] * summary.splits[split] for split in summary.class_shares)
    assert total == pytest.approx(sum(region.quarters(tile) / 4 for tile in region.selected))
    assert planned.contents == Contents(summary.splits, summary.class_shares, summary.ignored)
    rows = dict(summary.rows())
    assert rows["labels"].startswith(f"{built} read, {built} used (vector")
    assert "building" in rows["classes of train"]
    assert json.loads(json.dumps(summary.class_shares)) == summary.class_shares


def test_warnings_of_contents() -> None:
    recipe = recipe_of("scenes", {"splits": {"train": 0.5, "validation": 0.5, "test": 0.0}})
    good = contents({"train": [(0.5, 0.5)], "validation": [(0.9, 0.1)]}, recipe)
    assert warnings(good, recipe) == []
    told = warnings(contents({"train": [(0.5, 0.5)], "validation": [(1.0, 0.0)]}, recipe), recipe)
    assert told == ["no pixel of building in validation"]
    told = warnings(contents({"train": [(0.5, 0.5)], "validation": [(0.0, 0.0)]}, recipe), recipe)
    assert told == ["every pixel of validation is ignored: its samples have no labels"]
    told = warnings(contents({"train": [(0.01, 0.01)], "validation": [(0.01, 0.01)]}, recipe), recipe)
    assert told == ["98% of all pixels are ignored; check the labels' values, and ignore_values"]


# ---- disk --------------------------------------------------------------------------------------


def test_too_little_room_is_told_before_anything_is_fetched(
    tiles: Path, tmp_path: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = ready.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(ready.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskError, match=r"the imagery takes about 0\.\d GB, .* free.*nothing was fetched"):
        run_build(tiles, tmp_path / "store")
    assert server.requests == []
    monkeypatch.setattr(ready.shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    summary = run_build(tiles, tmp_path / "store")
    assert any("are free there; what is fetched until the disk is full is kept" in text for text in summary.warnings)


def test_a_picture_that_cannot_be_drawn_costs_no_build(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    summary = run_build(tiles, tmp_path / "store")
    (told,) = [text for text in summary.warnings if "preview.png" in text]
    assert "could not be drawn, the version is whole" in told
    assert "No space left on device" in told
    assert [one.version for one in versions(str(tmp_path / "store"))] == ["v1"]


# ---- words -------------------------------------------------------------------------------------


def test_images_of_two_types_are_told_as_that(site: Site) -> None:
    for date in DATES:
        for band in ("red", "nir"):
            values = site.image("s5", date, band).astype(np.int16)
            write_raster(site.folder / "images" / f"s5_{date}_{band}.tif", values, nodata=0)
    with pytest.raises(SourceError, match=r"images differ in type: s\d/.* uint16.*int16.*gdal_translate -ot U?Int16"):
        run_build(site.recipe, site.store, ["clouds.mask=none"])


def test_labels_that_fail_are_not_told_as_images(site: Site) -> None:
    path = site.folder / "labels" / "s4.tif"
    write_raster(path, np.random.default_rng(1).choice(np.array([1, 2, 7], np.uint8), (SCENE, SCENE)))
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(TooManyFailedError, match=r"labels failed, .*for example s4/.*asks for these alone") as refused:
        run_build(site.recipe, site.store)
    assert "images failed" not in str(refused.value)


def test_many_reasons_are_cut(tiles: Path, tmp_path: Path, server: ScriptedServer) -> None:
    assert server.url
    codes = iter([*range(500, 500 + 4), *range(520, 520 + 30)])
    with (
        ScriptedServer(lambda _: Reply(next(codes)), content_type="image/png") as broken,
        pytest.raises(TooManyFailedError, match=r"of 27 images failed, .*and \d+ other reasons; for example 16/"),
    ):
        run_build(tiles, tmp_path / "store", ["imagery.attempts=1", f"imagery.url={broken.url}/{{z}}/{{x}}/{{y}}"])


def test_a_recipe_that_was_refused_may_be_mended(site: Site) -> None:
    """What was tried first leaves no claim on the store, for nothing was asked for."""
    for wrong in (
        "splits={by: scene, groups: {test: [nobody]}}",
        "splits={by: block, block: 1, groups: {test: [nothing]}}",
    ):
        with pytest.raises((NothingSelectedError, RecipeError)):
            run_build(site.recipe, site.store, [*ONE, wrong])
    assert run_build(site.recipe, site.store, [*ONE, "splits={by: block, block: 1}"]).version == "v1"
