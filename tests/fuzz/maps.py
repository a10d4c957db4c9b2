"""Footprints and areas: GeoJSON, the other vector formats, extracts, and what Overpass and Nominatim answer."""

import functools
import tempfile
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import geopandas
import osmium
import osmnx
import pyogrio
import pyproj
import shapely

from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.labels.overpass import OverpassSource
from tasks.labels.pbf import PbfSource
from tasks.labels.vector import VectorSource
from tasks.samples import places
from tasks.samples.area import candidate_tiles
from tasks.samples.cells import cells
from tasks.web.retry import RetryPolicy
from tests.fuzz.case import Case, Kind
from tests.fuzz.pieces import NUMBERS, damaged, json_bytes, value
from tests.fuzz.server import Here
from tests.support.recipes import recipe_of

TILES = [Tile(16, 33000 + x, 22000 + y) for x in range(2) for y in range(2)]
_WEST, _, _, _NORTH = lonlat_bounds(TILES[0])
STEP = 0.0005  # degrees
_WILD = (0.0, 0.01, 0.05, 0.2, 0.8)  # how much of a case's shapes is odd


def _place(random: Random, wild: float) -> list[Any]:
    near = [_WEST + random.randint(-2, 20) * STEP, _NORTH - random.randint(-2, 20) * STEP]
    if random.random() >= wild:
        return near
    return [random.choice(NUMBERS), random.choice(NUMBERS)][: random.choice([1, 2, 2, 2])] + [0] * random.randint(0, 3)


def _ring(random: Random, wild: float) -> list[Any]:
    if random.random() >= 4 * wild:
        x, y = _WEST + random.randint(0, 16) * STEP, _NORTH - random.randint(0, 16) * STEP
        w, h = random.choice([STEP, 4 * STEP, 1e-9, 0]), random.choice([STEP, 3 * STEP, -STEP])
        ring: list[Any] = [[x, y], [x + w, y], [x + w, y - h], [x, y - h], [x, y]]
    else:
        ring = [_place(random, wild) for _ in range(random.choice([0, 1, 2, 3, 4, 9, 60]))]
        ring += ring[:1] if random.random() < 0.8 else []
    return ring


def geometry(random: Random, wild: float, deep: int = 3) -> Any:
    """A GeoJSON geometry, of polygons where it is not ``wild`` (0 to 1)."""
    kind = random.choice(["Polygon"] * 3 + ["MultiPolygon"])
    if random.random() < wild:
        kind = random.choice(["Point", "LineString", "GeometryCollection", "Curve"])
    if kind == "GeometryCollection" and deep:
        return {"type": kind, "geometries": [geometry(random, wild, deep - 1) for _ in range(random.randint(0, 3))]}
    polygon = [_ring(random, wild) for _ in range(random.choice([1, 1, 2, 3, 0]) if random.random() < wild else 1)]
    inner = {
        "MultiPolygon": [polygon, [_ring(random, wild)]],
        "Point": _place(random, wild),
        "LineString": _ring(random, wild),
    }
    return {"type": kind, "coordinates": inner.get(kind, polygon)}


def _collection(random: Random) -> dict[str, Any]:
    features, wild = [], random.choice(_WILD)
    for number in range(random.choice([0, 1, 2, 3, 5, 30])):
        told: dict[str, Any] = {"osm_id": random.choice([number, f"way/{number}", f"r{number}"]), "building": "yes"}
        told |= {random.choice(["@id", "osm_type", "layer", "height"]): value(random)} if random.random() < 0.4 else {}
        feature = {"type": "Feature", "properties": told, "geometry": geometry(random, wild)}
        features.append(feature | ({"id": random.choice([number, f"f-{number}"])} if random.random() < 0.5 else {}))
    found: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if random.random() < 0.2:
        found["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::25832"}}
    return random.choice([found] * 30 + features[:1] + [geometry(random, wild)])


def _geojson(random: Random) -> Case:
    name = random.choice(["labels.geojson"] * 8 + ["labels.json", "labels.geojsonl", "labels.gpkg", "labels"])
    return Case({name: json_bytes(random, _collection(random))})


def _fetch_vector(folder: Path, case: Case, here: Here) -> None:
    VectorSource(folder / next(iter(case.files))).fetch(TILES, folder / "work")


@functools.cache
def _written() -> dict[str, dict[str, bytes]]:
    """A small layer in each of the other formats: the bytes of their files, by format."""
    shapes = [shapely.box(_WEST + x * STEP, _NORTH - 3 * STEP, _WEST + (x + 1) * STEP, _NORTH) for x in range(0, 12, 3)]
    columns = {"osm_id": [1, 2, 3, 4], "building": ["yes", "no", None, "ß"], "height": [1.5, None, 3.0, 4.0]}
    frame = geopandas.GeoDataFrame(columns, geometry=shapes, crs=4326)
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2026-01-01T00:00:00Z"})  # or the bytes change with the clock
    found = {}
    for ending in ("gpkg", "fgb", "shp", "parquet"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"labels.{ending}")
            frame.to_parquet(path, write_covering_bbox=True) if ending == "parquet" else frame.to_file(path)
            found[ending] = {one.name: one.read_bytes() for one in sorted(Path(folder).iterdir())}
    return found


def _table(random: Random) -> Case:
    files = dict(random.choice(sorted(_written().items()))[1])
    names = sorted(files, key=lambda name: name != "labels.shp")  # the door opens the first
    for name in random.sample(names, random.choice([0, 1, 1, len(names)])):
        files[name] = damaged(random, files[name])
    if len(names) > 1 and random.random() < 0.2:
        names.remove(random.choice(names[1:]))
    return Case({name: files[name] for name in names})


def _area(random: Random) -> Case:
    return Case({"area.geojson": json_bytes(random, _collection(random))}, random.choice([[], [], ["3"], ["utm"]]))


def _over_area(folder: Path, case: Case, here: Here) -> None:
    area: dict[str, Any] = {"area": {"geojson": "area.geojson"}, "limits": {"max_tiles": 2000}}
    if case.words == ["utm"]:
        cells(recipe_of("stac", area, folder), folder / "work")
    else:
        area["area"] |= {"sample": int(case.words[0])} if case.words else {}
        candidate_tiles(recipe_of("xyz", area | {"grid.zoom": 16}, folder), folder / "work")


def _polygons(random: Random) -> Case:
    return Case({"area.geojson": json_bytes(random, _collection(random))})


def _over_polygons(folder: Path, case: Case, here: Here) -> None:
    laid = {"kind": "polygons", "path": "area.geojson", "size": 64, "resolution": 10}
    cells(recipe_of("stac", {"area": ..., "imagery.cells": laid}, folder), folder / "work")


@functools.cache
def _extract() -> bytes:
    """A small extract that is not compressed, so that damage reaches what is in it."""
    mutable = osmium.osm.mutable
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.osm.pbf")
        with osmium.SimpleWriter(osmium.io.File(str(path), "pbf,pbf_compression=none")) as writer:
            for number in range(40):
                place = (_WEST + number % 8 * STEP, _NORTH - number // 8 * STEP)
                writer.add_node(mutable.Node(id=number + 1, location=place, version=1))
            for number in range(12):
                nodes = [number + 1, number + 2, number + 10, number + 9, number + 1]
                writer.add_way(
                    mutable.Way(id=number + 1, nodes=nodes, tags={"building": "yes", "name": "ß"}, version=1)
                )
            for number in range(4):
                members = [("w", number + 1, "outer"), ("w", number + 5, "inner"), ("n", 1, "")]
                tags = {"type": "multipolygon", "building": "yes"}
                writer.add_relation(mutable.Relation(id=number + 1, members=members, tags=tags, version=1))
        return path.read_bytes()


def _pbf(random: Random) -> Case:
    data = damaged(random, _extract()) if random.random() < 0.95 else random.choice([b"", b"<osm/>", _extract()])
    return Case({random.choice(["x.osm.pbf"] * 9 + ["x.pbf", "x.osm", "x.osm.bz2", "x.opl"]): data})


def _fetch_pbf(folder: Path, case: Case, here: Here) -> None:
    PbfSource(folder / next(iter(case.files))).fetch(TILES, folder / "work")


def _answer(random: Random) -> Case:
    elements: list[dict[str, Any]] = []
    for number in range(random.choice([4, 16, 40])):
        lon, lat = _WEST + number % 8 * STEP, _NORTH - number // 8 * STEP
        elements.append({"type": "node", "id": number + 1, "lon": lon, "lat": lat})
    count = len(elements)
    for number in range(random.choice([0, 1, 6])):
        nodes = [random.randint(1, count + 1) for _ in range(random.choice([0, 1, 2, 4, 9]))]
        elements.append({"type": "way", "id": number + 1, "nodes": nodes + nodes[:1], "tags": {"building": "yes"}})
    for number in range(random.choice([0, 1, 3])):
        members = [
            {"type": random.choice(["way", "way", "node", "relation"]), "ref": random.randint(1, 6), "role": "outer"}
            for _ in range(random.choice([0, 1, 3]))
        ]
        tags = {"type": "multipolygon", "building": "yes"}
        elements.append({"type": "relation", "id": number + 1, "members": members, "tags": tags})
    answer = {"version": 0.6, "osm3s": {"timestamp_osm_base": "2026-02-03T04:05:06Z"}, "elements": elements}
    return Case({"interpreter": json_bytes(random, answer)})


def _fetch_overpass(folder: Path, case: Case, here: Here) -> None:
    # osmnx searches PROJ's database for it, of every query, for a third of a second.
    geopandas.GeoSeries.estimate_utm_crs = lambda *_, **__: _utm()  # type: ignore[method-assign]
    here.pages["/api/interpreter"] = here.filled(case.files["interpreter"])
    source = OverpassSource(f"{here.url}/api", attempts=1, rate_limit=False, timeout=3)
    source.fetch(TILES, folder / "work")


@functools.cache
def _utm() -> pyproj.CRS:
    return pyproj.CRS.from_epsg(32631)


def _nominatim(random: Random) -> Case:
    wild = random.choice(_WILD)
    shape = (
        {"type": "Polygon", "coordinates": [_ring(random, wild)]} if random.random() < 0.7 else geometry(random, wild)
    )
    found = {"place_id": 1, "osm_type": "relation", "osm_id": 1, "class": "boundary", "geojson": shape}
    return Case({"search": json_bytes(random, [found] * random.choice([0, 1, 1, 2]))})


def _look_up(folder: Path, case: Case, here: Here) -> None:
    here.pages["/search"] = here.pages["/lookup"] = here.filled(case.files["search"])
    osmnx.settings.nominatim_url = here.url
    osmnx._nominatim.time = SimpleNamespace(sleep=lambda _: None)  # it is polite to its own
    places.PLACE_POLICY = RetryPolicy(1, 5.0, 0.01)
    area = {"area": {"place": "Somewhere"}, "limits": {"max_tiles": 2000}, "grid.zoom": 16}
    candidate_tiles(recipe_of("xyz", area, folder), folder / "work")


GEOJSON = Kind(_geojson, _fetch_vector, ("labels",), 8)
TABLES = Kind(_table, _fetch_vector, ("labels",), 6)
AREAS = Kind(_area, _over_area, ("area",), 7)
POLYGONS = Kind(_polygons, _over_polygons, ("area.geojson", "area"), 4)
EXTRACTS = Kind(_pbf, _fetch_pbf, ("x.",), 6)
ANSWERS = Kind(_answer, _fetch_overpass, ("/api",), 5)
PLACES = Kind(_nominatim, _look_up, ("area",), 3)
