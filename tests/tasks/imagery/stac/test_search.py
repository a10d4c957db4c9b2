"""Searching STAC APIs and static catalogues."""

import json
from pathlib import Path
from typing import Any

import pystac
import pytest

from infra.sandbox.services.scripted import Reply
from tasks.errors import SourceError
from tasks.imagery.stac.presets import endpoint_of
from tasks.imagery.stac.reader import retry_policy
from tasks.imagery.stac.search import StacIO, find_items, matches
from tests.support.stac_items import bbox, item, recipe
from tests.support.stac_server import FileServer, ScriptedApi

EVERYWHERE = [(-180.0, -90.0, 180.0, 90.0)]


def search(api: str, boxes: Any = None, folder: Path | None = None, **imagery: Any) -> tuple[list[str], StacIO]:
    """Ids of what is found, sorted."""
    made = recipe(api, imagery=imagery, folder=folder)
    endpoint = endpoint_of(api, made.resolve)
    io = StacIO(endpoint, retry_policy(made.imagery.attempts, made.imagery.timeout), made.imagery.timeout)
    found = find_items(endpoint, made.imagery, boxes or EVERYWHERE, io)  # type: ignore[arg-type]
    return sorted(str(one["id"]) for one in found), io


def august(name: str = "a", **more: Any) -> dict[str, Any]:
    return item(name, {"red": "red.tif"}, **more)


def test_the_query_is_sent_to_an_api_that_knows_it(api: ScriptedApi) -> None:
    api.items = [august("clear", cloud=1), august("cloudy", cloud=70), august("unknown", cloud=None)]
    query = {"eo:cloud_cover": {"lt": 60}}
    assert search(api.url, query=query, datetime="2023-08")[0] == ["clear"]
    (body,) = api.bodies()
    assert body["query"] == query
    assert body["datetime"] == "2023-08-01T00:00:00Z/2023-08-31T23:59:59Z"
    assert body["bbox"] == [-180, -90, 180, 90]


def test_a_query_that_an_api_does_not_know_is_applied_here(api: ScriptedApi) -> None:
    api.conforms = api.conforms[:1]
    api.items = [august("clear", cloud=1), august("cloudy", cloud=70)]
    assert search(api.url, query={"eo:cloud_cover": {"lt": 60}})[0] == ["clear"]
    assert "query" not in api.bodies()[0]


def test_what_was_not_asked_for_is_dropped(api: ScriptedApi) -> None:
    other = august("other") | {"collection": "another"}
    api.items = [august("in"), august("late", day=20), other, august("away", west=700_000.0)]
    assert search(api.url, [tuple(bbox())], datetime="2023-08-01/2023-08-10")[0] == ["in"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["d1", "d2", "d9"]),
        ("2023-08-02", ["d2"]),
        ("2023-08-02/..", ["d2", "d9"]),
        ("../2023-08-02", ["d1", "d2"]),
        ("2023-08-01T10:00:00Z", ["d1"]),
        ("2023-08-02T00:00:00Z/2023-08-03T00:00:00Z", ["d2"]),
    ],
)
def test_datetimes(api: ScriptedApi, text: str, found: list[str]) -> None:
    api.items = [august(f"d{day}", day=day) for day in (1, 2, 9)]
    assert search(api.url, datetime=text)[0] == found


@pytest.mark.parametrize("text", ["yesterday", "2023-13", "2023-08-01/2023-08-02/2023-08-03"])
def test_a_datetime_that_is_none_is_an_error(api: ScriptedApi, text: str) -> None:
    with pytest.raises(SourceError, match=r"imagery.datetime .*: expected an instant or interval"):
        search(api.url, datetime=text)


def test_a_search_without_result_says_what_was_asked_and_what_to_loosen(api: ScriptedApi) -> None:
    with pytest.raises(SourceError) as caught:
        search(api.url, [(15.0, 45.0, 15.1, 45.1)], datetime="2023-08", query={"eo:cloud_cover": {"lt": 1}})
    for part in ("'made-up'", "2023-08", '"lt": 1', "[15.0, 45.0, 15.1, 45.1]", "loosen the query", api.url):
        assert part in str(caught.value)


def test_more_items_than_the_limit_are_an_error(api: ScriptedApi) -> None:
    api.page = 2
    api.items = [august(str(number)) for number in range(9)]
    with pytest.raises(SourceError, match=r"more than imagery.max_items 5 items of made-up"):
        search(api.url, max_items=5)
    assert len(api.bodies()) == 3
    assert api.bodies()[0]["limit"] == 5


def test_a_server_that_gives_one_page_for_ever_is_left(api: ScriptedApi) -> None:
    api.items = [august()]
    more = [{"rel": "next", "href": f"{api.url}/search", "method": "POST", "body": {"token": 0}}]
    api.handlers["/search"] = lambda _: {"type": "FeatureCollection", "features": api.items, "links": more}
    assert search(api.url)[0] == ["a"]
    assert len(api.asked_for("/search")) == 2


def test_a_server_that_fails_in_the_middle_is_asked_again(api: ScriptedApi) -> None:
    api.page = 1
    api.items = [august("a"), august("b"), august("c")]
    api.script["/"] = [Reply(reset=True)]
    api.script["/search"] = [Reply(502), Reply(429, headers={"Retry-After": "0"})]
    found, io = search(api.url)
    assert found == ["a", "b", "c"]
    assert io.requests == 2 + 2 + 3


def test_an_answer_cut_short_is_asked_for_again(api: ScriptedApi) -> None:
    api.items = [august()]
    page = json.dumps({"type": "FeatureCollection", "features": api.items, "links": []}).encode()
    api.script["/search"] = [Reply(200, page, {}, "application/json", cut=True)]
    assert search(api.url)[0] == ["a"]
    assert len(api.asked_for("/search")) == 2


@pytest.mark.parametrize(
    ("path", "replies", "says"),
    [
        ("/search", [Reply(503)] * 9, "answered 503 .*gave up after 3 attempts"),
        ("/", [Reply(reset=True)] * 9, "no complete answer"),
        ("/search", [Reply(400, b'{"description": "no such collection"}')], "answered 400 .*no such collection.*check"),
        ("/", [Reply(200, b"<html>")], "is no STAC API or catalogue"),
        ("/", [Reply(200, b"[]")], "is no STAC API or catalogue"),
        ("/", [Reply(200, b'{"hello": 1}')], "is no STAC API or catalogue"),
        ("/search", [Reply(200, b'{"features": [{"id": 1, "geometry": 7}]}')], "is no STAC API or catalogue"),
    ],
)
def test_what_is_no_answer_is_an_error_without_a_token(
    api: ScriptedApi, path: str, replies: list[Reply], says: str
) -> None:
    api.items = [august()]
    api.script[path] = replies
    with pytest.raises(SourceError, match=says) as caught:
        search(f"{api.url}/?token=geheim" if path == "/" else api.url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ({}, True),
        ({"n": {"eq": 5}}, True),
        ({"n": 5}, True),
        ({"n": {"neq": 5}}, False),
        ({"n": {"gte": 5, "lt": 6}}, True),
        ({"n": {"gt": 5}}, False),
        ({"n": {"lte": 4}}, False),
        ({"n": {"in": [1, 5]}}, True),
        ({"s": {"startsWith": "se", "endsWith": "l", "contains": "ntine"}}, True),
        ({"s": {"startsWith": "x"}}, False),
        ({"absent": {"lt": 5}}, False),
    ],
)
def test_operators(query: dict[str, Any], fits: bool) -> None:
    assert matches({"n": 5, "s": "sentinel"}, query) is fits


@pytest.mark.parametrize(
    ("query", "says"),
    [({"n": {"near": 5}}, "no operator 'near'; there are contains, e"), ({"n": {"lt": "x"}}, "compare")],
)
def test_a_query_that_is_none_is_an_error(query: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        matches({"n": 5}, query)


def write_catalogue(folder: Path) -> Path:
    """catalog.json with two collections of items in folders."""
    catalog = pystac.Catalog("root", "made up")
    for name, days in (("made-up", (1, 2)), ("another", (3,))):
        extent = pystac.Extent(pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]]))
        collection = pystac.Collection(name, "made up", extent)
        catalog.add_child(collection)
        for day in days:
            one = pystac.Item.from_dict(august(f"{name}-{day}", day=day))
            one.collection_id = None
            collection.add_item(one)
    catalog.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    return folder / "catalog.json"


def test_a_static_catalogue_on_this_machine(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "catalogue")
    found, io = search("catalogue", folder=tmp_path, datetime="2023-08-02/..")
    assert found == ["made-up-2"]
    assert io.requests == 0
    assert search("catalogue/made-up/collection.json", folder=tmp_path)[0] == ["made-up-1", "made-up-2"]
    assert search("catalogue/made-up/made-up-1/made-up-1.json", folder=tmp_path)[0] == ["made-up-1"]


def test_a_static_catalogue_over_http(tmp_path: Path) -> None:
    write_catalogue(tmp_path)
    files = {f"/{path.relative_to(tmp_path).as_posix()}": path.read_bytes() for path in tmp_path.rglob("*.json")}
    with FileServer(files) as server:
        server.script["/made-up/collection.json"] = [Reply(503)]
        found, io = search(f"{server.url}/catalog.json")
        assert found == ["made-up-1", "made-up-2"]
        assert io.requests == len(server.asked)


@pytest.mark.parametrize("href", ["file:///etc/hostname", "/etc/hostname", "../../../../etc/hostname"])
def test_links_of_a_remote_catalogue_lead_to_no_local_file(href: str) -> None:
    root = {
        "type": "Catalog", "stac_version": "1.0.0", "id": "sly", "description": "made up",
        "links": [{"rel": "item", "href": href}],
    }  # fmt: skip
    with (
        FileServer({"/catalog.json": json.dumps(root).encode()}) as server,
        pytest.raises(SourceError, match=r"may link to http\(s\) only|answered 404"),
    ):
        search(f"{server.url}/catalog.json")


def test_a_catalogue_that_links_to_itself_ends(tmp_path: Path) -> None:
    root = {
        "type": "Catalog", "stac_version": "1.0.0", "id": "loop", "description": "made up",
        "links": [{"rel": "child", "href": "./catalog.json"}],
    }  # fmt: skip
    (tmp_path / "catalog.json").write_text(json.dumps(root))
    with pytest.raises(SourceError, match="RecursionError"):
        search("catalog.json", folder=tmp_path)


def test_a_broken_link_names_the_file(tmp_path: Path) -> None:
    path = write_catalogue(tmp_path)
    (tmp_path / "made-up" / "collection.json").unlink()
    with pytest.raises(SourceError, match=r"made-up/collection.json: cannot be read .*check the catalogue"):
        search(str(path))
