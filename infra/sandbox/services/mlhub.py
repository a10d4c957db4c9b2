"""Radiant MLHub as it was, and Source Cooperative's proxy, over a folder of files.

The folder holds ``{dataset}/{collection}/...`` in the layout of an archive, or ``{dataset}/{collection}.tar.gz`` as
it is to be sent. The proxy shows the same folder, or another one, as ``{account}/{product}/...``.
"""

import asyncio
import base64
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

SANDBOX_KEY = "sandbox-mlhub-key"
API_PATH, STORAGE_PATH, PROXY_PATH = "/mlhub/v1", "/blob/mlhub/archives", "/source-coop"
_ARCHIVE = ".tar.gz"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Mlhub:
    """The MLHub v1 protocol. Anything but the root wants the key; the storage that it redirects to refuses it."""

    def __init__(
        self, folder: Path, *, key: str = SANDBOX_KEY, page: int = 10, storage: str = "", cuts: int = 0
    ) -> None:
        """``page``: items at once. ``storage``: URL of the storage's server, default the API's own.

        The first ``cuts`` answers of the storage end in their middle.
        """
        self._folder, self._key, self._page, self._storage, self._cuts = folder, key, page, storage, cuts
        self._archives: dict[str, bytes] = {}

    def routes(self) -> list[web.RouteDef]:
        """To be added to an application's router."""
        return [
            web.get(f"{API_PATH}/datasets", self._datasets, name="mlhub_datasets"),
            web.get(f"{API_PATH}/datasets/{{dataset}}", self._dataset, name="mlhub_dataset"),
            web.get(f"{API_PATH}/collections/{{collection}}", self._collection, name="mlhub_collection"),
            web.get(f"{API_PATH}/collections/{{collection}}/items", self._items, name="mlhub_items"),
            web.get(f"{API_PATH}/archive/{{collection}}", self._archive, name="mlhub_archive"),
            web.get(f"{API_PATH}/archive/{{collection}}/info", self._info, name="mlhub_archive_info"),
            web.get(f"{API_PATH}/download/{{token:.+}}", self._download, name="mlhub_download"),
            web.get(f"{STORAGE_PATH}/{{collection}}{_ARCHIVE}", self._send_archive, name="mlhub_storage"),
            web.get(f"{STORAGE_PATH}/files/{{path:.+}}", self._send_file, name="mlhub_files"),
        ]

    def _check(self, request: web.Request) -> None:
        if request.query.get("key") != self._key:
            raise web.HTTPUnauthorized(text="no or wrong API key")

    def _find(self, collection: str) -> tuple[str, Path]:
        """Dataset and path of a collection: a folder, or an archive."""
        for path in self._folder.glob("*/*"):
            if collection in (path.name, path.name.removesuffix(_ARCHIVE)):
                return path.parent.name, path
        raise web.HTTPNotFound(text=f"no collection {collection!r}")

    def _about(self, dataset: Path) -> dict[str, Any]:
        names = sorted({path.name.removesuffix(_ARCHIVE) for path in dataset.iterdir()})
        kinds = [(name, ["labels"] if name.endswith("_labels") else ["source_imagery"]) for name in names]
        return {"id": dataset.name, "collections": [{"id": name, "types": types} for name, types in kinds]}

    async def _datasets(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response([self._about(path) for path in sorted(self._folder.iterdir()) if path.is_dir()])

    async def _dataset(self, request: web.Request) -> web.Response:
        self._check(request)
        path = self._folder / request.match_info["dataset"]
        if not path.is_dir():
            return web.json_response({"detail": "Dataset not found"}, status=404)
        return web.json_response(self._about(path))

    async def _collection(self, request: web.Request) -> web.Response:
        self._check(request)
        name = request.match_info["collection"]
        self._find(name)
        return web.json_response({"id": name, "type": "Collection", "stac_version": "1.0.0", "links": []})

    async def _items(self, request: web.Request) -> web.Response:
        self._check(request)
        name = request.match_info["collection"]
        _, path = self._find(name)
        here = f"{request.url.origin()}{API_PATH}"
        items = sorted({file.parent for file in path.rglob("*.tif")}) if path.is_dir() else []
        token = request.query.get("token", "").removeprefix("next:")
        start = next((place for place, item in enumerate(items) if item.name == token), 0)
        links = []
        if start + self._page < len(items):
            following = quote(f"next:{items[start + self._page].name}")
            links = [{"rel": "next", "href": f"{here}/collections/{name}/items?token={following}"}]
        features = [self._item(item, here) for item in items[start : start + self._page]]
        return web.json_response({"type": "FeatureCollection", "features": features, "links": links})

    def _item(self, item: Path, here: str) -> dict[str, Any]:
        assets = {
            file.stem: {"href": f"{here}/download/{self._token(file)}", "type": "image/tiff"}
            for file in sorted(item.glob("*.tif"))
        }
        return {"id": item.name, "type": "Feature", "stac_version": "1.0.0", "assets": assets}

    def _token(self, file: Path) -> str:
        return base64.urlsafe_b64encode(file.relative_to(self._folder).as_posix().encode()).decode()

    async def _download(self, request: web.Request) -> web.Response:
        self._check(request)
        path = base64.urlsafe_b64decode(request.match_info["token"]).decode()
        return self._elsewhere(request, f"files/{quote(path)}")

    async def _archive(self, request: web.Request) -> web.Response:
        self._check(request)
        name = request.match_info["collection"]
        self._find(name)
        return self._elsewhere(request, f"{name}{_ARCHIVE}")

    def _elsewhere(self, request: web.Request, path: str) -> web.Response:
        storage = self._storage or str(request.url.origin())
        return web.Response(status=303, headers={"Location": f"{storage}{STORAGE_PATH}/{path}"})

    async def _info(self, request: web.Request) -> web.Response:
        self._check(request)
        name = request.match_info["collection"]
        dataset, _ = self._find(name)
        size = len(await asyncio.to_thread(self._packed, name))
        return web.json_response({"collection": name, "dataset": dataset, "size": size, "types": []})

    async def _send_archive(self, request: web.Request) -> web.StreamResponse:
        return await self._send(request, await asyncio.to_thread(self._packed, request.match_info["collection"]))

    async def _send_file(self, request: web.Request) -> web.StreamResponse:
        return await self._send(request, _file(self._folder, request.match_info["path"]))

    async def _send(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if "key" in request.query or "Authorization" in request.headers:
            return web.Response(status=400, text="the storage is no place for the API's key")
        self._cuts, cut = max(0, self._cuts - 1), self._cuts > 0
        return await send_bytes(request, body, cut=cut)

    def _packed(self, collection: str) -> bytes:
        if collection not in self._archives:
            _, path = self._find(collection)
            self._archives[collection] = path.read_bytes() if path.is_file() else pack(path)
        return self._archives[collection]


class CoopProxy:
    """Source Cooperative's read-only proxy: S3 listings of products, and their files."""

    def __init__(self, folder: Path, *, page: int = 1000) -> None:
        """``page``: keys at once, at most."""
        self._folder, self._page = folder, page

    def routes(self) -> list[web.RouteDef]:
        """To be added to an application's router."""
        product = f"{PROXY_PATH}/{{account}}/{{product}}"
        return [
            web.get(product, self._list, name="source_coop_list"),
            web.get(f"{product}/{{key:.+}}", self._get, name="source_coop_get"),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        folder = self._folder / request.match_info["account"] / request.match_info["product"]
        if request.query.get("list-type") != "2" or not folder.is_dir():
            raise web.HTTPNotFound(text="<Error><Code>NoSuchBucket</Code></Error>", content_type="application/xml")
        prefix, after = request.query.get("prefix", ""), request.query.get("continuation-token", "")
        keys = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        keys = [key for key in keys if key.startswith(prefix) and key > after]
        count = min(self._page, int(request.query.get("max-keys", "1000")))
        shown, more = keys[:count], len(keys) > count
        contents = "".join(_entry(key, (folder / key).read_bytes()) for key in shown)
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(shown)}</KeyCount>"
            f"<IsTruncated>{json.dumps(more)}</IsTruncated>{token}{contents}</ListBucketResult>"
        )
        return web.Response(text=text, content_type="application/xml")

    async def _get(self, request: web.Request) -> web.StreamResponse:
        parts = request.match_info
        return await send_bytes(request, _file(self._folder / parts["account"] / parts["product"], parts["key"]))


def pack(folder: Path) -> bytes:
    """A folder as a .tar.gz, the same bytes every time."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for file in sorted(folder.rglob("*")):
            tar.add(file, f"{folder.name}/{file.relative_to(folder).as_posix()}", recursive=False, filter=plain)
    body = packed.getvalue()
    return body[:4] + bytes(4) + body[8:]  # gzip's own time


async def send_bytes(request: web.Request, body: bytes, *, cut: bool = False) -> web.StreamResponse:
    """A body, or the range of it that is asked for, with ETag and Content-MD5; with ``cut`` it ends in its middle."""
    md5 = hashlib.md5(body, usedforsecurity=False)
    etag = f'"{md5.hexdigest()}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers={"ETag": etag})
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    status, whole = 200, base64.b64encode(md5.digest()).decode()
    if found and request.headers.get("If-Range", etag) == etag:
        start, end = int(found[1]), min(int(found[2] or len(body)), len(body) - 1)
        if start > end:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
        headers |= {"Content-Range": f"bytes {start}-{end}/{len(body)}", "x-ms-blob-content-md5": whole}
        status, body = 206, body[start : end + 1]
    else:
        headers["Content-MD5"] = whole
    if not cut or request.method == "HEAD":
        return web.Response(status=status, body=body, headers=headers)
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = len(body)
    response.force_close()
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return response


def _file(folder: Path, name: str) -> bytes:
    path = (folder / name).resolve()
    if not path.is_file() or not path.is_relative_to(folder.resolve()):
        raise web.HTTPNotFound(text="NoSuchKey")
    return path.read_bytes()


def _entry(key: str, body: bytes) -> str:
    etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
    return f"<Contents><Key>{escape(key)}</Key><ETag>&quot;{etag}&quot;</ETag><Size>{len(body)}</Size></Contents>"
