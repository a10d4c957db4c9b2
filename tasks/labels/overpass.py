"""Footprints from an Overpass server, through osmnx, for areas up to a town's size.

osmnx writes the queries and sends them. What it leaves open is closed here: it retries 429 and 504 without end and
takes a server's ``remark`` (a query cut short) for a full answer. Every answer goes to :meth:`OverpassSource._keep`, a
response hook of requests, and no further; the retrying is ours. The polygons are assembled by the reader
of extracts (:mod:`tasks.labels.pbf`), so that both sources agree: osmnx's own assembly fails on one broken relation.
"""

import functools
import hashlib
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
from typing import Any, NoReturn

import numpy as np
import requests
import shapely

from tasks.atomic import writing
from tasks.errors import LabelError, RecipeError
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.labels.footprints import Footprints
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

Answer = dict[str, Any]


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
        date = _iso(self.date) if self.date else ""
        # With a time of its own: osmnx would print the HTTP timeout, which is longer.
        settings = f"[out:json][timeout:{self.timeout}]{{maxsize}}" + (f'[date:"{date}"]' if date else "")
        what = "\n".join([self.url, settings, *(area.wkt for area in areas)])
        folder = work / ANSWERS / hashlib.sha256(what.encode()).hexdigest()[:16]
        policy = RetryPolicy(self.attempts, self.attempts * (self.timeout + 2.0 * _GRACE), self.first_pause)
        answers = []
        with Client(policy, _GRACE, LabelError, "correct labels.url", login=True) as client:
            for number, area in enumerate(areas):
                file = folder / f"{number}.json"
                answers.append(_kept_answer(file) or self._ask(client, settings, area, file))
        file, source = folder / "answers.osm.pbf", f"overpass {self._shown}"
        try:
            stamp = _write_extract(answers, file)
            return read_buildings(file, tiles, folder, source=source, requests=client.requests, timestamp=date or stamp)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise LabelError(f"{self._shown}: an answer makes no sense ({error!r}); use another server") from error
        finally:
            file.unlink(missing_ok=True)

    @property
    def _shown(self) -> str:
        return redact(self.url.rstrip("/"))

    def _ask(self, client: Client, query_settings: str, area: Any, file: Path) -> Answer:
        """The server's answer for ``area``, which is in ``file`` then."""
        import osmnx

        settings = {
            "overpass_url": self.url,
            "overpass_settings": query_settings,
            "overpass_rate_limit": False,  # its own wait loops for ever on some servers; _wait_for_slot does it
            "requests_timeout": self.timeout + _GRACE,
            "requests_kwargs": {"hooks": {"response": functools.partial(self._keep, client, file)}},
            "use_cache": False,
            "max_query_area_size": float("inf"),  # query_areas has cut the area
            "doh_url_template": None,  # no name look-up behind the user's back
        }

        def once() -> Answer:
            if self.rate_limit:
                self._wait_for_slot(client, osmnx.settings.http_user_agent)
            try:
                with _set_up(osmnx.settings, settings):
                    osmnx.features_from_polygon(area, {"building": True})
            except _AnsweredError as done:
                answer: Answer = done.args[0]
                return answer
            except (requests.ConnectionError, requests.Timeout) as error:
                client.count()
                raise TransientError(f"{self._shown}: no answer ({type(error).__name__})") from error
            raise AssertionError("osmnx does not go on without an answer")

        try:
            return client.persist(once)
        except TransientError as error:
            raise LabelError(
                f"{error}; gave up after {client.requests} requests, start again later, or use labels from a pbf"
                " extract"
            ) from error
        except requests.RequestException as error:
            raise LabelError(f"{self._shown}: {redact(str(error))}; correct labels.url") from error

    def _wait_for_slot(self, client: Client, agent: str) -> None:
        """Wait until the server has a slot for us, as its /status says, but no longer than a query may take."""
        url, headers = f"{self.url.rstrip('/')}/status", {"User-Agent": agent}
        answer = client.get(url, headers=headers, follow=True, whole=True, transient=())
        time.sleep(min(slot_wait(answer.text), self.timeout + _GRACE))

    def _keep(self, client: Client, file: Path, response: requests.Response, *_: Any, **__: Any) -> NoReturn:
        """Where every answer of the server ends: a whole one is in ``file`` then, and osmnx is told nothing of it."""
        client.count()
        with response:
            if response.status_code != 200:
                raise self._refusal(response)
            body = self._body(response)
        try:
            answer = _read_answer(body)
        except ValueError as error:
            raise TransientError(f"{self._shown}: {error}") from error
        with writing(file) as temporary:
            temporary.write_bytes(body)
        raise _AnsweredError(answer)

    def _body(self, response: requests.Response) -> bytes:
        seconds, chunks = self.timeout + _GRACE, []
        deadline = time.monotonic() + seconds
        try:
            for chunk in response.iter_content(1 << 16):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise TransientError(f"{self._shown}: the answer takes longer than {seconds} s")
        except requests.RequestException as error:
            raise TransientError(f"{self._shown}: the answer broke off ({type(error).__name__})") from error
        return b"".join(chunks)

    def _refusal(self, response: requests.Response) -> TransientError | LabelError:
        status = response.status_code
        if status in TRANSIENT_STATUS:
            message = f"{self._shown}: the server answered {status} {response.reason}"
            return TransientError(message, asked_pause(response.headers))
        if response.is_redirect:
            place = redact(response.headers["Location"])
            return LabelError(f"{self._shown}: the server moved to {place}; correct labels.url")
        detail = _plain(response.content)
        return LabelError(f"{self._shown}: the server answered {status} ({detail}); correct labels.url or labels.date")


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


@contextmanager
def _set_up(module: Any, values: dict[str, Any]) -> Iterator[None]:
    """osmnx's settings for one query, and everything put back after: them, and the name look-up that it patches."""
    with _LOCK:
        before, look_up = dict(vars(module)), socket.getaddrinfo
        try:
            vars(module).update(values)
            yield
        finally:
            vars(module).update(before)
            socket.getaddrinfo = look_up


class _AnsweredError(Exception):
    """Takes a whole answer past osmnx, whose work is done."""


def slot_wait(status: str) -> float:
    """Seconds until a slot is free, from the text of ``/status``; 0 when one is free or the text does not say."""
    if re.search(r"^(Rate limit: 0\b|[1-9]\d* slots? available now)", status, re.MULTILINE):
        return 0.0
    waits = re.findall(r"^Slot available after: \S+ in (-?\d+) seconds", status, re.MULTILINE)
    return float(max(0, min(map(int, waits), default=0)))


def _read_answer(body: bytes) -> Answer:
    """The answer in ``body``. Raises ValueError with the reason when it is not a whole one."""
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise ValueError(f"the answer is no JSON or was cut short ({_plain(body)})") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("elements"), list):
        raise ValueError("the answer is no Overpass JSON (it has no elements)")
    if "remark" in answer:
        raise ValueError(f"the server cut the answer short: {redact(str(answer['remark']))}")
    return answer


def _kept_answer(file: Path) -> Answer | None:
    """The whole answer in ``file``, None when it is not there."""
    try:
        return _read_answer(file.read_bytes())
    except (OSError, ValueError):
        return None


def _plain(body: bytes) -> str:
    """The start of a body for messages, without markup and tokens."""
    return redact(" ".join(re.sub(r"<[^>]*>", " ", body[:4000].decode("utf-8", "replace")).split())[:300])


def _write_extract(answers: Sequence[Answer], path: Path) -> str:
    """Write the objects of all answers to ``path`` (.osm.pbf, in a folder that is there), each once and sorted.

    Returns the timestamp of the server's data: the oldest of the answers', or the present time where none has one.
    Raises KeyError, TypeError or ValueError for an answer with objects that are none.
    """
    import osmium

    objects: dict[str, dict[int, dict[str, Any]]] = {"node": {}, "way": {}, "relation": {}}
    for answer in answers:
        for element in answer["elements"]:
            if element["type"] in objects:
                objects[element["type"]][element["id"]] = element
    mutable = osmium.osm.mutable
    with osmium.SimpleWriter(str(path), overwrite=True) as writer:
        for number, node in sorted(objects["node"].items()):
            writer.add_node(mutable.Node(id=number, location=(node["lon"], node["lat"])))
        for number, way in sorted(objects["way"].items()):
            writer.add_way(mutable.Way(id=number, nodes=way["nodes"], tags=way.get("tags", {})))
        for number, relation in sorted(objects["relation"].items()):
            members = [(one["type"][0], one["ref"], one["role"]) for one in relation["members"]]
            writer.add_relation(mutable.Relation(id=number, members=members, tags=relation.get("tags", {})))
    stamps = [answer.get("osm3s", {}).get("timestamp_osm_base") for answer in answers]
    return min(map(str, filter(None, stamps)), default=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
