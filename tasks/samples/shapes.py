"""The polygons of an area: of a bounding box, of a GeoJSON file, or of a place, in EPSG:4326."""

import json
import math
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

from tasks.errors import AreaError
from tasks.geo.tiles import MAX_LATITUDE
from tasks.recipe.model import Recipe
from tasks.samples.places import place_file

MAX_GEOJSON_BYTES = 128 << 20  # of a file that the recipe names; in memory it is some eight times as large
MAX_REPAIRED = 200_000  # corners of the invalid polygons of a file; to repair so many takes 10 s and 500 MB
MAX_CROSSINGS = 100_000_000  # pairs of edges whose boxes meet in a file; to look at so many takes 5 s
_FEW_CORNERS = 5_000  # so many can have no more pairs than is quick
_LOOKED_AT = 1_000  # edges from which the pairs are estimated
_EXPECTED = "expected polygons in EPSG:4326"


def area_shape(recipe: Recipe, work: Path) -> Any:
    """The polygons of an area that is no list of tiles, EPSG:4326, as :func:`clip_to_map` has them.

    ``work`` holds the polygon of a place once it was looked up. Raises AreaError, also when they have no surface,
    DiskError.
    """
    area = recipe.area
    if area is None:
        raise TypeError("the recipe has no area")
    if area.bbox is not None:
        west, south, east, north = area.bbox
        shape = shapely.box(west, south, east if east > west else east + 360, north)
    elif area.geojson is not None:
        shape = read_geojson(recipe.resolve(area.geojson))
    else:
        shape = _place(recipe, work)
    try:
        shape = clip_to_map(shape)
    except shapely.errors.GEOSException as error:  # for coordinates between which there is no number
        raise AreaError(f"area: its polygons cannot be laid onto the map ({error}); {_EXPECTED}") from None
    if shape.is_empty:
        between = f"between the latitudes {-MAX_LATITUDE:.4f} and {MAX_LATITUDE:.4f}"
        raise AreaError(f"the area is empty: it has no surface {between}, where the square map ends; check area")
    return shape


def _place(recipe: Recipe, work: Path) -> Any:
    kept = place_file(recipe, work)
    try:
        return read_geojson(kept)
    except AreaError as error:
        kept.unlink(missing_ok=True)  # so that it is asked for again
        raise AreaError(f"the polygon of area.place cannot be used: {error}") from None


def clip_to_map(shape: Any) -> Any:
    """``shape`` (EPSG:4326 polygons) folded into longitudes -180..180 and cut at the square map's poles."""
    west, south, east, north = shape.bounds
    if west >= -180 and east <= 180 and south >= -MAX_LATITUDE and north <= MAX_LATITUDE:
        return _joined([part for part in flat_parts(shape) if part.geom_type == "Polygon" and part.area > 0])
    world = shapely.box(-180, -MAX_LATITUDE, 180, MAX_LATITUDE)
    parts = [
        part
        for shift in (-360, 0, 360)
        for part in shapely.get_parts(shapely.intersection(shapely.affinity.translate(shape, xoff=shift), world))
        if part.geom_type == "Polygon" and part.area > 0
    ]
    return shapely.union_all(parts)


def _joined(disjoint: Sequence[Any]) -> Any:
    """Polygons that share no surface as one shape."""
    return disjoint[0] if len(disjoint) == 1 else shapely.MultiPolygon(disjoint)


def read_json(path: Path, key: str) -> tuple[str, Any]:
    """Text and content of a GeoJSON file that the recipe names at ``key``. Raises AreaError naming the file."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise AreaError(f"{path}: is no file; give {key} a GeoJSON file")
        if found.st_size > MAX_GEOJSON_BYTES:
            raise AreaError(f"{path}: larger than {MAX_GEOJSON_BYTES >> 20} MiB; simplify its polygons or split it")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise AreaError(f"{path}: is not UTF-8 text; give {key} a GeoJSON file") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise AreaError(f"{path}: cannot be read ({why}); give {key} a GeoJSON file") from None
    try:
        return text, json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise AreaError(f"{path}: is nested too deeply to be GeoJSON; {_EXPECTED}") from None
    except ValueError as error:
        raise AreaError(f"{path}: is not valid GeoJSON ({error}); {_EXPECTED}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def read_geojson(path: Path, what: str = "area.geojson") -> Any:
    """The union of the polygons of a GeoJSON file (RFC 7946: EPSG:4326). Raises AreaError naming file and feature."""
    text, document = read_json(path, what)
    features = _features(path, text, document)
    polygons = [
        (name, part)
        for name, shape in features
        for part in flat_parts(shape)
        if part.geom_type == "Polygon" and not part.is_empty
    ]
    if not polygons:
        raise AreaError(f"{path}: holds no polygon; expected Polygon or MultiPolygon features in EPSG:4326")
    names = [name for name, _ in polygons]
    shapes = shapely.force_2d(np.array([part for _, part in polygons], dtype=object))  # heights, often of some alone
    for name, part in polygons:
        check_degrees(f"{path}{name}", part)
    _check_edges(path, names, shapes)
    invalid = ~shapely.is_valid(shapes)
    corners = shapely.get_num_coordinates(shapes)
    if int(corners[invalid].sum()) > MAX_REPAIRED:
        at = int(np.argmax(np.where(invalid, corners, 0)))
        raise AreaError(
            f"{path}{names[at]}: is not valid ({shapely.is_valid_reason(shapes[at])}), and the file's invalid polygons "
            f"have more than {MAX_REPAIRED:,} corners, too many to repair; repair them with ogr2ogr -makevalid, or "
            "simplify them"
        )
    shapes[invalid] = shapely.make_valid(shapes[invalid])
    return shapely.disjoint_subset_union_all(shapes)


def _features(path: Path, text: str, document: Any) -> list[tuple[str, Any]]:
    """The shape of each feature, with its name for messages (": feature 3", or "" where there are no features)."""
    found = document.get("features") if isinstance(document, dict) else None
    if not isinstance(found, list) or document.get("type") != "FeatureCollection":
        return [("", _shape(path, "", text))]
    try:
        together = shapely.get_parts(shapely.from_geojson(text))
        if len(together) == len(found):
            return [(f": feature {number}", shape) for number, shape in enumerate(together)]
    except shapely.errors.GEOSException:
        pass  # which of them it is, and those without a geometry, shows one by one
    named = [(f": feature {number}", feature) for number, feature in enumerate(found)]
    return [
        (name, _shape(path, name, json.dumps(feature)))
        for name, feature in named
        if not (isinstance(feature, dict) and feature.get("geometry", ...) is None)
    ]


def _shape(path: Path, name: str, text: str) -> Any:
    try:
        return shapely.from_geojson(text)
    except shapely.errors.GEOSException as error:
        detail = " ".join(str(error).split())[:200]
        raise AreaError(f"{path}{name}: is not valid GeoJSON ({detail}); {_EXPECTED}") from None


def check_degrees(where: str, shape: Any) -> None:
    """Raise AreaError for polygons that are not in degrees, or that go the long way round the globe."""
    at = shapely.get_coordinates(shape)
    (west, south), (east, north) = at.min(axis=0), at.max(axis=0)
    if not (west >= -540 and east <= 540 and south >= -90 and north <= 90):
        swapped = west >= -90 and east <= 90 and south >= -180 and north <= 180
        hint = "; longitude comes before latitude" if swapped else ""
        raise AreaError(
            f"{where}: coordinates are not degrees ({west:g}, {south:g}, {east:g}, {north:g}); "
            f"GeoJSON is in EPSG:4326 (RFC 7946){hint}"
        )
    if east - west <= 180:
        return
    for ring in shapely.get_rings(shapely.get_parts(shape)):
        lon = shapely.get_coordinates(ring)[:, 0]
        long_way = (np.abs(np.diff(lon)) > 180) & (np.abs(lon[:-1]) != 180) & (np.abs(lon[1:]) != 180)
        if long_way.any():
            first = int(np.argmax(long_way))
            raise AreaError(
                f"{where}: an edge goes from longitude {lon[first]:g} to {lon[first + 1]:g}, over 180 degrees; where "
                "the antimeridian is meant, let longitudes go on beyond 180, or cut the polygon there (RFC 7946)"
            )


def _check_edges(path: Path, names: Sequence[str], shapes: NDArray[np.object_]) -> None:
    """Refuse outlines so jagged that to look for crossings of their edges takes for ever."""
    rings = shapely.get_rings(shapes, return_index=True)
    at, ring = shapely.get_coordinates(rings[0], return_index=True)
    if len(at) <= _FEW_CORNERS:
        return
    first = np.flatnonzero(ring[1:] == ring[:-1])
    low, high = np.minimum(at[first], at[first + 1]), np.maximum(at[first], at[first + 1])
    boxes = shapely.box(*low.T, *high.T)
    asked = np.arange(0, len(boxes), math.ceil(len(boxes) / _LOOKED_AT))
    tree = shapely.STRtree(boxes)
    budget, met = MAX_CROSSINGS * len(asked) // len(boxes), np.zeros(len(asked), dtype=np.int64)
    for number, edge in enumerate(asked):
        met[number] = len(tree.query(boxes[edge]))
        if int(met.sum()) > budget:
            name = names[rings[1][ring[first[asked[int(np.argmax(met))]]]]]
            raise AreaError(
                f"{path}{name}: its outline is too jagged ({len(boxes):,} edges in the file, over {MAX_CROSSINGS:,} "
                "pairs of them near each other); simplify it, for example with ogr2ogr -simplify 0.0001"
            )


def flat_parts(shape: Any) -> list[Any]:
    """The single geometries in a shape, however deep its collections."""
    found, waiting = [], [shape]
    while waiting:
        one = waiting.pop()
        if hasattr(one, "geoms"):
            waiting += reversed(shapely.get_parts(one).tolist())
        else:
            found.append(one)
    return found
