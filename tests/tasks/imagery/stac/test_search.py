"""Searching STAC APIs and static catalogues."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pystac
import pytest
from pydantic import ValidationError

from infra.sandbox.services.scripted import Reply
from tasks.errors import SourceError
from tasks.imagery.stac.documents import Documents
from tasks.imagery.stac.presets import endpoint_of
from tasks.imagery.stac.reader import retry_policy
from tasks.imagery.stac.search import find_items, matches
from tasks.web.client import Bounds, Client
from tasks.web.reach import Reach
from tests.support.stac_items import bbox, item, recipe
from tests.support.stac_server import FileServer, ScriptedApi

EVERYWHERE = [(-180.0, -90.0, 180.0, 90.0)]


def search(
    api: str, boxes: Any = None, folder: Path | None = None, more: dict[str, Any] | None = None, **imagery: Any
) -> tuple[list[str], Documents]:
    """Ids of what is found, sorted."""
    made = recipe(api, imagery=imagery, folder=folder, **(more or {}))
    endpoint = endpoint_of(api, made.resolve)
    policy = retry_policy(made.imagery.attempts, made.imagery.timeout)
    reach = Reach.of(made, [endpoint.href])
    with Client(policy, made.imagery.timeout, limits=Bounds.of(made.limits), reach=reach) as client:
        documents = Documents(client, endpoint.remote)
        found = find_items(endpoint, made.imagery, boxes or EVERYWHERE, documents)  # type: ignore[arg-type]
    return sorted(str(one["id"]) for one in found), documents


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
        ("/", [Reply(reset=True)] * 9, r"no answer \(the connection was reset.*gave up after 3 attempts"),
        ("/search", [Reply(400, b'{"description": "no such collection"}')], "answered 400 .*no such collection.*check"),
        ("/", [Reply(200, b"<html>")], "is no STAC API or catalogue"),
        ("/", [Reply(200, b"[]")], "is no STAC API or catalogue"),
        ("/", [Reply(200, b'{"hello": 1}')], "is no STAC API or catalogue"),
        ("/search", [Reply(200, b'{"features": [{"id": 1, "geometry": 7}]}')], "item 1: geometry 7 cannot be read"),
    ],
)
def test_what_is_no_answer_is_an_error_without_a_token(
    api: ScriptedApi, monkeypatch: pytest.MonkeyPatch, path: str, replies: list[Reply], says: str
) -> None:
    monkeypatch.setenv("STAC_TOKEN", "geheim")
    api.items = [august()]
    api.script[path] = replies
    with pytest.raises(SourceError, match=says) as caught:
        search(f"{api.url}/?token={{env:STAC_TOKEN}}" if path == "/" else api.url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ({}, True),
        ({"n": {"eq": 5}}, True),
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


def test_a_value_that_a_query_cannot_compare_with_is_an_error() -> None:
    with pytest.raises(
        SourceError, match=r"a: n is '30%', which imagery.query cannot compare with 5; correct the query"
    ):
        matches({"n": "30%"}, {"n": {"lt": 5}}, "a")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (
            {"eo:cloud_cover": 30},
            "eo:cloud_cover: 30 names no operator; write eo:cloud_cover: {lt: 30} for less, {eq: 30}",
        ),
        ({"platform": "sentinel-2b"}, "write platform: {eq: sentinel-2b} for just that"),
        ({"platform": ["a", "b"]}, r"write platform: {in: \['a', 'b'\]}"),
        ({"n": {}}, "n: {} names no operator"),
        ({"n": None}, "n: None names no operator"),
        ({"n": {"near": 5}}, "n: no operator 'near'; there are contains, e"),
        ({"n": {"lt": True}}, "n: lt compares with a number or text, not with True"),
        ({"n": {"lt": float("nan")}}, "n: lt compares with a number or text, not with nan"),
        ({"n": {"in": "abc"}}, "n: in compares with a list, not with 'abc'"),
        ({"n": {"startsWith": 5}}, "n: startsWith compares with text, not with 5"),
    ],
)
def test_a_query_that_is_none_is_refused_with_the_recipe(query: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        recipe("http://127.0.0.1:9", imagery={"query": query})


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


def static(folder: Path, name: str, *links: tuple[str, str]) -> None:
    """A catalogue with links of a relation and an href."""
    root = {
        "type": "Catalog", "stac_version": "1.0.0", "id": name, "description": "made up",
        "links": [{"rel": rel, "href": href} for rel, href in links],
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(root))


def test_a_catalogue_that_links_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(august()))
    static(tmp_path, "catalog", ("child", "./catalog.json"), ("child", "inner.json"))
    static(tmp_path, "inner", ("child", "catalog.json"), ("item", "a.json"), ("item", "./a.json"))
    assert search("catalog.json", folder=tmp_path)[0] == ["a"]


def test_a_catalogue_without_an_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for depth in range(40):
        static(tmp_path, f"c{depth}", ("child", f"c{depth + 1}.json"))
    with pytest.raises(SourceError, match=r"c33\.json: lies 33 catalogues deep; name an inner one"):
        search("c0.json", folder=tmp_path)
    monkeypatch.setattr("tasks.imagery.stac.search.MOST_DOCUMENTS", 10)
    static(tmp_path, "wide", *(("child", f"none{number}.json") for number in range(50)))
    for number in range(50):
        static(tmp_path, f"none{number}")
    with pytest.raises(
        SourceError, match=r"has not come to an end after 30 documents; take .* raise imagery.max_items"
    ):
        search("wide.json", folder=tmp_path, max_items=10)


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_search_without_an_end_is_left(api: ScriptedApi, fits: bool, method: str) -> None:
    """Each page has another item, which is what was asked for or not, and leads to the same next page."""
    count = itertools.count()

    def page(_: Any) -> Any:
        made = [august(str(next(count)), day=20 if fits else 1) for _ in range(10)]
        following = {"rel": "next", "href": f"{api.url}/search?token=same", "method": method, "body": {"token": "same"}}
        return {"type": "FeatureCollection", "features": made, "links": [following]}

    api.handlers["/search"] = page
    says = "more than imagery.max_items 20 items" if fits else "not come to an end after 200 items"
    with pytest.raises(SourceError, match=says):
        search(api.url, datetime="2023-08-15/..", max_items=20)
    assert len(api.asked_for("/search")) < 25


def test_pages_of_one_item_are_counted_and_so_is_the_time(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.imagery.stac.search.MOST_PAGES", 5)
    api.page = 1
    api.items = [august(str(number), day=1) for number in range(40)]
    with pytest.raises(SourceError, match="not come to an end after 5 pages"):
        search(api.url, datetime="2023-08-15/..", max_items=20)
    monkeypatch.setattr("tasks.imagery.stac.search.SEARCH_SECONDS", -1.0)
    with pytest.raises(SourceError, match="not come to an end after -1 s and 1 answers"):
        search(api.url, datetime="2023-08-15/..", max_items=20)


WRONG_ITEMS: list[tuple[dict[str, Any], str]] = [
    (
        {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, float("nan")], [1, 1], [0, 0]]]}},
        "geometry has a coordinate that is no finite number",
    ),
    (
        {"geometry": {"type": "Polygon", "coordinates": [[[500480, 5e6], [1, 0], [1, 1], [0, 0]]]}},
        "geometry has the point .500480.0, 5000000.0., off the globe",
    ),
    ({"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0]]]}}, "geometry {.* cannot be read"),
    ({"geometry": {"type": "Point", "coordinates": "here"}}, "geometry {.* cannot be read"),
    ({"geometry": {"type": "Blob"}}, "geometry {'type': 'Blob'} cannot be read"),
    ({"geometry": {"type": "LineString", "coordinates": [[0, 0]] * 20_001}}, "geometry has 20,001 points"),
    ({"properties": [1]}, r"properties is \[1\]; expected an object"),
    ({"properties": {"datetime": "10000-01-01T00:00:00Z"}}, "datetime is '10000-01-01T00:00:00Z'; expected a time"),
    ({"properties": {"datetime": 20230801}}, "datetime is 20230801; expected a time"),
    ({"properties": {"datetime": "2023-08-01T00:00:00Z", "start_datetime": []}}, r"start_datetime is \[\]; expected"),
    (
        {"properties": {"datetime": "2023-08-01T00:00:00Z", "eo:cloud_cover": "5"}},
        "eo:cloud_cover is '5'; expected a number",
    ),
    (
        {"properties": {"datetime": "2023-08-01T00:00:00Z", "eo:cloud_cover": True}},
        "eo:cloud_cover is True; expected a n",
    ),
    ({"properties": {"datetime": "2023-08-01T00:00:00Z", "eo:cloud_cover": float("nan")}}, "eo:cloud_cover is nan"),
    ({"links": "self"}, "links is 'self'; expected a list of links"),
    ({"links": [None]}, r"links is \[None\]; expected a list of links"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG_ITEMS)
def test_an_item_that_is_none_is_told_by_name_in_one_line(
    api: ScriptedApi, tmp_path: Path, wrong: dict[str, Any], says: str
) -> None:
    api.items = [august("good"), august("x" * 10_000) | wrong]
    with pytest.raises(SourceError, match=rf"item 'xxxx.*\.\.\.: {says}") as caught:
        search(api.url)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": api.items}))
    with pytest.raises(SourceError, match=says):
        search("items.json", folder=tmp_path)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"type": "FeatureCollection", "features": {"a": 1}}, "features is {'a': 1}; expected a list of items"),
        ({"type": "FeatureCollection"}, "features is None; expected a list"),
        ({"type": "FeatureCollection", "features": [5]}, "a feature is 5; expected a STAC item"),
        ({"stac_version": "1.0.0", "links": "x"}, "links is 'x'; expected a list of links"),
        ({"stac_version": "1.0.0", "links": [{"rel": "item"}]}, "a link to None, which is no URL or path"),
        ({"stac_version": "1.0.0", "links": [{"rel": "item", "href": "http://[::1"}]}, "which is no URL or path"),
        ({"stac_version": "1.0.0", "links": [{"rel": "item", "href": "a\0b"}]}, "cannot be read"),
        ({"type": "Feature", "stac_version": "0.9.0", "id": 5}, "is no STAC item that can be read"),
        ([[]], "is no STAC API or catalogue that can be read"),
    ],
)
def test_a_document_that_is_none_is_told_in_one_line(tmp_path: Path, document: Any, says: str) -> None:
    (tmp_path / "catalog.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match=says) as caught:
        search("catalog.json", folder=tmp_path)
    assert "\n" not in str(caught.value)


def test_nesting_without_an_end_and_pipes_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text('{"a":' * 100_000)
    with pytest.raises(SourceError, match=r"deep\.json: is JSON that is nested too deeply"):
        search("deep.json", folder=tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    static(tmp_path, "catalog", ("item", "pipe.json"))
    with pytest.raises(SourceError, match=r"pipe.json: cannot be read \(no such file\)"):
        search("catalog.json", folder=tmp_path)


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ({"href": "file:///etc/hostname"}, r"may link to http\(s\) only"),
        ({"href": "ftp://127.0.0.1/x"}, r"may link to http\(s\) only"),
        ({"href": 5}, "has a link to 5, which is no URL"),
        ({}, "has a link to None"),
        ({"href": "/search", "method": "DELETE"}, "a link is to be asked for with 'DELETE'"),
        ({"href": "/search", "method": "POST", "body": "x"}, "the next page's body is 'x'; expected an object"),
        ({"href": "http://169.254.169.254/latest/meta-data"}, r"leads to a private address \(169.254.169.254\)"),
        ({"href": "http://[::ffff:10.0.0.1]/"}, "leads to a private address"),
    ],
)
def test_a_next_page_that_leads_elsewhere_is_refused(api: ScriptedApi, link: dict[str, Any], says: str) -> None:
    page = {"type": "FeatureCollection", "features": [august()], "links": [{"rel": "next"} | link]}
    api.handlers["/search"] = lambda _: page
    with pytest.raises(SourceError, match=says):
        search(api.url)


def test_what_came_over_the_network_names_no_file_of_this_machine(tmp_path: Path) -> None:
    inner = json.dumps({
        "type": "Catalog", "stac_version": "1.0.0", "id": "x", "links": [{"rel": "item", "href": "file:///etc/hostname"}]
    })  # fmt: skip
    with FileServer({"/inner.json": inner.encode()}) as server:
        static(tmp_path, "catalog", ("child", f"{server.url}/inner.json"))
        with pytest.raises(SourceError, match=r"leads to a private address"):
            search("catalog.json", folder=tmp_path)
        made = {"limits": {"private_hosts": ["127.0.0.1"]}}
        with pytest.raises(SourceError, match=r"may link to http\(s\) only"):
            search("catalog.json", folder=tmp_path, more=made)


def test_a_broken_link_names_the_file(tmp_path: Path) -> None:
    path = write_catalogue(tmp_path)
    (tmp_path / "made-up" / "collection.json").unlink()
    with pytest.raises(SourceError, match=r"made-up/collection.json: cannot be read .*check the catalogue"):
        search(str(path))
