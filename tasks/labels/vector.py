"""Footprints from a vector file: whatever GDAL reads, and GeoParquet, in any CRS the file declares."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
_TYPED_ID = re.compile(r"(way|relation|w|r)/?(\d*[1-9]\d*)")
_TYPES = {"w": "way", "r": "relation", "way": "way", "relation": "relation"}
_BBOX_MARGIN = 0.01  # of the box's size: a transformed box is only as exact as the points along its sides


@dataclass(frozen=True)
class VectorSource:
    """The polygons of one layer of a file."""

    path: Path
    layer: str | None = None

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:  # noqa: ARG002
        """Polygons on ``tiles``, their OSM ids and tags taken from columns of that name. Raises LabelError."""
        source = f"vector {self.path.name}" + (f" ({self.layer})" if self.layer else "")
        found = _fetch([self.path], self.layer, tiles, source)
        if not found.report.timestamp:
            raise LabelError(f"{self.path}: holds no feature; labels need a file with building polygons")
        return found


@dataclass(frozen=True)
class VectorFiles:
    """The polygons of many files, as where every scene has its own."""

    folder: Path
    pattern: str  # of their paths from there, with {scene} or *
    layer: str | None = None

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:  # noqa: ARG002
        """As :meth:`VectorSource.fetch`, of all files; a polygon with an OSM id that stands in several comes once.

        A file may have no feature at all, as a scene without buildings has.
        """
        files = matching(self.folder, self.pattern)
        if not files:
            raise LabelError(
                f"{self.folder / self.pattern}: matches no file; correct labels.path (it is relative to the recipe)"
            )
        return _fetch(files, self.layer, tiles, f"vector {Path(self.pattern).name} ({len(files)} files)")


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


def _fetch(files: Sequence[Path], layer: str | None, tiles: Sequence[Tile], source: str) -> Footprints:
    """The polygons of files on ``tiles``; the report's timestamp is "" when no file has any feature."""
    cover, newest = TileCover(tiles), ""
    shapes: list[Any] = []
    ids: list[tuple[str, int]] = []
    tags: list[dict[str, str]] = []
    for file in files:
        if not file.exists():
            raise LabelError(f"{file}: no such file; correct labels.path (it is relative to the recipe)")
        try:
            frame = _read_parquet(file, cover) if file.suffix in _PARQUET else _read(file, layer, cover)
        except (LookupError, OSError, RuntimeError, TypeError, ValueError) as error:  # what both libraries raise
            detail = " ".join(str(error).split())[:200]
            raise LabelError(
                f"{file}: cannot be read as a vector file, it may be damaged ({detail}); replace it"
            ) from error
        if frame is None:
            continue
        if frame.crs is None:
            raise LabelError(
                f"{file}: declares no CRS; set it, for example with ogr2ogr -a_srs EPSG:4326 OUT {file.name}"
            )
        if len(frame) and not frame.geom_type.isin(["Polygon", "MultiPolygon", "GeometryCollection"]).any():
            raise _no_polygons(file)
        frame = frame.to_crs(4326)
        frame = frame[cover.touches(frame.bounds.to_numpy(dtype=np.float64).reshape(-1, 4))]
        newest = max(newest, f"{datetime.fromtimestamp(file.stat().st_mtime, UTC):%Y-%m-%dT%H:%M:%SZ}")
        shapes += frame.geometry.to_list()
        tags += _tags(frame)
        ids += _osm_ids(frame)
    types, numbers = [kind for kind, _ in ids], [number for _, number in ids]
    return clean(shapes, osm_type=types, osm_id=numbers, tags=tags, source=source, timestamp=newest)


def _read(path: Path, layer: str | None, cover: TileCover) -> Any:
    """GeoDataFrame of the layer's features near the tiles, through GDAL; None when it has none at all."""
    import pyogrio

    layer = _choose_layer(path, layer, pyogrio.list_layers(path))
    info = pyogrio.read_info(path, layer=layer, force_feature_count=True)
    if info["features"] == 0:
        return None
    columns = [name for name in info["fields"] if name in _COLUMNS]
    return pyogrio.read_dataframe(path, layer=layer, columns=columns, bbox=_box_in(info["crs"], cover))


def _read_parquet(path: Path, cover: TileCover) -> Any:
    """GeoDataFrame of a GeoParquet file, only the row groups near the tiles where the file has a box column."""
    import geopandas
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    if b"geo" not in (schema.metadata or {}):
        raise LabelError(f"{path}: Parquet without geometry metadata; write it with GeoDataFrame.to_parquet")
    geo = json.loads(schema.metadata[b"geo"])
    geometry = geo["columns"][geo["primary_column"]]
    if pq.ParquetFile(path).metadata.num_rows == 0:
        return None
    columns = [geo["primary_column"], *(name for name in schema.names if name in _COLUMNS)]
    box = _box_in(geometry.get("crs", "OGC:CRS84"), cover) if "covering" in geometry else None
    return geopandas.read_parquet(path, columns=columns, bbox=box)


def _choose_layer(path: Path, wanted: str | None, layers: NDArray[np.object_]) -> str:
    """``wanted``, or the one layer that may hold polygons. ``layers`` is (n, 2): name and geometry type."""
    names = [str(name) for name, _ in layers]
    if wanted is not None and wanted not in names:
        raise LabelError(f"{path}: no layer {wanted!r}; there: {', '.join(names)}")
    kinds = ("Unknown", "GeometryCollection")
    mixed = [str(name) for name, kind in layers if kind is not None and ("Polygon" in kind or kind in kinds)]
    able = mixed if wanted is None else [wanted]
    if not able:
        raise _no_polygons(path)
    if len(able) > 1:
        raise LabelError(f"{path}: several layers with polygons ({', '.join(able)}); name one in labels.layer")
    return able[0]


def _box_in(crs: Any, cover: TileCover) -> tuple[float, float, float, float] | None:
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


def _osm_ids(frame: Any) -> Iterator[tuple[str, int]]:
    """Type and id of every row, ("", 0) where there is none.

    A bare number counts as an OSM id in ``osm_id`` and ``@id``, not in ``id``, where most files number their rows.
    """
    columns = [(frame[name].tolist(), name != "id") for name in ("osm_id", "@id", "id") if name in frame]
    types = frame["osm_type"].tolist() if "osm_type" in frame else [""] * len(frame)
    for row, told in enumerate(types):
        kind, number = "", 0
        for values, bare in columns:
            if not number:
                kind, number = _parse_id(values[row], bare=bare)
        yield kind or (_TYPES.get(str(told).lower(), "") if number else ""), number


def _parse_id(value: Any, *, bare: bool) -> tuple[str, int]:
    if isinstance(value, int | float):
        return ("", int(value)) if bare and value == value and value > 0 and float(value).is_integer() else ("", 0)
    text = str(value).strip()
    if typed := _TYPED_ID.fullmatch(text):
        return _TYPES[typed[1]], int(typed[2])
    return ("", int(text)) if bare and text.isascii() and text.isdigit() else ("", 0)


def _tags(frame: Any) -> list[dict[str, str]]:
    """The tag columns as one mapping a row; what is no text (missing values) is no tag."""
    columns = [(name, frame[name].tolist()) for name in TAG_KEYS if name in frame]
    return [{name: told[row] for name, told in columns if isinstance(told[row], str)} for row in range(len(frame))]


def _no_polygons(path: Path) -> LabelError:
    return LabelError(f"{path}: holds no polygons; labels need building outlines, not points or lines")
