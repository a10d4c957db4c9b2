"""What the ledger is told of windows: masks as GDAL draws them, class fractions, and the filter's verdict."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from rasterio import Affine

from tasks.errors import LabelError, WindowReadError
from tasks.geo.georeference import MERCATOR, Georeference, tile_georeference, transformer
from tasks.geo.tiles import Tile
from tasks.labels import measure as module
from tasks.labels.classes import ClassMap
from tasks.labels.drawn import FootprintLabels
from tasks.labels.footprints import LabelReport, clean, write_footprints
from tasks.labels.measure import class_fractions, ignored_fraction, measure, why_rejected
from tasks.labels.protocol import Labels, RawLabels
from tasks.labels.rasters import SceneLabels
from tasks.raster.scene import LocalAsset, Scene
from tasks.recipe.model import Recipe
from tasks.recipe.sources import RasterLabels
from tasks.samples.window import Window
from tasks.state import masks
from tasks.state.ledger import Measured
from tasks.state.transitions import DENSITY, IGNORED, NO_LABEL, UNREAD
from tests.tasks.raster.made import write_raster

CLASSES = [
    {"name": "background", "value": 0, "color": "#000000"},
    {"name": "building", "value": 2, "color": "#ff0000"},
    {"name": "water", "value": 5, "color": "#0000ff"},
]
TILE = Tile(16, 34000, 22000)
UTM = Georeference("EPSG:32631", (3.0, 0.0, 595_000.0, 0.0, -3.0, 5_629_000.0))
SCENES = {"source": "scenes", "images": "{scene}.tif", "bands": ["red"], "windows": {"size": 64}}
RASTERS = {"source": "rasters", "path": "{scene}.png"}
FOOTPRINTS = {"source": "vector", "path": "b.gpkg"}
class_masks = npst.arrays(
    np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 2, 5, 255])
)


def recipe(labels: dict[str, Any] = RASTERS, **more: Any) -> Recipe:
    """Of scenes."""
    values = {"name": "made-up", "title": "Made up", "classes": CLASSES, "imagery": SCENES, "labels": labels}
    return Recipe.model_validate({**values, **more})


def slippy(**more: Any) -> Recipe:
    """Of a slippy map with footprints."""
    place = {"area": {"bbox": [0, 0, 1, 1]}, "grid": {"zoom": 16}}
    return recipe(FOOTPRINTS, imagery={"source": "ign"}, **place, **more)


def window(name: str, lies: Georeference | None = None, width: int = 256, height: int = 256) -> Window:
    return Window(name, name, name, 0, 0, width, height, lies)


class Told(Labels):
    """Labels that are told."""

    def __init__(self, *found: RawLabels | WindowReadError | None) -> None:
        self.found = found

    def prepare(self, windows: Sequence[Window], work: Path) -> LabelReport:
        raise AssertionError("there is nothing to prepare")

    def read(self, windows: Sequence[Window]) -> Iterator[RawLabels | WindowReadError | None]:
        return iter(self.found)

    def close(self) -> None:
        pass


def measured(made: Recipe, *found: RawLabels | WindowReadError | None) -> list[Measured]:
    windows = [window(f"w{n}") for n in range(len(found))]
    return measure(windows, Told(*found), ClassMap.of(made), made)


# ---- drawn footprints ---------------------------------------------------------------------------


def town(crs: str, centre: tuple[float, float], count: int = 60) -> NDArray[np.object_]:
    """Turned boxes, some with a courtyard, near a point of ``crs``; in EPSG:4326."""
    random = np.random.default_rng(7)
    back = transformer(crs, "EPSG:4326")
    shapes = []
    for _ in range(count):
        half = random.uniform(3, 30, 2)
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        turn = random.uniform(0, np.pi)
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        ring = corners @ turned + centre + random.uniform(-300, 300, 2)
        hole = [(ring - ring.mean(axis=0)) * 0.4 + ring.mean(axis=0)] if random.random() < 0.3 else []
        shapes.append(shapely.Polygon(ring, hole))
    return np.asarray(
        shapely.transform(np.array(shapes), lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))
    )


def by_gdal(shapes: NDArray[np.object_], one: Window) -> NDArray[np.uint8]:
    """The class mask that rasterio alone draws."""
    assert one.georeference is not None
    there = transformer("EPSG:4326", one.georeference.crs)
    projected = shapely.transform(shapes, lambda xy: np.column_stack(there.transform(xy[:, 0], xy[:, 1])))
    drawn: NDArray[np.uint8] = rasterio.features.rasterize(
        ((shape, 2) for shape in projected),
        out_shape=(one.height, one.width),
        transform=Affine(*one.georeference.transform),
        dtype="uint8",
    )
    return drawn


def footprint_labels(folder: Path, shapes: NDArray[np.object_]) -> FootprintLabels:
    path = folder / "footprints.parquet"
    write_footprints(path, clean(shapes, source="town", timestamp="2024-01-01T00:00:00Z"))

    class Never:
        def fetch(self, tiles: Sequence[Tile], work: Path) -> Any:
            raise AssertionError("the footprints are there")

    return FootprintLabels(Never(), path)


def tile_windows() -> list[Window]:
    tiles = [Tile(TILE.z, TILE.x + x, TILE.y + y) for y in range(2) for x in range(2)]
    return [window(tile.name, tile_georeference(tile, 256)) for tile in tiles]


def utm_windows() -> list[Window]:
    a, b, c, d, e, f = UTM.transform
    lies = [Georeference(UTM.crs, (a, b, c + 150 * n, d, e, f)) for n in range(3)]
    return [window(f"cell{n}", one, 100, 70) for n, one in enumerate(lies)]


@pytest.mark.parametrize("passing", ["all", "some", "none"])
@pytest.mark.parametrize("tiles", [True, False])
def test_masks_of_footprints_are_those_that_gdal_draws(tmp_path: Path, tiles: bool, passing: str) -> None:
    windows = tile_windows() if tiles else utm_windows()
    lies = windows[0].georeference
    assert lies is not None
    shapes = town(lies.crs, (lies.transform[2] + 500, lies.transform[5] - 500 + 350 * (not tiles)))
    expected = [by_gdal(shapes, one) for one in windows]
    counts = [int((mask == 2).sum()) for mask in expected]
    assert sum(counts) > 1000
    minimum = {"all": None, "some": np.mean(counts) / expected[0].size, "none": 1.0}[passing]
    made = slippy(filter={"min_building_fraction": minimum})
    found = measure(windows, footprint_labels(tmp_path, shapes), ClassMap.of(made), made)
    assert [one.name for one in found] == [one.name for one in windows]
    assert {one.passes for one in found} == {"all": {True}, "some": {True, False}, "none": {False}}[passing]
    for told, mask, count in zip(found, expected, counts, strict=True):
        assert told.building_fraction == count / mask.size
        assert type(told.building_fraction) is float
        assert told.class_fractions == ((mask.size - count) / mask.size, count / mask.size, 0.0)
        if tiles:  # as it was stored when tiles alone were measured
            assert told.class_fractions[0] == 1.0 - told.building_fraction
        assert told.passes == (minimum is None or told.building_fraction >= minimum)
        if told.passes:
            assert told.mask is not None
            assert np.array_equal(masks.decode(told.mask, *mask.shape), mask)
            assert told.mask == masks.encode(mask)
            assert told.mask_sha256 == hashlib.sha256(told.mask).hexdigest()
        else:
            assert (told.reason, told.mask, told.mask_sha256) == (DENSITY, None, "")


def test_the_rim_of_a_drawn_window_is_ignored() -> None:
    made = recipe(FOOTPRINTS, filter={"max_ignore_fraction": 0.2})
    values = np.zeros((4, 4), dtype=np.bool_)
    values[:2] = True
    rim = np.zeros((4, 4), dtype=np.bool_)
    rim[:, 0] = True
    (one,) = measured(made, RawLabels(values, rim))
    assert (one.reason, one.class_fractions, one.building_fraction) == (IGNORED, (0.375, 0.375, 0.0), 0.375)


def test_a_mercator_window_that_is_no_tile_is_drawn_too(tmp_path: Path) -> None:
    a, b, c, d, e, f = tile_georeference(TILE, 256).transform
    odd = window("odd", Georeference(MERCATOR, (a * 1.3, b, c, d, e * 0.7, f)), 120, 90)
    shapes = town(MERCATOR, (c + 100, f - 80))
    made = slippy(filter={"min_building_fraction": None})
    (found,) = measure([odd], footprint_labels(tmp_path, shapes), ClassMap.of(made), made)
    assert found.mask is not None
    assert np.array_equal(masks.decode(found.mask, 90, 120), by_gdal(shapes, odd))


# ---- rasters ------------------------------------------------------------------------------------


def test_labels_become_masks_and_reasons() -> None:
    values = np.array([[0, 2], [5, 5]], dtype=np.uint8)
    missing = np.array([[False, False], [False, True]])
    found = measured(
        recipe(filter={"min_fraction": {"water": 0.5}, "max_ignore_fraction": 0.0}),
        RawLabels(values),
        RawLabels(values, missing),
        None,
        WindowReadError("a.tif: columns 0-2, rows 0-2 cannot be read"),
        RawLabels(np.full((2, 2), 5), missing),
    )
    assert [one.name for one in found] == ["w0", "w1", "w2", "w3", "w4"]
    assert [one.reason for one in found] == ["", DENSITY, NO_LABEL, UNREAD, IGNORED]
    assert found[0].class_fractions == (0.25, 0.25, 0.5)
    assert found[0].building_fraction == 0.25
    assert found[0].mask == masks.encode(values)
    assert found[1].class_fractions == (0.25, 0.25, 0.25)
    assert [one.mask for one in found[1:]] == [None] * 4
    assert found[2] == Measured("w2", NO_LABEL)
    assert found[3] == Measured("w3", UNREAD)


def test_a_dataset_without_buildings_has_no_fraction_of_them() -> None:
    made = recipe(classes=[CLASSES[0], CLASSES[2]])
    (one,) = measured(made, RawLabels(np.array([[0, 5]])))
    assert (one.building_fraction, one.class_fractions) == (None, (0.5, 0.5))


def test_labels_that_the_recipe_does_not_know_end_the_run() -> None:
    with pytest.raises(LabelError, match=r"w1: labels that the recipe does not know, .*: 9 \(1\)"):
        measured(recipe(), RawLabels(np.array([[0]])), RawLabels(np.array([[9]])))


def test_one_run_tells_the_unknown_labels_of_all_windows(tmp_path: Path) -> None:
    """Though the first shard that has any ends it."""
    paths = [write_raster(tmp_path / f"{n}.tif", np.full((4, 4), n, dtype=np.uint8)) for n in range(8)]
    scenes = [Scene(str(n), "g", (), LocalAsset(path)) for n, path in enumerate(paths)]
    labels = SceneLabels(lambda: scenes, RasterLabels.model_validate(RASTERS))
    windows = [Window(f"{n}", f"{n}", "g", 0, 0, 4, 4) for n in range(8)]
    labels.prepare(windows, tmp_path)
    made = recipe()
    with pytest.raises(LabelError) as error:
        measure(windows[:2], labels, ClassMap.of(made), made)
    message = (
        f"labels of 8 windows, for example 1 ({paths[1]}): labels that the recipe does not know, with their counts of "
        "pixels: 1 (16), 3 (16), 4 (16), 6 (16), 7 (16); add them to the source_values of a class, or to "
        "ignore_values where they mean no label"
    )
    assert str(error.value) == message
    with pytest.raises(LabelError, match=r"^labels of 8 windows"):  # of a shard beside it
        measure(windows[2:4], labels, ClassMap.of(made), made)
    write_raster(paths[7], np.full((4, 4), 7.5))  # another fault does not hide this one
    again = SceneLabels(lambda: scenes, RasterLabels.model_validate(RASTERS))
    again.prepare(windows, tmp_path)
    with pytest.raises(LabelError, match=r"1 \(16\), 3 \(16\), 4 \(16\), 6 \(16\); add"):
        measure(windows[:2], again, ClassMap.of(made), made)


def test_many_windows_are_looked_at_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "a.tif", np.full((4, 40), 9, dtype=np.uint8))
    labels = SceneLabels(lambda: [Scene("a", "g", (), LocalAsset(path))], RasterLabels.model_validate(RASTERS))
    windows = [Window(f"a/{n}", "a", "g", 4 * n, 0, 4, 4) for n in range(10)]
    labels.prepare(windows, tmp_path)
    monkeypatch.setattr(module, "SURVEY_SECONDS", 0.0)
    with pytest.raises(LabelError, match=r"^labels of 2 windows \(8 others were not looked at\), .*: 9 \(32\); add"):
        measure(windows[:2], labels, ClassMap.of(recipe()), recipe())


def test_a_label_that_cannot_be_read_is_told_with_its_file(caplog: pytest.LogCaptureFixture) -> None:
    errors = [WindowReadError(f"{n}.tif: columns 0-2, rows 0-2 cannot be read (why)") for n in range(5)]
    with caplog.at_level("WARNING", "tilewright"):
        found = measured(recipe(), *errors)
    assert {one.reason for one in found} == {UNREAD}
    assert caplog.messages == [
        *(f"labels: {n}.tif: columns 0-2, rows 0-2 cannot be read (why)" for n in range(3)),
        "labels: 2 more windows of these cannot be read",
    ]


def test_a_window_of_ignored_pixels_alone_has_no_class() -> None:
    (one,) = measured(recipe(), RawLabels(np.zeros((2, 2), np.uint8), np.ones((2, 2), bool)))
    assert one.passes
    assert one.class_fractions == (0.0, 0.0, 0.0)


# ---- arithmetic ---------------------------------------------------------------------------------


@given(class_masks)
def test_fractions_and_ignored_make_one(mask: NDArray[np.uint8]) -> None:
    made = recipe()
    found = class_fractions(mask, made)
    assert [round(part * mask.size) for part in found] == [int((mask == value).sum()) for value in (0, 2, 5)]
    assert sum(found) + ignored_fraction(mask, made) == pytest.approx(1.0, abs=1e-12)


@given(npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_counting_footprints_is_counting_their_mask(drawn: NDArray[np.bool_]) -> None:
    made = slippy(filter={"min_building_fraction": None})
    (one,) = measured(made, RawLabels(drawn))
    assert one.class_fractions == class_fractions(np.where(drawn, np.uint8(2), np.uint8(0)), made)


@pytest.mark.parametrize(
    ("limits", "found", "ignored", "expected"),
    [
        ({}, (1.0, 0.0, 0.0), 0.0, None),
        ({"min_building_fraction": 0.15}, (0.85, 0.15, 0.0), 0.0, None),
        ({"min_building_fraction": 0.15}, (0.851, 0.149, 0.0), 0.0, "density"),
        ({"min_fraction": {"water": 0.1}}, (0.4, 0.5, 0.1), 0.0, None),
        ({"min_fraction": {"water": 0.1, "background": 0.0}}, (0.5, 0.5, 0.0), 0.0, "density"),
        ({"max_ignore_fraction": 0.0}, (0.5, 0.25, 0.25), 0.0, None),
        ({"max_ignore_fraction": 0.0}, (0.5, 0.25, 0.2), 0.05, "ignored labels"),
        ({"max_ignore_fraction": 0.0, "min_building_fraction": 0.5}, (0.5, 0.25, 0.2), 0.05, "density"),
    ],
)
def test_the_filter(limits: dict[str, Any], found: Any, ignored: float, expected: str | None) -> None:
    assert why_rejected(found, ignored, recipe(filter=limits)) == expected


def test_the_building_fraction_is_of_all_pixels_ignored_ones_too() -> None:
    made = recipe(filter={"min_building_fraction": 0.5})
    mask = np.array([[2, 255], [0, 255]], dtype=np.uint8)
    assert class_fractions(mask, made) == (0.25, 0.25, 0.0)
    assert ignored_fraction(mask, made) == 0.5
    assert why_rejected(class_fractions(mask, made), 0.5, made) == "density"
