"""Windows of cells, and the items of a STAC catalogue over them."""

import functools
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from tasks.errors import SourceError, WindowReadError
from tasks.geo.georeference import LONLAT, transformer
from tasks.imagery.protocol import Acquisition, Chip, in_image_type
from tasks.imagery.stac.documents import Documents
from tasks.imagery.stac.fields import entry, number
from tasks.imagery.stac.items import AssetRef, ItemIndex, StacItem, read_items
from tasks.imagery.stac.presets import endpoint_of
from tasks.imagery.stac.reader import AssetReader, Head, retry_policy
from tasks.imagery.stac.reflectance import Rule, check_negatives, rule_of, to_reflectance
from tasks.imagery.stac.search import Box, find_items
from tasks.imagery.stac.signing import Signer, token_service
from tasks.raster.scene import Scene
from tasks.recipe.model import Recipe
from tasks.recipe.sources import StacImagery
from tasks.samples.cells import cells
from tasks.samples.window import Window, of_item, ranked
from tasks.web.client import Bounds, Client
from tasks.web.reach import Reach

_LAYER_FILL = {"SCL": 0, "CLD": 255, "cloudmask": 1}  # where an item does not reach: no data, or as good as cloud
_NOT_FINITE = ("nan", "inf", "-inf")
_ALIGNED = 0.01  # pixels of the file; grids that differ by less are the same
_MARGIN = 1e-3  # degrees around the windows of a search, for the bulge of their edges
_EDGE = 8  # points on a window's edge when it is carried to degrees
# Corners and middles of a window's edges, in its width and height.
_ALONG, _DOWN = np.array([(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0), (0.5, 1), (0, 0.5), (1, 0.5)]).T


class _Found(NamedTuple):
    cells: list[Window]
    items: ItemIndex
    left_out: Counter[str]


class StacCatalogue:
    """Imagery of a STAC API or static catalogue; a :class:`tasks.imagery.protocol.Catalogue`.

    One search serves all windows, at the first of :meth:`windows` and :meth:`acquisitions`. Every item counts as an
    acquisition, also where one was cut into several items and projections: the rest of the window is nodata.
    ``requests`` counts what search and token service were asked, and where each asset lies; what GDAL asks for pixels
    nobody can count.
    """

    remote = True

    def __init__(self, recipe: Recipe, work: Path) -> None:
        """``work`` is a folder for place look-ups. Raises SourceError when ``imagery.api`` is no such thing."""
        imagery = recipe.imagery
        assert isinstance(imagery, StacImagery)
        self.bands = tuple(imagery.bands)
        self._recipe, self._imagery, self._work = recipe, imagery, work
        self._endpoint = endpoint_of(imagery.api, recipe.resolve)
        policy, limits = retry_policy(imagery.attempts, imagery.timeout), Bounds.of(recipe.limits)
        reach = Reach.of(recipe, [self._endpoint.href, token_service()])
        search = Client(policy, imagery.timeout, advice="check imagery.api", limits=limits, reach=reach)
        assets = Client(policy, imagery.timeout, WindowReadError, "check the catalogue", limits=limits, reach=reach)
        self._clients = (search, assets)
        self._documents = Documents(search, self._endpoint.remote)
        self._signer = Signer(policy, imagery.timeout, limits) if self._endpoint.signed else None
        self._reader = AssetReader(assets, self._signer, self._endpoint.gdal)
        self._lock = threading.Lock()
        self._found: _Found | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def requests(self) -> int:
        """Sent so far, but for those that GDAL sends."""
        return sum(client.requests for client in self._clients) + (self._signer.requests if self._signer else 0)

    def windows(self) -> tuple[list[Window], dict[str, int]]:
        """Every cell, whether an item covers it or not; with several dates a cell, one window for each.

        Searches, so that an empty search shows at once. Left out are items that lack a band, a layer or a footprint;
        that is logged as well.
        """
        ready, dates = self._ready(), self._imagery.dates
        if dates.pick != "all" and dates.count == 1:
            return list(ready.cells), dict(ready.left_out)
        found: list[Window] = []
        for cell in ready.cells:
            over = ready.items.over(_footprint(grid_of(cell)))
            if dates.pick == "all":
                samples = [of_item(cell, item.id) for item in over]
            else:
                samples = ranked(cell, dates.count)[: len(over)]
            found += samples or [cell]  # without any item, to be recorded as absent
        return found, dict(ready.left_out)

    def scenes(self) -> Sequence[Scene]:
        """None: windows are cells."""
        return ()

    def acquisitions(self, window: Window) -> Sequence[Acquisition]:
        """The items over a window: least cloudy by ``eo:cloud_cover`` first, among equals the oldest."""
        grid = grid_of(window)
        found = self._ready().items.over(_footprint(grid))
        if window.item:
            found = [item for item in found if item.id == window.item]
        return [StacAcquisition(item, grid, self._imagery, self._reader) for item in found]

    def fingerprints(self) -> dict[str, str]:
        """Nothing: items are taken as they are published, under an id of their own."""
        return {}

    def close(self) -> None:
        """Close the connections to the catalogue, its assets and the token service."""
        for client in self._clients:
            client.close()
        if self._signer:
            self._signer.close()

    def _ready(self) -> _Found:
        with self._lock:
            if self._found is None:
                laid = cells(self._recipe, self._work)
                found = find_items(self._endpoint, self._imagery, search_boxes(laid), self._documents)
                items, left_out = read_items(found, self._recipe, self._endpoint.remote)
                self._found = _Found(laid, ItemIndex(items), left_out)
            return self._found


class StacAcquisition:
    """One window of one item; a :class:`tasks.imagery.protocol.Acquisition`."""

    def __init__(self, item: StacItem, grid: GeoBox, imagery: StacImagery, reader: AssetReader) -> None:
        self.id, self.acquired_at = item.id, item.acquired_at
        self._item, self._grid, self._imagery, self._reader = item, grid, imagery, reader

    def read(self) -> Chip:
        """The recipe's bands: float32 reflectance of at least 0, or the files' numbers; 0 where there is no data.

        A pixel is nodata where any of its bands has none, so that none is half known. Bands on the window's own grid
        are copied, or repeated when their pixels are a whole number of times larger; others are resampled bilinearly.
        """
        read = [self._band(ref) for ref in self._item.bands]
        bands, missing = [numbers for numbers, _ in read], np.stack([nowhere for _, nowhere in read])
        notes: list[str] = []
        if self._imagery.reflectance:
            rules = [self._rule(ref, numbers) for ref, numbers in zip(self._item.bands, bands, strict=True)]
            notes += dict.fromkeys(rule.note for rule in rules)
            made = [to_reflectance(*band) for band in zip(bands, missing, rules, strict=True)]
            image, negative = np.stack([values for values, _ in made]), sum(below for _, below in made)
            valid, most = int(np.count_nonzero(~missing)), self._imagery.max_negative_fraction
            if not np.isfinite(image).all():
                raise SourceError(f"{self.id}: reflectance is not finite with {' / '.join(notes)}; check its metadata")
            check_negatives(negative, valid, most, self.id, notes)
        else:
            told = zip(self._item.bands, bands, missing, strict=True)
            image = in_image_type(np.stack([in_image_type(band, ref.name, no) for ref, band, no in told]), self.id)
        nodata: NDArray[np.bool_] = np.any(missing, axis=0)
        image[:, nodata] = 0
        return Chip(image, nodata, note="; ".join(notes))

    def layer(self, name: str) -> NDArray[Any] | None:
        """SCL, CLD or cloudmask by nearest neighbour; where the item does not reach 0, 255 and 1."""
        if (ref := self._item.layers.get(name)) is None:
            return None
        if not _fits(_LAYER_FILL[name], dtype := self._reader.head(ref).dtype):
            raise SourceError(f"{ref.name}: holds {dtype.name}, which no {name} layer does; correct imagery.layers")
        return self._reader.read(ref, self._grid, _LAYER_FILL[name], "nearest")

    def _band(self, ref: AssetRef) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Its numbers (y, x), and where they are none."""
        head = self._reader.head(ref)
        fill = _nodata(ref, head)
        numbers = self._reader.read(ref, self._grid, fill, "nearest" if aligned(head, self._grid) else "bilinear")
        missing = np.isnan(numbers) if np.isnan(fill) else numbers == numbers.dtype.type(fill)
        if numbers.dtype.kind == "f":
            missing |= ~np.isfinite(numbers)
        return numbers, missing

    def _rule(self, ref: AssetRef, numbers: NDArray[Any]) -> Rule:
        rule = rule_of(self._item.properties, ref.fields, ref.band, ref.name)
        if rule is None or (numbers.dtype == np.uint8 and not rule.from_metadata):
            raise SourceError(
                f"{ref.name}: neither it nor its item tells the scale of reflectance (raster:bands, raster:scale, "
                "s2:processing_baseline); set imagery.reflectance: false to keep the numbers as they are"
            )
        return rule


def grid_of(window: Window) -> GeoBox:
    """The window's pixel grid. Raises SourceError for a window without a georeference."""
    if window.georeference is None:
        raise SourceError(f"window {window.name} has no georeference, so no item can be laid onto it")
    crs, transform = window.georeference
    return GeoBox((window.height, window.width), Affine(*transform), crs)


def aligned(head: Head, grid: GeoBox) -> bool:
    """Whether every pixel of the grid lies within one pixel of the file, so that copying is exact."""
    a, b, c, d, e, f = head.transform
    t = grid.transform
    if not _same(head.crs, str(grid.crs)) or any((b, d, t.b, t.d)):
        return False
    return _steps(a, c, t.a, t.c, grid.shape.x) and _steps(e, f, t.e, t.f, grid.shape.y)


@functools.lru_cache(maxsize=256)
def _same(one: str, other: str) -> bool:
    return bool(pyproj.CRS.from_user_input(one) == pyproj.CRS.from_user_input(other))


def _steps(file_step: float, file_start: float, step: float, start: float, count: int) -> bool:
    """One axis of :func:`aligned`: the file's step is a whole multiple of the grid's, and their edges meet."""
    times = file_step / step
    shift = (start - file_start) / step
    whole = round(times)
    return whole >= 1 and abs(times - whole) * count / whole < _ALIGNED and abs(shift - round(shift)) < _ALIGNED * whole


def search_boxes(windows: Sequence[Window]) -> list[Box]:
    """What to search: the bounding box of all windows in degrees, two when it goes over the antimeridian."""
    places = [(window.georeference, window.width, window.height) for window in windows if window.georeference]
    points = []
    for crs in {place.crs for place, _, _ in places}:
        there = np.array([(*place.transform, width, height) for place, width, height in places if place.crs == crs])
        *transform, width, height = there.T[:, :, np.newaxis]
        points.append(_to_degrees(crs, transform, width * _ALONG, height * _DOWN).reshape(2, -1))
    lon, lat = np.concatenate(points, axis=1)
    south, north = max(-90.0, float(lat.min()) - _MARGIN), min(90.0, float(lat.max()) + _MARGIN)
    turned = lon % 360
    if np.ptp(turned) < np.ptp(lon) and np.ptp(lon) > 180:
        west, east = float(turned.min()) - _MARGIN, float(turned.max()) + _MARGIN - 360
        return [(west, south, 180.0, north), (-180.0, south, east, north)]
    return [(max(-180.0, float(lon.min()) - _MARGIN), south, min(180.0, float(lon.max()) + _MARGIN), north)]


def _to_degrees(crs: str, transform: Sequence[Any], column: NDArray[Any], row: NDArray[Any]) -> NDArray[np.float64]:
    """Longitudes and latitudes (2, ...) of places in pixels."""
    a, b, c, d, e, f = transform
    return np.stack(transformer(crs, LONLAT).transform(a * column + b * row + c, d * column + e * row + f))


def _footprint(grid: GeoBox) -> Any:
    """The grid's outline in degrees; longitudes go on beyond 180 rather than jump."""
    width, height = grid.shape.x, grid.shape.y
    along = np.linspace(0.0, 1.0, _EDGE, endpoint=False)
    zero, one = np.zeros(_EDGE), np.ones(_EDGE)
    column = width * np.concatenate((along, one, 1 - along, zero))
    row = height * np.concatenate((zero, along, one, 1 - along))
    lon, lat = _to_degrees(str(grid.crs), grid.transform[:6], column, row)
    lon = lon[0] + (lon - lon[0] + 180) % 360 - 180
    return shapely.make_valid(shapely.Polygon(np.column_stack((lon, lat))))


def _nodata(ref: AssetRef, head: Head) -> float:
    """The value that means no data: by the asset's metadata, else by the file, else 0.

    Raises SourceError for a nodata that is no number.
    """
    places = [(key, entry(ref.fields, key, ref.band, ref.name)) for key in ("raster:bands", "bands")]
    for where, fields in (*places, ("", ref.fields)):
        owner = f"{ref.name}, {where}" if where else ref.name
        for key in ("nodata", "raster:nodata"):
            if fields.get(key) in _NOT_FINITE:  # as the raster extension writes them
                value: float | None = float(fields[key])
            else:
                value = number(fields, key, owner)
            if value is not None and _fits(value, head.dtype):
                return value
    if head.nodata is not None and _fits(head.nodata, head.dtype):
        return float(head.nodata)
    return 0.0


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return True
    if not np.isfinite(value):
        return False
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max
