"""Filters judge what is recorded, both ways; nothing is measured, read or asked for again."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.sandbox.services.scripted import Reply, ScriptedServer
from tasks.build import stages
from tasks.build.selection import judge_of
from tasks.labels.measure import why_rejected
from tasks.recipe.model import Recipe
from tasks.state.ledger import Fetched, Recorded
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import DENSITY, IGNORED, NO_LABEL, NODATA, UNREAD, Image, Labels, Standing, State
from tasks.state.workdir import WorkDir
from tests.support.builds import contents, run_build
from tests.support.recipes import recipe_of
from tests.support.small import SmallRegion
from tests.tasks.build.test_windows import SCENES, SIDE, Site
from tests.tasks.raster.made import write_raster
from tests.tasks.raster.pictures import transparent

LABELS = [Standing(Labels.PASSED), *(Standing(Labels.REJECTED, why) for why in (DENSITY, IGNORED))]
IMAGES = [
    (Image.UNKNOWN, ""),
    (Image.STAGED, ""),
    (Image.REJECTED, NODATA),
    (Image.REJECTED, "clouds"),
    (Image.ABSENT, "404"),
    (Image.FAILED, "503"),
]
counts = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)).filter(any)


def recipe_with(building: float = 0.0, ignored: float = 1.0, nodata: float = 0.05) -> Recipe:
    return recipe_of(
        "scenes",
        {
            "filter.min_building_fraction": building,
            "filter.max_ignore_fraction": ignored,
            "filter.max_nodata_fraction": nodata,
        },
    )


def recorded(
    standing: Standing, fractions: tuple[float, ...], nodata: float | None, mask: bool, image: bool
) -> Recorded:
    return Recorded("a", standing, True, fractions, mask, nodata, image)


@given(st.sampled_from(LABELS), counts, st.fractions(0, 1, max_denominator=20), st.fractions(0, 1, max_denominator=20))
def test_labels_are_judged_as_when_they_are_measured(
    standing: Standing, pixels: tuple[int, int, int], building: float, ignored: float
) -> None:
    recipe, size = recipe_with(float(building), float(ignored)), sum(pixels)
    fractions = tuple(count / size for count in pixels[:2])
    expected = why_rejected(fractions, pixels[2] / size, recipe)
    now, undrawn = judge_of(recipe)(recorded(standing, fractions, None, mask=True, image=False))
    assert not undrawn
    assert (now.labels, now.labels_reason) == ((Labels.PASSED, "") if expected is None else (Labels.REJECTED, expected))
    assert (now.image, now.image_reason) == (standing.image, standing.image_reason)


@given(st.sampled_from(IMAGES), st.none() | st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_images_are_judged_by_what_is_recorded(
    image: tuple[Image, str], nodata: float | None, limit: float, kept: bool
) -> None:
    kept = kept or image[0] is Image.STAGED
    standing = Standing(Labels.PASSED, "", *image)
    now, _ = judge_of(recipe_with(nodata=limit))(recorded(standing, (0.5, 0.5), nodata, mask=True, image=kept))
    if nodata is None or image not in ((Image.STAGED, ""), (Image.REJECTED, NODATA)):
        assert now == standing
    elif nodata > limit:
        assert (now.image, now.image_reason) == (Image.REJECTED, NODATA)
    else:
        assert (now.image, now.image_reason) == (Image.STAGED if kept else Image.UNKNOWN, "")


@given(st.sampled_from(LABELS), st.sampled_from(IMAGES), counts, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_another_filter_and_back_changes_nothing(
    labels: Standing, image: tuple[Image, str], pixels: tuple[int, int, int], nodata: float, here: float, there: float
) -> None:
    fractions = tuple(count / sum(pixels) for count in pixels[:2])
    recipes = [recipe_with(limit, limit, limit) for limit in (here, there)]
    begun = Standing(labels.labels, labels.labels_reason, *image)

    def by(recipe: Recipe, standing: Standing) -> Standing:
        return judge_of(recipe)(recorded(standing, fractions, nodata, mask=True, image=True))[0]

    first = by(recipes[0], begun)
    assert by(recipes[0], first) == first
    assert by(recipes[0], by(recipes[1], first)) == first


def test_what_no_filter_decided_stays() -> None:
    for why in (NO_LABEL, UNREAD):
        standing = Standing(Labels.REJECTED, why)
        assert judge_of(recipe_with())(Recorded("a", standing, True, (), False, None, False)) == (standing, False)
    assert judge_of(recipe_with())(Recorded("a", Standing(), True, (0.5, 0.5), True, None, False)) == (
        Standing(),
        False,
    )
    other_labels = Recorded("a", LABELS[1], False, (0.5, 0.5), True, None, False)
    assert judge_of(recipe_with())(other_labels) == (LABELS[1], False)


def test_a_mask_that_was_never_drawn_is_waited_for() -> None:
    one = Recorded("a", Standing(Labels.REJECTED, DENSITY), True, (0.5, 0.5), False, None, False)
    assert judge_of(recipe_with())(one) == (one.standing, True)


# ---- tiles -----------------------------------------------------------------------------------------


@pytest.fixture
def tiles(tmp_path: Path) -> Iterator[tuple[Path, ScriptedServer, SmallRegion]]:
    """A region of which every eighth tile has a quarter without data."""
    region = SmallRegion(side=8)
    holed, holes = {f"/{tile.name}.png" for tile in region.selected[::8]}, transparent(0.25, 256)

    def answer(key: str) -> bytes | Reply | None:
        return holes if key in holed else region.image(key)

    with ScriptedServer(answer, content_type="image/png") as server:
        yield region.write_recipe(tmp_path, server.url), server, region


def nodata_of(store: Path, version: str) -> set[float]:
    from tasks.versions.read import open_version

    opened = open_version(str(store), version)
    return {float(n) for split in ("train", "validation", "test") for n in opened.split(split).array("nodata_fraction")}


def test_less_nodata_leaves_tiles_out_and_more_brings_them_back(
    tiles: tuple[Path, ScriptedServer, SmallRegion], tmp_path: Path
) -> None:
    recipe, server, region = tiles
    store, holed = tmp_path / "store", len(region.selected[::8])
    first = run_build(recipe, store, ["filter.max_nodata_fraction=0.3"])
    assert first.accepted == len(region.selected)
    files = {path: path.stat().st_mtime_ns for path in WorkDir.of(str(store)).images.rglob("*.png")}
    server.reset()
    second = run_build(recipe, store, ["filter.max_nodata_fraction=0.1"])
    assert (second.version, second.accepted, second.rejected["nodata"]) == ("v2", first.accepted - holed, holed)
    assert nodata_of(store, "v1") == {0.0, 0.25}
    assert nodata_of(store, "v2") == {0.0}
    third = run_build(recipe, store, ["filter.max_nodata_fraction=0.3"])
    assert contents(store, third.version) == contents(store, "v1")
    assert server.requests == []
    assert {path: path.stat().st_mtime_ns for path in WorkDir.of(str(store)).images.rglob("*.png")} == files


def test_what_was_rejected_at_once_comes_back_without_being_asked_for(
    tiles: tuple[Path, ScriptedServer, SmallRegion], tmp_path: Path
) -> None:
    recipe, server, region = tiles
    store = tmp_path / "store"
    assert run_build(recipe, store, ["filter.max_nodata_fraction=0.1"]).rejected["nodata"] > 0
    server.reset()
    assert run_build(recipe, store, ["filter.max_nodata_fraction=0.3"]).accepted == len(region.selected)
    assert server.requests == []


def test_what_an_earlier_program_did_not_keep_is_asked_for_once(
    tiles: tuple[Path, ScriptedServer, SmallRegion], tmp_path: Path
) -> None:
    recipe, server, region = tiles
    store, holed = tmp_path / "store", [tile.name for tile in region.selected[::8]]
    run_build(recipe, store, ["filter.max_nodata_fraction=0.1"])
    with open_ledger(WorkDir.of(str(store)).ledger) as ledger:
        ledger.record_fetched(Fetched(name, Image.REJECTED, NODATA, 1, nodata_fraction=0.25) for name in holed)
    server.reset()
    assert run_build(recipe, store, ["filter.max_nodata_fraction=0.2"]).rejected["nodata"] == len(holed)
    assert server.requests == []
    for _ in range(2):
        assert run_build(recipe, store, ["filter.max_nodata_fraction=0.3"]).accepted == len(region.selected)
        assert len(server.requests) == len(holed)


def test_label_filters_choose_among_what_was_measured(
    tiles: tuple[Path, ScriptedServer, SmallRegion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, server, region = tiles
    store, measured = tmp_path / "store", []
    real = stages.measure_windows

    def noted(windows, *rest):  # type: ignore[no-untyped-def]
        measured.extend(window.name for window in windows)
        return real(windows, *rest)

    monkeypatch.setattr(stages, "measure_windows", noted)
    all_in = ["filter.max_nodata_fraction=1.0"]
    run_build(recipe, store, [*all_in, "filter.min_building_fraction=0.2"])
    assert len(measured) == len(region.tiles)
    server.reset()
    measured.clear()
    fewer = run_build(recipe, store, [*all_in, "filter.min_building_fraction=0.6"])
    assert fewer.accepted == sum(region.quarters(tile) == 3 for tile in region.tiles)
    assert run_build(recipe, store, [*all_in, "filter.min_building_fraction=0.2"]).version == "v3"
    assert contents(store, "v3") == contents(store, "v1")
    assert measured == []  # masks are there
    more = run_build(recipe, store, [*all_in, "filter.min_building_fraction=0.0"])
    assert more.accepted == len(region.tiles)
    assert set(measured) == {tile.name for tile in set(region.tiles) - set(region.selected)}  # masks never drawn
    assert set(server.counts()) == {f"/{tile.name}.png" for tile in set(region.tiles) - set(region.selected)}


# ---- windows ---------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Scenes whose upper right window has a quarter without data."""
    found = Site(tmp_path).write()
    for scene in SCENES:
        for band in ("red", "nir"):
            for date in ("20240601", "20240611"):
                values = found.image(scene, date, band)
                values[: SIDE // 4, 2 * SIDE :] = 0
                write_raster(tmp_path / "images" / f"{scene}_{date}_{band}.tif", values, nodata=0)
    return found


def test_windows_are_left_out_and_brought_back_without_being_read(site: Site) -> None:
    plain = ["clouds.mask=none"]
    first = run_build(site.recipe, site.store, [*plain, "filter.max_nodata_fraction=0.3"])
    images = WorkDir.of(str(site.store)).images
    files = {path: path.stat().st_mtime_ns for path in images.rglob("*.npy")}
    second = run_build(site.recipe, site.store, [*plain, "filter.max_nodata_fraction=0.1"])
    assert (second.accepted, second.rejected["nodata"]) == (first.accepted - len(SCENES), len(SCENES))
    third = run_build(site.recipe, site.store, [*plain, "filter.max_nodata_fraction=0.3"])
    assert contents(site.store, third.version) == contents(site.store, "v1")
    assert {path: path.stat().st_mtime_ns for path in images.rglob("*.npy")} == files


def test_ignored_pixels_are_judged_both_ways(site: Site) -> None:
    """The lower right window of a scene has no label."""
    plain = ["clouds.mask=none", "filter.max_nodata_fraction=1.0"]
    first = run_build(site.recipe, site.store, [*plain, "filter.max_ignore_fraction=1.0"])
    assert first.accepted == 9 * len(SCENES)
    assert first.ignored["train"] == pytest.approx(1 / 9)
    second = run_build(site.recipe, site.store, [*plain, "filter.max_ignore_fraction=0.0"])
    assert (second.accepted, second.rejected) == (8 * len(SCENES), {"ignored labels": len(SCENES)})
    third = run_build(site.recipe, site.store, [*plain, "filter.max_ignore_fraction=1.0"])
    assert contents(site.store, third.version) == contents(site.store, "v1")


def test_the_key_of_an_earlier_program_is_known_whatever_its_filter_was(site: Site) -> None:
    """It held the limit of nodata: here that of the last version, and the recipe says another one now."""
    from dataclasses import replace

    from tasks.imagery.registry import open_source
    from tasks.recipe.load import load_recipe

    plain = ["clouds.mask=none", "filter.max_nodata_fraction=0.3"]
    run_build(site.recipe, site.store, plain)
    work = WorkDir.of(str(site.store))
    files = {path: path.stat().st_mtime_ns for path in work.images.rglob("*.npy")}
    source = open_source(load_recipe(site.recipe, plain), work.root)
    assert source.former_key(0.3) != source.key
    with site.ledger() as ledger:
        ledger.set_run_state(replace(ledger.run_state(), imagery_key=source.former_key(0.3)))
    run_build(site.recipe, site.store, ["clouds.mask=none", "filter.max_nodata_fraction=0.1"])
    assert {path: path.stat().st_mtime_ns for path in work.images.rglob("*.npy")} == files
    with site.ledger() as ledger:
        assert ledger.run_state().imagery_key == source.key
        assert ledger.counts()[State.REJECTED] > 0
    source.close()


def test_masks_of_rejected_samples_are_those_that_were_measured(site: Site) -> None:
    run_build(site.recipe, site.store, ["clouds.mask=none"])
    (before,) = site.by_name("mask")["s0/0-32"]
    run_build(site.recipe, site.store, ["clouds.mask=none", "filter.min_fraction.water=0.7"])
    assert "s0/32-0" not in site.by_name("mask")
    run_build(site.recipe, site.store, ["clouds.mask=none"])
    assert np.array_equal(site.by_name("mask")["s0/0-32"][0], before)
