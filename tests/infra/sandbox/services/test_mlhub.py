import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
import requests

from infra.sandbox.services.mlhub import API_PATH, PROXY_PATH, SANDBOX_KEY, STORAGE_PATH, CoopProxy, Mlhub, pack
from tests.tasks.imagery.mlhub.files import KENYA, LABELS, SOURCE, body_of, kenya, serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One dataset; a collection of it is an archive already."""
    made = kenya(tmp_path / "data")
    ready = made / KENYA / "ready.tar.gz"
    ready.write_bytes(b"as it is to be sent")
    (tmp_path / "secret.txt").write_text("not served")
    return made


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    with serving(*Mlhub(folder, page=3).routes(), *CoopProxy(folder.parent, page=6).routes()) as (served, _):
        yield served


def get(url: str, key: str = SANDBOX_KEY, **headers: str) -> requests.Response:
    query = {"key": key} if key else {}
    return requests.get(url, params=query, headers=headers, timeout=10, allow_redirects=False)


@pytest.mark.parametrize(
    "path",
    ["datasets", f"datasets/{KENYA}", f"collections/{LABELS}", f"archive/{LABELS}", f"archive/{LABELS}/info"],
)
def test_the_key_is_wanted(url: str, path: str) -> None:
    assert get(f"{url}{API_PATH}/{path}", key="").status_code == 401
    assert get(f"{url}{API_PATH}/{path}", key="wrong").status_code == 401
    assert get(f"{url}{API_PATH}/{path}").status_code in (200, 303)


def test_what_there_is(url: str) -> None:
    (dataset,) = get(f"{url}{API_PATH}/datasets").json()
    assert dataset == get(f"{url}{API_PATH}/datasets/{KENYA}").json()
    assert {one["id"]: one["types"] for one in dataset["collections"]} == {
        LABELS: ["labels"],
        SOURCE: ["source_imagery"],
        "ready": ["source_imagery"],
    }
    assert get(f"{url}{API_PATH}/collections/{LABELS}").json()["id"] == LABELS
    for path in ("datasets/none", "collections/none", "archive/none", "collections/none/items", "archive/none/info"):
        assert get(f"{url}{API_PATH}/{path}").status_code == 404


def test_archive_lies_elsewhere_and_is_no_place_for_the_key(url: str, folder: Path) -> None:
    answer = get(f"{url}{API_PATH}/archive/{LABELS}")
    assert answer.status_code == 303
    where = answer.headers["Location"]
    assert where == f"{url}{STORAGE_PATH}/{LABELS}.tar.gz"
    whole = get(where, key="")
    assert whole.content == pack(folder / KENYA / LABELS)
    assert get(f"{url}{API_PATH}/archive/{LABELS}/info").json()["size"] == len(whole.content)
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as tar:
        assert f"{LABELS}/{KENYA}_tile_00_label/labels.tif" in tar.getnames()
    assert get(where).status_code == 400
    assert get(where, key="", Authorization="Bearer x").status_code == 400
    assert get(f"{url}{STORAGE_PATH}/ready.tar.gz", key="").content == b"as it is to be sent"


def test_ranges(url: str) -> None:
    where = f"{url}{STORAGE_PATH}/ready.tar.gz"
    whole = get(where, key="")
    etag = whole.headers["ETag"]
    assert etag.strip('"') == hashlib.md5(whole.content).hexdigest()
    rest = get(where, key="", Range="bytes=6-", **{"If-Range": etag})
    assert (rest.status_code, rest.content) == (206, whole.content[6:])
    assert rest.headers["Content-Range"] == f"bytes 6-{len(whole.content) - 1}/{len(whole.content)}"
    assert rest.headers["x-ms-blob-content-md5"] == whole.headers["Content-MD5"]
    assert get(where, key="", Range="bytes=2-3").content == whole.content[2:4]
    assert get(where, key="", Range="bytes=6-", **{"If-Range": '"older"'}).content == whole.content
    assert get(where, key="", Range="bytes=999-").status_code == 416
    assert get(where, key="", **{"If-None-Match": etag}).status_code == 304
    head = requests.head(where, timeout=10)
    assert int(head.headers["Content-Length"]) == len(whole.content)


def test_cut_answers(folder: Path) -> None:
    with serving(*Mlhub(folder, cuts=1, storage="http://storage.example").routes()) as (url, _):
        assert urlsplit(get(f"{url}{API_PATH}/archive/ready").headers["Location"]).hostname == "storage.example"
        where = f"{url}{STORAGE_PATH}/ready.tar.gz"
        with pytest.raises(requests.RequestException):
            get(where, key="")
        assert get(where, key="").content == b"as it is to be sent"


def test_items_by_pages(url: str) -> None:
    found: list[dict[str, Any]] = []
    where = f"{url}{API_PATH}/collections/{SOURCE}/items"
    pages = 0
    while where:
        page = get(where).json()
        found += page["features"]
        where = next((link["href"] for link in page["links"] if link["rel"] == "next"), "")
        pages += 1
    assert pages == 2
    assert [item["id"] for item in found] == [
        f"{KENYA}_tile_{tile}_{date}" for tile in ("00", "01") for date in ("20190606", "20190721")
    ]
    assert set(found[0]["assets"]) == {"B02", "B03", "CLD"}
    answer = get(found[0]["assets"]["B02"]["href"])
    assert answer.status_code == 303
    assert get(answer.headers["Location"], key="").content == body_of(f"{SOURCE}/{found[0]['id']}/B02.tif")


def test_proxy_lists_and_sends(url: str, folder: Path) -> None:
    product, keys, token, pages = f"{url}{PROXY_PATH}/data/{KENYA}", [], "", 0
    while True:
        query = {"list-type": "2", "prefix": SOURCE} | ({"continuation-token": token} if token else {})
        root = ElementTree.fromstring(requests.get(product, params=query, timeout=10).content)
        keys += [entry.findtext("{*}Key", "") for entry in root.iterfind("{*}Contents")]
        pages += 1
        token = root.findtext("{*}NextContinuationToken", "")
        if root.findtext("{*}IsTruncated") != "true":
            break
    there = sorted(file.relative_to(folder / KENYA).as_posix() for file in (folder / KENYA / SOURCE).rglob("*.tif"))
    assert (keys, pages) == (there, 2)
    assert get(f"{product}/{keys[0]}").content == (folder / KENYA / keys[0]).read_bytes()
    assert get(f"{url}{PROXY_PATH}/data/none?list-type=2").status_code == 404
    assert get(f"{product}/none").status_code == 404


@pytest.mark.parametrize(
    "path", [f"{PROXY_PATH}/data/{KENYA}/%2E%2E/%2E%2E/secret.txt", f"{STORAGE_PATH}/files/..%2Fsecret.txt"]
)
def test_nothing_beside_the_folder_is_sent(url: str, path: str) -> None:
    assert requests.get(url + path, timeout=10).status_code == 404
