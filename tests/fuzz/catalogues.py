"""STAC catalogues and searches, and the servers and archives of MLHub."""

import functools
import gzip
import io
import json
import tarfile
from pathlib import Path
from random import Random
from typing import Any

from tasks.imagery.mlhub.catalogue import mlhub_catalogue
from tasks.imagery.stac.catalogue import StacCatalogue
from tests.fuzz.case import Case, Kind
from tests.fuzz.pieces import CANARY, SECRET_FILE, damaged, json_bytes
from tests.fuzz.server import Here
from tests.support import stac_items
from tests.support.recipes import recipe_of

_KENYA, _IMAGE = "ref_african_crops_kenya_02", "ref_african_crops_kenya_02_tile_00_20190606"
_HREFS = ("red.tif", "./red.tif", "missing.tif", "../outside/secret.txt", SECRET_FILE, "item.json", ".", "/dev/zero")


@functools.cache
def _red() -> bytes:
    return stac_items.cog(stac_items.numbers(1))


def _href(random: Random) -> str:
    return random.choice(["red.tif"] * 12 + [*_HREFS, f"http://{CANARY}/red.tif", f"/vsicurl/http://{CANARY}/red.tif"])


def _item(random: Random, href: str) -> dict[str, Any]:
    told = {"raster:scale": 1, "s2:processing_baseline": "05.00", "proj:epsg": 32633}
    more = {key: told[key] for key in told if random.random() < 0.3}
    bands = random.choice([None, stac_items.SCALE, [{"scale": 2}], [{"nodata": "nan"}], [{}]])
    return stac_items.item(random.choice(["one", "two"]), {"red": href}, bands=bands, **more)


def _about(links: list[Any]) -> dict[str, Any]:
    head = {"type": "Catalog", "id": "c", "description": "made up", "stac_version": "1.0.0"}
    return head | {"conformsTo": ["https://api.stacspec.org/v1.0.0/item-search#query"], "links": links}


def _static(random: Random) -> Case:
    hrefs = random.choice(
        [["item.json"]] * 6 + [["item.json", "item.json"], ["catalog.json"], [f"http://{CANARY}/i.json"]]
    )
    root: Any = _about([{"rel": random.choice(["item", "child"]), "href": href} for href in hrefs])
    item: Any = _item(random, _href(random))
    if random.random() < 0.15:
        item = {"type": "FeatureCollection", "features": [item, item | {"id": "two"}]}
    if random.random() < 0.1:
        item["stac_version"] = "0.8.1"
    root_bytes = json_bytes(random, root) if random.random() < 0.3 else json.dumps(root).encode()
    red = damaged(random, _red()) if random.random() < 0.2 else _red()
    return Case({"catalog.json": root_bytes, "item.json": json_bytes(random, item), "red.tif": red})


def _search(random: Random) -> Case:
    href = random.choice(["http://HERE.of.the.case/red.tif"] * 2 + ["red.tif", _href(random)])
    features = [_item(random, href) for _ in range(random.choice([0, 1, 1, 3]))]
    link = {
        "rel": "next",
        "href": random.choice(["search", "?page=2", f"http://{CANARY}/search", "file:///etc/hostname"]),
    }
    link |= random.choice([{}, {"method": "POST", "body": {"page": 2}, "merge": True}, {"method": "PUT"}])
    found = {"type": "FeatureCollection", "features": features, "links": [link] if random.random() < 0.4 else []}
    root = _about([{"rel": "search", "href": "search", "method": random.choice(["POST", "GET"])}])
    root_bytes = json_bytes(random, root) if random.random() < 0.2 else json.dumps(root).encode()
    red = damaged(random, _red()) if random.random() < 0.3 else _red()
    return Case({"catalog.json": root_bytes, "search": json_bytes(random, found), "red.tif": red})


def _read(catalogue: Any) -> None:
    """Everything of the first windows."""
    try:
        windows, _ = catalogue.windows()
        catalogue.fingerprints()
        for window in windows[:2]:
            for acquisition in catalogue.acquisitions(window)[:2]:
                acquisition.read()
                acquisition.layer("SCL")
    finally:
        catalogue.close()


def _stac(api: str, folder: Path) -> None:
    imagery = {"attempts": 1, "timeout": 2, "max_items": 50}
    _read(StacCatalogue(stac_items.recipe(api, folder=folder, imagery=imagery), folder / "work"))


def _read_static(folder: Path, case: Case, here: Here) -> None:
    _stac("catalog.json", folder)


def _read_search(folder: Path, case: Case, here: Here) -> None:
    _stac(f"{here.serve(case.files)}/catalog.json", folder)


def _mlhub(random: Random) -> Case:
    dataset = {"id": _KENYA, "collections": [{"id": f"{_KENYA}_source"}, {"id": f"{_KENYA}_labels"}]}
    href = random.choice(["http://HERE.of.the.case/B02.tif"] * 3 + [_href(random), f"http://{CANARY}/B02.tif"])
    items = [
        {"id": name, "assets": {key: {"href": href, "type": "image/tiff"}}}
        for name, key in ((_IMAGE, "B02"), (f"{_KENYA}_tile_00_label", "labels"))
    ]
    page = {"features": items, "links": [{"rel": "next", "href": "?page=2"}] if random.random() < 0.3 else []}
    bend = random.choice([0, 1, 1, 1])
    return Case(
        {
            "dataset": json_bytes(random, dataset) if bend == 0 else json.dumps(dataset).encode(),
            "items": json_bytes(random, page) if bend else json.dumps(page).encode(),
            "B02.tif": damaged(random, _red()) if random.random() < 0.3 else _red(),
        }
    )


def _ask_mlhub(folder: Path, case: Case, here: Here) -> None:
    pages = {f"datasets/{_KENYA}": case.files["dataset"], "B02.tif": case.files["B02.tif"]}
    pages[f"collections/{_KENYA}_source/items"] = case.files["items"]
    pages[f"collections/{_KENYA}_labels/items"] = b'{"features": []}'
    _chips(folder, reader="api", url=here.serve(pages), dataset=_KENYA)


def _chips(folder: Path, **imagery: Any) -> None:
    told = {f"imagery.{key}": found for key, found in ({"path": ..., "timeout": 2, "attempts": 1} | imagery).items()}
    _read(mlhub_catalogue(recipe_of("mlhub", {"imagery.bands": ["B02"]} | told, folder), folder / "work"))


def _listing(random: Random) -> Case:
    keys = [
        f"{_IMAGE}/B02.tif",
        f"{_KENYA}_tile_00_label/labels.tif",
        "../../etc/passwd",
        "/a",
        "a\u0301",
        "",
        "x" * 3000,
    ]
    listed = ""
    for _ in range(random.choice([0, 1, 3])):
        key, size = random.choice(keys[:2] * 8 + keys), random.choice([len(_red())] * 5 + [1000, -1, "x", 10**30])
        listed += f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>x</ETag></Contents>"
    token = random.choice(["", "<IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>"])
    head = random.choice([""] * 5 + ['<?xml version="1.0"?>', '<!DOCTYPE a [<!ENTITY b "c">]>', "\ufeff"])
    text = f'{head}<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{listed}{token}</ListBucketResult>'
    data = text.encode()
    odd = [b"<a>" * 50_000, data.decode().encode("utf-16"), b"", b"<html>", b"<ListBucketResult/>"]
    how = random.random()
    return Case({"listing": damaged(random, data) if how < 0.3 else random.choice(odd) if how < 0.4 else data})


def _read_listing(folder: Path, case: Case, here: Here) -> None:
    pages = {"account/product": case.files["listing"], f"account/product/{_IMAGE}/B02.tif": _red()}
    _chips(folder, reader="source-coop", url=here.serve(pages), dataset="account/product")


_MEMBERS = ("../../evil.tif", "/evil.tif", "a/" * 200, "\udcff.tif", "", "readme")


def _archive(random: Random) -> Case:
    buffer = io.BytesIO()
    gz = random.random() < 0.93
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        names = [f"{_KENYA}_source/{_IMAGE}/B02.tif", f"{_KENYA}_labels/{_KENYA}_tile_00_label/labels.tif"]
        odd = random.random() < 0.4
        for name in [*names, random.choice([*_MEMBERS, *names])] if odd else names:
            info = tarfile.TarInfo(name)
            body = _red()[: random.choice([0, 100, 100_000]) if odd else None]
            info.size = len(body)
            info.type = random.choice(
                [tarfile.REGTYPE] * (9 if odd else 99) + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"x"]
            )
            info.linkname = random.choice(["", "/etc/passwd", "../../x"])
            tar.addfile(info, io.BytesIO(body))
    data = buffer.getvalue()
    if random.random() < 0.4:
        data = damaged(random, data)
    if gz:
        data = gzip.compress(data, 1, mtime=0)
        data = damaged(random, data) if random.random() < 0.3 else data
    return Case({"chips/x.tar.gz": data})


def _unpack(folder: Path, case: Case, here: Here) -> None:
    _chips(folder, reader="local", path="chips")


_NAMES = ("://", "red", "made-up", "one", "two", "imagery")
STATIC = Kind(_static, _read_static, ("/case/", "check the catalogue", *_NAMES), 8)
SEARCHES = Kind(_search, _read_search, _NAMES, 6)
MLHUB = Kind(_mlhub, _ask_mlhub, ("127.0.0.1", "imagery", "scene", "B02", "labels"), 4)
LISTINGS = Kind(_listing, _read_listing, ("127.0.0.1", "imagery", "scene", "B02", "labels"), 3)
ARCHIVES = Kind(_archive, _unpack, ("x.tar.gz", "chips", "labels.tif", "imagery", "scene", "B02"), 4)
