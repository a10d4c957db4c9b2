"""The MLHub readers on what MLHub really published: a Kenya archive, LandCoverNet chips, and recorded answers."""

import gzip
import json
import re
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
import yaml
from aiohttp import web
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from infra.sandbox.services.mlhub import API_PATH, PROXY_PATH, SANDBOX_KEY, STORAGE_PATH, CoopProxy, Mlhub
from tasks.errors import SourceError
from tasks.imagery.mlhub.api import MlhubApi
from tasks.imagery.mlhub.catalogue import mlhub_catalogue
from tasks.imagery.mlhub.layouts import recognise
from tasks.imagery.scenes.catalogue import SceneCatalogue
from tasks.raster.scene import Scene
from tasks.web.client import Client
from tasks.web.retry import RetryPolicy
from tests.tasks.imagery.mlhub.files import recipe, serving

pytestmark = pytest.mark.real

DATASET = "ref_african_crops_kenya_02"
LABELS, SOURCE = f"{DATASET}_labels", f"{DATASET}_source"
ARCHIVE = f"mlhub/archives/{LABELS}.tar.gz"
RECORDINGS = {
    "datasets": "TestAnonymousClient.test_list_datasets_anonymously_works",
    "item": "TestClientAuthenticatedEndpoints.test_get_collection_item",
    "items": "TestClientAuthenticatedEndpoints.test_list_collection_items",
    "archive": "TestCollectionAuthenticatedEndpoints.test_download_archive",
}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLHUB_API_KEY", SANDBOX_KEY)
    monkeypatch.setattr("tasks.imagery.mlhub.catalogue.FIRST_PAUSE", 0.01)


def labels(scenes: list[Scene]) -> dict[str, NDArray[Any]]:
    """Each scene's label raster, (band, y, x); asserts that it has no CRS."""
    found = {}
    for scene in scenes:
        assert scene.labels is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(scene.labels.path()) as file:
                assert file.crs is None
                found[scene.name] = file.read()
    return found


def kenya(catalogue: SceneCatalogue) -> dict[str, NDArray[Any]]:
    try:
        scenes = catalogue.scenes()
        assert all(scene.items == () for scene in scenes)
        assert [scene.group for scene in scenes] == [scene.name for scene in scenes]
        return labels(scenes)
    finally:
        catalogue.close()


@pytest.fixture(scope="module")
def straight(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[Any]]:
    """The archive's labels, read with nothing of ours."""
    folder = tmp_path_factory.mktemp("straight")
    found = {}
    with tarfile.open(shared_data / ARCHIVE) as tar:
        for member in tar.getmembers():
            if member.name.endswith("/labels.tif"):
                tar.extract(member, folder, filter="data")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)
                    with rasterio.open(folder / member.name) as file:
                        found[re.findall(r"tile_\d\d", member.name)[0]] = file.read()
    return found


def assert_kenya(found: dict[str, NDArray[Any]], straight: dict[str, NDArray[Any]]) -> None:
    assert list(found) == ["tile_00", "tile_01", "tile_02", "tile_03"]
    for name, values in found.items():
        assert values.shape == (1, 3035, 2016)
        np.testing.assert_array_equal(values, straight[name])
    assert set(np.unique(np.concatenate([values.ravel() for values in found.values()]))) == set(range(8))


def test_kenya_from_its_archive(shared_data: Path, tmp_path: Path, straight: dict[str, NDArray[Any]]) -> None:
    for path in (shared_data / ARCHIVE, (shared_data / ARCHIVE).parent):
        options = {"reader": "local", "path": str(path)}
        assert_kenya(kenya(mlhub_catalogue(recipe(tmp_path, **options), tmp_path / "work")), straight)
    files = [path.name for path in (tmp_path / "work").rglob("*.tif")]
    assert files == ["labels.tif"] * 4  # and none of the field ids, four times as large


def test_kenya_from_an_api_that_breaks_off(
    shared_data: Path, tmp_path: Path, straight: dict[str, NDArray[Any]]
) -> None:
    (tmp_path / "data" / DATASET).mkdir(parents=True)
    (tmp_path / "data" / DATASET / f"{LABELS}.tar.gz").symlink_to(shared_data / ARCHIVE)
    with serving(*Mlhub(tmp_path / "data", cuts=1).routes()) as (url, got):
        options = {"reader": "api", "url": url + API_PATH, "dataset": DATASET}
        assert_kenya(kenya(mlhub_catalogue(recipe(tmp_path, **options), tmp_path / "work")), straight)
        storage = [request for request in got if request.path.startswith(STORAGE_PATH)]
        assert len(storage) == 2
        assert 0 < int(storage[1].headers["Range"][6:-1]) <= 252_970 // 2
        assert all("key" not in request.query for request in storage)


def test_kenya_from_the_proxy(shared_data: Path, tmp_path: Path, straight: dict[str, NDArray[Any]]) -> None:
    with tarfile.open(shared_data / ARCHIVE) as tar:
        tar.extractall(tmp_path / "proxy" / "account" / "kenya", filter="data")
    with serving(*CoopProxy(tmp_path / "proxy", page=3).routes()) as (url, got):
        options = {"reader": "source-coop", "url": url + PROXY_PATH, "dataset": "account/kenya"}
        assert_kenya(kenya(mlhub_catalogue(recipe(tmp_path, **options), tmp_path / "work")), straight)
        assert sum("list-type" in request.query for request in got) == 5  # 14 files
        assert len(got) == 5 + 4


def test_kenyas_archive_cut_short(shared_data: Path, tmp_path: Path) -> None:
    body = (shared_data / ARCHIVE).read_bytes()
    for end in (len(body) - 1, len(body) // 2, 100):
        (tmp_path / "cut.tar.gz").write_bytes(body[:end])
        with (
            mlhub_catalogue(recipe(tmp_path, reader="local", path="cut.tar.gz"), tmp_path / "work") as catalogue,
            pytest.raises(SourceError, match=r"cut\.tar\.gz: is cut short or damaged .*; nothing of it was used"),
        ):
            catalogue.scenes()
        assert not list((tmp_path / "work").rglob("*.tif"))


def test_kenyas_archive_over_the_limit(shared_data: Path, tmp_path: Path) -> None:
    options = {"reader": "local", "path": str(shared_data / ARCHIVE), "max_bytes": 100_000_000}
    with (
        mlhub_catalogue(recipe(tmp_path, **options), tmp_path / "work") as catalogue,
        pytest.raises(SourceError, match=r"unpacks to more than imagery\.max_bytes \(100000000\)"),
    ):
        catalogue.scenes()


def test_landcovernet_label_chips(shared_data: Path, tmp_path: Path) -> None:
    options = {"reader": "local", "path": str(shared_data / "landcovernet" / "labels")}
    with mlhub_catalogue(recipe(tmp_path, **options), tmp_path / "work") as catalogue:
        scenes = catalogue.scenes()
    assert [scene.name for scene in scenes] == [f"28QDE_{chip:02}" for chip in range(10)]
    assert {scene.group for scene in scenes} == {"28QDE"}
    for scene in scenes:
        assert scene.items == ()
        assert scene.labels is not None
        with rasterio.open(scene.labels.path()) as file:
            assert (file.width, file.height, file.count, file.crs.to_epsg()) == (256, 256, 2, 32628)
            classes, consensus = file.read()
        assert classes.max() <= 7
        assert consensus.max() <= 100
    assert not (tmp_path / "work").exists()


def recorded(shared_data: Path, name: str) -> list[dict[str, Any]]:
    """Requests and answers of a cassette; bodies as they were before they were packed for the way."""
    text = (shared_data / "mlhub" / "recordings" / f"{RECORDINGS[name]}.yaml").read_text()
    found: list[dict[str, Any]] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["interactions"]
    for one in found:
        headers = {key: values[0] for key, values in one["response"]["headers"].items()}
        body = one["response"]["body"]["string"]
        body = body.encode() if isinstance(body, str) else body
        if headers.pop("Content-Encoding", "") == "gzip":
            body = gzip.decompress(body)
        one["response"]["headers"], one["response"]["body"] = headers, body
    return found


def replayed(headers: dict[str, str], *names: str) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


class Replay:
    """A server that answers as the recordings do, wherever they were made."""

    def __init__(self, interactions: list[dict[str, Any]]) -> None:
        self.url, self.cut = "", False
        self._answers: dict[tuple[str, str], dict[str, Any]] = {}
        for one in interactions:
            parts = urlsplit(one["request"]["uri"])
            self._answers.setdefault((one["request"]["method"], f"{parts.path}?{parts.query}"), one["response"])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        query = "&".join(
            part for part in request.url.raw_query_string.split("&") if part and not part.startswith("key=")
        )
        path = f"{request.url.raw_path}?{query}"
        answer = self._answers.get(("GET", path))
        head = self._answers.get(("HEAD", path))
        if head is not None and head["status"]["code"] == 303:
            where = urlsplit(head["headers"]["Location"])
            return web.Response(status=303, headers={"Location": f"{self.url}{where.path}"})
        if answer is None:
            return web.Response(status=404)
        body, status = answer["body"], answer["status"]["code"]
        headers = replayed(answer["headers"], "Content-Type")
        if head is None:
            return web.Response(status=status, body=body, headers=headers)
        # The client of the recording asked for a range of everything after it had asked for the head.
        headers |= replayed(head["headers"], "ETag", "Last-Modified")
        if "Range" in request.headers and request.headers.get("If-Range") == head["headers"]["ETag"]:
            start = int(request.headers["Range"][6:-1])
            place = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            return web.Response(status=206, body=body[start:], headers=headers | place)
        headers |= replayed(head["headers"], "Content-MD5")
        assert int(head["headers"]["Content-Length"]) == len(body)
        if not self.cut:
            return web.Response(body=body, headers=headers)
        self.cut = False
        broken = web.StreamResponse(headers=headers)
        broken.content_length = len(body)
        broken.force_close()
        await broken.prepare(request)
        await broken.write(body[: len(body) // 2])
        return broken


@pytest.fixture(scope="module")
def replay(shared_data: Path) -> Iterator[tuple[Replay, list[web.BaseRequest]]]:
    played = Replay([one for name in RECORDINGS for one in recorded(shared_data, name)])
    with serving(web.get("/{path:.*}", played.answer)) as (url, got):
        played.url = url
        yield played, got


def test_recorded_datasets(replay: tuple[Replay, list[web.BaseRequest]]) -> None:
    api = MlhubApi(f"{replay[0].url}/mlhub/v1", Client(RetryPolicy(1, 600.0, 0.01), 10))
    with pytest.raises(SourceError, match="has no dataset 'none'; it has ") as caught:
        api.collections("none")
    for known in (DATASET, "landcovernet_v1", "su_african_crops_ghana"):
        assert f" {known}," in str(caught.value)


def test_recorded_item(shared_data: Path) -> None:
    (one,) = recorded(shared_data, "item")
    item = json.loads(one["response"]["body"])
    hits = {key: recognise(f"{item['id']}/{key}.tif") for key in item["assets"]}
    assert {"B02", "B8A", "CLD"} < hits.keys()
    for key, hit in hits.items():
        assert hit is not None
        assert (hit.scene, hit.item, hit.key) == ("tile_02", item["id"], key)
        assert hit.acquired_at == 1_563_667_200


def test_recorded_pages_of_items(replay: tuple[Replay, list[web.BaseRequest]]) -> None:
    server, got = replay
    before = len(got)
    pages = MlhubApi(f"{server.url}/mlhub/v1", Client(RetryPolicy(1, 600.0, 0.01), 10)).items(SOURCE)
    items = [item for page in pages for item in page]
    assert len(items) == len({item["id"] for item in items}) == 52
    assert len(got) - before == 6
    assert all(recognise(f"{item['id']}/{key}.tif") for item in items for key in item["assets"])
    assert all(request.query["key"] == SANDBOX_KEY for request in got[before:])


@pytest.mark.parametrize("cut", [False, True])
def test_recorded_archive(
    replay: tuple[Replay, list[web.BaseRequest]], tmp_path: Path, straight: dict[str, NDArray[Any]], cut: bool
) -> None:
    server, got = replay
    server.cut = cut
    before = len(got)

    async def dataset(_: web.Request) -> web.Response:
        return web.json_response({"id": DATASET, "collections": [{"id": LABELS}]})

    with serving(web.get("/mlhub/v1/datasets/{id}", dataset), web.get("/{path:.*}", server.answer)) as (url, _):
        options = {"reader": "api", "url": f"{url}/mlhub/v1", "dataset": DATASET}
        assert_kenya(kenya(mlhub_catalogue(recipe(tmp_path, **options), tmp_path / "work")), straight)
    storage = got[before:]
    assert [request.path for request in storage] == [f"/mlhub/archives/{LABELS}.tar.gz"] * (2 if cut else 1)
    assert all("key" not in request.query for request in storage)
    assert ("Range" in storage[-1].headers) is cut
