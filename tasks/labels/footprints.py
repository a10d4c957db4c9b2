"""Building footprints: what every label source ends in, how they are cleaned, and the file they are kept in.

The file is GeoParquet 1.1 (https://geoparquet.org/releases/v1.1.0/): WKB in EPSG:4326 with a bounding box
column, sorted along a Hilbert curve, the :class:`LabelReport` as JSON in the schema's metadata.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.atomic import writing
from tasks.errors import LabelError
from tasks.labels.tags import drop_reason

REPORT_KEY = b"tilewright"
ROW_GROUP = 65_536
HASH_DECIMALS = 9  # degrees: a tenth of a millimetre, under which machines may differ after a reprojection
OUTLINE = "outline of a multipolygon"
# GEOS takes the square of these, so that one outline could keep it busy for hours. No building comes near.
MAX_CORNERS = 50_000  # of a footprint, all its parts: 2 s to see whether it is valid
MAX_INVALID_CORNERS = 10_000  # of one that is not
MAX_CROSSINGS = 1_000  # of its edges: 1 s to repair
MAX_SECONDS = 600.0  # to check and repair all
_FEW_CORNERS = 50  # whose edges cannot cross so often that it takes long
_SAME_AREA = 1e-6  # by which areas of one shape may differ
_AT_ONCE = 100  # outlines or edges, between two looks at a bound
_SIDES = ("xmin", "ymin", "xmax", "ymax")  # of the bounding box column


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """Where labels come from and what became of them. ``kept + sum(dropped) == read``."""

    source: str  # without tokens, e.g. "pbf france-latest.osm.pbf"
    timestamp: str  # of the label data, ISO 8601 UTC
    read: int  # building outlines met on the candidate tiles
    kept: int
    repaired: int = 0  # of those kept, how many were invalid
    dropped: dict[str, int] = field(default_factory=dict)  # by reason
    incomplete: int = 0  # outlines that the source holds in part only, as at the edge of an extract; not in ``read``
    requests: int = 0  # sent over HTTP
    sha256: str  # of the content: the same for the same footprints in any order, on any machine, at any time
    held: int | None = None  # features of the source, on the candidate tiles or not, where it tells
    bounds: Sequence[float] | None = None  # west, south, east, north of all of them in degrees, where the source tells


@dataclass(frozen=True, eq=False)
class Footprints:
    """Valid building polygons, one row each in all three arrays of shape (n,)."""

    geometry: NDArray[np.object_]  # shapely Polygon or MultiPolygon, EPSG:4326, two dimensions
    osm_type: NDArray[np.object_]  # "way", "relation", or "" where the source does not say
    osm_id: NDArray[np.int64]  # 0 where there is none
    report: LabelReport

    def __len__(self) -> int:
        return len(self.geometry)


def clean(
    geometry: Sequence[Any] | NDArray[np.object_],
    *,
    source: str,
    timestamp: str,
    osm_type: Sequence[str] | NDArray[np.object_] | None = None,
    osm_id: Sequence[int] | NDArray[np.int64] | None = None,
    tags: Sequence[Mapping[str, str]] | None = None,
    incomplete: int = 0,
    requests: int = 0,
    held: int | None = None,
    bounds: Sequence[float] | None = None,
    name: Callable[[int], str] | None = None,
) -> Footprints:
    """Footprints of ``geometry`` (n shapely geometries or None, EPSG:4326): dropped, repaired and counted.

    ``tags`` (n mappings) are judged by :func:`tasks.labels.tags.drop_reason`. Invalid polygons are repaired with
    GEOS' "linework" method, which keeps what GDAL would draw; only polygonal parts stay. Of rows with one OSM id
    the first stays; where the type is unknown, rows with one id stay unless their shapes agree too, because a file
    may hold the parts of an object apart. A way that is just the outer ring of a relation with holes goes, since it
    would fill the courtyard.

    ``held`` and ``bounds`` go into the report. ``name`` says in messages which one a row is, and where it is from.
    Raises LabelError for an outline that would take too long to check or repair.
    """
    n = len(geometry)
    shapes = shapely.force_2d(np.array(geometry, dtype=object))
    types = np.full(n, "", dtype=object) if osm_type is None else np.array(osm_type, dtype=object)
    ids = np.zeros(n, dtype=np.int64) if osm_id is None else np.array(osm_id, dtype=np.int64)
    reasons = np.full(n, "", dtype=object)  # why a row goes; "" while it stays
    if tags is not None:
        reasons[:] = [(drop_reason(one) or "") if one else "" for one in tags]

    def give_up(where: NDArray[np.bool_], reason: str) -> None:
        reasons[where & (reasons == "")] = reason

    give_up(shapely.is_missing(shapes) | shapely.is_empty(shapes), "empty geometry")
    coordinates, of = shapely.get_coordinates(shapes, return_index=True)
    give_up(np.isin(np.arange(n), of[~np.isfinite(coordinates).all(axis=1)]), "broken coordinates")
    kinds = shapely.get_type_id(shapes)
    lines = np.isin(kinds, (1, 2)) & (types == "way")
    if tags is not None and lines.any():
        give_up(lines & np.array([one.get("area") == "no" for one in tags], dtype=bool), "area=no")
    give_up(lines, "unclosed way")
    give_up(np.isin(kinds, (0, 1, 2, 4, 5)), "not a polygon")
    name = name or (lambda row: f"{source}: {_described(shapes[row], types[row], ids[row])}")
    _check_corners(shapes, reasons == "", name)
    began = time.monotonic()
    invalid = (reasons == "") & ~_in_time(shapely.is_valid, shapes, began, source)
    _check_repairable(shapes, invalid, name)
    # The "structure" method would fill where rings overlap, and a mask of it would differ from GDAL's own.
    shapes[invalid] = _in_time(_repaired, shapes[invalid], began, source)
    mixed = (reasons == "") & (shapely.get_type_id(shapes) != shapely.GeometryType.POLYGON)
    shapes[mixed] = [_polygonal(shape) for shape in shapes[mixed]]
    give_up(shapely.is_empty(shapes) & invalid, "no area")
    give_up(shapely.is_empty(shapes), "not a polygon")
    live = np.flatnonzero(reasons == "")
    shapes[live] = shapely.normalize(shapes[live])
    reasons[live[_duplicates(shapes[live], types[live], ids[live])]] = "duplicate"
    live = np.flatnonzero(reasons == "")
    reasons[live[_outlines(shapes[live], types[live])]] = OUTLINE

    kept = reasons == ""
    counts = Counter(str(reason) for reason in reasons[~kept])
    report = LabelReport(
        source=source,
        timestamp=timestamp,
        read=n,
        kept=int(kept.sum()),
        repaired=int((kept & invalid).sum()),
        dropped=dict(sorted(counts.items())),
        incomplete=incomplete,
        requests=requests,
        held=held,
        bounds=None if bounds is None else list(bounds),
        sha256=content_hash(shapes[kept], types[kept], ids[kept]),
    )
    return Footprints(shapes[kept], types[kept], ids[kept], report)


def _described(shape: Any, kind: str, number: int) -> str:
    if number:
        return f"{kind or 'object'} {number}"
    x, y = shapely.get_coordinates(shape)[0]
    return f"the footprint at {x:.6f}, {y:.6f}"


def _check_corners(shapes: NDArray[np.object_], live: NDArray[np.bool_], name: Callable[[int], str]) -> None:
    corners = np.where(live, shapely.get_num_coordinates(shapes), 0)
    if len(shapes) and corners.max() > MAX_CORNERS:
        row = int(np.argmax(corners))
        raise LabelError(
            f"{name(row)} has {corners[row]:,} corners, over {MAX_CORNERS:,}; that is no building: split it into its "
            "parts (ogr2ogr -explodecollections) or simplify it (ogr2ogr -simplify)"
        )


def _check_repairable(shapes: NDArray[np.object_], invalid: NDArray[np.bool_], name: Callable[[int], str]) -> None:
    corners = shapely.get_num_coordinates(shapes)
    for row in np.flatnonzero(invalid & (corners > _FEW_CORNERS)).tolist():
        if corners[row] > MAX_INVALID_CORNERS or _is_tangled(shapes[row]):
            raise LabelError(
                f"{name(row)} is not valid ({shapely.is_valid_reason(shapes[row])}) and too tangled to repair: over "
                f"{MAX_INVALID_CORNERS:,} corners, or {MAX_CROSSINGS:,} crossings of its edges; split it "
                "(ogr2ogr -explodecollections) or repair it (ogr2ogr -makevalid)"
            )


def _is_tangled(shape: Any) -> bool:
    """Whether edges of a polygonal shape cross, or lie on one another, more than MAX_CROSSINGS times."""
    rings = shapely.get_rings(shapely.get_parts(shapely.get_parts(shape)))
    at, ring = shapely.get_coordinates(rings, return_index=True)
    first = np.flatnonzero(ring[1:] == ring[:-1])
    edges = shapely.linestrings(np.stack((at[first], at[first + 1]), axis=1))
    tree, found = shapely.STRtree(edges), 0
    for start in range(0, len(edges), _AT_ONCE):
        some, other = tree.query(edges[start : start + _AT_ONCE], predicate="intersects")
        one, two = edges[some + start], edges[other]
        found += int((~(shapely.touches(one, two) | shapely.equals(one, two))).sum())
        if found > 2 * MAX_CROSSINGS:  # each is met from both sides
            return True
    return False


def _repaired(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """Valid geometries that cover what lies inside an odd number of each one's rings."""
    found = shapely.make_valid(shapes, method="linework")
    # GEOS takes a part that others enclose wall to wall for a hole in them.
    for row in np.flatnonzero(np.isin(shapely.get_type_id(shapes), (3, 6))):
        rings = shapely.get_rings(shapely.get_parts(shapes[row]))
        if len(rings) > 1:
            insides = shapely.make_valid(shapely.polygons(rings), method="linework")
            while len(insides) > 1:
                half = len(insides) // 2
                paired = shapely.symmetric_difference(insides[:half], insides[half : 2 * half])
                insides = np.concatenate((paired, insides[2 * half :]))
            if abs(insides[0].area - found[row].area) > _SAME_AREA * insides[0].area:
                found[row] = insides[0]
    return np.asarray(found)


def _in_time(judge: Callable[[Any], Any], shapes: NDArray[np.object_], began: float, source: str) -> NDArray[Any]:
    """``judge`` of all shapes. Raises LabelError when it takes too long, or GEOS cannot do it."""
    found = []
    for start in range(0, len(shapes), _AT_ONCE):
        try:
            found.append(judge(shapes[start : start + _AT_ONCE]))
        except shapely.errors.ShapelyError as error:
            raise LabelError(
                f"{source}: an outline can be neither used nor repaired ({' '.join(str(error).split())[:200]}); repair "
                "its polygons (ogr2ogr -makevalid)"
            ) from error
        if time.monotonic() - began > MAX_SECONDS:
            raise LabelError(
                f"{source}: to check and repair its {len(shapes):,} outlines takes over {MAX_SECONDS:g} s; simplify or "
                "repair them (ogr2ogr -simplify, -makevalid), or take a smaller area"
            )
    return np.concatenate(found) if found else judge(shapes)


def content_hash(geometry: NDArray[np.object_], osm_type: NDArray[np.object_], osm_id: NDArray[np.int64]) -> str:
    """SHA-256 (hex) over the sorted rows of type, id and normalized WKB, coordinates to nine decimals."""
    rounded = shapely.transform(geometry, lambda xy: np.round(xy, HASH_DECIMALS) + 0.0)
    wkb = shapely.to_wkb(shapely.normalize(rounded), byte_order=1, output_dimension=2)
    rows = sorted(
        f"{kind}/{number}/".encode() + bytes(blob) for kind, number, blob in zip(osm_type, osm_id, wkb, strict=True)
    )
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row).to_bytes(8, "little") + row)
    return digest.hexdigest()


def write_footprints(path: Path, footprints: Footprints) -> None:
    """Write ``footprints`` as GeoParquet, whole or not at all.

    Columns: geometry, osm_type, osm_id, source, timestamp, bbox. Raises DiskError when the disk refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = _hilbert_order(footprints)
    geometry = footprints.geometry[order]
    bounds = shapely.bounds(geometry).reshape(-1, 4)
    report = footprints.report
    table = pa.table(
        {
            "geometry": pa.array(shapely.to_wkb(geometry, byte_order=1), pa.binary()),
            "osm_type": pa.array(footprints.osm_type[order], pa.string()),
            "osm_id": pa.array(footprints.osm_id[order], pa.int64()),
            "source": pa.repeat(report.source, len(geometry)),
            "timestamp": pa.repeat(report.timestamp, len(geometry)),
            "bbox": pa.StructArray.from_arrays(list(bounds.T), names=_SIDES),
        }
    )
    metadata = {b"geo": json.dumps(_geo_metadata(bounds)), REPORT_KEY: json.dumps(asdict(report))}
    with writing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, row_group_size=ROW_GROUP, compression="zstd")


def read_footprints(path: Path) -> Footprints:
    """The footprints in a file that :func:`write_footprints` wrote. Raises LabelError naming the file."""
    import pyarrow.parquet as pq

    with _reading(path):
        table = pq.read_table(path, columns=["geometry", "osm_type", "osm_id"])
        return Footprints(
            np.array(shapely.from_wkb(table["geometry"].to_numpy()), dtype=object).reshape(-1),
            np.array(table["osm_type"].to_pylist(), dtype=object),
            np.array(table["osm_id"].to_numpy(), dtype=np.int64),
            LabelReport(**json.loads(table.schema.metadata[REPORT_KEY])),
        )


def read_report(path: Path) -> LabelReport:
    """The report of a footprint file, without reading its rows. Raises LabelError naming the file."""
    import pyarrow.parquet as pq

    with _reading(path):
        return LabelReport(**json.loads(pq.read_schema(path).metadata[REPORT_KEY]))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, shapely.errors.ShapelyError, KeyError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise LabelError(
            f"{path}: no readable footprint file ({type(error).__name__}: {detail}); delete it and build again"
        ) from error


def _polygonal(shape: Any) -> Any:
    """The polygons in ``shape``: a Polygon, a MultiPolygon of several, or an empty Polygon."""
    if shape.geom_type == "Polygon":
        return shape
    parts = [part for part in shapely.get_parts(shape) if not part.is_empty]
    flat = [piece for part in parts for piece in shapely.get_parts(part) if piece.geom_type == "Polygon"]
    if len(flat) == 1:
        return flat[0]
    if shape.geom_type == "MultiPolygon" and len(flat) == len(shape.geoms):
        return shape
    return shapely.union_all(flat) if flat else shapely.Polygon()


def _duplicates(shapes: NDArray[np.object_], types: NDArray[np.object_], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    import pandas as pd

    outlines = np.full(len(shapes), b"", dtype=object)
    named = ids != 0
    typeless = named & (types == "")
    outlines[typeless] = shapely.to_wkb(shapes[typeless])
    rows = pd.DataFrame({"type": types, "id": ids, "outline": outlines})
    return np.asarray(named & rows.duplicated())


def _outlines(shapes: NDArray[np.object_], types: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Ways whose polygon is an outer ring, without its holes, of a relation. Shapes are normalized."""
    relations = shapely.get_parts(shapes[types == "relation"])
    holed = relations[shapely.get_num_interior_rings(relations) > 0]
    filled = shapely.normalize(shapely.polygons(shapely.get_exterior_ring(holed)))
    rings = set(shapely.to_wkb(filled))
    found = types == "way"
    found[found] = [outline in rings for outline in shapely.to_wkb(shapes[found])]
    return np.asarray(found)


def _hilbert_order(footprints: Footprints) -> NDArray[np.int64]:
    """Row numbers along a Hilbert curve, rows in one cell of it by their ids."""
    import geopandas

    if len(footprints) == 0:
        return np.zeros(0, dtype=np.int64)
    distance = geopandas.GeoSeries(footprints.geometry, crs=4326).hilbert_distance(level=16).to_numpy()
    return np.lexsort((footprints.osm_id, distance))


def _geo_metadata(bounds: NDArray[np.float64]) -> dict[str, Any]:
    from pyproj import CRS

    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"],
        "crs": CRS.from_epsg(4326).to_json_dict(),
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    if len(bounds):
        column["bbox"] = [*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
