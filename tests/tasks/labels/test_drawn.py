from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import shapely

from tasks.errors import LabelError
from tasks.geo.georeference import Georeference, lonlat_of, transformer
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.labels.drawn import FootprintLabels, covering_tiles
from tasks.labels.footprints import Footprints, clean
from tasks.samples.window import Window

UTM = Georeference("EPSG:32633", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))


def window(georeference: Georeference | None, name: str = "w") -> Window:
    return Window(name, name, name, 0, 0, 64, 48, georeference)


class Given:
    """A label source of these polygons, EPSG:4326."""

    def __init__(self, shapes: Sequence[shapely.Polygon]) -> None:
        self.shapes, self.asked = list(shapes), 0

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        self.asked += 1
        return clean(self.shapes, source="given", timestamp="2024-01-01T00:00:00Z")


def in_degrees(shape: shapely.Polygon, crs: str) -> shapely.Polygon:
    back = transformer(crs, "EPSG:4326")
    return shapely.transform(shape, lambda xy: np.column_stack(back.transform(xy[:, 0], xy[:, 1])))


def test_footprints_are_drawn_in_each_windows_own_grid(tmp_path: Path) -> None:
    box = shapely.box(500_100, 4_999_700, 500_200, 4_999_800)  # columns 10 to 20, rows 20 to 30 of UTM
    source = Given([in_degrees(box, UTM.crs)])
    labels = FootprintLabels(source, tmp_path / "footprints.parquet")
    turned = Georeference(UTM.crs, (0.0, -10.0, 500_640.0, -10.0, 0.0, 5_000_000.0))  # a quarter turn
    west, south, east, north = lonlat_of(UTM, 64, 48)
    degrees = Georeference("EPSG:4326", ((east - west) / 64, 0.0, west, 0.0, -(north - south) / 48, north))
    windows = [window(UTM), window(turned), window(degrees)]
    report = labels.prepare(windows, tmp_path)
    assert (report.kept, source.asked) == (1, 1)
    labels.prepare(windows, tmp_path)
    assert source.asked == 1
    first = labels.read(windows[0])
    assert first.values.shape == (48, 64)
    expected = np.zeros((48, 64), dtype=np.bool_)
    expected[20:30, 10:20] = True
    assert np.array_equal(first.values, expected)
    # The same ground in the turned grid: x = 500640 - 10 row, y = 5000000 - 10 column.
    again = np.zeros((48, 64), dtype=np.bool_)
    again[44:48, 20:30] = True
    assert np.array_equal(labels.read(windows[1]).values, again)
    third = labels.read(windows[2]).values
    assert abs(int(third.sum()) - 100) <= 20


def test_windows_without_a_place_are_told(tmp_path: Path) -> None:
    labels = FootprintLabels(Given([]), tmp_path / "footprints.parquet")
    with pytest.raises(LabelError, match=r"chip7: has no CRS or no transform, so footprints cannot be drawn"):
        labels.prepare([window(None, "chip7")], tmp_path)
    with pytest.raises(LabelError, match=r"chip7: has no CRS"):
        labels.read(window(None, "chip7"))
    far = Georeference("EPSG:32633", (10.0, 0.0, 1e12, 0.0, -10.0, 1e12))
    with pytest.raises(LabelError, match=r"chip8: its place in EPSG:32633 has no longitude and latitude"):
        labels.prepare([window(far, "chip8")], tmp_path)


def test_tiles_cover_the_windows() -> None:
    windows = [window(Georeference(UTM.crs, (10.0, 0.0, 500_000.0 + 640 * i, 0.0, -10.0, 5e6))) for i in range(20)]
    tiles = covering_tiles(windows)
    boxes = shapely.union_all([shapely.box(*lonlat_bounds(tile)) for tile in tiles])
    for one in windows:
        assert one.georeference is not None
        assert boxes.contains(shapely.box(*lonlat_of(one.georeference, 64, 48)).buffer(-1e-9))
    assert len({tile.z for tile in tiles}) == 1
    assert len(tiles) < 200


def test_a_rim_has_no_label(tmp_path: Path) -> None:
    labels = FootprintLabels(Given([]), tmp_path / "footprints.parquet", padding=5)
    labels.prepare([window(UTM)], tmp_path)
    raw = labels.read(window(UTM))
    assert raw.missing is not None
    assert not raw.missing[5:-5, 5:-5].any()
    assert raw.missing.sum() == 64 * 48 - 54 * 38
