"""Every way by which the program asks a server, each as it is come by: through a recipe."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import osmnx
import pytest

from tasks.geo.tiles import Tile
from tasks.imagery.registry import open_source
from tasks.labels.registry import footprint_source
from tasks.recipe.model import Recipe
from tasks.state.ledger import Fetched
from tasks.state.staging import Staging
from tasks.web.retry import RetryPolicy
from tests.support.fault_answers import Asked, said
from tests.support.fault_server import FaultServer
from tests.support.recipes import recipe_of
from tests.support.stac_items import SCALE, SIDE, STEP, bbox, item

SECRET = "s3cret-that-nobody-may-see"
LOGIN = base64.b64encode(f"somebody:{SECRET}".encode()).decode()
LIMITS = {"max_answer_mb": 8, "max_download_gb": 0.02, "patience": 0.5}
TILE = Tile(16, 33000, 22000)
KENYA, IMAGE = "ref_african_crops_kenya_02", "ref_african_crops_kenya_02_tile_00_20190606"


@dataclass(frozen=True)
class Visit:
    """One case: ``bad`` is the URL behind which the fault is, whatever is put behind it."""

    faults: FaultServer
    bad: str
    folder: Path
    patch: pytest.MonkeyPatch
    attempts: int = 1
    timeout: float = 3.0  # seconds
    private_hosts: tuple[str, ...] = ()

    @property
    def work(self) -> Path:
        """Where the program may leave something."""
        return self.folder / "work"

    @property
    def good(self) -> str:
        """A URL of the same server behind which pages are as they should be, for this case alone."""
        return f"{self.faults.url}/good/{self.folder.name}"

    def page(self, url: str, body: Any, kind: str = "application/json") -> None:
        """Have the server answer a URL as it should."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.faults.pages[urlsplit(url).path] = said(data, kind=kind)

    def recipe(self, source: str, **changes: Any) -> Recipe:
        """The least recipe of a source, with values by dotted key (``__`` for the dot) put in."""
        here = {key.replace("__", "."): value for key, value in changes.items()}
        limits = {**LIMITS, "private_hosts": list(self.private_hosts)}
        manner = {"imagery.attempts": self.attempts, "imagery.timeout": self.timeout, "limits": limits}
        return recipe_of(source, manner | here, self.folder)

    def fetch(self, recipe: Recipe) -> list[Fetched]:
        """List the windows of a recipe's imagery and fetch the first shard."""
        source, outcomes = open_source(recipe, self.work), list[Fetched]()
        try:
            source.check()
            source.fetch(source.candidates().shards[0], Staging(self.work / "images"), outcomes.extend)
        finally:
            source.close()
        return outcomes


def is_secret_in(text: str) -> bool:
    """Whether a text gives the secret away, as it is or in a login."""
    return SECRET in text or LOGIN in text


def tiles(visit: Visit) -> list[Fetched]:
    """A slippy map, its token in the URL and in a header."""
    (visit.folder / "tiles.txt").write_text(f"{TILE.name}\n")
    url = f"{visit.bad}/{{z}}/{{x}}/{{y}}.png?access={{token}}"
    headers = {"X-Key": "{token}"}
    area = {"tiles": "tiles.txt"}
    recipe = visit.recipe(
        "xyz", area=area, grid__zoom=16, imagery__url=url, imagery__token_env="TILES_TOKEN", imagery__headers=headers
    )
    return visit.fetch(recipe)


def mapbox(visit: Visit) -> list[Fetched]:
    """The tiles of Mapbox, whose place comes from the environment."""
    (visit.folder / "tiles.txt").write_text(f"{TILE.name}\n")
    visit.patch.setenv("MAPBOX_API_URL", visit.bad)
    return visit.fetch(visit.recipe("mapbox", area={"tiles": "tiles.txt"}, grid__zoom=16, imagery__accept_terms=True))


def _footprints(visit: Visit, labels: Mapping[str, Any]) -> list[Fetched]:
    source: Any = footprint_source(visit.recipe("xyz", labels=labels))
    if labels["source"] == "overpass":
        visit.patch.setattr("tasks.labels.overpass.GRACE", visit.timeout)
        source = replace(source, first_pause=0.01)
    else:
        visit.patch.setattr("tasks.web.download.SILENCE", visit.timeout)
        visit.patch.setattr("tasks.web.download.DOWNLOAD_POLICY", RetryPolicy(visit.attempts, 5.0, 0.01))
    source.fetch([TILE], visit.work)
    return []


def pbf(visit: Visit) -> list[Fetched]:
    """The download of an extract, with a token in its URL."""
    return _footprints(visit, {"source": "pbf", "url": f"{visit.bad}/x.osm.pbf?token={{env:LABELS_TOKEN}}"})


def checksum(visit: Visit) -> list[Fetched]:
    """The checksum of an extract."""
    url = f"{visit.good}/x.osm.pbf"
    visit.page(url, b"an extract")
    return _footprints(
        visit, {"source": "pbf", "url": url, "checksum": f"{visit.bad}/x.md5?token={{env:LABELS_TOKEN}}"}
    )


def _overpass(visit: Visit, **options: Any) -> list[Fetched]:
    login = visit.bad.replace("://", "://somebody:{env:LABELS_TOKEN}@")
    labels = {"source": "overpass", "url": f"{login}/api", "attempts": visit.attempts, "timeout": 1}
    return _footprints(visit, labels | options)


def overpass(visit: Visit) -> list[Fetched]:
    """A query, with a login in the URL."""
    return _overpass(visit, rate_limit=False)


def status(visit: Visit) -> list[Fetched]:
    """What Overpass says of its slots; the query behind it is answered."""
    answer = {"version": 0.6, "osm3s": {"timestamp_osm_base": "2026-01-01T00:00:00Z"}, "elements": []}
    visit.page(f"{visit.bad}/api/interpreter", answer)
    return _overpass(visit)


def place(visit: Visit) -> list[Fetched]:
    """A place's polygon, from Nominatim."""
    visit.patch.setattr(osmnx.settings, "nominatim_url", visit.bad)
    visit.patch.setattr("osmnx._nominatim.time", SimpleNamespace(sleep=lambda _: None))  # it is polite to its own
    visit.patch.setattr("tasks.samples.places.PLACE_SECONDS", visit.timeout)
    visit.patch.setattr("tasks.samples.places.PLACE_POLICY", RetryPolicy(visit.attempts, 5.0, 0.01))
    visit.fetch(visit.recipe("xyz", area={"place": "Nowhere"}, grid__zoom=16))
    return []


def _stac(visit: Visit, api: str, **imagery: Any) -> list[Fetched]:
    cells = {"kind": "utm", "size": SIDE, "resolution": STEP}
    where = {"area": {"bbox": bbox(1, 1)}, "imagery__cells": cells, "imagery__collection": "made-up"}
    return visit.fetch(visit.recipe("stac", imagery__api=api, **where, **imagery))


def _catalog(visit: Visit, link: Mapping[str, Any]) -> str:
    """The URL of the root of a catalogue with one link."""
    about = {"type": "Catalog", "id": "one", "description": "made up", "stac_version": "1.0.0"}
    root = f"{visit.good}/catalog.json"
    visit.page(root, about | {"conformsTo": ["https://api.stacspec.org/v1.0.0/item-search"], "links": [link]})
    return root


def _search(visit: Visit, href: str) -> str:
    """The URL of an API whose search finds one item with an asset at ``href``."""
    found = {"type": "FeatureCollection", "features": [item("one", {"red": href}, bands=SCALE)], "links": []}
    visit.page(f"{visit.good}/search", found)
    return _catalog(visit, {"rel": "search", "href": f"{visit.good}/search", "method": "POST"})


def stac_root(visit: Visit) -> list[Fetched]:
    """The first page of an API or a catalogue, with a token in its URL."""
    return _stac(visit, f"{visit.bad}/catalog.json?token={{env:STAC_TOKEN}}")


def stac_search(visit: Visit) -> list[Fetched]:
    """The item search."""
    return _stac(visit, _catalog(visit, {"rel": "search", "href": f"{visit.bad}/search", "method": "POST"}))


def stac_static(visit: Visit) -> list[Fetched]:
    """An item of a static catalogue."""
    return _stac(visit, _catalog(visit, {"rel": "item", "href": f"{visit.bad}/item.json"}))


def stac_asset(visit: Visit) -> list[Fetched]:
    """A raster of an item."""
    return _stac(visit, _search(visit, f"{visit.bad}/red.tif"))


def stac_pixels(visit: Visit) -> list[Fetched]:
    """A raster of which the first byte, by which its place is found out, comes as it should."""
    begun = list[str]()

    def first(asked: Asked) -> bytes | None:
        begun.append(asked.target)
        return None if len(begun) > 1 else said(b"I", "206 Partial Content", "Content-Range: bytes 0-0/100000")

    visit.faults.pages[f"{urlsplit(visit.bad).path}/red.tif"] = first
    return stac_asset(visit)


def s3_asset(visit: Visit) -> list[Fetched]:
    """A raster in S3; the bucket is the fault."""
    visit.patch.setenv("AWS_S3_ENDPOINT", urlsplit(visit.faults.url).netloc)
    visit.patch.setenv("AWS_HTTPS", "NO")
    visit.patch.setenv("AWS_VIRTUAL_HOSTING", "FALSE")
    return _stac(visit, _search(visit, f"s3:/{urlsplit(visit.bad).path}/red.tif"))


def signing(visit: Visit) -> list[Fetched]:
    """The token service of the Planetary Computer."""
    visit.patch.setenv("PC_SDK_SAS_URL", f"{visit.bad}/token")
    visit.patch.setenv("TILEWRIGHT_STAC_PLANETARY_COMPUTER", _search(visit, f"{visit.good}/red.tif"))
    return _stac(visit, "planetary-computer")


def _mlhub(visit: Visit, url: str, dataset: str = KENYA, reader: str = "api") -> list[Fetched]:
    place = {"imagery__reader": reader, "imagery__url": url, "imagery__dataset": dataset, "imagery__path": ...}
    return visit.fetch(visit.recipe("mlhub", **place, imagery__bands=["B02"]))


def _dataset(visit: Visit) -> None:
    visit.page(f"{visit.good}/datasets/{KENYA}", {"id": KENYA, "collections": [{"id": f"{KENYA}_source"}]})


def mlhub_dataset(visit: Visit) -> list[Fetched]:
    """The first question to a server of the MLHub protocol."""
    return _mlhub(visit, visit.bad)


def mlhub_archive(visit: Visit) -> list[Fetched]:
    """Where a collection's archive is."""
    visit.page(f"{visit.bad}/datasets/{KENYA}", {"id": KENYA, "collections": [{"id": f"{KENYA}_source"}]})
    return _mlhub(visit, visit.bad)


def mlhub_storage(visit: Visit) -> list[Fetched]:
    """The archive itself, which the server redirects to."""
    _dataset(visit)
    where = f"Location: {visit.bad}/x.tar.gz?sig={SECRET}"
    visit.faults.pages[f"{urlsplit(visit.good).path}/archive/{KENYA}_source"] = said(b"", "302 Found", where)
    return _mlhub(visit, visit.good)


def _without_archive(visit: Visit) -> None:
    visit.faults.pages[f"{urlsplit(visit.good).path}/archive/{KENYA}_source"] = said(b"", "404 Not Found")
    _dataset(visit)


def mlhub_items(visit: Visit) -> list[Fetched]:
    """The items of a collection that has no archive; their first page leads to the bad one."""
    path = f"{urlsplit(visit.bad).path}/collections/{KENYA}_source/items"
    visit.faults.pages[f"{urlsplit(visit.bad).path}/archive/{KENYA}_source"] = said(b"", "404 Not Found")
    visit.page(f"{visit.bad}/datasets/{KENYA}", {"id": KENYA, "collections": [{"id": f"{KENYA}_source"}]})
    first = said(json.dumps({"features": [], "links": [{"rel": "next", "href": "?page=2"}]}).encode())
    visit.faults.pages[path] = lambda asked: None if "page=" in asked.target else first
    return _mlhub(visit, visit.bad)


def mlhub_file(visit: Visit) -> list[Fetched]:
    """A file of an item."""
    _without_archive(visit)
    asset = {"href": f"{visit.bad}/B02.tif?sig={SECRET}", "type": "image/tiff"}
    visit.page(
        f"{visit.good}/collections/{KENYA}_source/items", {"features": [{"id": IMAGE, "assets": {"B02": asset}}]}
    )
    return _mlhub(visit, visit.good)


def coop_listing(visit: Visit) -> list[Fetched]:
    """The listing of a product at Source Cooperative."""
    return _mlhub(visit, visit.bad, "account/product", "source-coop")


def coop_file(visit: Visit) -> list[Fetched]:
    """A file of a product."""
    entry = f"<Contents><Key>{IMAGE}/B02.tif</Key><Size>1000</Size><ETag>x</ETag></Contents>"
    visit.page(f"{visit.bad}/account/product", f"<ListBucketResult>{entry}</ListBucketResult>".encode())
    return _mlhub(visit, visit.bad, "account/product", "source-coop")
