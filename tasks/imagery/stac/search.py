"""Finding items: at a STAC API, page by page, or in a static catalogue, link by link. Items are plain dictionaries."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urljoin

import pystac
import shapely
from pystac_client.item_search import ItemSearch

from tasks.errors import SourceError
from tasks.imagery.stac.documents import Document, Documents, absolute
from tasks.imagery.stac.fields import Item, check_told, checked, moment, name_of, outline, shown
from tasks.imagery.stac.presets import Endpoint
from tasks.recipe.sources import StacImagery
from tasks.secrets import redact

PAGE = 100  # items asked for at once
MOST_PAGES = 100  # of one search, or a hundredth of imagery.max_items where that is more, and one for each 25 items
MOST_DOCUMENTS = 1000  # of one static catalogue, and two more for each of imagery.max_items
SEARCH_SECONDS = 3600.0  # for one search, or for reading one static catalogue
_SEEN_FOR_EACH = 10  # items that a search may show for each of imagery.max_items, most of which do not fit
_MOST_DEPTH = 32  # of catalogues in catalogues
_QUERY_CLASS = re.compile(r"https://api\.stacspec\.org/v1\.0\.[^/]*/item-search#query")
Box = tuple[float, float, float, float]  # west, south, east, north in degrees, west < east
Interval = tuple[datetime | None, datetime | None]  # None where it is open


def find_items(endpoint: Endpoint, imagery: StacImagery, boxes: Sequence[Box], documents: Documents) -> list[Item]:
    """The items of the recipe's collection, datetime and query whose geometry meets a box, without duplicates.

    Each is a GeoJSON feature as the catalogue has it, with its own URL or path as ``self``. The query's operators are
    sent to an API that knows them, and applied here as well.
    Raises SourceError when the catalogue cannot be read, does not end, or yields nothing, or more than
    ``imagery.max_items``, and for an item that is none.
    """
    interval = _interval(imagery.datetime)
    root = documents.read(endpoint.href)
    bounds = _Bounds(endpoint, imagery)
    links = [link for link in _links(root, endpoint.name) if link.get("rel") == "search"]
    if links:
        found = _search(links, root, endpoint, imagery, boxes, documents, bounds)
    else:
        found = _walk(root, endpoint, documents, bounds)
    items = _chosen(found, endpoint, imagery, interval, boxes, bounds)
    if not items:
        raise SourceError(
            f"{endpoint.name}: the search found no item of collection {imagery.collection!r}, datetime "
            f"{imagery.datetime or 'any'}, query {json.dumps(imagery.query) if imagery.query else 'none'}, bbox "
            f"{' and '.join(str([round(v, 5) for v in box]) for box in boxes)}; check the collection's name, take a "
            "longer datetime, loosen the query (eo:cloud_cover), or another area"
        )
    return items


class _Bounds:
    """What a catalogue may make us read before it is given up."""

    def __init__(self, endpoint: Endpoint, imagery: StacImagery) -> None:
        self._name, self._most = endpoint.name, imagery.max_items
        self._pages = self._documents = self._items = 0
        self._until = time.monotonic() + SEARCH_SECONDS

    def page(self) -> None:
        """One more page of a search is about to be asked for."""
        self._pages += 1
        most = max(MOST_PAGES, self._most // 100) + self._items // 25
        self._check(self._pages > most, f"{most:,} pages")

    def document(self) -> None:
        """One more document of a static catalogue is about to be read."""
        self._documents += 1
        most = 2 * self._most + MOST_DOCUMENTS
        self._check(self._documents > most, f"{most:,} documents")

    def item(self) -> None:
        """One more item was shown."""
        self._items += 1
        most = _SEEN_FOR_EACH * self._most
        self._check(self._items > most, f"{most:,} items")

    def _check(self, over: bool, told: str) -> None:
        if late := time.monotonic() > self._until:
            told = f"{SEARCH_SECONDS:,.0f} s and {self._pages or self._documents:,} answers"
        if over or late:
            raise SourceError(
                f"{self._name}: has not come to an end after {told}; take a smaller part of it (another imagery.api, "
                "a shorter datetime, a stricter query, a smaller area), or raise imagery.max_items"
            )


def _search(
    links: list[Mapping[str, Any]],
    root: Document,
    endpoint: Endpoint,
    imagery: StacImagery,
    boxes: Sequence[Box],
    documents: Documents,
    bounds: _Bounds,
) -> Iterator[Item]:
    """What an API's item search, at one of ``links``, finds in each box."""
    best = next((link for link in links if str(link.get("method", "")).upper() == "POST"), links[0])
    url, method = absolute(best.get("href"), endpoint.href), _method(best, endpoint.name)
    conforms = root.get("conformsTo")
    knows_query = isinstance(conforms, list) and any(_QUERY_CLASS.fullmatch(str(uri)) for uri in conforms)
    for box in boxes:
        asked = ItemSearch(  # which writes down what is asked for, and asks nothing
            url,
            method=method,
            limit=min(PAGE, imagery.max_items),
            collections=[imagery.collection],
            bbox=list(box),
            datetime=imagery.datetime or None,
            query=imagery.query if imagery.query and knows_query else None,
        )
        seen: set[str] = set()
        for page in _pages(url, method, asked.get_parameters(), documents, bounds):
            names = {str(item.get("id")) for item in page}
            if names <= seen:  # a server whose next page is a page before would keep us for ever
                break
            seen |= names
            for item in page:
                own = next((link.get("href") for link in item["links"] if link.get("rel") == "self"), None)
                yield item | {"self": absolute(own or url, url)}


def _pages(
    url: str, method: str, values: Mapping[str, Any], documents: Documents, bounds: _Bounds
) -> Iterator[list[Item]]:
    """The items of page after page, up to one that is empty or has no next."""
    headers: Mapping[str, str] = {}
    while True:
        bounds.page()
        name = redact(url)
        page = documents.ask(url, method, values, headers)
        if not (features := page.get("features")):
            return
        if not isinstance(features, list):
            raise SourceError(f"{name}: features is {shown(features)}; expected a list of items")
        yield [checked(feature, name) for feature in features]
        links = [link for link in _links(page, name) if link.get("rel") == "next"]
        if not links:
            return
        here, link = url, links[0]
        url, method = absolute(link.get("href"), here), _method(link, name)
        headers = _texts(link.get("headers")) if urljoin(url, "/") == urljoin(here, "/") else {}
        body = link.get("body")
        if method == "POST" and body is not None and not isinstance(body, Mapping):
            raise SourceError(f"{name}: the next page's body is {shown(body)}; expected an object")
        values = {**(values if link.get("merge") is True else {}), **(body or {})} if method == "POST" else {}


def _walk(root: Document, endpoint: Endpoint, documents: Documents, bounds: _Bounds) -> Iterator[Item]:
    """All items of a static catalogue, a collection, an item or a file of items, in the order of its links."""
    waiting: list[tuple[str, int]] = [(endpoint.href, 0)]
    seen: set[str] = set()
    while waiting:
        href, depth = waiting.pop()
        if href in seen:
            continue
        seen.add(href)
        if depth > _MOST_DEPTH:
            raise SourceError(f"{redact(href)}: lies {depth} catalogues deep; name an inner one in imagery.api")
        bounds.document()
        document = root if href == endpoint.href else documents.read(href)
        name, kind = redact(href), document.get("type")
        if kind == "FeatureCollection":
            if not isinstance(features := document.get("features"), list):
                raise SourceError(f"{name}: features is {shown(features)}; expected a list of items")
            yield from (checked(one, name) | {"self": href} for one in features)
        elif kind == "Feature":
            yield checked(_present(document, name), name) | {"self": href}
        elif "stac_version" in document:
            links = _links(document, name)
            inner = [link.get("href") for rel in ("item", "child") for link in links if link.get("rel") == rel]
            waiting += [(absolute(one, href), depth + 1) for one in reversed(inner)]
        else:
            raise SourceError(
                f"{name}: is no STAC API or catalogue that can be read (there is no stac_version); check imagery.api"
            )


def _present(document: Document, name: str) -> Document:
    """An item of a version before 1.0 as one of today."""
    if not str(document.get("stac_version", "")).startswith("0."):
        return document
    try:
        item = pystac.Item.from_dict(document, migrate=True)
        return item.to_dict(include_self_link=False, transform_hrefs=False)
    except Exception as error:  # noqa: BLE001 - whatever pystac raises for what it does not expect
        raise SourceError(
            f"{name}: is no STAC item that can be read ({type(error).__name__}: {shown(str(error))})"
        ) from None


def _links(document: Document, name: str) -> list[Mapping[str, Any]]:
    links = document.get("links")
    if links is not None and not (isinstance(links, list) and all(isinstance(link, Mapping) for link in links)):
        raise SourceError(f"{name}: links is {shown(links)}; expected a list of links")
    return links or []


def _method(link: Mapping[str, Any], name: str) -> str:
    method = str(link.get("method") or "GET").upper()
    if method not in ("GET", "POST"):
        raise SourceError(f"{name}: a link is to be asked for with {shown(method)}; expected GET or POST")
    return method


def _texts(found: Any) -> dict[str, str]:
    return (
        {str(key): value for key, value in found.items() if isinstance(value, str)}
        if isinstance(found, Mapping)
        else {}
    )


def _chosen(
    found: Iterator[Item],
    endpoint: Endpoint,
    imagery: StacImagery,
    interval: Interval,
    boxes: Sequence[Box],
    bounds: _Bounds,
) -> list[Item]:
    area = shapely.union_all([shapely.box(*box) for box in boxes])
    items: dict[tuple[str, str], Item] = {}
    for item in found:
        bounds.item()
        if (item.get("collection") or imagery.collection) != imagery.collection or item.get("geometry") is None:
            continue
        name = name_of(item, endpoint.name)
        check_told(item["properties"], name)
        if not (_within(item["properties"], interval) and matches(item["properties"], imagery.query, name)):
            continue
        if not shapely.intersects(area, outline(item["geometry"], name)):
            continue
        items[str(item.get("collection")), str(item.get("id"))] = item
        if len(items) > imagery.max_items:
            raise SourceError(
                f"the search found more than imagery.max_items {imagery.max_items:,} items of {imagery.collection}; "
                "take a shorter datetime, a smaller area or a stricter query, or raise the limit"
            )
    return list(items.values())


def matches(properties: Mapping[str, Any], query: Mapping[str, Any], name: str = "an item") -> bool:
    """Whether an item's properties fulfil the ``query`` of a recipe. Raises SourceError for a value of another type."""
    for key, conditions in query.items():
        for operator, wanted in conditions.items():
            value = properties.get(key)
            try:
                if value is None or not _OPERATORS[operator](value, wanted):
                    return False
            except TypeError:
                raise SourceError(
                    f"{name}: {key} is {shown(value)}, which imagery.query cannot compare with {wanted!r}; correct the "
                    "query"
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
