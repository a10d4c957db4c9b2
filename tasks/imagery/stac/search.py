"""Finding items: at a STAC API with pystac-client, in a static catalogue with pystac. Items are plain dictionaries."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

import pystac
import shapely
import shapely.geometry
from pystac_client.exceptions import APIError
from pystac_client.item_search import ItemSearch
from pystac_client.stac_api_io import StacApiIO

from tasks.errors import SourceError
from tasks.imagery.stac.presets import Endpoint
from tasks.recipe.sources import StacImagery
from tasks.secrets import redact
from tasks.web.retry import TRANSIENT_STATUS, RetryPolicy, TransientError, asked_pause, persist

PAGE = 100  # items asked for at once
_QUERY_CLASS = re.compile(r"https://api\.stacspec\.org/v1\.0\.[^/]*/item-search#query")
_NOT_STAC = (pystac.STACError, pystac.STACTypeError)
Item = dict[str, Any]
Box = tuple[float, float, float, float]  # west, south, east, north in degrees, west < east
Interval = tuple[datetime | None, datetime | None]  # None where it is open


class StacIO(StacApiIO):
    """pystac's and pystac-client's reader, with one retry policy, a count of requests, and no way from a remote
    catalogue to local files."""

    stac_object_from_dict = pystac.StacIO.stac_object_from_dict  # pystac's own objects, not pystac-client's

    def __init__(self, endpoint: Endpoint, policy: RetryPolicy, timeout: float) -> None:
        super().__init__(timeout=timeout, max_retries=None)
        self._remote, self._policy = endpoint.remote, policy
        self._pause: float | None = None
        self.requests = 0
        self.session.hooks["response"].append(self._note_pause)

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """The text behind a link, URL or path. Raises SourceError."""
        href = str(source.get_absolute_href() if isinstance(source, pystac.Link) else source)
        if not href.startswith(("http://", "https://")) and (self._remote or "://" in href):
            raise SourceError(f"{redact(href)}: a catalogue from the network may link to http(s) only; it was not read")
        try:
            return super().read_text(source, *args, **kwargs)
        except OSError as error:
            raise SourceError(f"{href}: cannot be read ({error.strerror or error}); check the catalogue") from None
        except UnicodeDecodeError:
            raise SourceError(f"{redact(href)}: is no text; expected STAC JSON") from None

    def request(self, href: str, *args: Any, **kwargs: Any) -> str:
        """The body of an answer with status 2xx. Raises SourceError naming the URL without tokens."""
        ask = super().request

        def once() -> str:
            self.requests, self._pause = self.requests + 1, None
            try:
                return ask(href, *args, **kwargs)
            except APIError as error:
                status = getattr(error, "status_code", None)
                said = redact(" ".join(str(error).split()))[:300]
                answer = "no complete answer" if status is None else f"the server answered {status}"
                message = f"{redact(href)}: {answer} ({said})"
                if status is None or status in TRANSIENT_STATUS:
                    raise TransientError(message, self._pause) from None
                raise SourceError(f"{message}; check imagery.api, collection, datetime and query") from None

        try:
            return persist(once, self._policy)
        except TransientError as error:
            raise SourceError(f"{error}; gave up after {self._policy.attempts} attempts, start again later") from None

    def _note_pause(self, answer: Any, **_: Any) -> None:
        self._pause = asked_pause(answer.headers)


def find_items(endpoint: Endpoint, imagery: StacImagery, boxes: Sequence[Box], io: StacIO) -> list[Item]:
    """The items of the recipe's collection, datetime and query whose geometry meets a box, without duplicates.

    Each is a GeoJSON feature as the catalogue has it, with its own URL or path as ``self``. The query's operators are
    sent to an API that knows them, and applied here as well.
    Raises SourceError when the catalogue cannot be read, or yields nothing, or more than ``imagery.max_items``.
    """
    interval = _interval(imagery.datetime)
    try:
        root = json.loads(io.read_text(endpoint.href))
        if not isinstance(root, dict):
            raise ValueError("no JSON object")
        links = [link for link in root.get("links", []) if isinstance(link, dict) and link.get("rel") == "search"]
        found = _pages(links, root, endpoint, imagery, boxes, io) if links else _walk(root, endpoint, io)
        items = _chosen(found, imagery, interval, boxes)
    except (*_NOT_STAC, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(
            inner := error.__cause__ or error.__context__, SourceError
        ):  # pystac wraps what its reader raises
            raise inner from None
        raise SourceError(
            f"{endpoint.name}: is no STAC API or catalogue that can be read ({type(error).__name__}: "
            f"{redact(str(error))[:200]}); check imagery.api"
        ) from None
    if not items:
        raise SourceError(
            f"{endpoint.name}: the search found no item of collection {imagery.collection!r}, datetime "
            f"{imagery.datetime or 'any'}, query {json.dumps(imagery.query) if imagery.query else 'none'}, bbox "
            f"{' and '.join(str([round(v, 5) for v in box]) for box in boxes)}; check the collection's name, take a "
            "longer datetime, loosen the query (eo:cloud_cover), or another area"
        )
    return items


def _pages(
    links: list[Any], root: Item, endpoint: Endpoint, imagery: StacImagery, boxes: Sequence[Box], io: StacIO
) -> Iterator[Item]:
    """What an API's item search, at one of ``links``, finds in each box."""
    best = next((link for link in links if str(link.get("method", "")).upper() == "POST"), links[0])
    url, method = urljoin(endpoint.href, str(best["href"])), str(best.get("method") or "GET").upper()
    knows_query = any(_QUERY_CLASS.fullmatch(str(uri)) for uri in root.get("conformsTo", []))
    for box in boxes:
        asked = ItemSearch(
            url,
            method=method,
            stac_io=io,
            limit=min(PAGE, imagery.max_items),
            collections=[imagery.collection],
            bbox=list(box),
            datetime=imagery.datetime or None,
            query=imagery.query if imagery.query and knows_query else None,
        )
        before: set[str] = set()
        for page in asked.pages_as_dicts():
            names = {str(item.get("id")) for item in page["features"]}
            if names <= before:  # a server whose next page is the page before would keep us for ever
                break
            before |= names
            for item in page["features"]:
                own = next((link["href"] for link in item.get("links", []) if link.get("rel") == "self"), url)
                yield item | {"self": urljoin(url, str(own))}


def _walk(root: Item, endpoint: Endpoint, io: StacIO) -> Iterator[Item]:
    """All items of a static catalogue, a collection, an item or a file of items."""
    kind = root.get("type")
    if kind in ("Feature", "FeatureCollection"):
        yield from (one | {"self": endpoint.href} for one in (root["features"] if kind != "Feature" else [root]))
        return
    if "stac_version" not in root:
        raise ValueError("there is no stac_version")
    # from_file and not from_dict: links are relative to the file.
    top = (pystac.Collection if kind == "Collection" else pystac.Catalog).from_file(endpoint.href, stac_io=io)
    for item in top.get_items(recursive=True):
        plain = item.to_dict(include_self_link=False, transform_hrefs=False)
        yield plain | {"self": item.get_self_href() or endpoint.href}


def _chosen(found: Iterator[Item], imagery: StacImagery, interval: Interval, boxes: Sequence[Box]) -> list[Item]:
    area = shapely.union_all([shapely.box(*box) for box in boxes])
    items: dict[tuple[str, str], Item] = {}
    for item in found:
        properties = item.get("properties") or {}
        if item.get("collection", imagery.collection) != imagery.collection or not item.get("geometry"):
            continue
        if not (_within(properties, interval) and matches(properties, imagery.query)):
            continue
        if not shapely.intersects(area, shapely.geometry.shape(item["geometry"])):
            continue
        items[str(item.get("collection")), str(item["id"])] = item
        if len(items) > imagery.max_items:
            raise SourceError(
                f"the search found more than imagery.max_items {imagery.max_items:,} items of {imagery.collection}; "
                "take a shorter datetime, a smaller area or a stricter query, or raise the limit"
            )
    return list(items.values())


def matches(properties: Mapping[str, Any], query: Mapping[str, Any]) -> bool:
    """Whether an item's properties fulfil the query extension's ``query``. Raises SourceError for what is no query."""
    for name, conditions in query.items():
        for operator, wanted in (conditions if isinstance(conditions, Mapping) else {"eq": conditions}).items():
            if operator not in _OPERATORS:
                raise SourceError(
                    f"imagery.query.{name}: no operator {operator!r}; there are {', '.join(sorted(_OPERATORS))}"
                )
            value = properties.get(name)
            try:
                if value is None or not _OPERATORS[operator](value, wanted):
                    return False
            except TypeError:
                raise SourceError(
                    f"imagery.query.{name}: cannot compare {value!r} of an item with {wanted!r}; correct the query"
                ) from None
    return True


_OPERATORS: Mapping[str, Any] = {
    "eq": lambda value, wanted: value == wanted,
    "neq": lambda value, wanted: value != wanted,
    "lt": lambda value, wanted: value < wanted,
    "lte": lambda value, wanted: value <= wanted,
    "gt": lambda value, wanted: value > wanted,
    "gte": lambda value, wanted: value >= wanted,
    "in": lambda value, wanted: value in wanted,
    "startsWith": lambda value, wanted: str(value).startswith(wanted),
    "endsWith": lambda value, wanted: str(value).endswith(wanted),
    "contains": lambda value, wanted: wanted in value,
}


def _interval(text: str) -> Interval:
    """Both ends of a STAC datetime, as pystac-client reads it. Raises SourceError."""
    if not text:
        return None, None
    try:
        ends = str(ItemSearch("", datetime=text).get_parameters()["datetime"]).split("/")
        low, high = (None if end in ("", "..") else moment(end) for end in (ends[0], ends[-1]))
    except Exception:  # noqa: BLE001 - pystac-client raises the bare class
        raise SourceError(
            f"imagery.datetime {text!r}: expected an instant or interval, such as 2023-08-15 or 2023-08-01/2023-08-31"
        ) from None
    return low, high


def _within(properties: Mapping[str, Any], interval: Interval) -> bool:
    low, high = interval
    first, last = (properties.get(f"{end}_datetime") or properties.get("datetime") for end in ("start", "end"))
    if not (first and last):
        return low is None and high is None
    return (high is None or moment(first) <= high) and (low is None or moment(last) >= low)


def moment(text: str) -> datetime:
    """An RFC 3339 time, UTC where it names no zone. Raises ValueError."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
