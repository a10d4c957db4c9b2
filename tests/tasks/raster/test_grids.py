"""Whether two rasters share a pixel grid, to a hundredth of a pixel, in whatever words they tell it."""

import numpy as np
import pytest
from pyproj import CRS
from rasterio import Affine

from tasks.geo.georeference import Georeference
from tasks.raster.grids import Header, difference, out_of
from tasks.samples.window import Window
from tests.tasks.raster.made import TRANSFORM


def header(crs: str | None = "EPSG:32631", transform: Affine | None = TRANSFORM, name: str = "label.tif") -> Header:
    numbers = None if transform is None else tuple(transform)[:6]
    georeference = Georeference(crs, numbers) if crs and numbers else None
    return Header(name, 1000, 800, 1, 1, "uint8", georeference, numbers)


IMAGE = header(name="image.tif")


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        (Affine.translation(0.5, 0), "0.50 columns and 0.00 rows"),
        (Affine.translation(0, -1), "0.00 columns and -1.00 rows"),
        (Affine.translation(0.02, 0.02), "0.02 columns and 0.02 rows"),
        (Affine.scale(1.0001), "0.10 columns and 0.08 rows"),
        (Affine.rotation(0.01), "-0.14 columns and 0.17 rows"),
    ],
)
def test_a_grid_that_is_shifted_scaled_or_turned(moved: Affine, words: str) -> None:
    found = difference(IMAGE, header(transform=TRANSFORM * moved))
    assert found == f"label.tif does not lie where image.tif does: a corner is {words} off"
    assert difference(header(None), header(None, TRANSFORM * moved)) is not None  # world files have no CRS
    assert difference(IMAGE, header(None, TRANSFORM * moved)) is not None


@pytest.mark.parametrize("moved", [Affine.translation(0.009, -0.009), Affine.scale(1.000009), Affine.rotation(0.0004)])
def test_numbers_that_were_rounded(moved: Affine) -> None:
    assert difference(IMAGE, header(transform=TRANSFORM * moved)) is None


@pytest.mark.parametrize(
    "crs",
    [
        CRS("EPSG:32631").to_wkt(),
        CRS("EPSG:32631").to_wkt("WKT1_ESRI"),
        "+proj=utm +zone=31 +datum=WGS84 +units=m",
        'PROJCS["mine",GEOGCS["mine",DATUM["mine",SPHEROID["mine",6378137,298.257223563]],PRIMEM["Greenwich",0],'
        'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["central_meridian",3],'
        'PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],UNIT["metre",1]]',
    ],
)
def test_one_crs_in_other_words(crs: str) -> None:
    assert difference(IMAGE, header(crs)) is None
    assert difference(IMAGE, header(crs, TRANSFORM * Affine.translation(0.5, 0))) is not None


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", "EPSG:3857", 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_another_crs(crs: str) -> None:
    found = difference(IMAGE, header(crs))
    assert found is not None
    assert "image.tif is in EPSG:32631: they must have the same CRS" in found


def test_what_has_no_place_is_compared_by_size() -> None:
    assert difference(IMAGE, header(None, None)) is None
    assert difference(IMAGE, header(None, None)._replace(width=999)) is not None


def test_pixels_of_a_window_outside_its_scene() -> None:
    found = out_of(Window("w", "s", "g", -2, 7, 6, 5), 3, 10)
    assert np.array_equal(~found, np.pad(np.ones((3, 3), dtype=bool), ((0, 2), (2, 1))))
