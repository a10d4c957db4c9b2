import hashlib
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.sandbox.services.mlhub import PROXY_PATH, CoopProxy
from infra.sandbox.services.scripted import Reply, ScriptedServer
from tasks.errors import DiskError, SourceError, WindowReadError
from tasks.imagery.mlhub.catalogue import mlhub_catalogue
from tasks.imagery.mlhub.remote import RemoteAsset
from tasks.imagery.scenes.catalogue import SceneCatalogue
from tasks.web.client import Client
from tasks.web.retry import RetryPolicy
from tests.tasks.imagery.mlhub.files import KENYA, LABELS, body_of, contents, kenya, recipe, serving

GOOD = f"{LABELS}/{KENYA}_tile_00_label/labels.tif"


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A folder of one account with one product."""
    kenya(tmp_path / "proxy" / "an account")
    return tmp_path / "proxy"


def scenes(url: str, folder: Path, **imagery: object) -> SceneCatalogue:
    options = {"reader": "source-coop", "url": url, "dataset": f"an account/{KENYA}", **imagery}
    catalogue = mlhub_catalogue(recipe(folder, **options), folder / "work")
    catalogue.scenes()  # lists them
    return catalogue


def test_listing_by_pages_and_files_when_asked_for(account: Path, tmp_path: Path) -> None:
    with serving(*CoopProxy(account, page=5).routes()) as (url, got):
        catalogue = scenes(url + PROXY_PATH, tmp_path)
        assert [(scene.name, len(scene.items)) for scene in catalogue.scenes()] == [("tile_00", 2), ("tile_01", 2)]
        assert catalogue.requests == len(got) == 4  # 16 files
        assert set(contents(tmp_path / "work")) == {
            f"source-coop/{next((tmp_path / 'work' / 'source-coop').iterdir()).name}"
        }
        labels = catalogue.scenes()[0].labels
        assert labels is not None
        assert labels.name == f"{url}{PROXY_PATH}/an%20account/{KENYA}/{GOOD}"
        assert labels.path().read_bytes() == body_of(GOOD)
        labels.path()
        assert catalogue.requests == len(got) == 5
        again = scenes(url + PROXY_PATH, tmp_path)
        assert [scene.name for scene in again.scenes()] == ["tile_00", "tile_01"]
        kept = again.scenes()[0].labels
        assert kept is not None
        assert kept.path().read_bytes() == body_of(GOOD)
        assert again.requests == 0
        catalogue.close()
        again.close()


def test_listing_of_yesterday_is_fetched_again(account: Path, tmp_path: Path) -> None:
    with serving(*CoopProxy(account).routes()) as (url, got):
        scenes(url + PROXY_PATH, tmp_path).close()
        (kept,) = (tmp_path / "work" / "source-coop").glob("*.json")
        found = json.loads(kept.read_text())
        for change in ({"at": time.time() - 90_000}, {"at": time.time() + 90_000}, {"files": 1}, {"files": [[1]]}):
            kept.write_text(json.dumps(found | change))
            before = len(got)
            assert len(scenes(url + PROXY_PATH, tmp_path).scenes()) == 2
            assert len(got) == before + 1
        kept.write_text("{")
        assert len(scenes(url + PROXY_PATH, tmp_path).scenes()) == 2


def test_prefix_and_keys_with_the_product_in_front(account: Path, tmp_path: Path) -> None:
    with serving(*CoopProxy(account).routes()) as (url, got):
        catalogue = scenes(url + PROXY_PATH, tmp_path, dataset=f"an account/{KENYA}/{LABELS}")
        assert [scene.items for scene in catalogue.scenes()] == [(), ()]
        assert got[0].query["prefix"] == f"{LABELS}/"
        labels = catalogue.scenes()[0].labels
        assert labels is not None
        assert labels.path().read_bytes() == body_of(GOOD)
        catalogue.close()
    with ScriptedServer({}, script={"*": [listing([f"p/{GOOD}"])]}) as server:
        (scene,) = scenes(server.url, tmp_path, dataset="a/p").scenes()
        assert scene.labels is not None
        assert scene.labels.name == f"{server.url}/a/p/{GOOD}"


def listing(keys: list[str], body: bytes = b"body", token: str = "", etag: str = "") -> Reply:
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>{len(body)}</Size><ETag>&quot;{etag}&quot;</ETag></Contents>" for key in keys
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return Reply(body=f"<ListBucketResult>{more}{entries}</ListBucketResult>".encode())


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            Reply(404),
            r"a/p: Source Cooperative has no such public product \(it answered 404\); correct imagery\.da",
        ),
        (Reply(403), r"no such public product \(it answered 403\)"),
        (Reply(500), r"a/p: the server answered 500 .*; gave up after 3 attempts, start again later"),
        (Reply(body=b"<html>"), r"a/p: the server answered 200 without an S3 listing; correct imagery\.url"),
        (Reply(body=b"<Error/>"), r"without an S3 listing"),
        (Reply(body=b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult/>'), r"without an S3 listing"),
        (
            Reply(body="<?xml version='1.0' encoding='utf-16'?><ListBucketResult/>".encode("utf-16")),
            r"without an S3 li",
        ),
        (Reply(body=b" " * 5000 + b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult/>'), r"without an S3 listing"),
        (Reply(body=b"<a>" * 100_000), r"without an S3 listing"),
        (
            Reply(body="<ListBucketResult><Contents><Key>x</Key><Size>²</Size></Contents></ListBucketResult>".encode()),
            "none",
        ),
        (Reply(307, headers={"Location": "/"}), r"answered 307 without an S3 listing"),
        (listing([], token="again"), r"the listing goes round in circles"),
        (listing(["a.tif", "../b.tif"]), r"a/p/: no file has a name of a known layout \(there are a\.tif, \.\.\."),
        (listing([f"../{GOOD}"]), r"there are none at all"),
    ],
)
def test_listing_that_cannot_be_used(tmp_path: Path, reply: Reply, said: str) -> None:
    with (
        ScriptedServer({}, script={"*": [reply] * 9}) as server,
        pytest.raises(SourceError, match=said),
    ):
        scenes(server.url, tmp_path, dataset="a/p")


def test_listing_without_an_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(10**6))
    keys = 5

    def answer(_: str) -> Reply:
        number = next(count)
        return listing([f"{number}-{key}.tif" for key in range(keys)], token=f"t{number}")

    monkeypatch.setattr("tasks.imagery.mlhub.remote.MOST_IDLE", 8)
    monkeypatch.setattr("tasks.imagery.mlhub.remote.MOST_PAGES", 20)
    with ScriptedServer(answer) as server:
        with pytest.raises(SourceError, match="a/p: the listing has not come to an end after 8 pages with nothing"):
            scenes(server.url, tmp_path, dataset="a/p")
        keys = 200
        with pytest.raises(SourceError, match="a/p: the listing has not come to an end after 20 pages; name a smaller"):
            scenes(server.url, tmp_path, dataset="a/p")
        monkeypatch.setattr("tasks.imagery.mlhub.remote.LISTING_SECONDS", -1.0)
        with pytest.raises(SourceError, match="not come to an end after -1 s and 1 pages"):
            scenes(server.url, tmp_path, dataset="a/p")
    assert not contents(tmp_path)


def test_page_that_is_no_page_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.imagery.mlhub.source_coop.PAGE_BYTES", 1000)
    with (
        ScriptedServer({}, script={"*": [listing(["x.tif"] * 100)]}) as server,
        pytest.raises(SourceError, match=r"a/p: a page of the listing has [0-9,]+ bytes, over 1,000; correct imagery"),
    ):
        scenes(server.url, tmp_path, dataset="a/p")


@pytest.mark.parametrize("dataset", ["alone", "/", "a//b", "a/../b", "a/b/../.."])
def test_dataset_that_is_no_place(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(SourceError, match=r"imagery\.dataset: .* expected account/product or account/product/prefix"):
        scenes("http://127.0.0.1:9", tmp_path, dataset=dataset)


def test_sporadic_errors_while_listing(tmp_path: Path) -> None:
    script = {"*": [Reply(500), Reply(reset=True), listing([GOOD])]}
    with ScriptedServer({}, script=script) as server:
        assert len(scenes(server.url, tmp_path, dataset="a/p").scenes()) == 1
        assert len(server.requests) == 3


BODY = b"II*\0" + b"0123456789ab" * 8
MD5 = hashlib.md5(BODY).hexdigest()


def asset(url: str, tmp_path: Path, size: int | None = len(BODY), etag: str = f'"{MD5}"') -> RemoteAsset:
    client = Client(RetryPolicy(3, 600.0, 0.01), 5)
    return RemoteAsset(client, f"{url}/f", tmp_path / "kept" / "f.tif", lambda: (f"{url}/f", {}), size, etag)


@pytest.mark.parametrize(
    "replies",
    [
        [Reply(500), Reply(502)],
        [Reply(body=BODY, cut=True), Reply(body=BODY[:50])],
        [Reply(body=BODY[:4] + BODY[:3:-1])],
        [Reply(403)],
        [Reply(302, headers={"Location": "/g"})],
    ],
)
def test_file_comes_in_the_end(tmp_path: Path, replies: list[Reply]) -> None:
    with ScriptedServer({"/f": BODY, "/g": BODY}, script={"/f": replies}) as server:
        assert asset(server.url, tmp_path).path().read_bytes() == BODY
    assert list(contents(tmp_path)) == ["kept/f.tif"]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(500), r"/f: .*the server answered 500 .*; gave up after 3 attempts"),
        (Reply(404), r"/f: the server answered 404 Not Found$"),
        (Reply(403), r"/f: .*the server answered 403 .*; gave up after 3 attempts"),
        (Reply(body=BODY[:50]), r"the server sends 50 bytes, expected 100; gave up after 3 attempts"),
        (Reply(body=BODY[:4] + BODY[:3:-1]), rf"changed \(md5 [0-9a-f]+, expected {MD5}\); gave up"),
        (Reply(body=BODY, cut=True), r"/f: the answer broke off \(it ended early\); gave up after 3 attempts"),
    ],
)
def test_file_that_never_comes_is_one_windows_failure(tmp_path: Path, reply: Reply, said: str) -> None:
    with ScriptedServer({}, script={"/f": [reply] * 3}) as server, pytest.raises(WindowReadError, match=said):
        asset(server.url, tmp_path).path()
    assert not contents(tmp_path)


@pytest.mark.parametrize(("body", "said"), [(b"<!DOCTYPE html><html>", "a web page (HTML)"), (b"{}", "something else")])
def test_what_is_no_image_is_not_kept(tmp_path: Path, body: bytes, said: str) -> None:
    with (
        ScriptedServer({"/f": body}) as server,
        pytest.raises(
            WindowReadError, match=rf"/f: the server sent {re.escape(said)}, not a TIFF; gave up after 3 att"
        ),
    ):
        asset(server.url, tmp_path, None, "").path()
    assert not contents(tmp_path)


def test_etag_of_a_file_in_parts_is_no_md5(tmp_path: Path) -> None:
    with ScriptedServer({"/f": BODY}) as server:
        assert asset(server.url, tmp_path, etag=f'"{MD5}-2"').path().is_file()


def test_file_of_another_size_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "f.tif").write_bytes(b"an older version")
    with ScriptedServer({"/f": BODY}) as server:
        assert asset(server.url, tmp_path).path().read_bytes() == BODY


def test_two_threads_fetch_one_file_once(tmp_path: Path) -> None:
    with ScriptedServer({"/f": BODY}, latency=0.1) as server, ThreadPoolExecutor(4) as pool:
        one, barrier = asset(server.url, tmp_path), threading.Barrier(4)

        def ask(_: int) -> bytes:
            barrier.wait()
            return one.path().read_bytes()

        assert list(pool.map(ask, range(4))) == [BODY] * 4
        assert len(server.requests) == 1


def test_no_room_is_the_disks_fault(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("in the way")
    with ScriptedServer({"/f": BODY}) as server, pytest.raises(DiskError, match=r"f\.tif: cannot be written"):
        asset(server.url, tmp_path).path()
    (tmp_path / "work").write_text("in the way")
    with (
        ScriptedServer({}, script={"*": [listing([GOOD])]}) as server,
        pytest.raises(DiskError, match=r"json: cannot be written"),
    ):
        scenes(server.url, tmp_path, dataset="a/p")
