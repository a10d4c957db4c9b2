"""The shipped recipes of scenes, built from made-up folders in the published layouts: every pixel is known."""

import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.sandbox.files import scene_folders
from infra.sandbox.files.scene_folders import INRIA_CITIES, SPACENET_AREA, MadeScene
from tasks.recipe.load import load_recipe
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import State
from tasks.state.workdir import WorkDir
from tasks.versions.read import versions
from tests.support.builds import contents, run_build
from tests.support.forks import Forks
from tests.support.versions import Stored, stored

REPOSITORY = Path(__file__).parents[2]
IGNORE = 255


def recipe(name: str) -> Path:
    """A shipped recipe's file."""
    return REPOSITORY / "datasets" / f"{name}.yaml"


def cut(name: str) -> tuple[str, int, int]:
    """Scene, row and column of a window's name."""
    scene, _, place = name.rpartition("/")
    row, column = place.split("-")
    return scene, int(row), int(column)


def assert_as_drawn(found: dict[str, Stored], made: Sequence[MadeScene], values: Sequence[int]) -> None:
    """Every sample's image, mask, shares and georeference are those of the scene that was drawn."""
    scenes = {scene.name: scene for scene in made}
    for name, sample in found.items():
        scene_name, row, column = cut(name)
        scene = scenes[scene_name]
        height, width = sample.mask.shape
        part = np.s_[row : row + height, column : column + width]
        assert sample.image.dtype == scene.image.dtype
        np.testing.assert_array_equal(sample.image, scene.image[:, *part], err_msg=name)
        seen = (scene.image[:, *part] != 0).any(axis=0)
        np.testing.assert_array_equal(sample.mask, np.where(seen, scene.classes[part], IGNORE), err_msg=name)
        shares = [np.mean(scene.classes[part] == value) for value in values]
        np.testing.assert_allclose(sample.class_fraction, shares, atol=1e-6, err_msg=name)
        assert sample.nodata_fraction == pytest.approx(1 - seen.mean(), abs=1e-6)
        t = scene.place.transform
        place = (t.a, 0.0, t.c + t.a * column, 0.0, t.e, t.f + t.e * row)
        assert sample.crs == scene.place.crs
        np.testing.assert_allclose(sample.transform, place, rtol=0, atol=1e-6)
        assert sample.origin == scene_name
        assert np.isnan(sample.cloud_fraction)


def assert_unchanged(path: Path, store: Path, overrides: Sequence[str]) -> None:
    """A second run of the same recipe makes no new version."""
    again = run_build(path, store, overrides)
    assert (again.version, again.new) == ("v1", False)
    assert [info.version for info in versions(str(store))] == ["v1"]


def shares_of(found: dict[str, Stored]) -> Counter[str]:
    return Counter(sample.split for sample in found.values())


LANDCOVER_SIZES = ((1100, 1200), (1030, 600), (1600, 1024), (520, 1023), (1024, 1024), (1536, 512))


@pytest.fixture(scope="module")
def landcover(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MadeScene]]:
    folder = tmp_path_factory.mktemp("landcover-ai")
    return folder, scene_folders.landcover_ai(folder, sizes=LANDCOVER_SIZES)


def landcover_overrides(folder: Path) -> list[str]:
    return [f"imagery.images={folder}/images/{{scene}}.tif", f"labels.path={folder}/masks/{{scene}}.tif"]


def test_landcover_ai(tmp_path: Path, landcover: tuple[Path, list[MadeScene]]) -> None:
    folder, made = landcover
    store, overrides = tmp_path / "store", landcover_overrides(folder)
    summary = run_build(recipe("landcover-ai"), store, overrides)
    chips = sum((height // 512) * (width // 512) for height, width in LANDCOVER_SIZES)
    assert chips == 20
    assert (summary.candidates, summary.accepted, summary.rejected) == (chips, chips, {})
    assert summary.splits == {"train": 16, "validation": 2, "test": 2}
    found = stored(store)
    assert_as_drawn(found, made, range(5))
    assert {cut(name)[0] for name in found} == {scene.name for scene in made}
    assert {value for sample in found.values() for value in np.unique(sample.mask)} == set(range(5))
    assert_unchanged(recipe("landcover-ai"), store, overrides)


def test_landcover_ai_through_the_flow(
    tmp_path: Path, landcover: tuple[Path, list[MadeScene]], prefect_server: str
) -> None:
    from flows.build import build

    folder, _ = landcover
    overrides = [*landcover_overrides(folder), "imagery.windows={size: 128, edge: drop}", "resize=32"]
    summary = build(recipe=str(recipe("landcover-ai")), store=str(tmp_path / "flow"), set=overrides)
    assert (summary.version, summary.accepted) == ("v1", sum((h // 128) * (w // 128) for h, w in LANDCOVER_SIZES))
    run_build(recipe("landcover-ai"), tmp_path / "plain", overrides)
    assert contents(tmp_path / "flow") == contents(tmp_path / "plain")


def test_inria(tmp_path: Path) -> None:
    made = scene_folders.inria(tmp_path / "data", side=400, tiles=range(1, 8))
    train = tmp_path / "data" / "train"
    overrides = [f"imagery.images={train}/images/{{scene}}.tif", f"labels.path={train}/gt/{{scene}}.tif"]
    store = tmp_path / "store"
    summary = run_build(recipe("inria"), store, overrides)
    assert summary.splits == {"train": 5 * 2 * 4, "validation": 5 * 5 * 4, "test": 0}
    found = stored(store)
    assert_as_drawn(found, made, (0, 1))
    by_split = {
        split: {cut(name)[0] for name, one in found.items() if one.split == split} for split in shares_of(found)
    }
    assert by_split["validation"] == {f"{city}{tile}" for city in INRIA_CITIES for tile in range(1, 6)}
    assert by_split["train"] == {f"{city}{tile}" for city in INRIA_CITIES for tile in (6, 7)}
    # The last window of a row and of a column is pulled inside.
    assert {cut(name)[1:] for name in found} == {(0, 0), (0, 16), (16, 0), (16, 16)}
    assert_unchanged(recipe("inria"), store, overrides)


def test_inria_for_networks_without_padding(tmp_path: Path) -> None:
    made = {one.name: one for one in scene_folders.inria(tmp_path / "data", side=600, tiles=(5, 6))}
    train = tmp_path / "data" / "train"
    overrides = [f"imagery.images={train}/images/{{scene}}.tif", f"labels.path={train}/gt/{{scene}}.tif"]
    run_build(recipe("inria"), tmp_path / "store", [*overrides, "imagery.windows={size: 572, padding: 92}"])
    found = stored(tmp_path / "store")
    assert len(found) == 10 * 4
    for name, sample in found.items():
        scene, row, column = cut(name)
        around = np.pad(made[scene].image, ((0, 0), (92, 92), (92, 92)), mode="symmetric")
        np.testing.assert_array_equal(sample.image, around[:, row : row + 572, column : column + 572])
        expected = np.full((572, 572), IGNORE, dtype=np.uint8)
        expected[92:-92, 92:-92] = made[scene].classes[row : row + 388, column : column + 388]
        np.testing.assert_array_equal(sample.mask, expected)


@pytest.mark.parametrize("kind", ["SAR-Intensity", "SAR-SLC", "PS-RGB"])
def test_spacenet6(tmp_path: Path, kind: str) -> None:
    tiles = scene_folders.spacenet6(tmp_path / "data", side=300, slc=kind == "SAR-SLC")
    assert [tile.classes.any() for tile in tiles] == [True] * 6 + [False] * 2
    area = tmp_path / "data" / SPACENET_AREA
    overrides = [
        f"imagery.images={area}/{kind}/SN6_Train_AOI_11_Rotterdam_{kind}_{{scene}}.tif",
        f"labels.path={area}/geojson_buildings/SN6_Train_AOI_11_Rotterdam_Buildings_{{scene}}.geojson",
        "imagery.windows={size: 128}",
    ]
    images: dict[str, NDArray[np.generic]] = {tile.name: tile.image for tile in tiles}
    if kind == "SAR-SLC":
        images = {tile.name: np.abs(tile.complex) for tile in tiles if tile.complex is not None}
    if kind == "PS-RGB":
        overrides.append("imagery.bands=[red, green, blue]")
        images = {tile.name: tile.optical for tile in tiles}
    store = tmp_path / "store"
    summary = run_build(recipe("spacenet6"), store, overrides)
    made = [MadeScene(tile.name, images[tile.name], tile.classes, tile.place) for tile in tiles]
    dark = sum(
        bool(np.mean((one.image[:, row : row + 128, column : column + 128] == 0).all(axis=0)) > 0.5)
        for one in made
        for row in (0, 128, 172)
        for column in (0, 128, 172)
    )
    assert (dark > 0) is (kind != "PS-RGB")
    assert (summary.candidates, summary.accepted) == (8 * 9, 8 * 9 - dark)
    assert summary.rejected == ({"nodata": dark} if dark else {})
    found = stored(store)
    assert_as_drawn(found, made, (0, 1))
    # All passes over one place stay together, and every split has a place.
    places: dict[str, set[str]] = {}
    for name, sample in found.items():
        assert sample.group == cut(name)[0].partition("_tile_")[2].join(("tile_", ""))
        places.setdefault(sample.group, set()).add(sample.split)
    assert {len(splits) for splits in places.values()} == {1}
    assert set.union(*places.values()) == {"train", "validation", "test"}
    assert_unchanged(recipe("spacenet6"), store, overrides)


EMERGENCY_SIZES = (
    *((420, 1900), (364, 1300), (1300, 364), (1900, 420), (364, 1300)),
    *((400, 500), (1300, 364), (500, 400), (364, 700)),
)


def test_emergency(tmp_path: Path) -> None:
    made = scene_folders.emergency(tmp_path / "data", sizes=EMERGENCY_SIZES)
    data = tmp_path / "data"
    overrides = [f"imagery.images={data}/images/{{scene}}.tif", f"labels.path={data}/labels/{{scene}}.tif"]
    store = tmp_path / "store"
    summary = run_build(recipe("emergency"), store, overrides)
    found = stored(store)
    assert_as_drawn(found, made, (0, 1))
    assert summary.accepted == summary.candidates == len(found)
    tests = {"D12", "D19", "D22"}
    assert {cut(name)[0] for name, one in found.items() if one.split == "test"} == tests
    for scene in made:
        height, width = scene.classes.shape
        windows = {cut(name)[1:]: one.split for name, one in found.items() if cut(name)[0] == scene.name}
        grid = {(row, column) for row in starts(height) for column in starts(width)}
        if scene.name in tests:
            assert windows == dict.fromkeys(grid, "test")
            continue
        assert set(windows) < grid
        covered = {split: np.zeros((height, width), dtype=bool) for split in ("train", "validation")}
        for (row, column), split in windows.items():
            covered[split][row : row + 364, column : column + 364] = True
        assert not (covered["train"] & covered["validation"]).any()
        # The strip is whole, lies at one side, and every window inside it is there.
        strip = covered["validation"]
        assert strip.any()
        assert strip.all(axis=0 if width > height else 1).sum() == 364
        assert strip[0].any() or strip[-1].any()
        assert strip[0, 0] or strip[-1, -1]
        # No window is left out but those that lie astride.
        for row, column in grid - set(windows):
            inside = strip[row : row + 364, column : column + 364]
            assert inside.any()
            assert not inside.all()
    shares = shares_of(found)
    assert shares["validation"] < shares["train"]
    assert_unchanged(recipe("emergency"), store, overrides)


def starts(extent: int) -> list[int]:
    """Where windows of 364 px start at a stride of 120, the last one pulled inside."""
    regular = list(range(0, extent - 364 + 1, 120))
    return regular if regular[-1] + 364 == extent else [*regular, extent - 364]


def test_the_published_count_of_landcover_ai() -> None:
    from tasks.samples.patches import place

    windows = load_recipe(recipe("landcover-ai")).patch_grid
    assert windows is not None
    assert 33 * len(place(9500, 9000, windows)) + 8 * len(place(4700, 4200, windows)) == 10_674


# ---- kill -9 ------------------------------------------------------------------------------------


def kill_when(forks: Forks, store: Path, overrides: Sequence[str], images: int) -> int:
    """Kill a build once so many images are kept, or, with 0, once it writes its version; returns the images kept."""
    process = forks.start("tests.support.builds:main", str(recipe("landcover-ai")), str(store), *overrides)
    folder = store.with_name(f"{store.name}.work") / "images"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(folder.glob("*/*.npy"))) >= images if images else (store / "chunks").is_dir():
            break
        time.sleep(0.005)
    assert process.poll() is None, f"the build ended with {process.poll()} before it could be killed"
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return len(list(folder.glob("*/*.npy")))


def test_killed_in_the_middle_and_run_again(
    tmp_path: Path, landcover: tuple[Path, list[MadeScene]], forks: Forks
) -> None:
    folder, _ = landcover
    overrides = [*landcover_overrides(folder), "imagery.windows={size: 128, edge: drop}"]
    total = sum((height // 128) * (width // 128) for height, width in LANDCOVER_SIZES)
    run_build(recipe("landcover-ai"), tmp_path / "undisturbed", overrides)
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == total
    for number, images in enumerate((1, total // 2, 0)):
        store = tmp_path / f"store-{number}"
        kept = kill_when(forks, store, overrides, images)
        assert kept < total if images else kept == total
        with open_ledger(WorkDir.of(str(store)).ledger) as ledger:
            assert ledger.counts()[State.STAGED] <= kept
        assert (store.exists(), versions(str(store)) if store.exists() else []) == (images == 0, [])
        summary = run_build(recipe("landcover-ai"), store, overrides)
        assert (summary.version, summary.accepted) == ("v1", total)
        assert contents(store) == expected
        assert stored(store).keys() == expected.keys()
