"""Items of somebody else's catalogue, checked for what is relied on here: whoever is wrong is told by name, in a line.

What an item does not have is no fault (:func:`tasks.imagery.stac.items.read_items` counts it). What it has of another
type than STAC gives it is one: it would be left out of the reckoning, and nobody would know.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import shapely
import shapely.geometry

from tasks.errors import SourceError
from tasks.secrets import redact

Item = dict[str, Any]
MOST_POINTS = 20_000  # of an item's geometry; what makes a polygon valid may take minutes for more
_MOST_LATITUDE, _MOST_LONGITUDE = 91.0, 541.0  # degrees; longitudes may go on beyond 180
_SHOWN = 60  # characters of a value in a message
_MOMENTS = ("datetime", "start_datetime", "end_datetime")


def shown(value: Any) -> str:
    """A value from a document as a message has it: short, on one line, without secrets."""
    try:
        text = redact(" ".join(repr(value).split()))
    except RecursionError:
        text = "something deeply nested"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def name_of(item: Mapping[str, Any], where: str) -> str:
    """The item for messages; ``where`` is its catalogue's name."""
    return f"{where}: item {shown(item.get('id'))}"


def checked(item: Any, where: str) -> Item:
    """``item`` with an object as ``properties`` and a list of objects as ``links``.

    Raises SourceError naming the item and the field that is something else.
    """
    if not isinstance(item, Mapping):
        raise SourceError(f"{where}: a feature is {shown(item)}; expected a STAC item")
    name = name_of(item, where)
    properties, links = item.get("properties"), item.get("links")
    if properties is not None and not isinstance(properties, Mapping):
        raise SourceError(f"{name}: properties is {shown(properties)}; expected an object of names and values")
    if links is not None and not (isinstance(links, list) and all(isinstance(link, Mapping) for link in links)):
        raise SourceError(f"{name}: links is {shown(links)}; expected a list of links")
    return {**item, "properties": dict(properties or {}), "links": links or []}


def check_told(properties: Mapping[str, Any], name: str) -> None:
    """See that what an item says of its time and clouds can be read. Raises SourceError, which begins with ``name``."""
    for key in _MOMENTS:
        try:
            if properties.get(key) is not None:
                moment(properties[key])
        except (TypeError, ValueError, OverflowError):
            raise SourceError(
                f"{name}: {key} is {shown(properties[key])}; expected a time such as 2023-08-15T10:00:00Z"
            ) from None
    number(properties, "eo:cloud_cover", name)


def number(fields: Mapping[str, Any], key: str, owner: str) -> float | None:
    """A number among an object's fields; None where there is none. Raises SourceError for anything else."""
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(found := float(value)):
                return found
        except OverflowError:  # a whole number of hundreds of digits
            pass
    raise SourceError(f"{owner}: {key} is {shown(value)}; expected a number")


def entry(fields: Mapping[str, Any], key: str, band: int, owner: str) -> Mapping[str, Any]:
    """What the list ``fields[key]`` has about its ``band``-th band (from 1); empty where it has nothing.

    Raises SourceError where it is no list, or has something else than an object there.
    """
    bands = fields.get(key)
    if bands is None:
        return {}
    if not isinstance(bands, list):
        raise SourceError(f"{owner}: {key} is {shown(bands)}; expected a list with an object for each band")
    found = bands[band - 1] if len(bands) >= band else None
    if found is not None and not isinstance(found, Mapping):
        raise SourceError(f"{owner}: {key} has {shown(found)} for band {band}; expected an object")
    return found or {}


def moment(text: str) -> datetime:
    """An RFC 3339 time, UTC where it names no zone. Raises ValueError, TypeError."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def outline(geometry: Any, name: str) -> Any:
    """A GeoJSON geometry as a shape of finite degrees on the globe. Raises SourceError, which begins with ``name``."""
    try:
        with np.errstate(invalid="ignore"):  # of NaN, which is looked for below
            shape = shapely.geometry.shape(geometry)
        points = shapely.get_coordinates(shape)
    except Exception as error:  # noqa: BLE001 - whatever Shapely's readers raise for what they do not expect
        raise SourceError(
            f"{name}: geometry {shown(geometry)} cannot be read ({type(error).__name__}); expected GeoJSON"
        ) from None
    if len(points) > MOST_POINTS:
        raise SourceError(f"{name}: geometry has {len(points):,} points; an outline has at most {MOST_POINTS:,}")
    if not np.isfinite(points).all():
        raise SourceError(f"{name}: geometry has a coordinate that is no finite number; expected degrees")
    if (np.abs(points) > (_MOST_LONGITUDE, _MOST_LATITUDE)).any():
        off = points[(np.abs(points) > (_MOST_LONGITUDE, _MOST_LATITUDE)).any(axis=1)][0]
        raise SourceError(f"{name}: geometry has the point {off.tolist()}, off the globe; expected degrees")
    return shape
