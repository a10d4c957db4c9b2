"""From the cells of a recipe to windows: slippy tiles, squares in UTM, or one square for each polygon."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import shapely
import shapely.affinity
import shapely.geometry

from tasks.errors import AreaError
from tasks.geo.georeference import Georeference, tile_georeference
from tasks.geo.tiles import Tile, quadkey
from tasks.geo.utm import UtmCell, cells_over, to_degrees, to_metres, utm_epsg, utm_outlines
from tasks.recipe.model import Recipe
from tasks.recipe.parts import Area, PolygonCells, TileCells, UtmCells
from tasks.recipe.sources import SlippyImagery
from tasks.samples.area import candidate_tiles, check_sample, tile_area
from tasks.samples.draw import equal_steps, even_order
from tasks.samples.shapes import area_shape, check_degrees, read_json
from tasks.samples.touched import Outlines, checked, find_kept, kept, touched_cells
from tasks.samples.window import Window

SAMPLED_FROM = 400_000  # so many cells may be enumerated to draw a sample of them
_USABLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_GOLDEN = 0.6180339887498949
# What shapely raises for GeoJSON that is none.
_NO_SHAPE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, shapely.errors.ShapelyError)


def cells(recipe: Recipe, work: Path) -> list[Window]:
    """The windows that ``grid`` or ``imagery.cells`` lays over the area.

    Those of slippy maps are sorted by zoom, column and row, all others so that neighbours stand together.

    A tile is named z/x/y, a UTM cell by its zone's EPSG code and the easting and northing in metres of its upper left
    corner (``32633/499200-5099520``), the cell of a polygon by its feature's id, or by its number when not every
    feature has an id of its own. Cells of one block of ``splits.block`` x ``splits.block``, of slippy maps the tiles
    below one tile of ``splits.block_zoom``, share a group, as do cells of polygons that overlap. ``work`` holds the
    polygon of a place once it was looked up, and of a sample among buildings what :func:`find_touched` found.
    Raises AreaError when the area is empty, cannot be read, or holds more cells than ``limits.max_tiles``.
    """
    made, cap, block = recipe.cells, recipe.limits.max_tiles, recipe.splits.block_side
    if isinstance(made, PolygonCells):
        return polygon_windows(recipe.resolve(made.path), made, block, cap)
    if isinstance(made, TileCells):
        tiles = candidate_tiles(recipe, work)
        if not isinstance(recipe.imagery, SlippyImagery):
            return tile_windows(sorted(tiles, key=quadkey), made.size, lambda t: f"{t.z}/{t.x // block}-{t.y // block}")
        zoom = made.zoom if recipe.splits.by in ("tile", "sample") else recipe.block_zoom
        return tile_windows(tiles, made.size, lambda tile: tile.parent(zoom).name)
    area, made, shape = _utm_area(recipe, work)
    laid = utm_cells(shape, area, made, cap)
    if area.sample is None:
        return utm_windows(laid, made, block)
    if area.among == "all":
        return utm_windows(
            [laid[at] for at in equal_steps(len(laid), area.sample, area.seed, _GOLDEN, "cells")], made, block
        )
    column, row = np.array([(cell.column, cell.row) for cell in laid], dtype=np.int64).reshape(-1, 2).T
    among = kept(work, _named(laid, made))
    checked(area.sample, len(among), "cells")
    order = even_order(column[among], row[among], area.seed)
    return utm_windows([laid[at] for at in sorted(among[order[: area.sample]].tolist())], made, block)


def find_touched(recipe: Recipe, work: Path, outlines: Outlines) -> None:
    """Have ``work`` hold which cells a footprint touches, where the recipe draws its sample among those.

    Raises as :func:`cells` does, as ``outlines``, and LabelError for a footprint that is too large to be one.
    """
    area, made = recipe.area, recipe.cells
    if area is None or area.among == "all":
        return
    if isinstance(made, TileCells):
        place = tile_area(recipe, work)
        find_kept(work, place.name, outlines.origin, lambda: place.touched(outlines))
    else:
        _, made, shape = _utm_area(recipe, work)
        laid = utm_cells(shape, area, made, recipe.limits.max_tiles)
        drawn = utm_outlines(laid, made.size * made.resolution)
        find_kept(work, _named(laid, made), outlines.origin, lambda: touched_cells(drawn, shape, outlines))


def _utm_area(recipe: Recipe, work: Path) -> tuple[Area, UtmCells, Any]:
    """The area, what lies over it, and its polygons in degrees."""
    made = recipe.cells
    if recipe.area is None or not isinstance(made, UtmCells):
        raise TypeError("the recipe lays no cells over an area")
    if recipe.area.tiles is not None:
        raise AreaError("area.tiles goes with imagery.cells of kind tiles; give area.bbox, place or geojson for utm")
    return recipe.area, made, area_shape(recipe, work)


def _named(laid: Sequence[UtmCell], made: UtmCells) -> str:
    """A name that only these cells have."""
    return hashlib.sha256(f"{made.size} {made.resolution!r} {[tuple(cell) for cell in laid]}".encode()).hexdigest()


def tile_windows(tiles: Iterable[Tile], size: int, group: Callable[[Tile], str]) -> list[Window]:
    """A window of ``size`` x ``size`` pixels in EPSG:3857 for each tile."""
    return [
        Window(name := tile.name, name, intern(group(tile)), 0, 0, size, size, tile_georeference(tile, size))
        for tile in tiles
    ]


def utm_cells(shape: Any, area: Area, made: UtmCells, cap: int) -> list[UtmCell]:
    """The UTM cells over ``shape`` (EPSG:4326). Raises AreaError when there are none or too many."""
    check_sample(area, cap)
    if area.sample is None:
        most, told = (
            cap,
            f"over limits.max_tiles {cap:,}; take a smaller area, larger cells or area.sample, or raise the limit",
        )
    else:
        most = max(SAMPLED_FROM, 16 * area.sample)
        told = f"and a sample is drawn from at most {most:,}; take a smaller area or larger cells"
    laid = cells_over(shape, made.size * made.resolution, most, f"the area holds about {{count}} cells, {told}")
    if not laid:
        raise AreaError("the area is empty: no cell lies in it; check area in the recipe")
    return laid


def utm_windows(chosen: Iterable[UtmCell], made: UtmCells, block: int) -> list[Window]:
    """Windows for UTM cells."""
    side, windows = made.size * made.resolution, []
    for epsg, column, row in chosen:
        west, north = column * side, (row + 1) * side
        name = f"{epsg}/{_metres(west)}-{_metres(north)}"
        windows.append(_window(name, f"{epsg}/{column // block}-{row // block}", made, epsg, west, north))
    return windows


def _window(name: str, group: str, made: UtmCells | PolygonCells, epsg: int, west: float, north: float) -> Window:
    place = Georeference(f"EPSG:{epsg}", (made.resolution, 0.0, west, 0.0, -made.resolution, north))
    return Window(name, name, group, 0, 0, made.size, made.size, place)


def _metres(value: float) -> str:
    """Metres, to the millimetre where they are no whole number."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def polygon_windows(path: Path, made: PolygonCells, block: int, cap: int) -> list[Window]:
    """One window for each polygon of a GeoJSON file (RFC 7946), centred on its bounds.

    Its grid lies in the UTM zone of the polygon's centre, on multiples of the resolution.
    """
    features = _features(path, cap)
    names = _names(path, [feature.get("id") for feature, _ in features])
    placed: list[tuple[int, int, int]] = []  # zone, first column and last row in pixels of the resolution
    for number, (_, shape) in enumerate(features):
        west, south, east, north = shape.bounds
        try:
            epsg = utm_epsg((west + east) / 2, (south + north) / 2)
        except AreaError as error:
            raise AreaError(f"{path}: polygon {number}: {error}") from None
        metres = shapely.transform(shape, to_metres(epsg))
        left, low, right, high = metres.bounds
        half = made.size / 2
        column = round((left + right) / 2 / made.resolution - half)
        row = round((low + high) / 2 / made.resolution + half)
        placed.append((epsg, column, row))
    groups = _groups(placed, made.size, made.resolution, block)
    step = made.resolution
    windows = [
        _window(name, group, made, epsg, column * step, row * step)
        for name, group, (epsg, column, row) in zip(names, groups, placed, strict=True)
    ]
    order = sorted(range(len(windows)), key=lambda i: (placed[i][0], windows[i].group, placed[i][1:], names[i]))
    return [windows[i] for i in order]


def _groups(placed: list[tuple[int, int, int]], size: int, resolution: float, block: int) -> list[str]:
    """The block of each square; squares that overlap get the block of the first of them."""
    named = [f"{epsg}/{column // (size * block)}-{row // (size * block)}" for epsg, column, row in placed]
    leader = {name: name for name in named}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = name = leader[leader[name]]
        return name

    squares = []
    for epsg, column, row in placed:
        # A hair smaller: squares that only touch share no pixel.
        square = shapely.box(column + 0.25, row - size + 0.25, column + size - 0.25, row - 0.25)
        squares.append(shapely.transform(square, lambda pixels, zone=epsg: to_degrees(zone)(pixels * resolution)))
    for a, b in shapely.STRtree(squares).query(squares, predicate="intersects").T:
        one, other = find(named[int(a)]), find(named[int(b)])
        leader[max(one, other)] = min(one, other)
    return [find(name) for name in named]


def _features(path: Path, cap: int) -> list[tuple[dict[str, Any], Any]]:
    """The features of a GeoJSON file with their polygons; longitudes may go on beyond 180."""
    _, document = read_json(path, "imagery.cells.path")
    found = document.get("features") if isinstance(document, dict) else None
    if not isinstance(found, list) or not found:
        raise AreaError(f"{path}: expected a FeatureCollection with at least one polygon")
    if len(found) > cap:
        raise AreaError(f"{path}: holds {len(found):,} polygons, over limits.max_tiles {cap:,}; raise it or take fewer")
    return [(feature, _polygon(path, number, feature)) for number, feature in enumerate(found)]


def _polygon(path: Path, number: int, feature: Any) -> Any:
    try:
        shape = shapely.geometry.shape(feature["geometry"])
    except _NO_SHAPE:
        shape = None
    if shape is None or shape.geom_type not in ("Polygon", "MultiPolygon") or shape.is_empty:
        raise AreaError(f"{path}: feature {number} is no polygon; expected Polygon or MultiPolygon in EPSG:4326")
    check_degrees(f"{path}: feature {number}", shape)
    west, _, east, _ = shape.bounds
    if east - west > 180:  # cut at the antimeridian, as RFC 7946 has it
        parts = [shapely.affinity.translate(p, 360.0 * (p.bounds[2] <= 0)) for p in shapely.get_parts(shape)]
        shape = shapely.multipolygons(parts)  # whose bounds are wanted, be it valid or not
    return shape


def _names(path: Path, ids: list[Any]) -> list[str]:
    given = [str(value) if isinstance(value, str | int) else "" for value in ids]
    if not all(_USABLE_ID.fullmatch(name) for name in given):
        return [str(number) for number in range(len(ids))]
    if len(set(given)) != len(given):
        again = Counter(given).most_common(1)[0][0]
        raise AreaError(f"{path}: the feature id {again!r} stands twice; every polygon needs an id of its own, or none")
    return given
