"""One raster over a whole area: every pixel of a window gets the value in which its centre lies."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio import Affine

from tasks.errors import LabelError, WindowReadError
from tasks.geo.georeference import MERCATOR, Georeference, lonlat_of, tile_georeference, transformer
from tasks.geo.tiles import Tile
from tasks.labels import rasters as module
from tasks.labels.classes import ClassMap
from tasks.labels.maps import MapLabels
from tasks.labels.measure import measure
from tasks.labels.protocol import RawLabels
from tasks.labels.registry import open_labels
from tasks.recipe.model import Recipe
from tasks.recipe.sources import RasterLabels
from tasks.samples.window import Window
from tasks.state import masks
from tests.tasks.raster.made import noise, write_raster

TILE = Tile(16, 34_000, 22_000)
LIES = tile_georeference(TILE, 256)


def window(lies: Georeference | None = LIES, side: int = 256, name: str = "w") -> Window:
    return Window(name, name, name, 0, 0, side, side, lies)


def labels_of(path: Path, listed: tuple[int, ...] = (), **more: Any) -> MapLabels:
    return MapLabels(path, RasterLabels(source="rasters", path=path.name, **more), listed=listed)


def one_of(path: Path, at: Window, **more: Any) -> RawLabels | WindowReadError | None:
    (found,) = labels_of(path, **more).read([at])
    return found


def read(path: Path, at: Window, **more: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    found = one_of(path, at, **more)
    assert isinstance(found, RawLabels)
    assert found.missing is not None
    return found.values, found.missing


def around(lies: Georeference, side: int, crs: str, pixels: tuple[float, float], rim: float = 3.3) -> Affine:
    """The transform of a raster in ``crs`` whose upper left corner is ``rim`` pixels off that of the window's box."""
    west, south, east, north = lonlat_of(lies, side, side)
    left, _, _, top = transformer("EPSG:4326", crs).transform_bounds(west, south, east, north)
    width, height = pixels
    return Affine(width, 0, left - rim * width, 0, -height, top + rim * height)


def expected(values: NDArray[Any], crs: str, transform: Affine, at: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The map's value at each pixel's centre, and which pixels are so near to another value that either will do."""
    assert at.georeference is not None
    columns, rows = np.meshgrid(np.arange(at.width) + 0.5, np.arange(at.height) + 0.5)
    x, y = Affine(*at.georeference.transform) * (columns, rows)
    x, y = ~transform * transformer(at.georeference.crs, crs).transform(x, y)
    near = (np.abs(x - np.rint(x)) < 1e-3) | (np.abs(y - np.rint(y)) < 1e-3)
    return values[np.floor(y).astype(int), np.floor(x).astype(int)], near


@pytest.mark.parametrize(
    ("crs", "pixels"),
    [
        ("EPSG:4326", (1 / 12_000, 1 / 12_000)),  # 10 m at the equator, as global land cover
        ("EPSG:32631", (10.0, 10.0)),
        ("EPSG:3035", (2.5, 2.5)),
        (MERCATOR, (4.0, 7.0)),
        ("EPSG:2154", (0.9, 0.9)),
    ],
)
@pytest.mark.parametrize("cell", [True, False])
def test_pixels_have_the_value_under_their_centres(
    tmp_path: Path, crs: str, pixels: tuple[float, float], cell: bool
) -> None:
    lies = Georeference("EPSG:32631", (10.0, 0.0, 470_000.0, 0.0, -10.0, 5_800_000.0)) if cell else LIES
    at = window(lies, 64 if cell else 256)
    transform = around(lies, at.width, crs, pixels)
    values = noise(1100, 1100)
    path = write_raster(tmp_path / "map.tif", values, crs, transform)
    found, missing = read(path, at)
    wanted, near = expected(values, crs, transform, at)
    assert not missing.any()
    assert near.mean() < 0.05 or crs == at.georeference.crs  # type: ignore[union-attr]
    assert np.array_equal(found[~near], wanted[~near])


def test_an_aligned_map_is_cut(tmp_path: Path) -> None:
    values = noise(600, 700)
    transform = Affine(*LIES.transform) * Affine.translation(-100, -200)
    found, missing = read(write_raster(tmp_path / "map.tif", values, MERCATOR, transform), window())
    assert np.array_equal(found, values[200:456, 100:356])
    assert not missing.any()


def test_where_the_map_ends_there_is_no_label(tmp_path: Path) -> None:
    transform = Affine(*LIES.transform) * Affine.translation(50, -20)
    values = noise(100, 120) + np.uint8(1)
    found, missing = read(write_raster(tmp_path / "map.tif", values, MERCATOR, transform), window())
    there = np.zeros((256, 256), dtype=np.bool_)
    there[:80, 50:170] = True
    assert np.array_equal(missing, ~there)
    assert np.array_equal(found[:80, 50:170], values[20:])
    assert not found[~there].any()


@pytest.mark.parametrize("crs", [MERCATOR, "EPSG:4326", "EPSG:32755"])  # the last zone does not reach Europe
def test_a_window_that_the_map_does_not_reach(tmp_path: Path, crs: str) -> None:
    scale = 1e-4 if crs == "EPSG:4326" else 1.0
    path = write_raster(tmp_path / "map.tif", noise(50, 50), crs, Affine(scale, 0, 20.0, 0, -scale, 10.0))
    assert one_of(path, window(), missing="skip") is None
    with pytest.raises(LabelError, match=r"w: .*map\.tif does not reach it; take a map of the whole area, .*: skip"):
        one_of(path, window())


def test_nodata_of_the_map_is_no_label_unless_a_class_names_it(tmp_path: Path) -> None:
    values = noise(700, 700) % np.uint8(3)
    transform = around(LIES, 256, "EPSG:32631", (5.0, 5.0))
    path = write_raster(tmp_path / "map.tif", values, "EPSG:32631", transform, nodata=0)
    found, missing = read(path, window())
    assert 0.2 < missing.mean() < 0.5
    assert np.array_equal(missing, found == 0)
    again, missing = read(path, window(), listed=(0, 1))
    assert np.array_equal(again, found)
    assert not missing.any()


def test_colours_of_a_map(tmp_path: Path) -> None:
    colours = noise(3, 300, 300)
    path = write_raster(tmp_path / "map.tif", colours, MERCATOR, Affine(*LIES.transform), photometric="RGB")
    found, missing = read(path, window())
    assert np.array_equal(found, colours[:, :256, :256])
    assert not missing.any()


def test_a_map_much_finer_than_the_window_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = noise(900, 900)
    transform = around(LIES, 256, "EPSG:3035", (1.0, 1.0))
    path = write_raster(tmp_path / "map.tif", values, "EPSG:3035", transform, nodata=7)
    whole = read(path, window())
    monkeypatch.setattr(module, "BLOCK_PIXELS", 5_000)
    for one, other in zip(read(path, window()), whole, strict=True):
        assert np.array_equal(one, other)


def test_threads_share_a_map(tmp_path: Path) -> None:
    transform = around(LIES, 256, "EPSG:4326", (1e-4, 1e-4), rim=150)
    path = write_raster(tmp_path / "map.tif", noise(400, 400), "EPSG:4326", transform)
    labels = labels_of(path)
    tiles = [Tile(16, TILE.x + x, TILE.y + y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    windows = [window(tile_georeference(tile, 256), name=tile.name) for tile in tiles]
    alone = list(labels.read(windows))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: list(labels.read(windows)), range(8)):
            for one, other in zip(found, alone, strict=True):
                assert isinstance(one, RawLabels)
                assert isinstance(other, RawLabels)
                assert np.array_equal(one.values, other.values)
    labels.close()


def test_the_report_changes_with_the_map(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "map.tif", noise(50, 50), MERCATOR, Affine(*LIES.transform))
    labels = labels_of(path)
    before = labels.prepare([window()], tmp_path)
    assert (before.source, before.read, before.kept, before.dropped) == ("rasters map.tif", 1, 1, {})
    labels.close()
    write_raster(path, noise(50, 50, seed=1), MERCATOR, Affine(*LIES.transform))
    assert labels.prepare([window()], tmp_path).sha256 != before.sha256


def test_maps_of_no_use(tmp_path: Path) -> None:
    gone = tmp_path / "gone.tif"
    with pytest.raises(LabelError, match=r"gone\.tif: does not exist"):
        labels_of(gone).prepare([window()], tmp_path)
    bare = tmp_path / "bare.tif"
    shape = {"width": 300, "height": 300, "count": 1, "dtype": "uint8"}
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(bare, "w", driver="GTiff", **shape):
        pass
    with pytest.raises(LabelError, match=r"bare\.tif: has no CRS or no transform, .* put \{scene\} into labels\.path"):
        labels_of(bare).prepare([window()], tmp_path)
    halves = write_raster(tmp_path / "halves.tif", np.full((300, 300), 0.5), MERCATOR, Affine(*LIES.transform))
    with pytest.raises(LabelError, match=r"halves\.tif: holds float64 values that are not whole numbers"):
        one_of(halves, window())
    good = write_raster(tmp_path / "good.tif", noise(300, 300), MERCATOR, Affine(*LIES.transform))
    virtual = tmp_path / "other.vrt"
    virtual.write_text(
        '<VRTDataset rasterXSize="300" rasterYSize="300"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{good}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(LabelError, match=r"other\.vrt: is no raster that can be opened"):
        labels_of(virtual).prepare([window()], tmp_path)
    with pytest.raises(LabelError, match="w: has no CRS or no transform, so a map cannot be laid over it"):
        one_of(good, window(None))
    good.write_bytes(good.read_bytes()[:-40_000])
    assert isinstance(one_of(good, window()), WindowReadError)


def test_a_map_may_be_named_by_a_star(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "cover_2021.tif", noise(300, 300), MERCATOR, Affine(*LIES.transform))
    labels = labels_of(tmp_path / "cover_*.tif")
    labels.prepare([window()], tmp_path)
    (found,) = labels.read([window()])
    assert isinstance(found, RawLabels)
    assert found.name == str(path)
    path.with_name("cover_2022.tif").write_bytes(path.read_bytes())
    with pytest.raises(LabelError, match=r"cover_\*\.tif means .*cover_2021\.tif and .*cover_2022\.tif; each"):
        labels_of(tmp_path / "cover_*.tif").prepare([window()], tmp_path)


def test_a_crs_that_leads_nowhere(tmp_path: Path) -> None:
    site = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    path = write_raster(tmp_path / "map.tif", noise(300, 300), site, Affine(*LIES.transform))
    with pytest.raises(LabelError, match=r"w: a map in .* cannot be laid over EPSG:3857 \(.*write both in one CRS"):
        one_of(path, window())


def test_class_masks_of_a_slippy_map_come_from_source_values(tmp_path: Path) -> None:
    values = noise(900, 900) % np.uint8(4) * np.uint8(10)  # 0 is nodata
    crs, transform = "EPSG:4326", around(LIES, 256, "EPSG:4326", (1 / 12_000, 1 / 12_000))
    write_raster(tmp_path / "cover.tif", values, crs, transform, nodata=0)
    made = Recipe.model_validate(
        {
            "name": "made-up",
            "title": "Made up",
            "area": {"bbox": [0, 0, 1, 1]},
            "grid": {"zoom": 16},
            "imagery": {"source": "ign"},
            "labels": {"source": "rasters", "path": "cover.tif"},
            "classes": [
                {"name": "land", "value": 0, "color": "#000000", "source_values": [10, 20]},
                {"name": "water", "value": 3, "color": "#0000ff", "source_values": [30]},
            ],
            "filter": {"min_fraction": {"water": 0.1}},
        }
    ).in_folder(tmp_path)
    labels = open_labels(made, list, tmp_path / "footprints.parquet")
    at = window()
    assert labels.prepare([at], tmp_path).kept == 1
    (found,) = measure([at], labels, ClassMap.of(made), made)
    wanted, near = expected(values, crs, transform, at)
    assert found.passes
    assert found.mask is not None
    mask = masks.decode(found.mask, 256, 256)
    by_value = np.array([255, 0, 0, 3], dtype=np.uint8)
    assert np.array_equal(mask[~near], by_value[wanted // 10][~near])
    assert found.class_fractions == (np.mean(mask == 0), np.mean(mask == 3))
    assert found.building_fraction is None
