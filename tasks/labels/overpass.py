"""Footprints from an Overpass server, for areas up to a town's size.

osmnx writes the queries and sends none: it would take a server's ``remark`` (a query cut short) for a full answer,
retry 429 and 504 without end, and read whatever comes for as long as it comes. They are sent by
:class:`tasks.web.client.Client`. The polygons are assembled by the reader of extracts (:mod:`tasks.labels.pbf`), so
that both sources agree: osmnx's own assembly fails on one broken relation.
"""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import requests
import shapely

from tasks.atomic import writing
from tasks.errors import LabelError, RecipeError
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.labels.footprints import Footprints
from tasks.labels.osm_json import write_extract
from tasks.labels.pbf import UNREADABLE, read_buildings
from tasks.labels.protocol import ANSWERS
from tasks.secrets import redact
from tasks.web.answers import Answer
from tasks.web.bodies import parsed
from tasks.web.client import USUAL, Bounds, Client
from tasks.web.osmnx_requests import own_headers, written_request
from tasks.web.reach import ANYWHERE, Reach
from tasks.web.retry import RetryPolicy, TransientError

MAX_QUERY_KM2 = 2_500.0  # osmnx's own limit for one query
MAX_QUERIES = 16  # more is a case for an extract, says the public servers' policy
BLOCK_ZOOM = 10  # at most 39 km a side, so that a block's tiles fit into one query
_MARGIN = 1e-5  # degrees, a metre: osmnx rounds the coordinates of a query to six decimals
_STEP = 0.01  # degrees, a kilometre: sides that long stay straight through osmnx's projection
GRACE = 30  # seconds for the way to the server and back, beyond the query's own time
_NOWHERE = "http://127.0.0.1"  # what osmnx is told of the server, which it never asks; a number needs no look-up


@dataclass(frozen=True)
class OverpassSource:
    """One Overpass API (the part of its URL before ``/interpreter``)."""

    url: str
    date: str | None = None  # ISO 8601, on servers that keep the past
    attempts: int = 4
    timeout: int = 180  # seconds a query may take on the server
    rate_limit: bool = True  # ask /status for a free slot before each query
    first_pause: float = 5.0  # seconds
    limits: Bounds = USUAL
    reach: Reach = ANYWHERE

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        """Building ways and multipolygon relations on ``tiles``; none is a legal answer.

        Answers are kept in ``work`` and not asked for again. Raises LabelError when the server fails, refuses or
        cuts an answer short in every attempt, or when the tiles spread too far; RecipeError for a bad date.
        """
        areas = query_areas(tiles)
        date = _iso(self.date) if self.date else ""
        # With a time of its own: osmnx would print the HTTP timeout, which is longer.
        settings = f"[out:json][timeout:{self.timeout}]{{maxsize}}" + (f'[date:"{date}"]' if date else "")
        what = "\n".join([self.url, settings, *(area.wkt for area in areas)])
        folder = work / ANSWERS / hashlib.sha256(what.encode()).hexdigest()[:16]
        policy = RetryPolicy(self.attempts, self.attempts * (self.timeout + 2.0 * GRACE), self.first_pause)
        answers = []
        with Client(
            policy, GRACE, LabelError, "correct labels.url", login=True, limits=self.limits, reach=self.reach
        ) as client:
            for number, area in enumerate(areas):
                file = folder / f"{number}.json"
                answers.append(_kept_answer(file) or self._ask(client, settings, area, file))
        file, source = folder / "answers.osm.pbf", f"overpass {self._shown}"
        try:
            stamp = write_extract(answers, file)
            return read_buildings(file, tiles, folder, source=source, requests=client.requests, timestamp=date or stamp)
        except UNREADABLE as error:
            said = redact(" ".join(str(error).split()))[:200]
            raise LabelError(f"{self._shown}: an answer makes no sense ({said}); use another server") from error
        finally:
            file.unlink(missing_ok=True)

    @property
    def _shown(self) -> str:
        return redact(self.url.rstrip("/"))

    def _ask(self, client: Client, settings: str, area: Any, file: Path) -> dict[str, Any]:
        """The server's answer for ``area``, which is in ``file`` then."""
        written = _query(settings, area)
        url = f"{self.url.rstrip('/')}/interpreter"
        headers = own_headers(written)

        def once() -> dict[str, Any]:
            if self.rate_limit:
                self._wait_for_slot(client, headers)
            answer = client.post(url, data=_bytes(written.body), headers=headers, seconds=self.timeout + GRACE)
            if answer.status != 200:
                raise self._refusal(answer)
            try:
                found = _read_answer(answer.body)
            except ValueError as error:
                raise TransientError(f"{self._shown}: {error}") from error
            with writing(file) as temporary:
                temporary.write_bytes(answer.body)
            return found

        try:
            return client.persist(once)
        except TransientError as error:
            raise LabelError(
                f"{error}; gave up after {error.tried}, start again later, or use labels from a pbf extract"
            ) from error

    def _wait_for_slot(self, client: Client, headers: dict[str, str]) -> None:
        """Wait until the server has a slot for us, as its /status says, but no longer than a query may take."""
        agent = {name: value for name, value in headers.items() if name == "User-Agent"}
        answer = client.get(f"{self.url.rstrip('/')}/status", headers=agent, follow=True, transient=())
        wait = min(slot_wait(answer.text), self.timeout + GRACE)
        if not client.patience.spend(wait, f"{self._shown}: has no free slot"):
            raise TransientError(f"{self._shown}: has no free slot; {client.patience.exhausted(wait)}")
        time.sleep(wait)

    def _refusal(self, answer: Answer) -> LabelError:
        if 300 <= answer.status < 400 and (place := answer.headers.get("Location")):
            return LabelError(f"{self._shown}: the server moved to {place[:200]}; correct labels.url")
        detail = _plain(answer.body)
        return LabelError(
            f"{self._shown}: the server answered {answer.status} ({detail}); correct labels.url or labels.date"
        )


def _query(query_settings: str, area: Any) -> requests.PreparedRequest:
    """The request for the buildings in ``area`` (EPSG:4326), as osmnx would send it."""
    import osmnx

    return written_request(
        lambda: osmnx.features_from_polygon(area, {"building": True}),
        overpass_url=_NOWHERE,
        overpass_settings=query_settings,
        overpass_rate_limit=False,  # its own wait loops for ever on some servers; _wait_for_slot does it
        max_query_area_size=float("inf"),  # query_areas has cut the area
    )


def _bytes(body: bytes | str | None) -> bytes:
    return body.encode() if isinstance(body, str) else body or b""


def query_areas(tiles: Sequence[Tile]) -> list[Any]:
    """The polygons (EPSG:4326) to ask for: one around all tiles, or one for each block of BLOCK_ZOOM that has tiles.

    Convex, with corners no further than _STEP apart. Raises LabelError when there would be too many.
    """
    blocks: dict[Tile, list[Tile]] = {}
    for tile in tiles:
        blocks.setdefault(tile.parent(min(BLOCK_ZOOM, tile.z)), []).append(tile)
    whole = _hull(tiles)
    if _km2(whole) <= MAX_QUERY_KM2:
        return [whole]
    areas = [_hull(blocks[block]) for block in sorted(blocks)]
    if len(areas) > MAX_QUERIES or max(_km2(area) for area in areas) > MAX_QUERY_KM2:
        raise LabelError(
            f"labels: the tiles spread too far for Overpass ({len(areas)} areas; allowed are {MAX_QUERIES} of at most"
            f" {MAX_QUERY_KM2:,.0f} km2 each); use labels from a pbf extract, or a smaller area"
        )
    return areas


def _hull(tiles: Sequence[Tile]) -> Any:
    boxes = shapely.box(*np.array([lonlat_bounds(tile) for tile in tiles]).T)
    hull = shapely.convex_hull(shapely.geometrycollections(boxes))
    return shapely.segmentize(shapely.buffer(hull, _MARGIN, join_style="mitre"), _STEP)


def _km2(area: Any) -> float:
    return float(area.area * 111.32**2 * np.cos(np.radians(area.centroid.y)))  # so many km a degree


def _iso(date: str) -> str:
    try:
        moment = datetime.fromisoformat(date)
    except ValueError as error:
        raise RecipeError(f"labels.date: {date!r} is no date; expected for example 2024-01-01T00:00:00Z") from error
    return f"{(moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def slot_wait(status: str) -> float:
    """Seconds until a slot is free, from the text of ``/status``; 0 when one is free or the text does not say."""
    if re.search(r"^(Rate limit: 0\b|[1-9]\d* slots? available now)", status, re.MULTILINE):
        return 0.0
    waits = re.findall(r"^Slot available after: \S+ in (-?\d{1,9}) seconds", status, re.MULTILINE)
    return float(max(0, min(map(int, waits), default=0)))


def _read_answer(body: bytes) -> dict[str, Any]:
    """The answer in ``body``. Raises ValueError with the reason when it is not a whole one."""
    try:
        answer = parsed(body)
    except ValueError as error:
        raise ValueError(f"the answer is {error} ({_plain(body)})") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("elements"), list):
        raise ValueError("the answer is no Overpass JSON (it has no elements)")
    if "remark" in answer:
        raise ValueError(f"the server cut the answer short: {redact(str(answer['remark']))[:300]}")
    return answer


def _kept_answer(file: Path) -> dict[str, Any] | None:
    """The whole answer in ``file``, None when it is not there."""
    try:
        return _read_answer(file.read_bytes())
    except (OSError, ValueError):
        return None


def _plain(body: bytes) -> str:
    """The start of a body for messages, without markup and tokens."""
    return redact(" ".join(re.sub(r"<[^>]*>", " ", body[:4000].decode("utf-8", "replace")).split()))[:300]
