"""The polygon of a place by its name or OSM id, from Nominatim: asked once, then kept in the work directory.

osmnx writes the request (:mod:`tasks.web.osmnx_requests`), which is sent and bounded as every other.
"""

import hashlib
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import requests

from tasks.atomic import write_text
from tasks.errors import AreaError
from tasks.recipe.model import Recipe
from tasks.secrets import remember
from tasks.web.client import Bounds, Client
from tasks.web.osmnx_requests import own_headers, written_request
from tasks.web.reach import Reach, host_of
from tasks.web.retry import RetryPolicy, TransientError

MAX_PLACE_LENGTH = 500  # characters of a place's name
PLACE_SECONDS = 180.0  # for one request
PLACE_POLICY = RetryPolicy(attempts=4, total_seconds=900.0)
_ELSE = "or give area.bbox or area.geojson"
_POLYGONS = ("Polygon", "MultiPolygon")


def place_file(recipe: Recipe, work: Path) -> Path:
    """The GeoJSON file in ``work`` with the polygon of the recipe's place, which is looked up when it is not there.

    Raises AreaError for a place that has none or cannot be asked for, DiskError.
    """
    place = str(recipe.area.place) if recipe.area else ""
    if not place.strip():
        raise AreaError("area.place is empty; give a name such as Annecy, France, or an OSM id such as R1403916")
    if len(place) > MAX_PLACE_LENGTH or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in place):
        raise AreaError(
            f"area.place {place[:40]!r}... is no name of a place ({len(place):,} characters; at most "
            f"{MAX_PLACE_LENGTH} in one line); give a name or an OSM id such as R1403916, {_ELSE}"
        )
    kept = work / f"place-{_file_name(place)}.geojson"
    if not kept.exists():
        write_text(kept, json.dumps(_look_up(place, recipe)))
    return kept


def _file_name(place: str) -> str:
    """Of letters, digits and dashes, and with a hash where those cannot tell places apart."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", place)
    if place.isascii() and len(plain) <= 100:
        return plain
    return f"{plain[:40].strip('-')}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


def _look_up(place: str, recipe: Recipe) -> dict[str, Any]:
    """The GeoJSON geometry of a place, by name or by OSM id (R, W or N and digits)."""
    by_id = re.fullmatch(r"[RWN]\d+", place) is not None
    asked = _request(place, by_id)
    url = str(asked.url)
    server = host_of(url)
    shown, reach = f"area.place {place!r} at {server}", Reach.of(recipe, [url])
    limits, advice = Bounds.of(recipe.limits), f"check area.place, {_ELSE}"
    with Client(PLACE_POLICY, PLACE_SECONDS, AreaError, advice, login=True, limits=limits, reach=reach) as client:
        try:
            answer = client.persist(lambda: client.get(url, headers=own_headers(asked), follow=True, shown=shown))
        except TransientError as error:
            raise AreaError(
                f"{error}; gave up after {error.tried}; check the connection and run the same command again, {_ELSE}"
            ) from None
    if answer.status != 200:
        raise AreaError(f"{shown}: the server answered {answer.status} {answer.reason}; {advice}")
    try:
        return _polygon_of(answer.json(), by_id)
    except ValueError as error:
        raise AreaError(f"{shown}: {error}; {advice}") from None


def _polygon_of(found: Any, by_id: bool) -> dict[str, Any]:
    """The geometry of the most important result with a polygon, as osmnx chooses. Raises ValueError saying why not."""
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError("the answer is no list of places")
    if not found:
        raise ValueError("was not found (0 results)")
    geometries = [one.get("geojson") for one in sorted(found, key=_importance, reverse=True)]
    for geometry in geometries[:1] if by_id else geometries:
        if isinstance(geometry, dict) and geometry.get("type") in _POLYGONS:
            return geometry
    raise ValueError("has no polygon, only a point or a line")


def _importance(result: dict[str, Any]) -> float:
    value = result.get("importance")
    return float(value) if isinstance(value, int | float) and value == value else 0.0


def _request(place: str, by_id: bool) -> requests.PreparedRequest:
    """The request that osmnx would send to the Nominatim of its settings."""
    import osmnx

    if osmnx.settings.nominatim_key:
        remember(str(osmnx.settings.nominatim_key))
    try:
        return written_request(lambda: osmnx.geocode_to_gdf(place, by_osmid=by_id))
    except (requests.RequestException, ValueError, TypeError) as error:
        raise AreaError(f"area.place {place!r} cannot be asked for ({error}); {_ELSE}") from None
