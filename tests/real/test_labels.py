"""The label sources on real data: OSM extracts of Helsinki and Monaco, footprints of Zanzibar and Kampala."""

from pathlib import Path

import mercantile
import numpy as np
import pytest
import shapely

from tasks.geo.georeference import tile_georeference
from tasks.geo.tiles import Tile, mercator, tile_bounds, tile_span
from tasks.labels.footprints import read_footprints, write_footprints
from tasks.labels.pbf import PbfSource
from tasks.labels.rasterize import FootprintIndex
from tasks.labels.vector import VectorSource

pytestmark = pytest.mark.real


def tiles(west: float, south: float, east: float, north: float) -> list[Tile]:
    return [Tile(tile.z, tile.x, tile.y) for tile in mercantile.tiles(west, south, east, north, [14])]


@pytest.mark.parametrize(
    ("name", "box", "read", "holed", "dropped", "incomplete"),
    [
        # The extract was cut through 48 ways and 6 relations; two courtyards have their outer way tagged as well.
        ("Helsinki.osm.pbf", (24.9, 60.1, 25.0, 60.25), 446, 61, {"outline of a multipolygon": 2}, 54),
        ("monaco-latest.osm.pbf", (7.3, 43.6, 7.6, 43.8), 1160, 16, {"building=no": 1}, 0),
    ],
)
def test_building_areas_of_an_extract(
    shared_data: Path,
    tmp_path: Path,
    name: str,
    box: tuple[float, float, float, float],
    read: int,
    holed: int,
    dropped: dict[str, int],
    incomplete: int,
) -> None:
    found = PbfSource(shared_data / "osm" / name).fetch(tiles(*box), tmp_path)
    assert found.report.read == read
    assert found.report.dropped == dropped
    assert found.report.kept == read - sum(dropped.values()) == len(found)
    assert found.report.incomplete == incomplete
    assert shapely.is_valid(found.geometry).all()
    assert sum(any(len(part.interiors) for part in shapely.get_parts(one)) for one in found.geometry) == holed
    path = tmp_path / "labels.parquet"
    write_footprints(path, found)
    assert read_footprints(path).report == found.report


@pytest.mark.parametrize(
    ("site", "box", "count", "repaired", "nameless"),
    [
        ("zanzibar", (39.2, -6.1, 39.3, -6.0), 201, 0, 0),
        ("kampala", (32.5, 0.3, 32.7, 0.4), 206, 1, 105),
    ],
)
def test_footprints_of_a_drone_site(
    shared_data: Path,
    tmp_path: Path,
    site: str,
    box: tuple[float, float, float, float],
    count: int,
    repaired: int,
    nameless: int,
) -> None:
    found = VectorSource(shared_data / "xyz" / site / "buildings.geojson").fetch(tiles(*box), tmp_path)
    assert (found.report.read, found.report.kept, found.report.repaired) == (count, count, repaired)
    assert (found.osm_id == 0).sum() == nameless
    assert shapely.is_valid(found.geometry).all()


@pytest.mark.parametrize(
    ("name", "box", "at_least"),
    [
        ("Helsinki.osm.pbf", (24.9, 60.1, 25.0, 60.25), 60),
        ("monaco-latest.osm.pbf", (7.3, 43.6, 7.6, 43.8), 15),
    ],
)
def test_courtyards_are_open_in_the_masks(
    shared_data: Path, tmp_path: Path, name: str, box: tuple[float, float, float, float], at_least: int
) -> None:
    found = PbfSource(shared_data / "osm" / name).fetch(tiles(*box), tmp_path)
    index = FootprintIndex(found.geometry)
    tree = shapely.STRtree(found.geometry)
    seen = 0
    for building in found.geometry:
        for part in shapely.get_parts(building):
            for ring in part.interiors:
                middle = shapely.polygons(ring).representative_point()
                if len(tree.query(middle, predicate="intersects")):
                    continue  # another building stands in the courtyard
                cell = mercantile.tile(middle.x, middle.y, 20)
                (mask,) = index.draw([(tile_georeference(Tile(20, cell.x, cell.y), 256), 256, 256)])
                west, _, _, north = tile_bounds(Tile(20, cell.x, cell.y))
                x, y = mercator(np.array([[middle.x, middle.y]]))[0]
                size = tile_span(20) / 256
                assert not mask[int((north - y) / size), int((x - west) / size)]
                seen += 1
    assert seen >= at_least
