"""Samples among buildings: only cells that a footprint touches, evenly, and nearly the same tomorrow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from tasks.errors import AreaError, LabelError
from tasks.geo.coverage import codes_of, lonlat_boxes, named, tiles_over
from tasks.geo.georeference import lonlat_of
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.samples.cells import cells, find_touched
from tasks.samples.draw import even_order
from tasks.samples.touched import KEPT, draw_touched, forget_kept, touched_in
from tests.support.recipes import recipe_of

BOX = (6.0, 45.0, 6.5, 45.5)
ZOOM = 16
MODULE = "tasks.samples.touched"


@dataclass
class Told:
    """Outlines of a list."""

    shapes: Sequence[Any]
    origin: str = "told"
    asked: list[list[Tile]] = field(default_factory=list)

    def near(self, tiles: Sequence[Tile]) -> Iterator[NDArray[np.object_]]:
        self.asked.append(list(tiles))
        for first in range(0, len(self.shapes), 100):
            yield np.array(self.shapes[first : first + 100], dtype=object)


def houses(count: int, seed: int = 0, box: Sequence[float] = BOX, side: float = 2e-4) -> list[Any]:
    west, south, east, north = box
    at = np.random.default_rng(seed).uniform((west, south), (east, north), (count, 2))
    return list(shapely.box(at[:, 0], at[:, 1], at[:, 0] + side, at[:, 1] + side))


def names(told: Told, folder: Path, source: str = "xyz", area: dict[str, Any] | None = None, **more: Any) -> list[str]:
    where = {"among": "buildings", **(area or {})}
    if "tiles" not in where:
        where.setdefault("bbox", list(BOX))
    if source == "xyz":
        more |= {"grid.zoom": ZOOM}
    recipe = recipe_of(source, {"area": where, **more}, folder)
    find_touched(recipe, folder, told)
    return [window.name for window in cells(recipe, folder)]


def test_only_tiles_that_a_footprint_touches_are_drawn(tmp_path: Path) -> None:
    told = Told(houses(300))
    found = names(told, tmp_path, area={"sample": 100})
    assert len(set(found)) == 100
    tree = shapely.STRtree(told.shapes)
    outlines = [shapely.box(*lonlat_bounds(Tile.parse(name))) for name in found]
    assert set(tree.query(outlines, predicate="intersects")[0]) == set(range(100))
    asked = shapely.union_all([shapely.box(*lonlat_bounds(tile)) for tile in told.asked[0]])
    assert asked.contains(shapely.box(*BOX))


def test_a_footprint_touches_the_tiles_that_it_meets_and_not_all_of_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}._AT_ONCE", 50)  # many rounds
    monkeypatch.setattr(f"{MODULE}._MERGED", 50)
    random = np.random.default_rng(1)
    corners = random.uniform((5.99, 44.99), (6.11, 45.11), (400, 1, 2)) + random.normal(0, 0.01, (400, 3, 2))
    shapes = [shapely.Polygon(ring) for ring in corners]
    area = shapely.box(6.0, 45.0, 6.1, 45.1)
    found = touched_in(area, ZOOM, Told([None, shapely.Polygon(), shapely.box(0, 89, 1, 90), *shapes]))
    tiles = tiles_over(area, ZOOM, 10_000, "")
    met = np.unique(shapely.STRtree(lonlat_boxes(ZOOM, tiles)).query(shapes, predicate="intersects")[1])
    assert found.tolist() == sorted(codes_of(tiles[:, met]).tolist())


def test_the_sample_is_that_of_the_area_and_not_of_its_box() -> None:
    area = shapely.Polygon([(6, 45), (6.5, 45), (6, 45.5)])
    codes = touched_in(area, ZOOM, Told(houses(2000)))
    found = named(draw_touched(codes, area, ZOOM, 200, 0), ZOOM)
    assert all(shapely.box(*lonlat_bounds(tile)).intersects(area) for tile in found)
    with pytest.raises(
        AreaError, match=r"asks for 2,000 tiles with a building, the area holds 1,\d{3}; lower area.sam"
    ):
        draw_touched(codes, area, ZOOM, 2000, 0)


def test_another_seed_draws_others_and_any_number_is_one(tmp_path: Path) -> None:
    told = Told(houses(2000))
    drawn = {
        seed: frozenset(names(told, tmp_path, area={"sample": 60, "seed": seed}))
        for seed in (0, 1, -1, 10**14, -(10**14), 10**400)
    }
    assert len(set(drawn.values())) == len(drawn)
    assert drawn[10**400] == frozenset(names(told, tmp_path, area={"sample": 60, "seed": 10**400}))


def test_buildings_that_come_and_go_change_little(tmp_path: Path) -> None:
    """Of a list taken at equal steps hardly any tile would be drawn again."""
    tonight = houses(3000)
    tomorrow = [*tonight[30:], *houses(30, seed=9)]  # one in a hundred torn down, as many built
    drawn = [set(names(Told(shapes, str(len(shapes)) + shapes[0].wkt), tmp_path, area={"sample": 500}))
             for shapes in (tonight, tomorrow)]  # fmt: skip
    assert len(drawn[0] & drawn[1]) >= 485
    more = set(names(Told(tonight), tmp_path, area={"sample": 600}))
    assert drawn[0] < more


def test_the_first_of_an_order_lie_evenly_over_settlements() -> None:
    """What is drawn of a part of the land is its share of all cells, closer than by chance."""
    random = np.random.default_rng(2)
    discs = {
        side: np.argwhere(np.hypot(*np.mgrid[-side : side + 1, -side : side + 1]) <= side) for side in range(1, 14)
    }
    villages = zip(random.integers(0, 2048, (200, 2)), random.integers(1, 14, 200), strict=True)
    x, y = np.unique(np.concatenate([discs[int(side)] + place for place, side in villages]), axis=0).T
    _, part = np.unique(x // 256 * 100 + y // 256, return_inverse=True)
    expected = 1000 / len(x) * np.bincount(part)
    errors = []
    for seed in range(5):
        drawn = np.bincount(part[even_order(x, y, seed)[:1000]], minlength=len(expected))
        errors.append(((drawn - expected) / np.sqrt(expected))[expected > 3])
    assert np.sqrt(np.mean(np.square(errors))) < 0.7  # by chance 1


def test_what_was_found_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    told = Told(houses(300))
    first = names(told, tmp_path, area={"sample": 100})
    assert names(told, tmp_path, area={"sample": 100}) == first
    assert set(names(told, tmp_path, area={"sample": 90})) < set(first)
    assert len(told.asked) == 1
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])  # as after a power cut
    assert names(told, tmp_path, area={"sample": 100}) == first
    forget_kept(tmp_path)
    assert names(told, tmp_path, area={"sample": 100}) == first
    assert names(Told(told.shapes, "another file"), tmp_path, area={"sample": 100}) == first
    assert len(told.asked) == 3
    names(told, tmp_path, area={"bbox": [6.0, 45.0, 6.4, 45.4], "sample": 50})
    assert [path.name for path in tmp_path.iterdir()] == [KEPT]
    recipe = recipe_of("xyz", {"area": {"bbox": list(BOX), "sample": 100, "among": "buildings"}, "grid.zoom": ZOOM})
    with pytest.raises(AreaError, match=r"does not hold where the area's buildings are.* run the same command again"):
        cells(recipe, tmp_path)


def test_of_a_list_of_tiles(tmp_path: Path) -> None:
    tiles = named(tiles_over(shapely.box(6.0, 45.0, 6.2, 45.2), ZOOM, 10_000, ""), ZOOM)
    (tmp_path / "tiles.txt").write_text("\n".join(tile.name for tile in tiles[::2]))
    told = Told(houses(300, box=(6.0, 45.0, 6.2, 45.2)))
    found = names(told, tmp_path, area={"tiles": "tiles.txt", "sample": 50})
    assert len(found) == 50
    assert set(found) <= {tile.name for tile in tiles[::2]}
    tree = shapely.STRtree(told.shapes)
    assert all(len(tree.query(shapely.box(*lonlat_bounds(Tile.parse(name))))) for name in found)


def test_of_cells_in_utm(tmp_path: Path) -> None:
    box = (5.9, 45.0, 6.1, 45.2)  # over the border of two zones
    told = Told(houses(200, box=box))
    given = {"imagery.cells": {"kind": "utm", "size": 32, "resolution": 10}}
    found = names(told, tmp_path, "stac", {"bbox": list(box), "sample": 60}, **given)
    assert len(set(found)) == 60
    everything = cells(recipe_of("stac", {"area": {"bbox": list(box)}, **given}), tmp_path)
    order = [window.name for window in everything]
    assert found == sorted(found, key=order.index)
    assert {name.partition("/")[0] for name in found} == {"32631", "32632"}
    tree = shapely.STRtree(told.shapes)
    for window in everything:
        if window.name in found and window.georeference:
            assert len(tree.query(shapely.box(*lonlat_of(window.georeference, 32, 32)), predicate="intersects"))


@pytest.mark.parametrize("source", ["xyz", "stac"])
def test_no_footprint_in_the_area_is_told(tmp_path: Path, source: str) -> None:
    what = {"xyz": "tiles", "stac": "cells"}[source]
    told = Told(houses(50, box=(16, 45, 16.5, 45.5)))
    with pytest.raises(AreaError, match=rf"area.among: no footprint of the labels touches any of the area's {what}"):
        names(told, tmp_path, source, {"bbox": [6.0, 45.0, 6.1, 45.1], "sample": 10})


def test_what_is_too_much_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}.MAX_SPAN", 1000)
    with pytest.raises(LabelError, match=r"a footprint from 6\.1000, 45\.1000 to 6\.4000, 45\.4000 spans [\d,]+ tiles"):
        names(Told([shapely.box(6.1, 45.1, 6.4, 45.4)]), tmp_path, area={"sample": 10})
    monkeypatch.setattr(f"{MODULE}.MAX_TOUCHED", 100)
    with pytest.raises(AreaError, match="footprints touch more than 100 tiles of zoom 16"):
        names(Told(houses(300)), tmp_path, area={"sample": 10})
    assert list(tmp_path.iterdir()) == []
