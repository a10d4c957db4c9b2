"""From the recipe's area to candidate tiles."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

from tasks.atomic import write_text
from tasks.errors import AreaError
from tasks.geo.tiles import MAX_LATITUDE, Tile, quadkey
from tasks.recipe.model import Recipe
from tasks.recipe.parts import Area, TileCells
from tasks.secrets import redact

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
    if area.sample is not None and area.sample > cap:
        raise AreaError(f"area.sample {area.sample:,} is over limits.max_tiles {cap:,}; lower one or raise the other")
    if area.tiles is not None:
        tiles = read_tile_list(recipe.resolve(area.tiles), zoom, zoom_key)
        chosen = tiles if area.sample is None else systematic_sample(tiles, area.sample, area.seed)
    else:
        shape = clip_to_map(area_shape(area, recipe.resolve, work))
        if shape.is_empty:
            raise AreaError(
                "the area is empty: it has no surface between the latitudes "
                f"{-MAX_LATITUDE:.4f} and {MAX_LATITUDE:.4f} that the tile grid covers; check area"
            )
        if area.sample is None:
            chosen = tiles_in(shape, zoom, cap, zoom_key)
        else:
            chosen = sample_in(shape, zoom, area.sample, area.seed)
    if not chosen:
        raise AreaError("the area is empty: no tile lies in it; check area in the recipe")
    if len(chosen) > cap:
        raise AreaError(_over_cap(len(chosen), zoom, cap, zoom_key))
    return sorted(chosen)


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
    shapely.prepare(shape)
    open_x, open_y = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    whole: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []  # tiles inside the shape, with their zoom
    count = 0
    for level in range(zoom + 1):
        boxes = _lonlat_boxes(level, open_x, open_y)
        meets = shapely.intersects(shape, boxes) & ~shapely.touches(shape, boxes)
        inside = shapely.contains(shape, boxes) if level < zoom else meets
        whole.append((level, open_x[inside], open_y[inside]))
        count += int(inside.sum()) << (2 * (zoom - level))
        border = meets & ~inside
        if count + int(border.sum()) > cap:
            raise AreaError(_over_cap(_estimate(shape, zoom), zoom, cap, zoom_key))
        open_x, open_y = _children(open_x[border], open_y[border])
    found: list[Tile] = []
    for level, x, y in whole:
        for _ in range(zoom - level):
            x, y = _children(x, y)
        found.extend(Tile(zoom, int(i), int(j)) for i, j in zip(x, y, strict=True))
    return found


def sample_in(shape: Any, zoom: int, count: int, seed: int) -> list[Tile]:
    """``count`` tiles of ``zoom`` spread evenly over ``shape``, the same on every machine.

    Points of the R2 low-discrepancy sequence over the bounding box of the shape in tile coordinates;
    the tile of each point is taken when its centre lies in the shape. A shape with few more tiles than
    asked for is enumerated instead. Raises AreaError when it holds fewer than ``count``.
    """
    if _estimate(shape, zoom) <= max(4 * count, 50_000):
        tiles = tiles_in(shape, zoom, cap=max(16 * count, 400_000))
        if len(tiles) < count:
            raise AreaError(f"area.sample asks for {count:,} tiles, the area holds {len(tiles):,}; lower area.sample")
        return systematic_sample(tiles, count, seed)
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
        centres = shapely.centroid(_lonlat_boxes(zoom, x, y))
        for i in np.flatnonzero(shapely.contains(shape, centres)):
            if len(found) < count:
                found[Tile(zoom, int(x[i]), int(y[i]))] = None
        start += batch
    return list(found)


def systematic_sample(tiles: list[Tile], count: int, seed: int) -> list[Tile]:
    """``count`` of ``tiles`` at equal steps along their quadkeys, so that they spread evenly."""
    if count > len(tiles):
        raise AreaError(f"area.sample asks for {count:,} tiles, the area holds {len(tiles):,}; lower area.sample")
    ordered = sorted(tiles, key=quadkey)
    step = len(ordered) / count
    offset = (seed * _R2[0]) % 1.0
    return [ordered[int((i + offset) * step)] for i in range(count)]


def area_shape(area: Area, resolve: Callable[[str], Path], work: Path) -> Any:
    """The polygons of an area that is no list of tiles, EPSG:4326; longitudes may go on beyond 180.

    ``work`` holds the polygon of a place once it was looked up. Raises AreaError, DiskError.
    """
    if area.bbox is not None:
        west, south, east, north = area.bbox
        return shapely.box(west, south, east if east > west else east + 360, north)
    if area.geojson is not None:
        return read_geojson(resolve(area.geojson))
    kept = work / f"place-{re.sub(r'[^A-Za-z0-9]+', '-', str(area.place))}.geojson"
    if not kept.exists():
        write_text(kept, shapely.to_geojson(_look_up(str(area.place))))
    return read_geojson(kept)


def read_geojson(path: Path) -> Any:
    """The union of the polygons of a GeoJSON file (RFC 7946, so EPSG:4326). Raises AreaError naming the file."""
    try:
        if path.stat().st_size > MAX_GEOJSON_BYTES:
            raise AreaError(f"{path}: larger than {MAX_GEOJSON_BYTES >> 20} MiB; simplify the area's polygon")
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        shape = shapely.from_geojson(text)
    except OSError as error:
        raise AreaError(f"{path}: cannot be read ({error.strerror}); give area.geojson a GeoJSON file") from None
    except (ValueError, shapely.errors.GEOSException) as error:
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


def _lonlat_boxes(zoom: int, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.object_]:
    size = 1 << zoom
    lon = np.stack((x, x + 1)) / size * 360.0 - 180.0
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * np.stack((y + 1, y)) / size))))
    boxes: NDArray[np.object_] = shapely.box(lon[0], lat[0], lon[1], lat[1])
    return boxes


def _children(x: NDArray[np.int64], y: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return (2 * x[:, None] + np.array([0, 1, 0, 1])).ravel(), (2 * y[:, None] + np.array([0, 0, 1, 1])).ravel()


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
