"""Footprints from an OSM extract (.osm.pbf), on disk or behind a URL, streamed through pyosmium.

Memory holds the footprints on the candidate tiles and the location index of the nodes, which goes to disk for a
large file. Relations are assembled by libosmium's area code, which opens courtyards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from tasks.errors import DiskError, LabelError, TilewrightError
from tasks.geo.tiles import Tile
from tasks.labels.cover import TileCover
from tasks.labels.footprints import Footprints, clean
from tasks.web.download import DOWNLOAD_POLICY, download
from tasks.web.retry import RetryPolicy

LARGE_FILE = 256 << 20  # bytes; the nodes of a larger file are indexed on disk, at 16 bytes each
_AREA_RELATIONS = ("multipolygon", "boundary")
_BATCH = 20_000  # outlines looked at together


@dataclass(frozen=True)
class PbfSource:
    """One extract: ``path``, or ``url`` with an optional ``checksum`` (see :func:`tasks.web.download.download`)."""

    path: Path | None = None
    url: str | None = None
    checksum: str | None = None
    policy: RetryPolicy = DOWNLOAD_POLICY

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        """Building ways and multipolygon relations on ``tiles``. Raises LabelError naming the file or URL."""
        if self.url is not None:
            path, requests = download(self.url, work / "pbf", self.checksum, self.policy)
        elif self.path is not None:
            path, requests = self.path, 0
        else:
            raise LabelError("labels: a pbf source needs a path or a url")
        if not path.is_file():
            raise LabelError(f"{path}: no such file; correct labels.path (it is relative to the recipe)")
        try:
            found = read_buildings(path, tiles, work)
        except (RuntimeError, ValueError) as error:  # what libosmium's exceptions arrive as
            raise self._failure(path, error) from error
        return found.clean(source=f"pbf {path.name}", requests=requests)

    def _failure(self, path: Path, error: Exception) -> TilewrightError:
        detail = " ".join(str(error).split())[:200]
        if "No space left" in detail:
            return DiskError(f"{path}: no room for the index of its nodes ({detail}); free some disk")
        if self.url is not None:
            path.unlink()  # or the server's 304 would keep it for ever
        return LabelError(f"{path}: cannot be read as an OSM extract, it may be damaged ({detail}); replace it")


@dataclass
class Outlines:
    """The building outlines met so far that lie on the tiles, as OSM has them, and when OSM had them so."""

    cover: TileCover
    timestamp: str = ""
    shapes: list[Any] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    tags: list[dict[str, str]] = field(default_factory=list)
    incomplete: int = 0
    _batch: list[tuple[str, str, int, dict[str, str]]] = field(default_factory=list)

    def add(self, wkb: str, kind: str, number: int, tags: dict[str, str]) -> None:
        self._batch.append((wkb, kind, number, tags))
        if len(self._batch) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Keep those of the batch that lie on the tiles, closed ways as polygons."""
        shapes = shapely.from_wkb(np.array([row[0] for row in self._batch], dtype=object))
        on_tiles = np.flatnonzero(self.cover.touches(shapely.bounds(shapes).reshape(-1, 4)))
        for row in on_tiles:
            _, kind, number, tags = self._batch[row]
            shape = shapes[row]
            if kind == "way" and _is_ring(shape) and tags.get("area") != "no":
                shape = shapely.Polygon(shape)
            self.shapes.append(shape)
            self.types.append(kind)
            self.ids.append(number)
            self.tags.append(tags)
        self._batch.clear()

    def clean(self, *, source: str, requests: int) -> Footprints:
        """Footprints of them all."""
        return clean(
            self.shapes,
            osm_type=self.types,
            osm_id=self.ids,
            tags=self.tags,
            incomplete=self.incomplete,
            source=source,
            timestamp=self.timestamp,
            requests=requests,
        )


def read_buildings(path: Path, tiles: Sequence[Tile], work: Path) -> Outlines:
    """The ways and area relations with a building tag on ``tiles``, from an OSM file of any kind libosmium reads.

    Raises RuntimeError or ValueError, as libosmium does, for a file that it cannot read.
    """
    import osmium

    found = Outlines(TileCover(tiles))
    processor = osmium.FileProcessor(str(path))
    header = processor.header
    stamp = header.get("osmosis_replication_timestamp") or header.get("timestamp")
    unknown = newest = datetime.fromtimestamp(0, UTC)
    relations = 0
    factory = osmium.geom.WKBFactory()
    for entity in _buildings(processor, path, work):
        newest = max(newest, entity.timestamp)
        if entity.is_way():
            try:
                found.add(factory.create_linestring(entity), "way", entity.id, dict(entity.tags))
            except (osmium.InvalidLocationError, RuntimeError):  # no location, or fewer than two points
                found.incomplete += _in_part_on(found.cover, entity)
        elif entity.is_relation():
            relations += entity.tags.get("type") in _AREA_RELATIONS
        elif not entity.from_way() and entity.num_rings()[0]:
            relations -= 1
            found.add(factory.create_multipolygon(entity), "relation", entity.orig_id(), dict(entity.tags))
    found.flush()
    found.incomplete += relations
    if newest == unknown:  # an extract may leave out when its objects changed
        newest = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    found.timestamp = stamp or f"{newest:%Y-%m-%dT%H:%M:%SZ}"
    return found


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
    known = np.array([(node.lon, node.lat) for node in way.nodes if node.location.valid()], dtype=np.float64)
    if not len(known):
        return True
    box: NDArray[np.float64] = np.concatenate([known.min(axis=0), known.max(axis=0)])[np.newaxis]
    return bool(cover.touches(box)[0])


def _is_ring(line: Any) -> bool:
    return bool(line.is_closed) and len(line.coords) >= 4
