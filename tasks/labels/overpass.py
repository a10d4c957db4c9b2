"""Footprints from an Overpass server, through osmnx, for areas up to a town's size.

osmnx writes the queries, sends them and keeps the answers. What it leaves open is closed here: it retries 429 and 504
without end and takes a server's ``remark`` (a query cut short) for a full answer. Every answer passes :class:`_Gate`,
a response hook of requests, before osmnx sees it, and the retrying is ours. The polygons are assembled by the reader
of extracts (:mod:`tasks.labels.pbf`), so that both sources agree: osmnx's own assembly fails on one broken relation.
"""

import hashlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import requests
import shapely

from tasks.errors import LabelError, RecipeError
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.labels.footprints import Footprints
from tasks.labels.overpass_answers import count_whole, write_extract
from tasks.labels.pbf import read_buildings
from tasks.labels.protocol import ANSWERS
from tasks.secrets import redact
from tasks.web.client import Client
from tasks.web.retry import TRANSIENT_STATUS, RetryPolicy, TransientError, asked_pause

MAX_QUERY_KM2 = 2_500.0  # osmnx's own limit for one query
MAX_QUERIES = 16  # more is a case for an extract, says the public servers' policy
BLOCK_ZOOM = 10  # at most 39 km a side, so that a block's tiles fit into one query
_MARGIN = 1e-5  # degrees, a metre: osmnx rounds the coordinates of a query to six decimals
_STEP = 0.01  # degrees, a kilometre: sides that long stay straight through osmnx's projection
_GRACE = 30  # seconds for the way to the server and back, beyond the query's own time
_LOCK = threading.Lock()  # osmnx's settings are the process's


@dataclass(frozen=True)
class OverpassSource:
    """One Overpass API (the part of its URL before ``/interpreter``)."""

    url: str
    date: str | None = None  # ISO 8601, on servers that keep the past
    attempts: int = 4
    timeout: int = 180  # seconds a query may take on the server
    rate_limit: bool = True  # ask /status for a free slot before each query
    first_pause: float = 5.0  # seconds

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        """Building ways and multipolygon relations on ``tiles``; none is a legal answer.

        Answers are kept in ``work`` and not asked for again. Raises LabelError when the server fails, refuses or
        cuts an answer short in every attempt, or when the tiles spread too far; RecipeError for a bad date.
        """
        areas = query_areas(tiles)
        settings = _query_settings(self.timeout, self.date)
        what = "\n".join([self.url, settings, *(area.wkt for area in areas)])
        folder = work / ANSWERS / hashlib.sha256(what.encode()).hexdigest()[:16]
        policy = RetryPolicy(self.attempts, self.attempts * (self.timeout + 2.0 * _GRACE), self.first_pause)
        client = Client(policy, _GRACE, LabelError, "correct labels.url", login=True)
        gate = _Gate(client, self.url, self.timeout + _GRACE)
        if count_whole(folder) < len(areas):
            with client, _osmnx(self, settings, folder, gate):
                for area in areas:
                    self._ask(area, gate)
        extract = folder / "answers.osm.pbf"
        try:
            timestamp = write_extract(folder, extract)
            found = read_buildings(extract, tiles, folder)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise LabelError(f"{redact(self.url)}: an answer makes no sense ({error!r}); use another server") from error
        finally:
            extract.unlink(missing_ok=True)
        found.timestamp = _iso(self.date) if self.date else timestamp
        return found.clean(source=f"overpass {redact(self.url)}", requests=client.requests)

    def _ask(self, area: Any, gate: "_Gate") -> None:
        """Have the answer for ``area`` among the kept ones."""
        import osmnx

        def once() -> None:
            if self.rate_limit:
                gate.wait_for_slot()
            try:
                osmnx.features_from_polygon(area, {"building": True})
            except osmnx._errors.CacheOnlyInterruptError:  # how osmnx says that all answers are kept
                return
            except (requests.ConnectionError, requests.Timeout) as error:
                raise gate.lost(error) from error

        try:
            gate.client.persist(once)
        except TransientError as error:
            raise LabelError(
                f"{error}; gave up after {gate.client.requests} requests, start again later, or use labels from a pbf"
                " extract"
            ) from error
        except requests.RequestException as error:
            raise LabelError(f"{redact(self.url)}: {redact(str(error))}; correct labels.url") from error


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
    bounds = np.array([lonlat_bounds(tile) for tile in tiles]).reshape(-1, 4)
    hull = shapely.convex_hull(
        shapely.multipoints(
            np.concatenate([bounds[:, [0, 1]], bounds[:, [2, 3]], bounds[:, [0, 3]], bounds[:, [2, 1]]])
        )
    )
    return shapely.segmentize(shapely.buffer(hull, _MARGIN, join_style="mitre"), _STEP)


def _km2(area: Any) -> float:
    degree = 111.32  # km
    return float(area.area * degree * degree * np.cos(np.radians(area.centroid.y)))


def _query_settings(timeout: int, date: str | None) -> str:
    """The head of the query, with a time of its own: osmnx would print the HTTP timeout, which is longer."""
    return f"[out:json][timeout:{timeout}]{{maxsize}}" + (f'[date:"{_iso(date)}"]' if date else "")


def _iso(date: str) -> str:
    try:
        moment = datetime.fromisoformat(date)
    except ValueError as error:
        raise RecipeError(f"labels.date: {date!r} is no date; expected for example 2024-01-01T00:00:00Z") from error
    return f"{(moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


@contextmanager
def _osmnx(source: OverpassSource, query_settings: str, folder: Path, gate: "_Gate") -> Iterator[None]:
    """osmnx set up for one source, and everything put back after: its settings, and the name look-up it patches."""
    import osmnx

    values = {
        "overpass_url": source.url,
        "overpass_settings": query_settings,
        "overpass_rate_limit": False,  # its own wait loops for ever on some servers; wait_for_slot does it
        "requests_timeout": source.timeout + _GRACE,
        "requests_kwargs": {"hooks": {"response": gate}},
        "use_cache": True,
        "cache_folder": folder,
        "cache_only_mode": True,
        "max_query_area_size": 2 * MAX_QUERY_KM2 * 1e6,  # query_areas has cut the area
        "doh_url_template": None,  # no name look-up behind the user's back
    }
    with _LOCK:
        before = {name: getattr(osmnx.settings, name) for name in values}
        look_up = socket.getaddrinfo
        try:
            for name, value in values.items():
                setattr(osmnx.settings, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(osmnx.settings, name, value)
            socket.getaddrinfo = look_up


class _Gate:
    """What every answer of the server passes: only a whole one gets through."""

    def __init__(self, client: Client, url: str, seconds: float) -> None:
        self.client = client
        self.url = url.rstrip("/")
        self.shown = redact(self.url)
        self._seconds = seconds

    def __call__(self, response: requests.Response, *_: Any, **__: Any) -> requests.Response:
        self.client.count()
        with response:
            if response.status_code != 200:
                raise self._refusal(response)
            body = self._body(response)
        try:
            answer = json.loads(body)
        except ValueError as error:
            start = " ".join(re.sub(r"<[^>]*>", " ", body[:4000].decode("utf-8", "replace")).split())[:200]
            raise TransientError(f"{self.shown}: the answer is no JSON or was cut short ({redact(start)})") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("elements"), list):
            raise TransientError(f"{self.shown}: the answer is no Overpass JSON (it has no elements)")
        if "remark" in answer:
            raise TransientError(f"{self.shown}: the server cut the answer short: {redact(str(answer['remark']))}")
        return _rebuilt(response, body)

    def lost(self, error: requests.RequestException) -> TransientError:
        """The failure of a request that got no answer."""
        self.client.count()
        return TransientError(f"{self.shown}: no answer ({type(error).__name__})")

    def wait_for_slot(self) -> None:
        """Wait until the server has a slot for us, as its /status says, but no longer than a query may take."""
        import osmnx

        headers = {"User-Agent": osmnx.settings.http_user_agent}
        answer = self.client.get(f"{self.url}/status", headers=headers, follow=True, whole=True, transient=())
        time.sleep(min(slot_wait(answer.text), self._seconds))

    def _body(self, response: requests.Response) -> bytes:
        deadline = time.monotonic() + self._seconds
        chunks = []
        try:
            for chunk in response.iter_content(1 << 16):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise TransientError(f"{self.shown}: the answer takes longer than {self._seconds:g} s")
        except requests.RequestException as error:
            raise TransientError(f"{self.shown}: the answer broke off ({type(error).__name__})") from error
        return b"".join(chunks)

    def _refusal(self, response: requests.Response) -> TransientError | LabelError:
        status = response.status_code
        if status in TRANSIENT_STATUS:
            message = f"{self.shown}: the server answered {status} {response.reason}"
            return TransientError(message, asked_pause(response.headers))
        if response.is_redirect:
            place = redact(response.headers["Location"])
            return LabelError(f"{self.shown}: the server moved to {place}; correct labels.url")
        text = " ".join(re.sub(r"<[^>]*>", " ", response.text[:4000]).split())[:300]
        return LabelError(
            f"{self.shown}: the server answered {status} ({redact(text)}); correct labels.url or labels.date"
        )


def slot_wait(status: str) -> float:
    """Seconds until a slot is free, from the text of ``/status``; 0 when one is free or the text does not say."""
    if re.search(r"^Rate limit: 0\b", status, re.MULTILINE) or re.search(
        r"^[1-9]\d* slots? available now", status, re.MULTILINE
    ):
        return 0.0
    waits = re.findall(r"^Slot available after: \S+ in (-?\d+) seconds", status, re.MULTILINE)
    return float(max(0, min(int(seconds) for seconds in waits))) if waits else 0.0


def _rebuilt(response: requests.Response, body: bytes) -> requests.Response:
    whole = requests.Response()
    whole.status_code, whole.reason = response.status_code, response.reason
    whole.url, whole.request = response.url, response.request
    whole.encoding = "utf-8"
    whole.raw = io.BytesIO(body)
    return whole
