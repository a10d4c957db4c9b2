import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import shapely

from tasks.errors import LabelError
from tasks.geo.georeference import Georeference, lonlat_of, tile_georeference, transformer
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.labels import drawn as module
from tasks.labels.drawn import FootprintLabels, tiles_of
from tasks.labels.footprints import Footprints, clean
from tasks.labels.protocol import RawLabels
from tasks.samples.window import Window

UTM = Georeference("EPSG:32633", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))


def window(georeference: Georeference | None, name: str = "w") -> Window:
    return Window(name, name, name, 0, 0, 64, 48, georeference)


class Given:
    """A label source of these polygons, EPSG:4326."""

    def __init__(self, shapes: Sequence[shapely.Polygon]) -> None:
        self.shapes, self.asked, self.tiles = list(shapes), 0, list[Tile]()

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        self.asked += 1
        self.tiles = list(tiles)
        return clean(self.shapes, source="given", timestamp="2024-01-01T00:00:00Z", requests=3)


def read(labels: FootprintLabels, one: Window) -> RawLabels:
    (found,) = labels.read([one])
    return found


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
    assert (report.kept, report.requests, source.asked) == (1, 3, 1)
    again = FootprintLabels(source, tmp_path / "footprints.parquet").prepare(windows, tmp_path)
    assert (again.sha256, again.kept, again.requests, source.asked) == (report.sha256, 1, 0, 1)
    first, second, third = labels.read(windows)
    assert first.missing is None
    assert first.values.shape == (48, 64)
    expected = np.zeros((48, 64), dtype=np.bool_)
    expected[20:30, 10:20] = True
    assert np.array_equal(first.values, expected)
    # The same ground in the turned grid: x = 500640 - 10 row, y = 5000000 - 10 column.
    quarter = np.zeros((48, 64), dtype=np.bool_)
    quarter[44:48, 20:30] = True
    assert np.array_equal(second.values, quarter)
    assert abs(int(third.values.sum()) - 100) <= 20


def test_windows_of_many_grids_come_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_PIXELS", 3 * 64 * 48)
    shapes = [shapely.box(500_000 + 700 * n, 4_999_600, 500_300 + 690 * n, 4_999_900) for n in range(12)]
    labels = FootprintLabels(Given([in_degrees(one, UTM.crs) for one in shapes]), tmp_path / "footprints.parquet")
    utm = [Georeference(UTM.crs, (10.0, 0.0, 500_000.0 + 640 * n, 0.0, -10.0, 5e6)) for n in range(12)]
    tiles = [tile_georeference(Tile(14, 8872 + n, 5884), 64) for n in range(3)]
    windows = [window(lies) for lies in (*utm[:8], *tiles, *utm[8:])]
    labels.prepare(windows, tmp_path)
    alone = [read(labels, one).values for one in windows]
    assert len({mask.tobytes() for mask in alone}) > 10
    for mask, raw in zip(alone, labels.read(windows), strict=True):
        assert np.array_equal(raw.values, mask)
    # Threads share one index, also when they make it.
    fresh = FootprintLabels(Given([]), tmp_path / "footprints.parquet")
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: [raw.values for raw in fresh.read(windows)], range(4)):
            assert all(np.array_equal(one, mask) for one, mask in zip(found, alone, strict=True))
    fresh.close()
    assert np.array_equal(read(fresh, windows[0]).values, alone[0])


def test_another_process_reads_what_was_prepared(tmp_path: Path) -> None:
    box = shapely.box(500_100, 4_999_700, 500_200, 4_999_800)
    path = tmp_path / "footprints.parquet"
    FootprintLabels(Given([in_degrees(box, UTM.crs)]), path).prepare([window(UTM)], tmp_path)
    program = (
        "import sys; from pathlib import Path; from tasks.labels.drawn import FootprintLabels\n"
        "from tasks.geo.georeference import Georeference; from tasks.samples.window import Window\n"
        f"lies = Georeference({UTM.crs!r}, {UTM.transform!r})\n"
        "(raw,) = FootprintLabels(None, Path(sys.argv[1])).read([Window('w', 'w', 'w', 0, 0, 64, 48, lies)])\n"
        "print(raw.values.sum())"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 100


def test_new_footprints_are_drawn_anew(tmp_path: Path) -> None:
    source = Given([])
    labels = FootprintLabels(source, tmp_path / "footprints.parquet")
    labels.prepare([window(UTM)], tmp_path)
    assert not read(labels, window(UTM)).values.any()
    source.shapes = [in_degrees(shapely.box(500_000, 4_999_000, 501_000, 5_000_000), UTM.crs)]
    (tmp_path / "footprints.parquet").unlink()
    labels.prepare([window(UTM)], tmp_path)
    assert read(labels, window(UTM)).values.all()


def test_without_its_file_nothing_is_read(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"gone\.parquet: no readable footprint file .*build again"):
        read(FootprintLabels(Given([]), tmp_path / "gone.parquet"), window(UTM))


def test_windows_without_a_place_are_told(tmp_path: Path) -> None:
    labels = FootprintLabels(Given([]), tmp_path / "footprints.parquet")
    with pytest.raises(LabelError, match=r"chip7: has no CRS or no transform, so footprints cannot be drawn"):
        labels.prepare([window(None, "chip7")], tmp_path)
    with pytest.raises(LabelError, match=r"chip7: has no CRS"):
        read(labels, window(None, "chip7"))
    far = Georeference("EPSG:32633", (10.0, 0.0, 1e12, 0.0, -10.0, 1e12))
    with pytest.raises(LabelError, match=r"chip8: its place in EPSG:32633 has no longitude and latitude"):
        labels.prepare([window(far, "chip8")], tmp_path)


def test_tiles_cover_the_windows() -> None:
    windows = [window(Georeference(UTM.crs, (10.0, 0.0, 500_000.0 + 640 * i, 0.0, -10.0, 5e6))) for i in range(20)]
    tiles = tiles_of(windows)
    boxes = shapely.union_all([shapely.box(*lonlat_bounds(tile)) for tile in tiles])
    for one in windows:
        assert one.georeference is not None
        assert boxes.contains(shapely.box(*lonlat_of(one.georeference, 64, 48)).buffer(-1e-9))
    assert len({tile.z for tile in tiles}) == 1
    assert len(tiles) < 200


def tile_window(tile: Tile, pixels: int = 256) -> Window:
    return Window(tile.name, tile.name, tile.name, 0, 0, pixels, pixels, tile_georeference(tile, pixels))


def test_tiles_are_asked_for_as_themselves(tmp_path: Path) -> None:
    tiles = [Tile(18, 132_000 + x, 90_000 + y) for x in range(3) for y in range(2)]
    windows = [tile_window(tile) for tile in reversed(tiles)]
    source = Given([])
    FootprintLabels(source, tmp_path / "footprints.parquet").prepare([*windows, windows[0]], tmp_path)
    assert source.tiles == tiles
    deep = [Tile(20, 528_001, 360_003)]  # deeper than tiles that windows are looked up by
    assert tiles_of([tile_window(deep[0], 512)]) == deep


def test_tiles_of_two_zooms_are_covered() -> None:
    tiles = [Tile(18, 132_000, 90_000), Tile(17, 66_001, 45_000)]
    found = tiles_of([tile_window(tile) for tile in tiles])
    assert len({tile.z for tile in found}) == 1
    covered = shapely.union_all([shapely.box(*lonlat_bounds(tile)) for tile in found])
    assert all(covered.contains(shapely.box(*lonlat_bounds(tile)).buffer(-1e-9)) for tile in tiles)


def test_a_rim_has_no_label(tmp_path: Path) -> None:
    labels = FootprintLabels(Given([]), tmp_path / "footprints.parquet", padding=5)
    labels.prepare([window(UTM)], tmp_path)
    raw = read(labels, window(UTM))
    assert raw.missing is not None
    assert not raw.missing[5:-5, 5:-5].any()
    assert raw.missing.sum() == 64 * 48 - 54 * 38
