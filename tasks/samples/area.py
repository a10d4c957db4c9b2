"""From the recipe's area to candidate tiles."""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import mercantile
import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

from tasks.atomic import write_text
from tasks.errors import AreaError
from tasks.geo.quadtree import Squares, squares_in
from tasks.geo.tiles import MAX_LATITUDE, Tile, quadkey
from tasks.recipe.model import Recipe
from tasks.recipe.parts import Area, TileCells
from tasks.secrets import redact

T = TypeVar("T")
MAX_GEOJSON_BYTES = 256 << 20
_R2 = (0.7548776662466927, 0.5698402909980532)  # inverse powers of the plastic number: the R2 sequence (Roberts 2018)


def candidate_tiles(recipe: Recipe, work: Path) -> list[Tile]:
    """Every candidate tile of ``recipe``, whose cells are tiles: sorted, without duplicates.

    A tile is a candidate when it shares more than a border with the area. ``work`` holds the polygon of
    a place once it was looked up. Raises AreaError when the area is empty, cannot be read or found, or
    holds more than ``limits.max_tiles``.
    """
    area, made, cap = recipe.area, recipe.cells, recipe.limits.max_tiles
    if area is None or not isinstance(made, TileCells):
        raise TypeError("the recipe's cells are no tiles")
    zoom, zoom_key = made.zoom, "grid.zoom" if recipe.grid is not None else "imagery.cells.zoom"
    check_sample(area, cap)
    if area.tiles is not None:
        tiles = read_tile_list(recipe.resolve(area.tiles), zoom, zoom_key)
        chosen = tiles if area.sample is None else systematic_sample(tiles, area.sample, area.seed)
    else:
        shape = area_shape(area, recipe.resolve, work)
        if area.sample is None:
            chosen = tiles_in(shape, zoom, cap, zoom_key)
        else:
            chosen = sample_in(shape, zoom, area.sample, area.seed)
    if not chosen:
        raise AreaError("the area is empty: no tile lies in it; check area in the recipe")
    if len(chosen) > cap:
        raise AreaError(_over_cap(len(chosen), zoom, cap, zoom_key))
    return sorted(chosen)


def check_sample(area: Area, cap: int) -> None:
    """Raise AreaError where more cells are to be drawn than the recipe allows."""
    if area.sample is not None and area.sample > cap:
        raise AreaError(f"area.sample {area.sample:,} is over limits.max_tiles {cap:,}; lower one or raise the other")


def read_tile_list(path: Path, zoom: int, zoom_key: str = "grid.zoom") -> list[Tile]:
    """Tiles of a text file with one z/x/y a line; empty lines and ``#`` comments are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AreaError(f"{path}: the tile list cannot be read ({error}); expected lines of z/x/y") from None
    tiles: dict[Tile, None] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            tile = Tile.parse(text)
        except AreaError as error:
            raise AreaError(f"{path}:{number}: {error}") from None
        if tile.z != zoom:
            raise AreaError(f"{path}:{number}: tile {tile.name} is of zoom {tile.z}, the recipe's {zoom_key} is {zoom}")
        tiles[tile] = None
    return list(tiles)


def clip_to_map(shape: Any) -> Any:
    """``shape`` (EPSG:4326 polygons) folded into longitudes -180..180 and cut at the square map's poles."""
    world = shapely.box(-180, -MAX_LATITUDE, 180, MAX_LATITUDE)
    parts = [
        part
        for shift in (-360, 0, 360)
        for part in shapely.get_parts(shapely.intersection(shapely.affinity.translate(shape, xoff=shift), world))
        if part.geom_type == "Polygon" and part.area > 0
    ]
    return shapely.union_all(parts)


def tiles_in(shape: Any, zoom: int, cap: int, zoom_key: str = "grid.zoom") -> list[Tile]:
    """Tiles of ``zoom`` that share surface with ``shape``, by descending the quadtree from the whole map.

    Raises AreaError as soon as more than ``cap`` are certain.
    """
    over_cap = _over_cap(_estimate(shape, zoom), zoom, cap, zoom_key)
    world = np.zeros((2, 1), dtype=np.int64)
    found = squares_in(shape, lambda level, at: _lonlat_boxes(zoom - level, at), world, zoom, cap, over_cap)
    return [Tile(zoom, x, y) for x, y in found.T.tolist()]


def sample_in(shape: Any, zoom: int, count: int, seed: int) -> list[Tile]:
    """``count`` tiles of ``zoom`` spread evenly over ``shape``, the same on every machine.

    Points of the R2 low-discrepancy sequence over the bounding box of the shape in tile coordinates;
    the tile of each point is taken when its centre lies in the shape. A shape with few more tiles than
    asked for is enumerated instead. Raises AreaError when it holds fewer than ``count``.
    """
    if _estimate(shape, zoom) <= max(4 * count, 50_000):
        return systematic_sample(tiles_in(shape, zoom, cap=max(16 * count, 400_000)), count, seed)
    west, south, east, north = shape.bounds
    first = mercantile.tile(west, north, zoom)
    last = mercantile.tile(east, south, zoom)
    width, height = last.x - first.x + 1, last.y - first.y + 1
    shapely.prepare(shape)
    found: dict[Tile, None] = {}
    start, batch = 1 + seed * 1_000_003, 4096
    while len(found) < count:
        index = np.arange(start, start + batch, dtype=np.float64)
        x = first.x + (index * _R2[0] % 1.0 * width).astype(np.int64)
        y = first.y + (index * _R2[1] % 1.0 * height).astype(np.int64)
        at = np.stack((x, y))
        taken = shapely.contains(shape, shapely.centroid(_lonlat_boxes(zoom, at)))
        for column, row in at[:, taken].T.tolist():
            if len(found) < count:
                found[Tile(zoom, column, row)] = None
        start += batch
    return list(found)


def systematic_sample(tiles: list[Tile], count: int, seed: int) -> list[Tile]:
    """``count`` of ``tiles`` at equal steps along their quadkeys, so that they spread evenly."""
    return spread(sorted(tiles, key=quadkey), count, seed * _R2[0] % 1.0, "tiles")


def spread(ordered: Sequence[T], count: int, offset: float, what: str) -> list[T]:
    """``count`` of ``ordered`` at equal steps, from ``offset`` (0 to 1) of a step on. Raises AreaError."""
    if count > len(ordered):
        raise AreaError(f"area.sample asks for {count:,} {what}, the area holds {len(ordered):,}; lower area.sample")
    step = len(ordered) / count
    return [ordered[int((i + offset) * step)] for i in range(count)]


def area_shape(area: Area, resolve: Callable[[str], Path], work: Path) -> Any:
    """The polygons of an area that is no list of tiles, EPSG:4326, as :func:`clip_to_map` has them.

    ``work`` holds the polygon of a place once it was looked up. Raises AreaError, also when they have no surface,
    DiskError.
    """
    if area.bbox is not None:
        west, south, east, north = area.bbox
        shape = shapely.box(west, south, east if east > west else east + 360, north)
    elif area.geojson is not None:
        shape = read_geojson(resolve(area.geojson))
    else:
        kept = work / f"place-{re.sub(r'[^A-Za-z0-9]+', '-', str(area.place))}.geojson"
        if not kept.exists():
            write_text(kept, shapely.to_geojson(_look_up(str(area.place))))
        shape = read_geojson(kept)
    shape = clip_to_map(shape)
    if shape.is_empty:
        between = f"between the latitudes {-MAX_LATITUDE:.4f} and {MAX_LATITUDE:.4f}"
        raise AreaError(f"the area is empty: it has no surface {between}, where the square map ends; check area")
    return shape


def read_json(path: Path, key: str) -> tuple[str, Any]:
    """Text and content of a GeoJSON file that the recipe names at ``key``. Raises AreaError naming the file."""
    try:
        if path.stat().st_size > MAX_GEOJSON_BYTES:
            raise AreaError(f"{path}: larger than {MAX_GEOJSON_BYTES >> 20} MiB; simplify its polygons or split it")
        text = path.read_text(encoding="utf-8")
        return text, json.loads(text)
    except OSError as error:
        raise AreaError(f"{path}: cannot be read ({error.strerror}); give {key} a GeoJSON file") from None
    except ValueError as error:
        raise AreaError(f"{path}: is not valid GeoJSON ({error}); expected polygons in EPSG:4326") from None


def read_geojson(path: Path) -> Any:
    """The union of the polygons of a GeoJSON file (RFC 7946, so EPSG:4326). Raises AreaError naming the file."""
    text, _ = read_json(path, "area.geojson")
    try:
        shape = shapely.from_geojson(text)
    except shapely.errors.GEOSException as error:
        raise AreaError(f"{path}: is not valid GeoJSON ({error}); expected polygons in EPSG:4326") from None
    polygons = [part for part in _flat_parts(shape) if part.geom_type == "Polygon" and not part.is_empty]
    if not polygons:
        raise AreaError(f"{path}: holds no polygon; expected Polygon or MultiPolygon features in EPSG:4326")
    union = shapely.union_all(shapely.make_valid(polygons))
    west, south, east, north = union.bounds
    if not (west >= -540 and east <= 540 and south >= -90 and north <= 90):
        raise AreaError(f"{path}: coordinates are not degrees ({union.bounds}); GeoJSON is in EPSG:4326 (RFC 7946)")
    return union


def _flat_parts(shape: Any) -> list[Any]:
    parts = list(shapely.get_parts(shape))
    return [leaf for part in parts for leaf in (_flat_parts(part) if hasattr(part, "geoms") else [part])]


def _look_up(place: str) -> Any:
    """A place's polygon from Nominatim, by name or by OSM id (R, W or N and digits)."""
    import osmnx
    import requests

    by_id = re.fullmatch(r"[RWN]\d+", place) is not None
    try:
        found = osmnx.geocode_to_gdf(place, by_osmid=by_id)
    except requests.RequestException as error:
        raise AreaError(
            f"area.place {place!r} could not be looked up at Nominatim ({type(error).__name__}); "
            "check the connection and run the same command again, or give area.bbox or area.geojson"
        ) from None
    except (ValueError, TypeError) as error:  # osmnx's own errors are ValueErrors
        raise AreaError(
            f"area.place {place!r} was not found ({redact(str(error))}); "
            "check the name, or give area.bbox or area.geojson"
        ) from None
    polygons = [part for part in _flat_parts(found.geometry.iloc[0]) if part.geom_type == "Polygon"]
    if not polygons:
        raise AreaError(f"area.place {place!r} has no polygon, only a point; give area.bbox or area.geojson")
    return shapely.union_all(polygons)


def _lonlat_boxes(zoom: int, tiles: Squares) -> NDArray[np.object_]:
    size, (x, y) = 1 << zoom, tiles
    lon = np.stack((x, x + 1)) / size * 360.0 - 180.0
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * np.stack((y + 1, y)) / size))))
    boxes: NDArray[np.object_] = shapely.box(lon[0], lat[0], lon[1], lat[1])
    return boxes


def _estimate(shape: Any, zoom: int) -> int:
    """About how many tiles of ``zoom`` the shape covers."""

    def to_tiles(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
        lat = np.radians(np.clip(lonlat[:, 1], -MAX_LATITUDE, MAX_LATITUDE))
        return np.column_stack((lonlat[:, 0] / 360.0, np.arcsinh(np.tan(lat)) / (2 * np.pi))) * (1 << zoom)

    return max(1, math.ceil(float(shapely.transform(shape, to_tiles).area)))


def _over_cap(count: int, zoom: int, cap: int, zoom_key: str) -> str:
    return (
        f"the area holds about {count:,} tiles at zoom {zoom}, over limits.max_tiles {cap:,}; "
        f"take a smaller area, a lower {zoom_key} or area.sample, or raise limits.max_tiles"
    )
