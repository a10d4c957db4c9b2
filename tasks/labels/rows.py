"""What a vector file holds near the tiles, read by GDAL or pyarrow, as the file has it: nothing is judged yet."""

import json
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.errors import LabelError
from tasks.labels.cover import TileCover
from tasks.labels.formats import GEOPACKAGE, PARQUET, VectorFile, geopackage_layers, unreadable

Box = tuple[float, float, float, float]  # west, south, east, north
SMALL_WKB = 64 << 10  # bytes, which hold no collections nested so deeply that GEOS would run out of stack
MAX_NESTING = 32  # of collections in a larger one
NO_POLYGONS = "holds no polygons; labels need building outlines, not points or lines"
_BBOX_MARGIN = 0.01  # of the box's size: a transformed box is only as exact as the points along its sides


@dataclass(frozen=True, eq=False)
class Rows:
    """Features near the tiles, and some that are not."""

    crs: Any  # as pyproj takes it; None where the file declares none
    wkb: NDArray[np.object_]  # (n,) bytes; None for a feature without a geometry
    columns: dict[str, list[Any]]  # n values each
    name: Callable[[int], str]  # of a row, for messages
    held: int  # features in the file, near the tiles or not
    bounds: Box | None  # of all of them in the file's CRS, where the file says
    survey: Callable[[], tuple[Sequence[str], NDArray[np.float64]]]  # of all: names, and boxes (n, 4) in the file's CRS


def read_rows(file: VectorFile, layer: str | None, wanted: Sequence[str], cover: TileCover) -> Rows | None:
    """The features of a file on ``cover``, with the ``wanted`` columns that it has; None when it has no feature.

    Raises LabelError when the file cannot be read.
    """
    with reading(file.path):
        if file.format == PARQUET:
            return _from_parquet(file.path, wanted, cover)
        return _from_gdal(file, layer, wanted, cover)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever libraries say to a damaged file becomes a LabelError that names it; GDAL's warnings are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except LabelError:
            raise
        except Exception as error:  # a damaged file makes libraries raise nearly anything
            raise unreadable(path, error) from error


def shapes_of(wkb: NDArray[np.object_]) -> NDArray[np.object_]:
    """Shapely geometries of WKB; None where there is none, and where it is damaged or nested beyond all reason."""
    fit = np.empty(len(wkb), dtype=object)
    fit[:] = [b"" if blob is not None and len(blob) > SMALL_WKB and _is_nested(blob) else blob for blob in wkb]
    return np.asarray(shapely.from_wkb(fit, on_invalid="ignore"))


def _is_nested(wkb: bytes) -> bool:
    """Whether collections in it lie more than MAX_NESTING deep; GEOS would go as deep as they do, and crash."""
    order, at, waiting = "<", 0, [1]  # of each collection open, how many members are still to come
    try:
        while waiting and len(waiting) <= MAX_NESTING + 1:
            if waiting[-1] == 0:
                waiting.pop()
                continue
            waiting[-1] -= 1
            order = {0: ">", 1: "<"}.get(wkb[at], order)
            (kind,) = struct.unpack_from(f"{order}I", wkb, at + 1)
            at += 9 if kind & 0x20000000 else 5  # extended WKB may name a CRS
            iso, base = divmod(kind & 0xFFFF, 1000)
            point = 8 * (2 + bool(kind & 0x80000000 or iso in (1, 3)) + bool(kind & 0x40000000 or iso in (2, 3)))
            if base == 1:
                at += point
                continue
            (count,) = struct.unpack_from(f"{order}I", wkb, at)
            at += 4
            if base == 2:
                at += count * point
            elif base == 3:
                for _ in range(count):
                    (corners,) = struct.unpack_from(f"{order}I", wkb, at)
                    at += 4 + corners * point
            else:
                waiting.append(count)
    except (struct.error, IndexError):  # cut short, which GEOS sees too
        return False
    return bool(waiting)


def _from_gdal(file: VectorFile, layer: str | None, wanted: Sequence[str], cover: TileCover) -> Rows | None:
    import pyogrio

    options: dict[str, Any] = {}
    if file.format == GEOPACKAGE:
        layers, options = geopackage_layers(file.path), {"LIST_ALL_TABLES": "NO"}  # or GDAL looks into every view
    else:
        layers = [(str(name), str(kind)) for name, kind in pyogrio.list_layers(file.opened_as)]
    options["layer"] = _choose_layer(file.path, layer, layers)
    info = pyogrio.read_info(file.opened_as, force_feature_count=True, force_total_bounds=True, **options)
    if info["features"] == 0:
        return None
    names = [name for name in info["fields"] if name in wanted]
    options |= {"force_2d": True, "return_fids": True}
    meta, fids, wkb, values = pyogrio.raw.read(
        file.opened_as, columns=names, bbox=_box_in(info["crs"], cover), **options
    )

    def survey() -> tuple[list[str], NDArray[np.float64]]:
        with reading(file.path):
            _, numbers, all_wkb, _ = pyogrio.raw.read(file.opened_as, columns=[], **options)
            return [f"feature {number}" for number in numbers], shapely.bounds(shapes_of(all_wkb)).reshape(-1, 4)

    return Rows(
        crs=info["crs"],
        wkb=wkb,
        columns={str(name): column.tolist() for name, column in zip(meta["fields"], values, strict=True)},
        name=lambda row: f"feature {fids[row]}",
        held=info["features"],
        bounds=info["total_bounds"],
        survey=survey,
    )


def _from_parquet(path: Path, wanted: Sequence[str], cover: TileCover) -> Rows | None:
    import pyarrow.parquet as pq

    crs, column, geometry, names, held = _parquet_header(path, wanted)
    if held == 0:
        return None
    native = geometry["encoding"] != "WKB"
    near = None if native or crs is None else _in_box(geometry, _box_in(crs, cover))
    table = pq.read_table(path, columns=names if native else [column, *names], filters=near, partitioning=None)

    def all_wkb() -> NDArray[np.object_]:
        with reading(path):
            return _native(path, column) if native else _wkb(path, column, pq.read_table(path, columns=[column]))

    wkb = all_wkb() if native else _wkb(path, column, table)

    def name(row: int) -> str:
        return f"row {row if near is None else all_wkb().tolist().index(wkb[row])}"

    def survey() -> tuple[list[str], NDArray[np.float64]]:
        found = all_wkb()
        return [f"row {row}" for row in range(len(found))], shapely.bounds(shapes_of(found)).reshape(-1, 4)

    columns = {one: table[one].to_pylist() for one in names}
    return Rows(crs, wkb, columns, name, held, _parquet_bounds(geometry), survey)


def _parquet_header(path: Path, wanted: Sequence[str]) -> tuple[Any, str, dict[str, Any], list[str], int]:
    """The CRS, the geometry column and what the file says of it, the wanted columns there are, the number of rows."""
    import pyarrow.parquet as pq
    from pyproj import CRS

    with pq.ParquetFile(path) as opened:
        schema, held = opened.schema_arrow, opened.metadata.num_rows
    if b"geo" not in (schema.metadata or {}):
        raise LabelError(f"{path}: Parquet without geometry metadata; write it with GeoDataFrame.to_parquet")
    geo = json.loads(schema.metadata[b"geo"])
    column = geo["primary_column"]
    geometry = geo["columns"][column]
    crs = geometry.get("crs", "OGC:CRS84")
    if crs not in (None, "OGC:CRS84"):  # as PROJJSON or, before 1.0, WKT; another text could be the name of a file
        crs = CRS.from_json_dict(crs) if isinstance(crs, dict) else CRS.from_wkt(crs)
    return crs, column, geometry, [name for name in schema.names if name in wanted], held


def _parquet_bounds(geometry: dict[str, Any]) -> Box | None:
    box = [float(side) for side in geometry.get("bbox") or ()]
    half = len(box) // 2
    return (box[0], box[1], box[half], box[half + 1]) if len(box) in (4, 6) else None


def _in_box(geometry: dict[str, Any], box: Box | None) -> Any:
    """What rows near the tiles fulfil, for pyarrow; None (read all) where the file has no column of boxes."""
    import pyarrow.compute as pc

    if box is None or "covering" not in geometry:
        return None
    fields = geometry["covering"]["bbox"]
    west, south, east, north = (pc.field(*fields[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
    return (west <= box[2]) & (east >= box[0]) & (south <= box[3]) & (north >= box[1])


def _wkb(path: Path, column: str, table: Any) -> NDArray[np.object_]:
    import pyarrow as pa

    kind = table.schema.field(column).type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise LabelError(f"{path}: its geometry column {column} holds {kind} and no WKB; write the file again")
    found = np.empty(len(table), dtype=object)
    found[:] = table[column].to_pylist()
    return found


def _native(path: Path, column: str) -> NDArray[np.object_]:
    """A geometry column in an encoding other than WKB, as WKB."""
    import geopandas

    return np.asarray(geopandas.read_parquet(path, columns=[column]).geometry.to_wkb(), dtype=object)


def _choose_layer(path: Path, wanted: str | None, layers: Sequence[tuple[str, str]]) -> str:
    """``wanted``, or the one layer that may hold polygons. ``layers``: names and geometry types."""
    names = [name for name, _ in layers]
    if wanted is not None and wanted not in names:
        raise LabelError(f"{path}: no layer {wanted!r}; there: {', '.join(names)}")
    kinds = ("UNKNOWN", "GEOMETRY", "GEOMETRYCOLLECTION")
    mixed = [name for name, kind in layers if "POLYGON" in kind.upper() or kind.upper() in kinds]
    able = mixed if wanted is None else [wanted]
    if not able:
        raise LabelError(f"{path}: {NO_POLYGONS}")
    if len(able) > 1:
        raise LabelError(f"{path}: several layers with polygons ({', '.join(able)}); name one in labels.layer")
    return able[0]


def _box_in(crs: Any, cover: TileCover) -> Box | None:
    """The tiles' box in the file's CRS, or None (read all) where the CRS does not reach."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    try:
        transformer = Transformer.from_crs(4326, CRS.from_user_input(crs), always_xy=True)
        box = np.array(transformer.transform_bounds(*cover.bounds, densify_pts=101))
    except ProjError:
        return None
    if not np.isfinite(box).all() or box[0] > box[2]:
        return None
    margin = _BBOX_MARGIN * max(box[2] - box[0], box[3] - box[1])
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
