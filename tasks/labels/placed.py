"""The features of a vector file in longitude and latitude, or the first that cannot be there.

A feature that cannot be right ends the reading with its name: left out, it would be a hole in the masks of which nobody
hears, and coordinates read in the wrong CRS would make a version of background alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.errors import LabelError
from tasks.labels.formats import GEOJSON, LINES, VectorFile
from tasks.labels.rows import NO_POLYGONS, SMALL_WKB, Box, Rows, shapes_of
from tasks.recipe.document import shown

MAX_SURVEYED = 5_000_000  # features of a file that are read in whole to name the one that cannot be right
EDGE = 0.01  # degrees by which a building on the antimeridian may stand out beyond 180
_POLYGONAL = (3, 6, 7)  # Polygon, MultiPolygon and collections, as GEOS numbers them
_THERE_AND_BACK = 1e-6  # of a coordinate, that a projection and its inverse may differ by


def in_degrees(file: VectorFile, rows: Rows) -> NDArray[np.object_]:
    """The rows' geometries in EPSG:4326, None where there is none. Raises LabelError naming file and feature."""
    import geopandas
    from pyproj import CRS

    if rows.crs is None:
        raise LabelError(
            f"{file.path}: declares no CRS; set it, for example with ogr2ogr -a_srs EPSG:4326 OUT {file.path.name}"
        )
    shapes = _readable(file, rows)
    if len(shapes) and not np.isin(shapely.get_type_id(shapes), _POLYGONAL).any():
        raise LabelError(f"{file.path}: {NO_POLYGONS}")
    crs = CRS.from_user_input(rows.crs)
    if crs.is_geographic and crs.axis_info and crs.axis_info[0].unit_name == "degree":
        _refuse_off(file, rows, crs, shapely.bounds(shapes).reshape(-1, 4), _beyond)
    placed = np.asarray(geopandas.GeoSeries(shapes, crs=crs).to_crs(4326).to_numpy(), dtype=object)
    if (row := _first_not_finite(placed)) is not None:
        raise _off_globe(file, rows.name(row), shapely.get_coordinates(shapes[row])[0], crs)
    return placed


def extent(rows: Rows, shapes: NDArray[np.object_]) -> Box | None:
    """The box in EPSG:4326 of all features of a file, as far as it is known. ``shapes``: of the rows, in EPSG:4326."""
    from pyproj import CRS, Transformer

    if len(shapes) and rows.held == len(shapes):
        found = shapely.total_bounds(shapes)
    elif rows.bounds is not None:
        transformer = Transformer.from_crs(CRS.from_user_input(rows.crs), 4326, always_xy=True)
        found = np.array(transformer.transform_bounds(*rows.bounds, densify_pts=21))
    else:
        return None
    west, south, east, north = (float(side) for side in found)
    return (west, south, east, north) if np.isfinite(found).all() else None


def check_far(file: VectorFile, rows: Rows) -> None:
    """Raise LabelError when a feature of a file without any near the tiles is off its CRS's part of the globe.

    With others near, its box may well reach beyond what a projection maps.
    """
    from pyproj import CRS, Transformer

    crs = CRS.from_user_input(rows.crs)
    transformer = Transformer.from_crs(crs, 4326, always_xy=True)

    def off(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        corners = boxes[np.isfinite(boxes).all(axis=1)].reshape(-1, 2)
        back = np.column_stack(transformer.transform(*transformer.transform(*corners.T), direction="INVERSE"))
        lost = ~(np.abs(back - corners) <= 1.0 + _THERE_AND_BACK * np.abs(corners)).all(axis=1)
        found = np.zeros(len(boxes), dtype=np.bool_)
        found[np.isfinite(boxes).all(axis=1)] = lost.reshape(-1, 2).all(axis=1)
        return found

    _refuse_off(file, rows, crs, shapely.bounds(shapes_of(rows.wkb)).reshape(-1, 4), off)


def _readable(file: VectorFile, rows: Rows) -> NDArray[np.object_]:
    """The rows' geometries in the file's CRS. Raises LabelError for one that is damaged."""
    shapes = shapes_of(rows.wkb)
    for lost in np.flatnonzero(shapely.is_missing(shapes)).tolist():
        if rows.wkb[lost] is not None:
            raise LabelError(
                f"{file.path}: {rows.name(lost)} has no readable geometry ({_why(rows.wkb[lost])}); repair or remove it"
            )
    if (row := _first_not_finite(shapes)) is not None:
        raise LabelError(
            f"{file.path}: {rows.name(row)} has a coordinate that is no finite number; repair or remove the feature"
        )
    return shapes


def _why(wkb: bytes) -> str:
    if len(wkb) > SMALL_WKB and shapes_of(np.array([wkb, None], dtype=object))[0] is None:
        return "damaged, or nested too deeply"
    try:
        shapely.from_wkb(wkb)
    except shapely.errors.ShapelyError as error:
        if "closed" in str(error):
            return "a ring is not closed: its first and last position differ"
        return shown(" ".join(str(error).partition(": ")[2].split()))
    return "damaged"


def _first_not_finite(shapes: NDArray[np.object_]) -> int | None:
    coordinates, of = shapely.get_coordinates(shapes, return_index=True)
    bad = of[~np.isfinite(coordinates).all(axis=1)]
    return int(bad[0]) if len(bad) else None


def _refuse_off(
    file: VectorFile,
    rows: Rows,
    crs: Any,
    boxes: NDArray[np.float64],
    off: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
) -> None:
    """Refuse a feature whose box is off the globe, as ``off`` says of boxes (n, 4) in the file's CRS.

    ``boxes``: of the rows. Only features near the tiles were read, so the box of all is asked too.
    """
    name = rows.name
    if not off(boxes).any():
        corners = np.array(rows.bounds or (), dtype=np.float64).reshape(-1, 2)
        if not off(np.hstack((corners, corners))).any():
            return
        if rows.held > MAX_SURVEYED:
            raise _off_globe(file, f"one of its {rows.held:,} features", _worst(corners.ravel()), crs)
        names, boxes = rows.survey()
        name = names.__getitem__
    if (lost := off(boxes)).any():
        first = int(np.argmax(lost))
        raise _off_globe(file, name(first), _worst(boxes[first]), crs)


def _worst(box: Sequence[float] | NDArray[np.float64]) -> Sequence[float]:
    """The corner of a box that is further out."""
    west, south, east, north = (float(side) for side in box)
    return (west if abs(west) > abs(east) else east, south if abs(south) > abs(north) else north)


def _beyond(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes (n, 4) in degrees leave the globe, as bool (n,); those of empty geometries (NaN) do not."""
    return np.asarray(
        (np.abs(boxes[:, [0, 2]]) > 180 + EDGE).any(axis=1) | (np.abs(boxes[:, [1, 3]]) > 90 + 1e-9).any(axis=1)
    ) & np.isfinite(boxes).all(axis=1)


def _off_globe(file: VectorFile, name: str, at: Sequence[float] | NDArray[np.float64], crs: Any) -> LabelError:
    x, y = (float(one) for one in at)
    if crs.is_geographic and abs(x) <= 90 and abs(y) <= 180:
        what = "longitude comes before latitude; write the coordinates the other way round"
    elif file.format in (GEOJSON, LINES):
        what = (
            "GeoJSON is in degrees unless it names another CRS; say which one the data is in when you write it, as in "
            f"ogr2ogr -s_srs EPSG:32631 -t_srs EPSG:4326 OUT.geojson {file.path.name}"
        )
    else:
        what = f"say which CRS the data is in, as in ogr2ogr -a_srs EPSG:32631 OUT {file.path.name}"
    return LabelError(f"{file.path}: {name} reaches {x:.10g}, {y:.10g}, which is off the globe in {crs.name}; {what}")
