"""Footprints from an OSM extract (.osm.pbf), on disk or behind a URL, streamed through pyosmium.

Memory holds the footprints on the candidate tiles and the location index of the nodes, which goes to disk for a
large file. Relations are assembled by libosmium's area code, which opens courtyards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.errors import DiskError, LabelError
from tasks.geo.tiles import Tile
from tasks.labels.cover import TileCover
from tasks.labels.footprints import Footprints, clean
from tasks.labels.pbf_texts import check_texts
from tasks.labels.tags import drop_reason
from tasks.web.bodies import is_markup
from tasks.web.client import USUAL, Bounds
from tasks.web.download import download, forget
from tasks.web.reach import ANYWHERE, Reach
from tasks.web.retry import RetryPolicy

LARGE_FILE = 256 << 20  # bytes; the nodes of a larger file are indexed on disk, at 16 bytes each
# What libosmium's and GEOS's exceptions arrive as for a file that is damaged, or holds what no map can.
UNREADABLE = (RuntimeError, ValueError, OverflowError, MemoryError, shapely.errors.ShapelyError)
_AREA_RELATIONS = ("multipolygon", "boundary")
_BATCH = 20_000  # outlines looked at together
_Outline = tuple[Any, str, int, dict[str, str]]  # shape or its WKB, type, id and tags, as OSM has them


@dataclass(frozen=True)
class PbfSource:
    """One extract: ``path``, or ``url`` with an optional ``checksum`` (see :func:`tasks.web.download.download`)."""

    path: Path | None = None
    url: str | None = None
    checksum: str | None = None
    policy: RetryPolicy | None = None  # default: DOWNLOAD_POLICY
    limits: Bounds = USUAL
    reach: Reach = ANYWHERE

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        """Building ways and multipolygon relations on ``tiles``. Raises LabelError naming the file or URL."""
        path, requests = self._file(work)
        with self._readable(path):
            return read_buildings(path, tiles, work, source=f"pbf {path.name}", requests=requests)

    def outlines(self, tiles: Sequence[Tile], work: Path) -> Iterator[NDArray[np.object_]]:
        """The polygons that :meth:`fetch` would clean, in batches (n,) of which none is kept. Raises as it does."""
        path, _ = self._file(work)
        with self._readable(path):
            yield from read_outlines(path, tiles, work)

    def _file(self, work: Path) -> tuple[Path, int]:
        """The extract, and the requests that it took."""
        path, requests = self.path, 0
        if self.url is not None:
            path, requests = download(
                self.url, work / "pbf", self.checksum, self.policy, limits=self.limits, reach=self.reach
            )
        if path is None or not path.is_file():
            raise LabelError(f"{path}: no such file; correct labels.path (it is relative to the recipe)")
        return path, requests

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        """What libosmium says to a damaged file becomes an error that names it."""
        try:
            if path.suffix == ".pbf":
                check_texts(path)
            yield
        except UNREADABLE as error:
            detail = " ".join(str(error).split())[:200] or type(error).__name__
            if "No space left" in detail:
                raise DiskError(f"{path}: no room for the index of its nodes ({detail}); free some disk") from error
            with path.open("rb") as file:
                detail = "it is a web page" if is_markup(file.read(1000)) else detail
            why = f"cannot be read as an OSM extract, it may be damaged ({detail})"
            if self.url is None:
                raise LabelError(f"{path}: {why}; replace it") from error
            forget(path)  # or the server's 304 would keep it for ever
            raise LabelError(
                f"{self.url}: the file {why}; it was removed: run the same command again, or correct labels.url"
            ) from error


def read_buildings(
    path: Path, tiles: Sequence[Tile], work: Path, *, source: str, requests: int, timestamp: str = ""
) -> Footprints:
    """The ways and area relations with a building tag on ``tiles``, from an OSM file of any kind libosmium reads.

    source, requests, timestamp: for the report; the time is the file's own when it is not given. Raises UNREADABLE for
    a file that libosmium cannot read.
    """
    import osmium

    cover = TileCover(tiles)
    found: list[_Outline] = []
    batch: list[_Outline] = []

    def flush() -> None:
        """Keep those of the batch that lie on the tiles."""
        shapes = shapely.from_wkb(np.array([row[0] for row in batch], dtype=object))
        for at in np.flatnonzero(cover.touches(shapely.bounds(shapes).reshape(-1, 4))):
            found.append((shapes[at], *batch[at][1:]))
        batch.clear()

    incomplete = 0
    unknown = newest = datetime.fromtimestamp(0, UTC)
    processor = osmium.FileProcessor(str(path))
    factory = osmium.geom.WKBFactory()
    for entity in _buildings(processor, path, work):
        newest = max(newest, entity.timestamp)
        if entity.is_way():
            try:
                batch.append((factory.create_linestring(entity), "way", entity.id, dict(entity.tags)))
            except (osmium.InvalidLocationError, RuntimeError):  # no location, or fewer than two points
                incomplete += _in_part_on(cover, entity)
        elif entity.is_relation():
            incomplete += entity.tags.get("type") in _AREA_RELATIONS  # until an area comes of it
        elif not entity.from_way() and entity.num_rings()[0]:
            incomplete -= 1
            batch.append((factory.create_multipolygon(entity), "relation", entity.orig_id(), dict(entity.tags)))
        if len(batch) >= _BATCH:
            flush()
    flush()
    if newest == unknown:  # an extract may leave out when its objects changed
        newest = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    header = processor.header
    stamp = timestamp or header.get("osmosis_replication_timestamp") or header.get("timestamp")
    return clean(
        [_closed(shape, kind, tags) for shape, kind, _, tags in found],
        osm_type=[kind for _, kind, _, _ in found],
        osm_id=[number for _, _, number, _ in found],
        tags=[tags for *_, tags in found],
        source=source,
        timestamp=stamp or f"{newest:%Y-%m-%dT%H:%M:%SZ}",
        incomplete=incomplete,
        requests=requests,
    )


def read_outlines(path: Path, tiles: Sequence[Tile], work: Path) -> Iterator[NDArray[np.object_]]:
    """The polygons of :func:`read_buildings`, not cleaned, in batches (n,). Raises UNREADABLE."""
    import osmium

    cover, factory = TileCover(tiles), osmium.geom.WKBFactory()
    batch: list[str] = []

    def taken() -> NDArray[np.object_]:
        shapes = shapely.from_wkb(np.array(batch, dtype=object))
        batch.clear()
        wide = shapely.get_num_coordinates(shapes) >= 4  # else nodes on one place make less than a triangle
        shapes = shapes[wide & cover.touches(shapely.bounds(shapes).reshape(-1, 4))]
        lines = shapely.get_type_id(shapes) == shapely.GeometryType.LINESTRING
        corners, of = shapely.get_coordinates(shapes[lines], return_index=True)
        return np.concatenate((shapes[~lines], shapely.polygons(shapely.linearrings(corners, indices=of))))

    for entity in _buildings(osmium.FileProcessor(str(path)), path, work):
        if entity.is_relation() or drop_reason(dict(entity.tags)):
            continue
        try:
            if not entity.is_way():
                if not entity.from_way() and entity.num_rings()[0]:
                    batch.append(factory.create_multipolygon(entity))
            elif entity.is_closed() and len(entity.nodes) >= 4 and entity.tags.get("area") != "no":
                batch.append(factory.create_linestring(entity))
        except (osmium.InvalidLocationError, RuntimeError):  # the extract holds it in part only
            continue
        if len(batch) >= _BATCH:
            yield taken()
    yield taken()


def _buildings(processor: Any, path: Path, work: Path) -> Iterator[Any]:
    """Ways and relations with a building tag, and the areas made of them."""
    import osmium

    building = osmium.filter.KeyFilter("building")
    kinds = osmium.filter.EntityFilter(osmium.osm.WAY | osmium.osm.RELATION | osmium.osm.AREA)
    index = work / "pbf-nodes.idx"
    index.unlink(missing_ok=True)  # a killed run's index would be read as if it were this file's
    storage = "flex_mem"
    if path.stat().st_size > LARGE_FILE:
        work.mkdir(parents=True, exist_ok=True)
        storage = f"sparse_file_array,{index}"
    try:
        yield from processor.with_locations(storage).with_areas(building).with_filter(kinds).with_filter(building)
    finally:
        index.unlink(missing_ok=True)


def _in_part_on(cover: TileCover, way: Any) -> bool:
    """Whether the nodes of a way whose location is known lie on the tiles; a way with none may."""
    known = [(node.lon, node.lat) for node in way.nodes if node.location.valid()]
    return not known or bool(cover.touches(shapely.bounds([shapely.multipoints(known)]))[0])


def _closed(shape: Any, kind: str, tags: dict[str, str]) -> Any:
    """The polygon in a closed way, unless it says that it is none."""
    ring = kind == "way" and shape.is_closed and len(shape.coords) >= 4 and tags.get("area") != "no"
    return shapely.Polygon(shape) if ring else shape
