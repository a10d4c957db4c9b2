"""Items as the source uses them: checked, with the assets that the recipe names, and found again by place."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import shapely
import shapely.affinity
import shapely.geometry
from numpy.typing import NDArray

from tasks.errors import SourceError
from tasks.imagery.clouds import LAYERS, needed_layers
from tasks.imagery.stac.documents import is_url
from tasks.imagery.stac.fields import moment, number, shown
from tasks.recipe.model import Recipe
from tasks.recipe.sources import StacImagery
from tasks.samples.window import safe_name
from tasks.secrets import redact

_LOG = logging.getLogger(__name__)
_MOST_KEYS = 60  # in a message
_MOST_NAME = 100  # characters of an item's id that stand in names of samples and files
_MOST_HREF = 8192  # characters of an asset's URL
_UNCLEAR = re.compile(r"[\x00-\x1f\x7f\\]")  # of which programs make different things
_BUCKET = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{0,254}/.+", re.DOTALL)
_LEAST_COVER = 1e-4  # share of a window that an item must cover to count


@dataclass(frozen=True)
class AssetRef:
    """One band of one asset of an item."""

    item: str
    key: str  # as the recipe says it
    href: str  # an http(s) or s3 URL, or an absolute path; never signed
    band: int  # from 1
    one_of_many: bool  # the recipe says which band of the file
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.item}, asset {self.key}"


@dataclass(frozen=True)
class StacItem:
    """What was seen at one time over one footprint."""

    id: str  # of letters, digits and ._-
    footprint: Any  # polygons in degrees
    acquired_at: int | None  # Unix seconds
    cloud_cover: float  # percent; infinite where nobody says
    properties: Mapping[str, Any]
    bands: tuple[AssetRef, ...]  # in the recipe's order
    layers: Mapping[str, AssetRef]  # of SCL, CLD and cloudmask, those that it has


class ItemIndex:
    """Items, and which of them cover a place."""

    def __init__(self, items: Sequence[StacItem]) -> None:
        self.items = sorted(items, key=lambda item: (item.cloud_cover, item.acquired_at or 0, item.id))
        shapes = [item.footprint for item in self.items]
        # Longitudes of a footprint or a window may go on beyond 180: look at all three turns of the globe.
        turned = [shapely.affinity.translate(shape, xoff=turn) for turn in (0, -360, 360) for shape in shapes]
        self._tree = shapely.STRtree(turned)

    def over(self, footprint: Any) -> list[StacItem]:
        """The items that cover some of a window's ``footprint`` (degrees), least cloudy first, then oldest first."""
        near = self._tree.query(footprint, predicate="intersects")
        cover = shapely.area(shapely.intersection(self._tree.geometries[near], footprint))
        enough = near[cover > _LEAST_COVER * footprint.area]
        return [self.items[i] for i in np.unique(enough % max(1, len(self.items)))]


def read_items(found: Iterable[Mapping[str, Any]], recipe: Recipe, remote: bool) -> tuple[list[StacItem], Counter[str]]:
    """Items that have what the recipe needs, and how many were left out, by what they lack.

    Needed are an id, a geometry, every band of ``imagery.bands`` and, where ``clouds.mask`` names a layer, that layer.
    A band is an asset's key, or ``key.N`` for the N-th band of a file that holds several. ``remote``: the catalogue
    came over the network.
    Raises SourceError when no item has a band or layer (the message lists the keys there are), and for an href that
    must not be followed.
    """
    imagery = recipe.imagery
    assert isinstance(imagery, StacImagery)
    every = list(found)
    needed = needed_layers(recipe.clouds)
    _check_keys(imagery, [assets for item in every if isinstance(assets := item.get("assets"), Mapping)], needed)
    items: list[StacItem] = []
    lacking: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for item in every:
        name = _short(redact(str(item.get("id"))))  # it names files and samples
        read = _read(item, f"{name}-{taken[name] + 1}" if taken[name] else name, imagery, needed, remote)
        if isinstance(read, str):
            lacking[read] += 1
        else:
            taken[name] += 1
            items.append(read)
    for lack, count in sorted(lacking.items()):
        _LOG.warning("%d of %d items of %s were left out: %s", count, len(every), imagery.collection, lack)
    if not items:
        reasons = "; ".join(f"{count} {lack}" for lack, count in sorted(lacking.items()))
        raise SourceError(
            f"{imagery.collection}: none of {len(every)} items can be used: {reasons}; check imagery.bands"
        )
    return items, lacking


def locate(href: str, base: str, remote: bool, name: str) -> str:
    """``href`` of an asset as an http(s) or s3 URL or an absolute path; ``base`` is the item's own URL or path.

    A catalogue from the network can not name files of this machine, and none can name GDAL's virtual file systems, nor
    a URL that one program reads in one way and another in another. Raises SourceError.
    """
    try:
        scheme = urlsplit(href).scheme.lower()
        if not href.lstrip().startswith("/vsi") and len(href) <= _MOST_HREF:
            if scheme in ("http", "https", "s3") or (remote and not scheme and not href.startswith(("/", "\\"))):
                found = href if scheme else urljoin(base, href)
                if _UNCLEAR.search(found) is None and (
                    (is_url(found) and urlsplit(found).hostname) or _BUCKET.fullmatch(found)
                ):
                    return found
            elif not remote and scheme in ("", "file"):
                path = unquote(urlsplit(href).path) if scheme else href
                found = str((Path(base).parent / path).resolve())
                if not found.startswith("/vsi"):
                    return found
    except (ValueError, OSError, RuntimeError):  # no URL, or no path: a circle of links, a zero byte
        pass
    raise SourceError(
        f"{name}: its href {shown(href)} is not read; expected http(s) or s3"
        + (" from a catalogue on the network" if remote else ", or a file beside the catalogue")
    )


def _check_keys(imagery: StacImagery, assets: list[Mapping[str, Any]], needed: Sequence[str]) -> None:
    """Raise SourceError for a band or layer that no item has."""
    keys = sorted({key for one in assets for key in one})
    there = ", ".join(keys[:_MOST_KEYS]) + (", ..." if len(keys) > _MOST_KEYS else "")
    for band in imagery.bands:
        if not any(_find(one, band) for one in assets):
            raise SourceError(
                f"imagery.bands: no item of {imagery.collection} has an asset {band!r}; there are {there}"
            )
    for layer in dict.fromkeys((*imagery.layers, *needed)):
        if not any(_layer(one, imagery, layer) for one in assets):
            key = imagery.layers.get(layer, layer)
            raise SourceError(
                f"imagery.layers: no item of {imagery.collection} has an asset {key!r} for {layer}; there are {there}; "
                f"name it, as in layers: {{{layer}: {layer.lower()}}}, or change clouds.mask"
            )


def _read(
    item: Mapping[str, Any], name: str, imagery: StacImagery, needed: Sequence[str], remote: bool
) -> StacItem | str:
    """The item, or what it lacks to be used."""
    assets, properties = item.get("assets"), item.get("properties") or {}
    if not item.get("id") or not isinstance(assets, Mapping):
        return "without id or assets"
    bands = {band: _find(assets, band) for band in imagery.bands}
    layers = {layer: _layer(assets, imagery, layer) for layer in LAYERS.values()}
    if lacking := [band for band, found in bands.items() if not found]:
        return f"without asset {lacking[0]}"
    if unknown := [layer for layer in needed if not layers[layer]]:
        return f"without asset {imagery.layers.get(unknown[0], unknown[0])}"
    if (footprint := _footprint(item.get("geometry"))) is None:
        return "without a polygon as geometry"
    # An item that a file of this machine links to may have come over the network all the same.
    foreign = remote or is_url(str(item["self"]))

    def ref(found: tuple[str, int, bool]) -> AssetRef:
        key, band, chosen = found
        fields, owner = assets[key], f"{name}, asset {key}"
        if not isinstance(fields.get("href"), str):
            raise SourceError(f"{owner}: href is {shown(fields.get('href'))}; expected a URL or path")
        href = locate(fields["href"], str(item["self"]), foreign, owner)
        return AssetRef(name, f"{key}.{band}" if chosen else key, href, band, chosen, fields)

    cover = number(properties, "eo:cloud_cover", name)
    return StacItem(
        name,
        footprint,
        _seconds(properties.get("datetime") or properties.get("start_datetime")),
        float("inf") if cover is None else cover,
        properties,
        tuple(ref(found) for found in bands.values() if found),
        {layer: ref(found) for layer, found in layers.items() if found},
    )


def _short(identity: str) -> str:
    """An item's id as names of samples and files have it."""
    name = safe_name(identity[: 10 * _MOST_NAME])
    if len(identity) <= _MOST_NAME:
        return name
    return f"{name[: _MOST_NAME - 13]}-{hashlib.sha256(identity.encode('utf-8', 'replace')).hexdigest()[:12]}"


def _find(assets: Mapping[str, Any], band: str) -> tuple[str, int, bool] | None:
    """Key, number of the band in its file, and whether the recipe chose that number."""
    if isinstance(assets.get(band), Mapping):
        return band, 1, False
    key, _, number = band.rpartition(".")
    if number.isascii() and number.isdigit() and int(number) > 0 and isinstance(assets.get(key), Mapping):
        return key, int(number), True
    return None


def _layer(assets: Mapping[str, Any], imagery: StacImagery, layer: str) -> tuple[str, int, bool] | None:
    if layer in imagery.layers:
        return _find(assets, imagery.layers[layer])
    return _find(assets, layer) or _find(assets, layer.lower())


def _footprint(geometry: Any) -> Any:
    """The polygons of a GeoJSON geometry, not cut at the antimeridian; None without any."""
    try:
        shape = shapely.make_valid(shapely.geometry.shape(geometry))
    except (TypeError, ValueError, KeyError, AttributeError, shapely.errors.GEOSException):
        return None
    parts: NDArray[np.object_] = shapely.get_parts(shape)
    polygons = [part for part in parts if part.geom_type == "Polygon" and part.area > 0]
    if not polygons:
        return None
    union = shapely.union_all(polygons)
    west, _, east, _ = union.bounds
    if east - west <= 180:
        return union
    # Over the antimeridian, cut there or drawn around the globe: carry the western longitudes on beyond 180.
    carried_on = shapely.transform(polygons, lambda lonlat: lonlat + (lonlat < 0) * (360, 0))
    return shapely.make_valid(shapely.union_all(carried_on))


def _seconds(text: Any) -> int | None:
    try:
        return int(moment(text).timestamp())
    except (TypeError, ValueError):
        return None
