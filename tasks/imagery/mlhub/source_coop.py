"""Collections at Source Cooperative: an anonymous S3 listing and files over HTTPS, fetched when they are needed."""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from tasks.atomic import write_text
from tasks.errors import SourceError
from tasks.imagery.mlhub.archives import is_safe
from tasks.imagery.mlhub.layouts import Choice, Collector
from tasks.imagery.mlhub.remote import Pages, RemoteAsset, ask
from tasks.raster.scene import Scene
from tasks.secrets import redact
from tasks.web.client import Client

DEFAULT_PROXY = "https://data.source.coop"
_LISTING_SECONDS = 24 * 3600.0  # how long a listing is good
_PAGE = 1000  # keys; S3 gives no more at once
_FULL = 100  # keys a page that a listing must have on the average
PAGE_BYTES = 32_000_000  # of a page; a thousand keys have less than two million


_Listed = tuple[str, int, str]  # a file's key, relative to the product, its bytes and its ETag


def source_coop_scenes(proxy: str, dataset: str, client: Client, work: Path, choice: Choice) -> list[Scene]:
    """The scenes of a product, of which no image is fetched yet.

    ``dataset`` is ``account/product`` or ``account/product/prefix``. The listing is kept in ``work`` for a day, the
    files in ``work/source-coop``. Raises SourceError, DiskError.
    """
    parts = dataset.strip("/").split("/")
    if len(parts) < 2 or not all(parts) or not is_safe(dataset.strip("/")):
        raise SourceError(
            f"imagery.dataset: {dataset!r} is no place at Source Cooperative; expected account/product or"
            " account/product/prefix, such as stanford/africa-crops-ghana"
        )
    base = f"{proxy.rstrip('/')}/{quote('/'.join(parts[:2]))}"
    prefix = "".join(f"{part}/" for part in parts[2:])
    ours = hashlib.sha256(f"{base}/{prefix}".encode()).hexdigest()[:12]
    collector = Collector(choice, f"{redact(base)}/{prefix}")
    folder = work / "source-coop" / ours
    for key, size, etag in _listing(client, base, prefix, work / "source-coop" / f"{ours}.json"):
        if is_safe(key) and (hit := collector.offer(key)):
            url = f"{base}/{quote(key)}"
            asset = RemoteAsset(client, redact(url), folder / hit.file, partial(_there, url), size, etag)
            collector.add(hit, asset)
    return collector.scenes()


def _there(url: str) -> tuple[str, Mapping[str, str]]:
    return url, {}


def _listing(client: Client, base: str, prefix: str, kept: Path) -> list[_Listed]:
    """The listing as kept, or fetched and kept."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(kept.read_text())
        if 0 <= time.time() - found["at"] < _LISTING_SECONDS:
            return [(str(key), int(size), str(etag)) for key, size, etag in found["files"]]
    listed = list(_list(client, base, prefix))
    write_text(kept, json.dumps({"url": f"{redact(base)}/{prefix}", "at": time.time(), "files": listed}))
    return listed


def _list(client: Client, base: str, prefix: str) -> Iterator[_Listed]:
    """All files of a product below ``prefix``, page by page."""
    product = f"{base.rpartition('/')[2]}/"
    token, asked, keys = "", set[str](), 0
    pages = Pages(redact(base))
    while token not in asked:
        asked.add(token)
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(_PAGE)}
        root = _page(client, base, query | ({"continuation-token": token} if token else {}))
        for entry in root.iterfind("{*}Contents"):
            # A proxy may give keys of the account's bucket, which begin with the product.
            key = entry.findtext("{*}Key", "").removeprefix(product if not prefix.startswith(product) else "")
            size = entry.findtext("{*}Size", "")
            if key and re.fullmatch("[0-9]{1,18}", size):
                keys += 1
                yield key, int(size), entry.findtext("{*}ETag", "")
        if root.findtext("{*}IsTruncated", "false") != "true":
            return
        token = root.findtext("{*}NextContinuationToken", "")
        pages.another(keys >= _FULL * len(asked))  # else they are nearly empty, though a thousand were asked for
    raise SourceError(f"{redact(base)}: the listing goes round in circles; try again later, or use another imagery.url")


def _page(client: Client, base: str, query: dict[str, str]) -> ElementTree.Element:
    shown = redact(base)
    answer = ask(client, base, query, ", start again later, or set imagery.url to another proxy")
    status, body = answer.status, answer.body
    if status in (403, 404):
        raise SourceError(
            f"{shown}: Source Cooperative has no such public product (it answered {status}); correct imagery.dataset,"
            " or use imagery.reader: local for a copy that you have"
        )
    if len(body) > PAGE_BYTES:
        raise SourceError(
            f"{shown}: a page of the listing has {len(body):,} bytes, over {PAGE_BYTES:,}; correct imagery.url"
        )
    if status == 200:
        with suppress(ElementTree.ParseError, ValueError):
            text = body.decode()  # of no other encoding, in which a document type could hide
            if "<!DOCTYPE" not in text:
                root = ElementTree.fromstring(text)  # noqa: S314 - without a document type there are no entities
                if root.tag.rpartition("}")[2] == "ListBucketResult":
                    return root
    raise SourceError(f"{shown}: the server answered {status} without an S3 listing; correct imagery.url")
