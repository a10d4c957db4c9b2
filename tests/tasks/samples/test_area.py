import json
import os
import re
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import AreaError
from tasks.geo.coverage import named
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.recipe.load import load_recipe
from tasks.samples.area import candidate_tiles, read_tile_list, tiles_in
from tasks.samples.draw import sample_in, systematic_sample
from tasks.samples.shapes import clip_to_map
from tests.support.recipes import write_recipe


def tiles_for(folder: Path, area: str, zoom: int = 12, *more: str) -> list[Tile]:
    recipe = load_recipe(
        write_recipe(folder, ("{tiles: tiles.txt}", area)), [f"grid.zoom={zoom}", "splits.block_zoom=null", *more]
    )
    return candidate_tiles(recipe, folder)


def geojson(folder: Path, content: Any) -> Path:
    path = folder / "area.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@given(st.floats(-179, 178), st.floats(-80, 80), st.floats(0.001, 0.9), st.floats(0.001, 0.9), st.integers(0, 11))
@settings(max_examples=60)
def test_a_box_holds_mercantile_s_tiles(west: float, south: float, width: float, height: float, zoom: int) -> None:
    shape = shapely.box(west, south, west + width, south + height)
    expected = {Tile(t.z, t.x, t.y) for t in mercantile.tiles(*shape.bounds, zooms=zoom)}
    found = set(named(tiles_in(shape, zoom, 10_000_000), zoom))
    # mercantile pulls the far edges in by 1e-11 degrees; a sliver thinner than that is its only excess or lack.
    for tile in found ^ expected:
        overlap = shapely.intersection(shape, shapely.box(*lonlat_bounds(tile)))
        assert overlap.area <= 1e-8


def test_only_tiles_that_share_surface_with_the_polygon(tmp_path: Path) -> None:
    outer = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
    hole = [[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8], [0.2, 0.2]]
    geojson(tmp_path, {"type": "Polygon", "coordinates": [outer, hole]})
    found = tiles_for(tmp_path, "{geojson: area.geojson}")
    shape = shapely.Polygon(outer, [hole])
    everything = [Tile(t.z, t.x, t.y) for t in mercantile.tiles(-0.1, -0.1, 1.1, 1.1, zooms=12)]
    expected = [t for t in everything if shapely.intersection(shape, shapely.box(*lonlat_bounds(t))).area > 0]
    assert found == sorted(expected)
    assert len(found) < len(everything)


def test_a_box_over_the_antimeridian(tmp_path: Path) -> None:
    found = tiles_for(tmp_path, "{bbox: [179.9, -17, -179.9, -16.9]}", 8)
    assert {tile.x for tile in found} == {0, 255}


def test_a_polygon_with_longitudes_over_180_is_folded(tmp_path: Path) -> None:
    ring = [[179, 0], [181, 0], [181, 1], [179, 1], [179, 0]]
    geojson(tmp_path, {"type": "Polygon", "coordinates": [ring]})
    assert {tile.x for tile in tiles_for(tmp_path, "{geojson: area.geojson}", 4)} == {0, 15}


def test_the_poles_are_cut_at_the_square_map(tmp_path: Path) -> None:
    found = tiles_for(tmp_path, "{bbox: [0, 84, 10, 90]}", 6)
    assert min(tile.y for tile in found) == 0
    with pytest.raises(AreaError, match="the area is empty"):
        tiles_for(tmp_path, "{bbox: [0, 86, 10, 90]}", 6)


def test_over_the_cap_is_refused_before_it_is_enumerated(tmp_path: Path) -> None:
    with pytest.raises(
        AreaError, match=r"about 6,\d{3},\d{3},\d{3},\d{3} tiles at zoom 22, over limits.max_tiles 1,000"
    ):
        tiles_for(tmp_path, "{bbox: [-90, -80, 90, 80]}", 22, "limits.max_tiles=1000")
    with pytest.raises(AreaError, match=r"over limits\.max_tiles 10"):
        tiles_for(tmp_path, "{bbox: [0, 0, 1, 1], sample: 11}", 12, "limits.max_tiles=10")


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_tile_list(tmp_path: Path, ends: str, mark: str) -> None:
    lines = [f"{mark}# a comment", "12/5/6", "", "12/4/9  # west", " 12/5/6 "]
    (tmp_path / "tiles.txt").write_text(ends.join(lines), encoding="utf-8", newline="")
    assert tiles_for(tmp_path, "{tiles: tiles.txt}") == [Tile(12, 4, 9), Tile(12, 5, 6)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("12/1/1\n11/1/1\n", r"tiles\.txt:2: tile 11/1/1 is of zoom 11, the recipe's grid\.zoom is 12"),
        ("12/1\n", r"tiles\.txt:1: '12/1' is no tile; expected z/x/y"),
        ("12/1/9999\n", r"tiles\.txt:1: 12/1/9999 is off the map"),
        ("12/-1/1\n", r"tiles\.txt:1: '12/-1/1' is no tile"),
        ("12/1/1\n31/1/1\n", r"tiles\.txt:2: 31/1/1 is off the map: zoom goes from 0 to 30"),
        ("12/1/1\n12/" + "9" * 5000 + "/1\n", r"tiles\.txt:2: '12/9{57}\.\.\.' is no tile"),
        ("12/1/1\n\x00\n", r"tiles\.txt:2: '\\x00' is no tile"),
        (b"12/1/1\n\xff\xfe\n", r"tiles\.txt: the tile list cannot be read \('utf-8' codec"),
        ("# nothing\n", "the area is empty"),
        ("", "the area is empty"),
        (None, r"tiles\.txt: the tile list cannot be read \(No such file or directory\)"),
        (..., r"tiles\.txt: is no file"),
    ],
)
def test_a_bad_tile_list_names_the_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "tiles.txt"
    if isinstance(content, bytes | str):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    elif content is ...:
        os.mkfifo(path)
    with pytest.raises(AreaError, match=message):
        tiles_for(tmp_path, "{tiles: tiles.txt}")


@pytest.mark.parametrize("zoom", [14, 19])  # enumerated, and drawn without enumerating
def test_a_sample_is_even_over_the_area_and_repeatable(zoom: int) -> None:
    shape = shapely.union(shapely.box(0, 0, 1, 1), shapely.box(2, 0, 2.5, 0.5))
    found = named(sample_in(shape, zoom, 800, seed=3), zoom)
    assert len(set(found)) == 800
    assert set(found) == set(named(sample_in(shape, zoom, 800, seed=3), zoom))
    assert set(found) != set(named(sample_in(shape, zoom, 800, seed=4), zoom))
    west = sum(lonlat_bounds(tile)[0] < 0.5 for tile in found)
    east = sum(lonlat_bounds(tile)[0] > 1.5 for tile in found)
    assert west == pytest.approx(800 * 0.4, rel=0.08)
    assert east == pytest.approx(800 * 0.2, rel=0.08)


def test_a_sample_larger_than_the_area_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AreaError, match=r"asks for 5,000 tiles, the area holds [\d,]+; lower area.sample"):
        tiles_for(tmp_path, "{bbox: [0, 0, 0.5, 0.5], sample: 5000}")


def test_a_sampled_list_takes_equal_steps() -> None:
    tiles = np.array([(x, y) for x in range(32) for y in range(32)], dtype=np.int64).T
    chosen = named(systematic_sample(tiles, 64, seed=0), 5)
    assert len({tile.parent(3) for tile in chosen}) == 64


def test_a_list_of_too_many_tiles_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiles.txt"
    path.write_text("\n".join(f"12/{x}/{y}" for y in range(60) for x in range(50)) + "\n12/0/0\nno tile at all")
    monkeypatch.setattr("tasks.samples.area._READ_AT_ONCE", 1000)
    with pytest.raises(AreaError, match=r"tiles\.txt: lists more than limits\.max_tiles 1,500 tiles; raise it"):
        read_tile_list(path, 12, cap=1500)
    with pytest.raises(AreaError, match=r"tiles\.txt:3002: 'no tile at all' is no tile"):
        read_tile_list(path, 12, cap=3000)
    monkeypatch.setattr("tasks.samples.area.MAX_LIST_BYTES", 1000)
    with pytest.raises(AreaError, match="larger than"):
        read_tile_list(path, 12)


@pytest.mark.parametrize("seed", [-5, 10**9, 9_007_190_247, 10**14, -(10**14), 10**17])
@pytest.mark.parametrize(("zoom", "count"), [(12, 5), (19, 200)])
def test_any_number_is_a_seed(
    tmp_path: Path, seed: int, zoom: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 10^14 never ended: the points of its sequence are one and the same in float64."""
    monkeypatch.setattr("tasks.samples.draw.MAX_POINTS", 1 << 14)
    area = f"{{bbox: [0, 0, 0.5, 0.5], sample: {count}, seed: {seed}}}"
    first = tiles_for(tmp_path, area, zoom)
    assert len(set(first)) == count
    assert tiles_for(tmp_path, area, zoom) == first


@pytest.mark.parametrize(
    "shape",
    [
        shapely.box(-1, 45.000001, 1, 45.000003),  # thinner than a tile
        shapely.union_all([shapely.box(-170, -60, -169.99, -59.99), shapely.box(170, 60, 170.01, 60.01)]),
        shapely.multipolygons(shapely.box(np.arange(400) / 4 - 50, 9, np.arange(400) / 4 - 49.9999, 9.0001)),
    ],
    ids=["sliver", "islands", "dust"],
)
def test_a_sample_of_a_thin_or_scattered_area_ends(shape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points over its box hardly ever fall into it."""
    monkeypatch.setattr("tasks.samples.draw.MAX_POINTS", 1 << 14)
    monkeypatch.setattr("tasks.samples.draw.MAX_SQUARES", 1 << 10)
    monkeypatch.setattr("tasks.samples.draw._FEW", 100)
    found = named(sample_in(shape, 22, 300, seed=1), 22)
    assert len(set(found)) == 300
    assert all(shape.intersects(shapely.box(*lonlat_bounds(tile))) for tile in found)
    assert found == named(sample_in(shape, 22, 300, seed=1), 22)
    assert found != named(sample_in(shape, 22, 300, seed=2), 22)


@pytest.mark.parametrize(("zoom", "sample"), [(0, ""), (0, ", sample: 1"), (24, ", sample: 50"), (1, ", sample: 4")])
def test_the_whole_world_at_any_zoom(tmp_path: Path, zoom: int, sample: str) -> None:
    found = tiles_for(tmp_path, f"{{bbox: [-180, -90, 180, 90]{sample}}}", zoom)
    assert len(found) == int(sample.rpartition(" ")[2] or 1)


def test_a_message_s_numbers_agree(tmp_path: Path) -> None:
    """An area meets more tiles than it has surface for: about 319 tiles were over a limit of 20,000."""
    with pytest.raises(AreaError, match="holds about") as caught:
        tiles_for(tmp_path, "{bbox: [0, 0.1, 60, 0.10001]}", 18, "limits.max_tiles=20000")
    (told,) = re.findall(r"about ([\d,]+) tiles at zoom 18, over limits.max_tiles 20,000", str(caught.value))
    assert int(told.replace(",", "")) > 20_000


def test_what_lies_off_the_map_is_empty() -> None:
    assert clip_to_map(shapely.box(0, 86, 1, 89)).is_empty
