"""What the fault server says, fault by fault: answers as bytes, and answers that depend on what is asked."""

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_ABSURD = 10**15  # bytes; nobody has so much memory or disk
_KEYS = ("features", "elements", "collections", "links", "assets", "items")  # lists or mappings in some protocol
_TEXTS = ("type", "id", "token", "msft:expiry", "stac_version", "osm3s", "remark", "display_name", "geojson")


@dataclass(frozen=True)
class Asked:
    """A request as it came; ``target`` is path and query, ``fault`` the first part of the path."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    raw: bytes

    @property
    def path(self) -> str:
        """Without the query."""
        return urlsplit(self.target).path

    @property
    def fault(self) -> str:
        """Its name."""
        return self.path.split("/")[1]


def said(
    body: bytes = b"", status: str = "200 OK", *headers: str, kind: str = "application/json", length: Any = None
) -> bytes:
    """An answer; ``length`` is claimed in place of the body's own, "" for none."""
    claimed = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close", *headers]
    lines += [f"Content-Length: {claimed}"] if claimed != "" else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def _status(number: int, *headers: str) -> bytes:
    return said(b'{"message": "no"}', f"{number} Told So", *headers)


def _moved(where: str, status: int = 302) -> bytes:
    return said(b"", f"{status} Moved", f"Location: {where}")


def _encoded(body: bytes, *encodings: str) -> bytes:
    return said(body, "200 OK", f"Content-Encoding: {', '.join(encodings)}")


def _bomb(head: bytes) -> bytes:
    """4 GiB of zeros as 4 MiB of a deflate stream, after the head of its container and before a false checksum."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    piece = deflate.compress(bytes(16 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return head + piece * 256 + b"\x03\x00" + bytes(8)


_GZIP_BOMB = _bomb(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03")
_HTML = b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Please log in.</body></html>"
_ENTITIES = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
_LAUGHS = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">{_ENTITIES}]><x>&a11;</x>'.encode()
_WRONG: list[Any] = [None, 5, "x", [], {}, {"id": {}, "properties": 5, "geometry": "x", "assets": [], "links": 5}]
_ESCAPES = b"\x1b]0;title\x07\x1b[2J\x1b[31m\x00\x7f\xc2\x9b31m"  # what a terminal would obey
_LENGTHY = b"x" * 1000


def _object(value: Any) -> bytes:
    return json.dumps(dict.fromkeys((*_KEYS, *_TEXTS), value)).encode()


SENT: Mapping[str, bytes] = {
    # Lengths that are not so.
    "length-long": said(_LENGTHY, length=2000),
    "length-short": said(_LENGTHY, length=10),
    "length-negative": said(_LENGTHY, length=-5),
    "length-absurd": said(_LENGTHY, length=_ABSURD),
    "length-garbage": said(_LENGTHY, length="many"),
    "length-twice": said(_LENGTHY, "200 OK", "Content-Length: 10", length=20),
    "chunk-absurd": said(b"FFFFFFFFFFFFFFFF\r\nxx", "200 OK", "Transfer-Encoding: chunked", length=""),
    "chunk-negative": said(b"-5\r\nxx", "200 OK", "Transfer-Encoding: chunked", length=""),
    "chunk-garbage": said(b"zz\r\nxx", "200 OK", "Transfer-Encoding: chunked", length=""),
    "partial": said(_LENGTHY, "206 Partial Content", f"Content-Range: bytes 0-999/{_ABSURD}"),
    "unchanged": said(b"", "304 Not Modified"),
    "no-content": said(b"", "204 No Content", length=""),
    # Small on the wire.
    "bomb-gzip": _encoded(_GZIP_BOMB, "gzip"),
    "bomb-deflate": _encoded(_bomb(b"\x78\xda"), "deflate"),
    "bomb-twice": _encoded(gzip.compress(_GZIP_BOMB, 1), "gzip", "gzip"),
    "gzip-broken": _encoded(_LENGTHY, "gzip"),
    "gzip-short": _encoded(gzip.compress(_LENGTHY)[:-12], "gzip"),
    "encoding-unknown": _encoded(_LENGTHY, "br"),
    # Bodies that are something else.
    "html": said(_HTML, kind="text/html"),
    "empty": said(),
    "not-text": said(b"\xff\xfe\x00\x80" * 200),
    "json-null": said(b"null"),
    "json-number": said(b"5"),
    "json-text": said(b'"text"'),
    "json-list": said(json.dumps(_WRONG).encode()),
    "json-object": said(b"{}"),
    "json-numbers": said(_object(5)),
    "json-members": said(_object(_WRONG)),
    "json-mappings": said(_object({"a": None})),
    "json-nan": said(_object([float("nan"), {"id": float("inf"), "lat": float("nan"), "type": "node"}])),
    "json-digits": said(b'{"features": [%s], "elements": [%s]}' % (b"1" * 100_000, b"1" * 100_000)),
    "json-deep": said(b"[" * 100_000 + b"]" * 100_000),
    "json-deeper": said(b'{"features": ' + b'[{"a":' * 100_000 + b"1" + b"}]" * 100_000 + b"}"),
    "xml-laughs": said(_LAUGHS, kind="application/xml"),
    "xml-deep": said(b"<a>" * 100_000 + b"</a>" * 100_000, kind="application/xml"),
    "xml-wrong": said(b"<ListBucketResult><Contents/><IsTruncated>true</IsTruncated></ListBucketResult>"),
    # Heads that are none, or too large.
    "headers-huge": said(b"{}", "200 OK", f"X-Large: {'x' * (10 << 20)}"),
    "headers-many": said(b"{}", "200 OK", *(f"X-{number}: x" for number in range(100_000))),
    "status-garbage": b"HTTP/1.1 two hundred\r\nContent-Length: 2\r\n\r\n{}",
    "status-huge": b"HTTP/1.1 200 " + b"x" * (1 << 20) + b"\r\nContent-Length: 2\r\n\r\n{}",
    "status-zero": b"HTTP/1.1 0 Nothing\r\nContent-Length: 2\r\n\r\n{}",
    "http-0.9": b"<html>it works</html>",
    "no-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "closed": b"",
    # Redirects to what is no place.
    "redirect-nowhere": said(b"", "302 Found"),
    "redirect-invalid": _moved("http://[::1"),
    "redirect-port": _moved("http://127.0.0.1:99999/x"),
    "redirect-bytes": said(b"", "302 Found", "Location: http://\u00e9\u0000.example/"),
    "redirect-file": _moved("file:///etc/hostname"),
    "redirect-ftp": _moved("ftp://127.0.0.1/x"),
    # Refusals, and waits that nobody can wait for.
    "escapes": said(_ESCAPES, f"400 {_ESCAPES.decode()}", f"Location: http://{_ESCAPES.decode()}/"),
    "status-400": _status(400),
    "status-401": _status(401),
    "status-403": _status(403),
    "status-404": _status(404),
    "status-410": _status(410),
    "status-500": _status(500),
    "status-503": _status(503),
    "wait-long": _status(429, "Retry-After: 1000000000"),
    "wait-date": _status(429, "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"),
    "wait-digits": _status(429, f"Retry-After: {'9' * 400}"),
    "wait-reset": _status(429, "X-Rate-Limit-Reset: 99999999999"),
    "wait-negative": _status(429, "Retry-After: -5"),
    "wait-garbage": _status(429, "Retry-After: soon"),
    "wait-503": _status(503, "Retry-After: 1000000000"),
}
"""Answers of which each is sent whole, and the connection closed."""

RESET: Mapping[str, bytes] = {
    "reset-first": b"",
    "reset-head": b"HTTP/1.1 200 OK\r\nContent-",
    "reset-body": said(b"{" + _LENGTHY, length=5000),
}
"""Beginnings after which the connection is broken off with a TCP reset."""

ENDLESS: Mapping[str, tuple[bytes, bytes]] = {
    "endless-close": (said(length=""), b" " * 1024),
    "endless-chunks": (
        said(b"", "200 OK", "Transfer-Encoding: chunked", length=""),
        b"400\r\n" + b" " * 1024 + b"\r\n",
    ),
    "endless-length": (said(length=_ABSURD), b" " * 1024),
    "endless-error": (said(b"", "400 Bad Request", length=""), b"no " * 400),
    "endless-redirect": (said(b"", "302 Found", "Location: /closed/x", length=""), b"no " * 400),
    "endless-chunk": (said(b"1;", "200 OK", "Transfer-Encoding: chunked", length=""), b"x" * 1024),
    "endless-trailers": (
        said(b"2\r\n{}\r\n0\r\n", "200 OK", "Transfer-Encoding: chunked", length=""),
        b"X-A: b\r\n" * 99,
    ),
    "endless-headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 99),
    "endless-header": (b"HTTP/1.1 200 OK\r\nX-A: ", b"x" * 1024),
    "endless-status": (b"HTTP/1.1 200 ", b"x" * 1024),
    "endless-continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 40),
}
"""A beginning, and what follows it over and over as fast as it is taken."""

DRIPPING: Mapping[str, tuple[bytes, bytes]] = {
    "never": (b"", b""),
    "never-body": (said(length=1000), b""),
    "drip-status": (b"HTTP/1.1 200 O", b"K"),
    "drip-headers": (b"HTTP/1.1 200 OK\r\nX-A: ", b"b"),
    "drip-body": (said(length=100_000), b" "),
    "drip-chunks": (said(b"", "200 OK", "Transfer-Encoding: chunked", length=""), b"1\r\n \r\n"),
    "drip-error": (said(b"", "400 Bad Request", length=100_000), b" "),
    "drip-continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}
"""A beginning, and what follows it drop by drop."""


def _item(number: int, collection: str) -> dict[str, Any]:
    west, south = 14.0, 44.0
    ring = [[west, south], [west + 2, south], [west + 2, south + 2], [west, south + 2], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"item-{number}",
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, west + 2, south + 2],
        "properties": {"datetime": "2023-08-01T10:00:00Z"},
        "links": [],
        "assets": {"red": {"href": "https://example.org/red.tif"}},
    }


def _stac_pages(asked: Asked, collection: str, count: int) -> bytes:
    """An item search whose every page has ``count`` new items and a next page."""
    here = f"http://{asked.headers['host']}/{asked.fault}"
    if not asked.path.endswith("/search"):
        search = {"rel": "search", "href": f"{here}/search", "method": "POST", "type": "application/geo+json"}
        conforms = ["https://api.stacspec.org/v1.0.0/item-search"]
        about = {"type": "Catalog", "id": "endless", "description": "endless", "stac_version": "1.0.0"}
        return said(json.dumps(about | {"conformsTo": conforms, "links": [search]}).encode())
    page = int(json.loads(asked.body or b"{}").get("page", 0))
    features = [_item(page * count + number, collection) for number in range(count)]
    after = {"rel": "next", "href": f"{here}/search", "method": "POST", "body": {"page": page + 1}, "merge": True}
    return said(json.dumps({"type": "FeatureCollection", "features": features, "links": [after]}).encode())


def _catalogs(asked: Asked) -> bytes:
    """A static catalogue in which there is another one, for ever."""
    depth = int(asked.path.split("/")[2]) if asked.path.split("/")[2].isdigit() else 0
    here = f"http://{asked.headers['host']}/{asked.fault}"
    child = {"rel": "child", "href": f"{here}/{depth + 1}/catalog.json", "type": "application/json"}
    about = {"type": "Catalog", "id": f"level-{depth}", "description": "endless", "stac_version": "1.0.0"}
    return said(json.dumps(about | {"links": [child]}).encode())


def _mlhub_pages(asked: Asked) -> bytes:
    """A server of the MLHub protocol that has no archive, and items without end."""
    if "/archive/" in asked.path:
        return _status(404)
    if not asked.path.endswith("/items"):
        return said(json.dumps({"id": "data", "collections": [{"id": "data_source"}]}).encode())
    page = int(parse_qs(urlsplit(asked.target).query).get("page", ["0"])[0])
    items = [_item(page * 10 + number, "data_source") for number in range(10)]
    after = {"rel": "next", "href": f"http://{asked.headers['host']}{asked.path}?page={page + 1}"}
    return said(json.dumps({"type": "FeatureCollection", "features": items, "links": [after]}).encode())


def _s3_pages(asked: Asked) -> bytes:
    """A listing that is always cut, each page with a token and keys of its own."""
    page = int(parse_qs(urlsplit(asked.target).query).get("continuation-token", ["0"])[0])
    entries = "".join(
        f"<Contents><Key>data_source/{page * 10 + n}/B02.tif</Key><Size>10</Size><ETag>x</ETag></Contents>"
        for n in range(10)
    )
    after = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{page + 1}</NextContinuationToken>"
    return said(f"<ListBucketResult>{entries}{after}</ListBucketResult>".encode(), kind="application/xml")


_COUNT = itertools.count()


def _echo(asked: Asked) -> bytes:
    """A refusal that says all that it was given, in its reason and in its body."""
    told = " ".join(asked.raw.decode("latin-1").split())
    return said(json.dumps({"message": told, "error": told}).encode(), f"400 {told[:2000]}")


ANSWERING: Mapping[str, Callable[[Asked, str], bytes]] = {
    "redirect-self": lambda asked, _: _moved(asked.target),
    "redirect-loop": lambda asked, _: _moved(
        asked.target.removesuffix("/b") if asked.target.endswith("/b") else f"{asked.target}/b"
    ),
    "redirect-chain": lambda asked, _: _moved(f"/redirect-chain/{next(_COUNT)}", 307),
    "redirect-elsewhere": lambda asked, canary: _moved(f"{canary}{asked.target}"),
    "redirect-keeping": lambda asked, canary: _moved(f"{canary}{asked.target}", 307),
    "redirect-bare": lambda asked, canary: _moved(f"{canary}/bare"),
    "redirect-to": lambda asked, _: _moved(unquote(asked.path.split("/")[2])),
    "echo": lambda asked, _: _echo(asked),
    "pages-stac": lambda asked, _: _stac_pages(asked, "made-up", 10),
    "pages-stac-other": lambda asked, _: _stac_pages(asked, "another", 10),
    "pages-stac-empty": lambda asked, _: _stac_pages(asked, "made-up", 0),
    "pages-catalogs": lambda asked, _: _catalogs(asked),
    "pages-mlhub": lambda asked, _: _mlhub_pages(asked),
    "pages-s3": lambda asked, _: _s3_pages(asked),
}
"""Answers that depend on the request, and on the URL of the canary."""
