"""Reading parts of raster files: mirrored edges, nodata, masks, damaged files, threads and memory."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.enums import ColorInterp

from tasks.errors import LabelError, SourceError, WindowReadError
from tasks.geo.georeference import Georeference
from tasks.raster.files import Rasters
from tasks.raster.grids import Header, difference, mirrored, outside, reach, scaled
from tasks.samples.window import Window
from tests.tasks.raster.made import TRANSFORM, noise, write_plain, write_raster


@given(st.integers(1, 30), st.integers(0, 90), st.integers(0, 90))
def test_edges_are_mirrored_as_numpy_does(extent: int, before: int, after: int) -> None:
    line = np.arange(extent)
    wanted = np.pad(line, (before, after), mode="symmetric")
    assert np.array_equal(mirrored(-before, extent + before + after, extent), wanted)
    beyond = outside(-before, extent + before + after, extent)
    assert np.array_equal(~beyond, np.pad(np.ones(extent, dtype=bool), (before, after)))


@given(st.integers(1, 40), st.integers(1, 6))
def test_a_coarser_layer_is_read_by_nearest(extent: int, factor: int) -> None:
    fine, coarse = extent * factor, extent
    assert np.array_equal(scaled(np.arange(fine), fine, coarse), np.arange(fine) // factor)
    assert np.array_equal(scaled(np.arange(coarse), coarse, fine), np.arange(coarse) * factor + factor // 2)


def test_windows_at_the_edge_equal_a_padded_raster(tmp_path: Path) -> None:
    image = noise(3, 40, 50)
    path = write_raster(tmp_path / "a.tif", image)
    padded = np.pad(image, ((0, 0), (90, 90), (90, 90)), mode="symmetric")
    rasters = Rasters()
    for column, row, side in [(0, 0, 20), (-5, -9, 30), (45, 35, 60), (-60, -70, 150), (10, 39, 16)]:
        found = rasters.read(path, "a", mirrored(column, side, 50), mirrored(row, side, 40))
        assert np.array_equal(found.values, padded[:, row + 90 : row + 90 + side, column + 90 : column + 90 + side])
        assert found.missing is None
    rasters.close()


def test_the_nodata_of_the_file_comes_before_the_recipes(tmp_path: Path) -> None:
    image = np.array([[[0, 5, 255]], [[0, 0, 255]]], dtype=np.uint8)
    rasters = Rasters()

    def missing(name: str, told: float | None, **profile: float) -> list[list[bool]] | None:
        path = write_raster(tmp_path / f"{name}.tif", image, **profile)
        found = rasters.read(path, name, np.arange(3), np.arange(1), nodata=told).missing
        return None if found is None else list(found[:, 0].tolist())

    assert missing("none", None) is None
    assert missing("file", 255, nodata=0) == [[True, False, False], [True, True, False]]
    assert missing("recipe", 255) == [[False, False, True]] * 2
    assert missing("of no byte", -9999) is None


def test_floats_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    image = np.array([[np.nan, np.inf, -9999.0, 1.5]], dtype=np.float32)
    path = write_raster(tmp_path / "f.tif", image, nodata=-9999)
    found = Rasters().read(path, "f", np.arange(4), np.arange(1))
    assert found.missing is not None
    assert found.missing[0, 0].tolist() == [True, True, True, False]


def test_alpha_is_a_mask_unless_it_is_counted(tmp_path: Path) -> None:
    image = noise(4, 6, 6)
    image[3] = 255
    image[3, 2] = 0
    path = write_raster(tmp_path / "rgba.tif", image, photometric="RGB", alpha="YES")
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    rasters = Rasters()
    header = rasters.header(path, "rgba")
    assert (header.bands, header.colours) == (4, 3)
    at = np.arange(6)
    rgb = rasters.read(path, "rgba", at, at, count=3)
    assert np.array_equal(rgb.values, image[:3])
    assert np.array_equal(rgb.missing, np.broadcast_to(image[3] == 0, (3, 6, 6)))
    four = rasters.read(path, "rgba", at, at, [4, 1], count=4)  # an infrared band that GDAL calls alpha
    assert np.array_equal(four.values, image[[3, 0]])
    assert four.missing is None


def test_a_mask_beside_the_file(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "m.tif", noise(3, 6, 6))
    mask = np.full((6, 6), 255, dtype=np.uint8)
    mask[1, 2] = 0
    with rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    found = Rasters().read(path, "m", np.arange(6), np.arange(6), [2])
    assert np.array_equal(found.missing[0], mask == 0)


def test_headers(tmp_path: Path) -> None:
    rotated = Affine(-0.03, -2.5, 593_124, 2.5, -0.03, 5_749_208)
    rasters = Rasters()
    header = rasters.header(write_raster(tmp_path / "a.tif", noise(3, 40, 50), transform=rotated), "a")
    assert header[:6] == ("a", 50, 40, 3, 3, "uint8")
    assert header.georeference == ("EPSG:32631", tuple(rotated)[:6])
    local = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    own = rasters.header(write_raster(tmp_path / "own.tif", noise(1, 4, 4), crs=local), "own")
    assert own.georeference is not None
    assert "site" in own.georeference.crs
    plain = rasters.header(write_plain(tmp_path / "p.png", noise(4, 5)), "p")  # and no warning about it
    assert (plain.width, plain.height, plain.georeference) == (5, 4, None)


def test_a_window_outside_its_scene() -> None:
    def window(column: int, row: int) -> Window:
        return Window("s/0-0", "s", "s", column, row, 10, 10)

    assert reach(window(-9, 29), 30, 30).beyond.sum() == 99
    for column, row in [(-10, 0), (0, -10), (30, 0), (0, 30)]:
        with pytest.raises(WindowReadError, match=r"window s/0-0 \(columns .*\) lies outside scene s, which is 30x30"):
            reach(window(column, row), 30, 30)


def test_files_that_are_no_rasters(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("not a raster")
    with pytest.raises(SourceError, match=r"text: is no raster .*expected a GeoTIFF.*Fetch the file again"):
        Rasters().header(tmp_path / "text.tif", "text")
    with pytest.raises(LabelError, match="gone: does not exist"):
        Rasters(LabelError).header(tmp_path / "gone.tif", "gone")
    source = write_raster(tmp_path / "a.tif", noise(1, 8, 8))
    vrt = tmp_path / "other.tif"  # a file that would make GDAL open another
    vrt.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(SourceError, match="is no raster"):
        Rasters().header(vrt, "vrt")


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw"])
def test_a_file_cut_short_fails_only_where_it_is_cut(tmp_path: Path, compress: str) -> None:
    image = noise(1, 256, 256)
    path = write_raster(tmp_path / "a.tif", image, compress=compress, tiled=True, blockxsize=64, blockysize=64)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    rasters = Rasters()
    top, bottom = np.arange(64), np.arange(192, 256)
    assert np.array_equal(rasters.read(path, "a", top, top).values[0], image[0, :64, :64])
    with pytest.raises(WindowReadError, match=r"^a: columns 192-256, rows 192-256 cannot be read \("):
        rasters.read(path, "a", bottom, bottom)


def test_threads_and_many_files(tmp_path: Path) -> None:
    images = [noise(1, 64, 64, seed=n) for n in range(40)]  # more than stay open
    paths = [write_raster(tmp_path / f"{n}.tif", image) for n, image in enumerate(images)]
    rasters = Rasters()
    at = np.arange(8, 40)

    def same(n: int) -> bool:
        found = rasters.read(paths[n % 40], "x", at, at).values
        return np.array_equal(found, images[n % 40][:, 8:40, 8:40])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, range(400)))
        rasters.close()
        assert all(pool.map(same, range(40)))  # opened again
    rasters.close()


def header(name: str, width: int, height: int, crs: str = "EPSG:32631", transform: Affine | None = TRANSFORM) -> Header:
    return Header(name, width, height, 1, 1, "uint8", transform and Georeference(crs, tuple(transform)[:6]))


def moved(columns: float, rows: float) -> Affine:
    return Affine(0.5, 0, 500_000 + 0.5 * columns, 0, -0.5, 5_800_000 - 0.5 * rows)


def test_grids_that_differ() -> None:
    image = header("image.tif", 100, 80)
    assert difference(image, header("label.tif", 100, 80)) is None
    assert difference(image, header("label.tif", 100, 80, transform=None)) is None
    assert difference(image, header("label.tif", 100, 80, transform=moved(0.009, -0.009))) is None
    size = difference(image, header("label.tif", 100, 81))
    assert size == "label.tif is 100x81 pixels, image.tif is 100x80: they must have the same size"
    crs = difference(image, header("label.tif", 100, 80, "EPSG:32632"))
    assert crs == "label.tif is in EPSG:32632, image.tif is in EPSG:32631: they must have the same CRS"
    away = difference(image, header("label.tif", 100, 80, transform=moved(7, -3)))
    assert away == "label.tif does not lie where image.tif does: a corner is 7.00 columns and -3.00 rows off"
    half = header("scl.tif", 50, 40, transform=Affine(1, 0, 500_000, 0, -1, 5_800_000))
    assert difference(image, half, same_size=False) is None
    assert difference(image, header("scl.tif", 50, 40), same_size=False) is not None


_MEMORY = """
import json, resource, sys
from pathlib import Path
import numpy as np
from tasks.geo.georeference import Georeference
from tasks.raster.files import Rasters
path, side = Path(sys.argv[1]), 8192
rasters = Rasters()
at = np.arange(512)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for row in range(0, side, 512):
    for column in range(0, side, 512):
        rasters.read(path, "x", at + column, at + row)
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))
"""


def test_a_large_scene_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"  # 8192 x 8192 x 4 bytes = 256 MiB, in strips that are whole rows
    profile = {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32631", "transform": TRANSFORM}
    with rasterio.open(
        path, "w", width=8192, height=8192, count=4, compress="lzw", interleave="pixel", **profile
    ) as file:
        block = np.zeros((4, 1024, 8192), dtype=np.uint8)
        for row in range(0, 8192, 1024):
            file.write(block, window=rasterio.windows.Window(0, row, 8192, 1024))
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) < 200  # MiB: GDAL's cache of 128 and a few windows
