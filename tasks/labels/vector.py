"""Footprints from a vector file: whatever GDAL reads, and GeoParquet, in any CRS the file declares."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import LabelError
from tasks.geo.tiles import Tile
from tasks.labels.cover import TileCover
from tasks.labels.footprints import Footprints, clean
from tasks.labels.tags import TAG_KEYS

_PARQUET = (".parquet", ".geoparquet", ".pq")
_COLUMNS = ("osm_id", "osm_type", "@id", "id", *TAG_KEYS)
_TYPED_ID = re.compile(r"(way|relation|w|r)/?(\d+)")
_TYPES = {"w": "way", "r": "relation", "way": "way", "relation": "relation"}
_BBOX_MARGIN = 0.01  # of the box's size: a transformed box is only as exact as the points along its sides


@dataclass(frozen=True)
class VectorSource:
    """The polygons of one layer of a file."""

    path: Path
    layer: str | None = None

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        """Polygons on ``tiles``, their OSM ids and tags taken from columns of that name. Raises LabelError."""
        found = self.fetch_or_none(tiles, work)
        if found is None:
            raise LabelError(f"{self.path}: holds no feature; labels need a file with building polygons")
        return found

    def fetch_or_none(self, tiles: Sequence[Tile], work: Path) -> Footprints | None:  # noqa: ARG002
        """As :meth:`fetch`; None for a file without any feature, as a scene without buildings has."""
        if not self.path.exists():
            raise LabelError(f"{self.path}: no such file; correct labels.path (it is relative to the recipe)")
        cover = TileCover(tiles)
        frame = _read_parquet(self.path, cover) if self.path.suffix in _PARQUET else _read(self.path, self.layer, cover)
        if frame is None:
            return None
        if len(frame) and not frame.geom_type.isin(["Polygon", "MultiPolygon", "GeometryCollection"]).any():
            raise _no_polygons(self.path)
        frame = frame.to_crs(4326)
        frame = frame[cover.touches(frame.bounds.to_numpy(dtype=np.float64).reshape(-1, 4))]
        types, ids = _osm_ids(frame)
        return clean(
            frame.geometry.to_numpy(),
            osm_type=types,
            osm_id=ids,
            tags=_tags(frame),
            source=f"vector {self.path.name}" + (f" ({self.layer})" if self.layer else ""),
            timestamp=f"{datetime.fromtimestamp(self.path.stat().st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}",
        )


@dataclass(frozen=True)
class VectorFiles:
    """The polygons of many files, as where every scene has its own."""

    folder: Path
    pattern: str  # of their paths from there, with {scene} or *
    layer: str | None = None

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        """As :meth:`VectorSource.fetch`, of all files; a polygon with an OSM id that stands in several comes once."""
        files = matching(self.folder, self.pattern)
        if not files:
            raise LabelError(
                f"{self.folder / self.pattern}: matches no file; correct labels.path (it is relative to the recipe)"
            )
        each = (VectorSource(file, self.layer).fetch_or_none(tiles, work) for file in files)
        found = [one for one in each if one is not None]
        reports = [one.report for one in found]
        together = clean(
            [shape for one in found for shape in one.geometry],
            osm_type=[kind for one in found for kind in one.osm_type],
            osm_id=[number for one in found for number in one.osm_id.tolist()],
            source=f"vector {Path(self.pattern).name} ({len(files)} files)",
            timestamp=max((report.timestamp for report in reports), default=""),
        )
        dropped = Counter(together.report.dropped)
        for report in reports:
            dropped.update(report.dropped)
        whole = replace(
            together.report,
            read=sum(report.read for report in reports),
            repaired=sum(report.repaired for report in reports),
            dropped=dict(sorted(dropped.items())),
        )
        return replace(together, report=whole)


def is_pattern(path: str) -> bool:
    """Whether a recipe's path stands for the files of many scenes."""
    return "*" in path or "{scene}" in path


def matching(folder: Path, path: str) -> list[Path]:
    """The file of a recipe's path from ``folder``, there or not, or those that match when it is a pattern, sorted."""
    if not is_pattern(path):
        return [(folder / path).resolve()]
    wild = path.replace("{scene}", "*")
    fixed = Path(wild.split("*", 1)[0] + "x").parent  # the folder above the first star
    return sorted((folder / fixed).resolve().glob(str(Path(wild).relative_to(fixed))))


def _read(path: Path, layer: str | None, cover: TileCover) -> Any:
    """GeoDataFrame of the layer's features near the tiles, through GDAL; None when it has none at all."""
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

    try:
        layer = _choose_layer(path, layer, pyogrio.list_layers(path))
        info = pyogrio.read_info(path, layer=layer, force_feature_count=True)
        if info["features"] == 0:
            return None
        if info["crs"] is None:
            raise _no_crs(path)
        columns = [name for name in info["fields"] if name in _COLUMNS]
        return pyogrio.read_dataframe(path, layer=layer, columns=columns, bbox=_box_in(info["crs"], cover))
    except (DataSourceError, DataLayerError, FeatureError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read_parquet(path: Path, cover: TileCover) -> Any:
    """GeoDataFrame of a GeoParquet file, only the row groups near the tiles where the file has a box column."""
    import geopandas
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        if b"geo" not in (schema.metadata or {}):
            raise LabelError(f"{path}: Parquet without geometry metadata; write it with GeoDataFrame.to_parquet")
        geo = json.loads(schema.metadata[b"geo"])
        geometry = geo["columns"][geo["primary_column"]]
        if pq.ParquetFile(path).metadata.num_rows == 0:
            return None
        if geometry.get("crs", {}) is None:  # absent means longitude and latitude, null means unknown
            raise _no_crs(path)
        columns = [geo["primary_column"], *(name for name in schema.names if name in _COLUMNS)]
        box = _box_in(geometry.get("crs", "OGC:CRS84"), cover) if "covering" in geometry else None
        return geopandas.read_parquet(path, columns=columns, bbox=box)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error


def _choose_layer(path: Path, wanted: str | None, layers: NDArray[np.object_]) -> str:
    """``wanted``, or the one layer that may hold polygons. ``layers`` is (n, 2): name and geometry type."""
    names = [str(name) for name, _ in layers]
    if wanted is not None:
        if wanted not in names:
            raise LabelError(f"{path}: no layer {wanted!r}; there: {', '.join(names)}")
        return wanted
    able = [str(name) for name, kind in layers if kind is not None and ("Polygon" in kind or kind in _MIXED)]
    if not able:
        raise _no_polygons(path)
    if len(able) > 1:
        raise LabelError(f"{path}: several layers with polygons ({', '.join(able)}); name one in labels.layer")
    return able[0]


_MIXED = ("Unknown", "GeometryCollection")


def _box_in(crs: Any, cover: TileCover) -> tuple[float, float, float, float] | None:
    """The tiles' box in the file's CRS, or None (read all) where the CRS does not reach."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    west, south, east, north = cover.bounds
    try:
        transformer = Transformer.from_crs(4326, CRS.from_user_input(crs), always_xy=True)
        box = np.array(transformer.transform_bounds(west, south, east, north, densify_pts=101))
    except ProjError:
        return None
    if not np.isfinite(box).all() or box[0] > box[2]:
        return None
    margin = _BBOX_MARGIN * max(box[2] - box[0], box[3] - box[1])
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def _osm_ids(frame: Any) -> tuple[list[str], list[int]]:
    """Type and id of every row, ("", 0) where there is none.

    A bare number counts as an OSM id in ``osm_id`` and ``@id``, not in ``id``, where most files number their rows.
    """
    types, ids = [""] * len(frame), [0] * len(frame)
    for column in ("osm_id", "@id", "id"):
        if column not in frame:
            continue
        for row, value in enumerate(frame[column].tolist()):
            kind, number = _parse_id(value, bare=column != "id")
            if number and not ids[row]:
                types[row], ids[row] = kind, number
    if "osm_type" in frame:
        for row, value in enumerate(frame["osm_type"].tolist()):
            types[row] = types[row] or (_TYPES.get(str(value).lower(), "") if ids[row] else "")
    return types, ids


def _parse_id(value: Any, *, bare: bool) -> tuple[str, int]:
    if isinstance(value, int | float):
        return ("", int(value)) if bare and value == value and value > 0 and float(value).is_integer() else ("", 0)
    text = str(value).strip()
    if typed := _TYPED_ID.fullmatch(text):
        return _TYPES[typed[1]], int(typed[2])
    return ("", int(text)) if bare and text.isascii() and text.isdigit() else ("", 0)


def _tags(frame: Any) -> list[dict[str, str]]:
    """The tag columns as one mapping a row; what is no text (missing values) is no tag."""
    columns = [name for name in TAG_KEYS if name in frame]
    rows: list[dict[str, str]] = [{} for _ in range(len(frame))]
    for name in columns:
        for tags, value in zip(rows, frame[name].tolist(), strict=True):
            if isinstance(value, str):
                tags[name] = value
    return rows


def _unreadable(path: Path, error: Exception) -> LabelError:
    detail = " ".join(str(error).split())[:200]
    return LabelError(f"{path}: cannot be read as a vector file, it may be damaged ({detail}); replace it")


def _no_crs(path: Path) -> LabelError:
    return LabelError(f"{path}: declares no CRS; set it, for example with ogr2ogr -a_srs EPSG:4326 OUT {path.name}")


def _no_polygons(path: Path) -> LabelError:
    return LabelError(f"{path}: holds no polygons; labels need building outlines, not points or lines")
