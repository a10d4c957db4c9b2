"""A small STAC API over items and files: collections, item search by GET and POST with paging, and byte ranges."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shapely
import shapely.geometry
from aiohttp import web

STAC_PATH = "/stac"
MOST = 1000  # items of a page
_CONFORMS = (
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#query",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
)
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, wanted: value == wanted,
    "neq": lambda value, wanted: value != wanted,
    "lt": lambda value, wanted: value < wanted,
    "lte": lambda value, wanted: value <= wanted,
    "gt": lambda value, wanted: value > wanted,
    "gte": lambda value, wanted: value >= wanted,
    "in": lambda value, wanted: value in wanted,
    "startsWith": lambda value, wanted: str(value).startswith(wanted),
}
_GEO = "application/geo+json"
Items = Sequence[Mapping[str, Any]]


class StacApi:
    """The API. Items have hrefs relative to ``folder``; ``items`` is awaited at every request for them."""

    def __init__(self, folder: Path, items: Callable[[], Awaitable[Items]]) -> None:
        self._folder, self._items = folder, items

    def routes(self) -> list[web.RouteDef]:
        """To be added to an application's router."""
        collection = f"{STAC_PATH}/collections/{{collection}}"
        return [
            web.get(STAC_PATH, self._root, name="stac_root"),
            web.get(f"{STAC_PATH}/", self._root, name="stac_root_slash"),
            web.get(f"{STAC_PATH}/conformance", self._conformance, name="stac_conformance"),
            web.get(f"{STAC_PATH}/collections", self._collections, name="stac_collections"),
            web.get(collection, self._collection, name="stac_collection"),
            web.get(f"{collection}/items", self._listed, name="stac_items"),
            web.get(f"{collection}/items/{{item}}", self._item, name="stac_item"),
            web.get(f"{STAC_PATH}/search", self._search, name="stac_search"),
            web.post(f"{STAC_PATH}/search", self._search, name="stac_search"),
            web.get(f"{STAC_PATH}/files/{{item}}/{{file}}", self._file, name="stac_files"),
        ]

    async def _root(self, request: web.Request) -> web.Response:
        here = _here(request)
        search = {"rel": "search", "href": f"{here}/search", "type": _GEO}
        return web.json_response(
            {
                "type": "Catalog",
                "id": "tilewright-sandbox",
                "title": "Tilewright sandbox",
                "description": "Synthetic scenes of a region that is no place on Earth",
                "stac_version": "1.0.0",
                "conformsTo": _CONFORMS,
                "links": [
                    {"rel": "self", "href": here, "type": "application/json"},
                    {"rel": "root", "href": here, "type": "application/json"},
                    {"rel": "conformance", "href": f"{here}/conformance", "type": "application/json"},
                    {"rel": "data", "href": f"{here}/collections", "type": "application/json"},
                    {**search, "method": "GET"},
                    {**search, "method": "POST"},
                ],
            }
        )

    async def _conformance(self, _: web.Request) -> web.Response:
        return web.json_response({"conformsTo": _CONFORMS})

    async def _collections(self, request: web.Request) -> web.Response:
        items = await self._items()
        names = sorted({str(item["collection"]) for item in items})
        here = _here(request)
        links = [{"rel": "self", "href": f"{here}/collections"}, {"rel": "root", "href": here}]
        return web.json_response({"collections": [_about(name, items, here) for name in names], "links": links})

    async def _collection(self, request: web.Request) -> web.Response:
        name, items = request.match_info["collection"], await self._items()
        if not any(item["collection"] == name for item in items):
            return _refused(404, f"no collection {name!r}")
        return web.json_response(_about(name, items, _here(request)))

    async def _listed(self, request: web.Request) -> web.Response:
        asked: dict[str, Any] = _of_query(request.query)
        return await self._answer(request, asked | {"collections": [request.match_info["collection"]]})

    async def _item(self, request: web.Request) -> web.Response:
        parts = request.match_info
        for item in await self._items():
            if item["collection"] == parts["collection"] and item["id"] == parts["item"]:
                return web.json_response(_served(item, _here(request)), content_type=_GEO)
        return _refused(404, f"no item {parts['item']!r}")

    async def _search(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return await self._answer(request, _of_query(request.query))
        try:
            asked = json.loads(await request.text() or "{}")
        except ValueError:
            return _refused(400, "the body is no JSON")
        return await self._answer(request, asked) if isinstance(asked, dict) else _refused(400, "expected an object")

    async def _answer(self, request: web.Request, asked: Mapping[str, Any]) -> web.Response:
        try:
            found = chosen(await self._items(), asked)
            limit, start = min(int(asked.get("limit", 10)), MOST), int(asked.get("token", 0))
            if limit < 1 or start < 0:
                raise ValueError("limit is at least 1")
        except (ValueError, TypeError, LookupError, AttributeError, shapely.errors.ShapelyError) as error:
            return _refused(400, f"{type(error).__name__}: {error}")
        here = _here(request)
        links: list[dict[str, Any]] = [{"rel": "root", "href": here}]
        if start + limit < len(found):
            links.append(_next(request, start + limit))
        features = [_served(item, here) for item in found[start : start + limit]]
        page = {"type": "FeatureCollection", "features": features, "links": links}
        counts = {"numberMatched": len(found), "numberReturned": len(features)}
        return web.json_response(page | counts, content_type=_GEO)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        await self._items()  # the files are there when the items are
        path = self._folder / request.match_info["item"] / request.match_info["file"]
        if path.resolve().parent.parent != self._folder.resolve() or not path.is_file():
            return web.Response(status=404, text="no such file")
        return web.FileResponse(path, headers={"Content-Type": "image/tiff"})


def chosen(items: Items, asked: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The items that a search's body asks for, newest first. Raises ValueError, TypeError for what is no search."""
    low, high = _interval(asked.get("datetime"))
    box, shape = asked.get("bbox"), asked.get("intersects")
    if box is not None and shape is not None:
        raise ValueError("give bbox or intersects, not both")
    area = shapely.geometry.shape(shape) if shape is not None else None
    if box is not None:
        area = shapely.box(box[0], box[1], box[-2] if len(box) == 4 else box[3], box[-1] if len(box) == 4 else box[4])
    names, collections, query = asked.get("ids"), asked.get("collections"), asked.get("query") or {}
    found = []
    for item in items:
        when = _moment(item["properties"]["datetime"])
        if (names and item["id"] not in names) or (collections and item["collection"] not in collections):
            continue
        if (low and when < low) or (high and when > high) or not _meets(item, area):
            continue
        if all(_holds(item["properties"].get(key), wanted) for key, wanted in query.items()):
            found.append(item)
    return sorted(found, key=lambda item: (item["properties"]["datetime"], item["id"]), reverse=True)


def _meets(item: Mapping[str, Any], area: Any) -> bool:
    return area is None or bool(shapely.intersects(shapely.geometry.shape(item["geometry"]), area))


def _holds(value: Any, conditions: Mapping[str, Any]) -> bool:
    return value is not None and all(_OPERATORS[name](value, wanted) for name, wanted in conditions.items())


def _interval(text: str | None) -> tuple[datetime | None, datetime | None]:
    if not text:
        return None, None
    first, _, last = text.partition("/")
    low, high = (None if end in ("", "..") else _moment(end) for end in (first, last or first))
    return low, high


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _of_query(query: Mapping[str, str]) -> dict[str, Any]:
    """A GET's parameters as a POST's body has them."""
    asked: dict[str, Any] = dict(query)
    for key in ("ids", "collections"):
        if key in asked:
            asked[key] = asked[key].split(",")
    for key in ("intersects", "query"):
        if key in asked:
            asked[key] = json.loads(asked[key])
    if "bbox" in asked:
        asked["bbox"] = [float(value) for value in asked["bbox"].split(",")]
    return asked


def _next(request: web.Request, start: int) -> dict[str, Any]:
    if request.method == "POST":
        href = str(request.url.with_query(None))
        return {
            "rel": "next",
            "href": href,
            "type": _GEO,
            "method": "POST",
            "body": {"token": str(start)},
            "merge": True,
        }
    return {"rel": "next", "href": str(request.url.update_query(token=str(start))), "type": _GEO, "method": "GET"}


def _about(name: str, items: Items, here: str) -> dict[str, Any]:
    mine = [item for item in items if item["collection"] == name]
    times = sorted(item["properties"]["datetime"] for item in mine)
    bounds = shapely.union_all([shapely.geometry.shape(item["geometry"]) for item in mine]).bounds
    return {
        "type": "Collection",
        "id": name,
        "description": "Synthetic scenes of the Tilewright sandbox",
        "stac_version": "1.0.0",
        "license": "other",
        "extent": {"spatial": {"bbox": [list(bounds)]}, "temporal": {"interval": [[times[0], times[-1]]]}},
        "links": [
            {"rel": "self", "href": f"{here}/collections/{name}"},
            {"rel": "root", "href": here},
            {"rel": "items", "href": f"{here}/collections/{name}/items", "type": _GEO},
        ],
    }


def _served(item: Mapping[str, Any], here: str) -> dict[str, Any]:
    """The item with absolute hrefs and its links."""
    collection = f"{here}/collections/{item['collection']}"
    assets = {key: {**asset, "href": f"{here}/files/{asset['href']}"} for key, asset in item["assets"].items()}
    links = [
        {"rel": "self", "href": f"{collection}/items/{item['id']}", "type": _GEO},
        {"rel": "collection", "href": collection, "type": "application/json"},
        {"rel": "root", "href": here, "type": "application/json"},
    ]
    return {**item, "assets": assets, "links": links}


def _here(request: web.Request) -> str:
    return f"{request.url.origin()}{STAC_PATH}"


def _refused(status: int, why: str) -> web.Response:
    return web.json_response({"code": str(status), "description": why}, status=status)
