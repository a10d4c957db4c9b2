"""Building footprints: what every label source ends in, how they are cleaned, and the file they are kept in.

The file is GeoParquet 1.1 (https://geoparquet.org/releases/v1.1.0/): WKB in EPSG:4326 with a bounding box
column, sorted along a Hilbert curve, the :class:`LabelReport` as JSON in the schema's metadata.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
) -> Footprints:
    """Footprints of ``geometry`` (n shapely geometries or None, EPSG:4326): dropped, repaired and counted.

    ``tags`` (n mappings) are judged by :func:`tasks.labels.tags.drop_reason`. Invalid polygons are repaired with
    GEOS' "linework" method, which keeps what GDAL would draw; only polygonal parts stay. Of rows with one OSM id
    the first stays; where the type is unknown, rows with one id stay unless their shapes agree too, because a file
    may hold the parts of an object apart. A way that is just the outer ring of a relation with holes goes, since it
    would fill the courtyard.
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
    invalid = (reasons == "") & ~shapely.is_valid(shapes)
    # The "structure" method would fill where rings overlap, and a mask of it would differ from GDAL's own.
    shapes[invalid] = shapely.make_valid(shapes[invalid], method="linework")
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
        sha256=content_hash(shapes[kept], types[kept], ids[kept]),
    )
    return Footprints(shapes[kept], types[kept], ids[kept], report)


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
