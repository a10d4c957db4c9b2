import base64
import hashlib
import logging
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from infra.sandbox.services.mlhub import API_PATH, STORAGE_PATH, Mlhub, pack
from infra.sandbox.services.scripted import Reply, ScriptedServer, json_reply
from tasks.errors import CredentialError, SourceError, TilewrightError, WindowReadError
from tasks.imagery.mlhub.api import MlhubApi, storage_headers
from tasks.imagery.mlhub.catalogue import mlhub_catalogue
from tasks.imagery.scenes.catalogue import SceneCatalogue
from tasks.web.client import Client
from tasks.web.retry import RetryPolicy
from tests.tasks.imagery.mlhub.files import KENYA, LABELS, SOURCE, body_of, contents, kenya, recipe, serving

KEY = "k3y-that-nobody-may-see"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLHUB_API_KEY", KEY)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return kenya(tmp_path / "data")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Archives that take several chunks."""
    return kenya(tmp_path / "data", bulk=30_000)


def scenes(url: str, folder: Path, **imagery: object) -> SceneCatalogue:
    options = {"reader": "api", "url": url, "dataset": KENYA, **imagery}
    catalogue = mlhub_catalogue(recipe(folder, **options), folder / "work")
    catalogue.scenes()  # lists them
    return catalogue


def told(error: BaseException) -> str:
    """Everything that a traceback shows and a debugger finds."""
    return "".join(traceback.format_exception(error)) + repr(error.__context__) + repr(error.__cause__)


def test_archives_by_redirect_without_the_key(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(*Mlhub(data, key=KEY).routes()) as (url, got):
        catalogue = scenes(url + API_PATH, tmp_path)
        assert [(scene.name, len(scene.items)) for scene in catalogue.scenes()] == [("tile_00", 2), ("tile_01", 2)]
        assert catalogue.requests == len(got) == 5
        storage = [request for request in got if request.path.startswith(STORAGE_PATH)]
        assert len(storage) == 2
        for request in storage:
            assert KEY not in str(request.url)
            assert KEY not in str(dict(request.headers))
            assert "Authorization" not in request.headers
        again = scenes(url + API_PATH, tmp_path)
        assert again.scenes() == catalogue.scenes()
        assert [request.headers.get("If-None-Match") is not None for request in got[-1:]] == [True]
        catalogue.close()
        again.close()
    assert "key=***" in caplog.text
    assert KEY not in caplog.text
    files = contents(tmp_path / "work")
    assert {name.split("/")[0] for name in files} == {"archives", "mlhub"}
    assert not any(KEY.encode() in body or KEY in name for name, body in files.items())


def test_download_goes_on_where_it_broke(large: Path, tmp_path: Path) -> None:
    with serving(*Mlhub(large, key=KEY, cuts=1).routes()) as (url, got):
        catalogue = scenes(url + API_PATH, tmp_path, collections=[LABELS])
        assert [scene.name for scene in catalogue.scenes()] == ["tile_00", "tile_01"]
        first, second = (request for request in got if request.path.startswith(STORAGE_PATH))
        assert "Range" not in first.headers
        assert second.headers["Range"].startswith("bytes=")
        assert second.headers["If-Range"].startswith('"')
        assert catalogue.requests == len(got) == 5  # the redirect is asked for again, it may have run out


def test_no_login_of_the_user_is_sent(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password s3cr3t\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(*Mlhub(data, key=KEY).routes()) as (url, got):
        scenes(url + API_PATH, tmp_path).close()
        assert len(got) == 5
        assert not any("Authorization" in request.headers for request in got)


def test_only_what_the_recipe_names_is_asked_for(data: Path, tmp_path: Path) -> None:
    (data / KENYA / "x_source_landsat_8").mkdir()
    with serving(*Mlhub(data, key=KEY).routes()) as (url, got):
        assert scenes(url + API_PATH, tmp_path, collections=[LABELS]).scenes()[0].items == ()
        scenes(url + API_PATH, tmp_path)
        assert not any("landsat" in request.path or SOURCE in request.path for request in got[:3])
        assert not any("landsat" in request.path for request in got)
        with pytest.raises(SourceError, match=rf"has no collection 'x'; it has {LABELS}, {SOURCE}, .*; correct im"):
            scenes(url + API_PATH, tmp_path, collections=["x"])


def test_unknown_dataset_is_told_with_those_that_are(data: Path, tmp_path: Path) -> None:
    with (
        serving(*Mlhub(data, key=KEY).routes()) as (url, _),
        pytest.raises(SourceError, match=rf"has no dataset 'x/y'; it has {KENYA}\. Correct imagery\.dataset\. Rad"),
    ):
        scenes(url + API_PATH, tmp_path, dataset="x/y")


def test_no_key_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLHUB_API_KEY", " ")
    with pytest.raises(CredentialError, match="needs a key; set the environment variable MLHUB_API_KEY"):
        scenes("http://127.0.0.1:9/mlhub/v1", tmp_path)


def test_refused_key(data: Path, tmp_path: Path) -> None:
    with serving(*Mlhub(data, key="another").routes()) as (url, got):
        with pytest.raises(CredentialError, match=r"the server refused the key \(401\); set MLHUB_API_KEY") as caught:
            scenes(url + API_PATH, tmp_path)
        assert len(got) == 1
    assert KEY not in told(caught.value)


@pytest.mark.parametrize("host", ["api.radiant.earth", "staging.api.radiant.earth"])
def test_retired_host_is_not_even_asked(tmp_path: Path, host: str) -> None:
    with pytest.raises(SourceError) as caught:
        scenes(f"https://{host}/mlhub/v1", tmp_path)
    for part in ("does not exist any more", "retired", "source-coop", "reader: local", "another server", host):
        assert part in str(caught.value)


def unknown_host(*_: object, **__: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


def test_host_without_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    with pytest.raises(
        SourceError, match=r"mlhub\.example.*: no connection .* gave up after 3 .* was retired; use"
    ) as e:
        scenes("https://mlhub.example/mlhub/v1", tmp_path)
    assert KEY not in told(e.value)


def test_server_down_and_no_url(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no connection \(the connection was refused\); gave up") as caught:
        scenes("http://127.0.0.1:9", tmp_path)
    assert KEY not in told(caught.value)
    with pytest.raises(SourceError, match=r"htp://x/.*: is no URL that can be asked \(InvalidSchema\); correct im"):
        scenes("htp://x/", tmp_path)


DATASET = f"/v1/datasets/{KENYA}?key={KEY}"
ARCHIVE = f"/v1/archive/{LABELS}?key={KEY}"
NAMED = Reply(body=f'{{"id": "{KENYA}", "collections": [{{"id": "{LABELS}"}}]}}'.encode())


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            Reply(body=b"<html>"),
            r"the answer is no JSON \(a web page \(HTML\), where JSON was expected\); is this an MLHub server",
        ),
        (Reply(body=b"{}"), r"names no collection; is this an MLHub server"),
        (Reply(body=b'[{"id": 1}]'), r"names no collection"),
        (Reply(status=410), r"the server answered 410; correct imagery\.url.*retired"),
        (Reply(status=301), r"the server answered 301"),
        (Reply(status=503), r"the server answered 503 .*; gave up after 3 attempts.*retired"),
        (Reply(body=b"0123456789", cut=True), r"the answer broke off .*; gave up after 3 attempts"),
    ],
)
def test_odd_answers(tmp_path: Path, reply: Reply, said: str) -> None:
    with ScriptedServer({}, script={DATASET: [reply] * 3}) as server:
        with pytest.raises(SourceError, match=said) as caught:
            scenes(server.url + "/v1", tmp_path)
        assert len(server.requests) == (3 if "gave up" in said else 1)
    assert KEY not in told(caught.value)


def test_passing_faults_are_waited_out(data: Path, tmp_path: Path) -> None:
    archive = pack(data / KENYA / LABELS)
    moved = Reply(303, headers={"Location": f"/blob/a.tar.gz?key={KEY}&sig=signed"})
    script = {
        DATASET: [Reply(500), Reply(reset=True), NAMED],
        ARCHIVE: [Reply(503), moved, moved, moved],
        "/blob/a.tar.gz?sig=signed": [Reply(403), Reply(500), Reply(body=archive)],
    }
    with ScriptedServer({}, script=script) as server:
        assert len(scenes(server.url + "/v1", tmp_path, attempts=5).scenes()) == 2
        assert [request.status for request in server.requests if "blob" in request.key] == [403, 500, 200]


def test_signed_url_that_runs_out_in_the_middle(large: Path, tmp_path: Path) -> None:
    archive = pack(large / KENYA / LABELS)
    half = len(archive) // 2
    etag = {"ETag": '"v1"', "Content-MD5": base64.b64encode(hashlib.md5(archive).digest()).decode()}

    async def first(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers=etag)
        answer.content_length = len(archive)
        answer.force_close()
        await answer.prepare(request)
        await answer.write(archive[:half])
        return answer

    async def blob(request: web.Request) -> web.StreamResponse:
        if "Range" not in request.headers:
            return await first(request)
        if request.query["sig"] == "2":
            return web.Response(status=403, text="Signature not valid in the specified time frame")
        start = int(request.headers["Range"][6:-1])
        place = {"Content-Range": f"bytes {start}-{len(archive) - 1}/{len(archive)}"}
        return web.Response(status=206, body=archive[start:], headers={"ETag": '"v1"'} | place)

    signed: Iterator[int] = iter(range(1, 100))

    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=303, headers={"Location": f"/blob?sig={next(signed)}"})

    async def dataset(_: web.Request) -> web.Response:
        return web.Response(body=NAMED.body)

    routes = [web.get("/v1/datasets/{d}", dataset), web.get("/v1/archive/{c}", redirect), web.get("/blob", blob)]
    with serving(*routes) as (url, got):
        assert len(scenes(url + "/v1", tmp_path).scenes()) == 2
        assert [request.query["sig"] for request in got if request.path == "/blob"] == ["1", "2", "3"]


def test_archive_with_another_md5_is_never_used(data: Path, tmp_path: Path) -> None:
    archive = pack(data / KENYA / LABELS)
    wrong = Reply(body=archive, headers={"Content-MD5": base64.b64encode(bytes(16)).decode()})
    with ScriptedServer({"/blob": b""}, script={DATASET: [NAMED], ARCHIVE: [wrong] * 9}) as server:
        said = rf"archive/{LABELS}: the download has md5 [0-9a-f]+, the server said 0{{32}}; gave up after 3 attempts"
        with pytest.raises(SourceError, match=said) as caught:
            scenes(server.url + "/v1", tmp_path)
    assert KEY not in told(caught.value)
    assert not list((tmp_path / "work").rglob("*.gz"))


def test_server_that_sends_the_archive_itself(data: Path, tmp_path: Path) -> None:
    archive = Reply(body=pack(data / KENYA / LABELS))
    with ScriptedServer({}, script={DATASET: [NAMED], ARCHIVE: [archive] * 2}) as server:
        assert len(scenes(server.url + "/v1", tmp_path).scenes()) == 2


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(303), "redirects to nowhere"),
        (Reply(401), r"refused the key \(401\)"),
        (
            Reply(303, headers={"Location": "/gone"}),
            rf"archive/{LABELS}: the server answered 404 .*; ask the server's",
        ),
        (Reply(303, headers={"Location": "ftp://x/y"}), r"archive/.*InvalidSchema|No connection adapters"),
    ],
)
def test_archive_that_cannot_be_had(tmp_path: Path, reply: Reply, said: str) -> None:
    with (
        ScriptedServer({}, script={DATASET: [NAMED], ARCHIVE: [reply]}) as server,
        pytest.raises(TilewrightError, match=said) as caught,
    ):
        scenes(server.url + "/v1", tmp_path)
    assert KEY not in told(caught.value)


class WithoutArchives(Mlhub):
    """A copy that never made archives."""

    def routes(self) -> list[web.RouteDef]:
        return [route for route in super().routes() if "/archive/" not in route.path]


def test_server_without_archives_is_walked_and_files_come_when_asked_for(data: Path, tmp_path: Path) -> None:
    with serving(*WithoutArchives(data, key=KEY, page=3).routes()) as (url, got):
        catalogue = scenes(url + API_PATH, tmp_path)
        assert [(scene.name, len(scene.items)) for scene in catalogue.scenes()] == [("tile_00", 2), ("tile_01", 2)]
        assert not any("download" in request.path for request in got)
        assert sum("items" in request.path for request in got) == 3
        asset = catalogue.scenes()[1].items[0].assets["B02"]
        assert asset.path().read_bytes() == body_of(f"{SOURCE}/{KENYA}_tile_01_20190606/B02.tif")
        before = catalogue.requests
        assert asset.path().is_relative_to(tmp_path / "work" / "mlhub")
        assert catalogue.requests == before == len(got)
        assert not any(KEY in str(request.url) for request in got if "/blob/" in request.path)
        assert KEY not in asset.name
        lost = catalogue.scenes()[0].items[0].assets["B02"]
        (data / KENYA / SOURCE / f"{KENYA}_tile_00_20190606" / "B02.tif").unlink()
        with pytest.raises(WindowReadError, match=r"tile_00_20190606/B02\.tif: the server answered 404") as caught:
            lost.path()
        catalogue.close()
    assert KEY not in told(caught.value)
    assert not any(KEY.encode() in body for body in contents(tmp_path / "work").values())


def test_pages_that_go_round_end(tmp_path: Path) -> None:
    here = f"/v1/collections/{LABELS}/items"
    page = json_reply(
        200,
        f'{{"features": [1, {{"id": "{KENYA}_tile_00_label", "assets": {{"labels": {{"href": "http://127.0.0.1:9/x",'
        ' "type": "image/tiff"}}}, {"id": "x", "assets": null}],'
        f' "links": [{{"rel": "next", "href": "{here}?token=1"}}]}}',
    )
    last = json_reply(200, f'{{"features": [], "links": [{{"rel": "next", "href": "{here}?token=1"}}]}}')
    script = {DATASET: [NAMED], f"{here}?key={KEY}": [page], f"{here}?token=1&key={KEY}": [last]}
    with ScriptedServer({}, script=script) as server:
        (scene,) = scenes(server.url + "/v1", tmp_path).scenes()
        assert scene.labels is not None
        with pytest.raises(WindowReadError, match=r"no connection .*gave up after 3 attempts") as caught:
            scene.labels.path()
        assert KEY not in told(caught.value)
        with pytest.raises(SourceError, match=r"items: the server answered 404 without items"):
            list(MlhubApi(server.url + "/v1", Client(RetryPolicy(1, 600.0, 0.01), 5)).items("none"))


def test_links_to_the_retired_host_lead_to_the_copy(data: Path, tmp_path: Path) -> None:
    with serving(*Mlhub(data, key=KEY).routes()) as (url, got):
        api = MlhubApi(url + API_PATH, Client(RetryPolicy(1, 600.0, 0.01), 5))
        where, headers = api.locate(f"https://staging.api.radiant.earth/mlhub/v1/archive/{LABELS}")
        assert (where, headers) == (f"{url}{STORAGE_PATH}/{LABELS}.tar.gz", {})
        assert len(got) == 1
        assert api.locate("https://elsewhere.example/file.tif") == ("https://elsewhere.example/file.tif", {})


def test_azure_is_asked_in_its_newer_version() -> None:
    azure = "https://radiantearth.blob.core.windows.net/mlhub/archives/x.tar.gz"
    assert storage_headers(azure) == {"x-ms-version": "2021-06-08"}
    assert storage_headers("https://blob.core.windows.net.example/x") == {}


def test_pages_without_an_end_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page has items of its own, wanted or not, and leads to another one."""
    asked = iter(range(10**6))
    kind, assets = "x", '{"labels": {"href": "http://127.0.0.1:9/x", "type": "image/tiff"}}'

    def answer(key: str) -> bytes | Reply | None:
        if "/items" not in key:
            return NAMED if "/datasets/" in key else None
        number = next(asked)
        return json_reply(
            200,
            f'{{"features": [{{"id": "{kind}_tile_{number % 100:02}_label", "assets": {assets}}}],'
            f' "links": [{{"rel": "next", "href": "?page={number}"}}]}}',
        )

    monkeypatch.setattr("tasks.imagery.mlhub.remote.MOST_IDLE", 8)
    monkeypatch.setattr("tasks.imagery.mlhub.remote.MOST_PAGES", 20)
    with ScriptedServer(answer) as server:
        with pytest.raises(SourceError, match="not come to an end after 8 pages with nothing that is wanted; name a"):
            scenes(server.url + "/v1", tmp_path)
        kind = KENYA
        with pytest.raises(SourceError, match="not come to an end after 20 pages; name a smaller part"):
            scenes(server.url + "/v1", tmp_path)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ('{"features": {"a": 1}}', "answered 200 without items"),
        ("[" * 100_000, r"is no JSON \(JSON that is nested too deeply\)"),
        ('{"features": [5, null, {"id": 5, "assets": []}, {"assets": {"a": 5}}], "links": 5}', "no file has a name"),
        ('{"features": [{"id": "%s", "assets": {"a": {}}}], "links": [{"rel": "next", "href": "http://[::1"}]}'
         % ("x" * 10_000), r"no file has a name .*there are x+\.\.\., \.\.\."),
    ],
)  # fmt: skip
def test_items_that_are_none_are_told_in_one_line(tmp_path: Path, page: str, said: str) -> None:
    here = f"/v1/collections/{LABELS}/items?key={KEY}"
    with (
        ScriptedServer({here: page.encode()}, script={DATASET: [NAMED]}) as server,
        pytest.raises(SourceError, match=said) as caught,
    ):
        scenes(server.url + "/v1", tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://169.254.169.254/x", r"leads to a private address \(169\.254\.169\.254\)"),
        ("http://[::ffff:10.0.0.1]/x", "leads to a private address"),
        ("http://localhost:9/x", "leads to a private address"),
        ("http://[::1", r"redirects to http://\[::1, which is no URL"),
        (f"http://127.0.0.1:9/{KEY}/x", "would hand it the key; it was not followed"),
        ("file:///etc/hostname", "is no URL that can be asked"),
    ],
)
def test_archive_elsewhere_is_not_fetched(tmp_path: Path, target: str, said: str) -> None:
    moved = Reply(303, headers={"Location": target})
    with (
        ScriptedServer({}, script={DATASET: [NAMED], ARCHIVE: [moved]}) as server,
        pytest.raises(SourceError, match=said) as caught,
    ):
        scenes(server.url + "/v1", tmp_path)
    assert KEY not in told(caught.value)


def test_archive_over_the_limit_is_not_fetched(data: Path, tmp_path: Path) -> None:
    body = Reply(body=bytes(200_000))
    with ScriptedServer({}, script={DATASET: [NAMED], ARCHIVE: [body] * 2}) as server:
        small = recipe(tmp_path, reader="api", url=server.url + "/v1", dataset=KENYA)
        small = small.model_copy(update={"limits": small.limits.replaced(max_download_gb=0.0001)})
        with pytest.raises(SourceError, match=r"over limits\.max_download_gb 0\.0001"):
            mlhub_catalogue(small, tmp_path / "work").scenes()
    assert not [*(tmp_path / "work").rglob("*.gz"), *(tmp_path / "work").rglob("*.part")]


def test_archive_that_is_none_is_not_kept(data: Path, tmp_path: Path) -> None:
    page, good = Reply(body=b'{"a": "page"}'), Reply(body=pack(data / KENYA / LABELS))
    script = {DATASET: [NAMED] * 2, ARCHIVE: [page] * 2 + [good] * 2}
    with ScriptedServer({}, script=script) as server:
        said = rf"/v1: the archive of {LABELS} is no \.tar\.gz archive .*; it was removed: run the same command again"
        with pytest.raises(SourceError, match=said):
            scenes(server.url + "/v1", tmp_path)
        assert not list((tmp_path / "work").rglob("*.gz"))
        assert len(scenes(server.url + "/v1", tmp_path).scenes()) == 2
