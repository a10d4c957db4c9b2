"""Three real Sentinel-2 scenes behind a real STAC API server, and recorded answers of two public ones."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
import yaml
from numpy.typing import NDArray

from infra.sandbox.services.scripted import Reply
from tasks.imagery.clouds import cloud_mask, fraction
from tasks.imagery.select import Refusal, Selected, select
from tasks.imagery.stac.catalogue import StacCatalogue
from tasks.imagery.stac.documents import Documents
from tasks.imagery.stac.items import read_items
from tasks.imagery.stac.presets import endpoint_of
from tasks.imagery.stac.reader import retry_policy
from tasks.imagery.stac.reflectance import rule_of
from tasks.imagery.stac.search import find_items
from tasks.imagery.stac.signing import Signer
from tasks.recipe.model import Recipe
from tasks.recipe.parts import Clouds
from tasks.recipe.sources import Dates
from tasks.samples.window import Window
from tasks.web.client import Client
from tests.support.catalogues import windows_of
from tests.support.stac_items import recipe
from tests.support.stac_server import Asked, FileServer, absolute, rustac_api

pytestmark = pytest.mark.real

# The files have pixels of 120 m from 499,980 m eastwards, which is a multiple of 60 m: on a grid of 60 m every pixel
# is there four times, and no other.
STEP, SIDE = 60.0, 64
WEST, NORTH = 499_980.0, 5_100_000.0
CLOUDY = "S2A_33TWL_20230818_0_L2A"
KEYS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
DROP = [0, 1, 3, 8, 9, 10]


class Scenes(NamedTuple):
    """The scenes' folders and the API in front of them."""

    folder: Path
    api: str
    files: FileServer


@pytest.fixture(scope="module")
def scenes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenes]:
    folder = shared_data / "stac" / "sentinel-2-l2a"
    files = {f"/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in sorted(folder.rglob("*.tif"))}
    with FileServer(files) as server:
        items = [
            absolute(json.loads(path.read_text()), f"{server.url}/{path.parent.name}")
            for path in sorted(folder.rglob("*.json"))
        ]
        with rustac_api(tmp_path_factory.mktemp("api"), items) as api:
            yield Scenes(folder, api, server)
    fine.cache_clear()


def made(api: str, bands: list[str] | None = None, **more: Any) -> Recipe:
    imagery = {
        "collection": "sentinel-2-l2a",
        "datetime": "2023-08-01/2023-08-31",
        "timeout": 30,
        "cells": {"kind": "utm", "size": SIDE, "resolution": STEP},
    } | more.pop("imagery", {})
    # An area that touches the western edge of the scenes, and their corner without data.
    return recipe(api, bands or list(KEYS), area={"bbox": [14.98, 45.5, 15.9, 46.06]}, imagery=imagery, **more)


@functools.cache
def fine(path: Path) -> NDArray[Any]:
    """A file at 60 m, with nothing around it."""
    with rasterio.open(path) as file:
        return np.pad(file.read(1).repeat(2, axis=0).repeat(2, axis=1), 2 * SIDE)


def reference(scenes: Scenes, item: str, key: str, window: Window) -> NDArray[Any]:
    """The window straight from the file; 0 where the file does not reach."""
    padded = fine(scenes.folder / item / f"{key}.tif")
    assert window.georeference is not None
    transform = window.georeference.transform
    column, row = round((transform[2] - WEST) / STEP), round((NORTH - transform[5]) / STEP)
    cut: NDArray[Any] = padded[row + 2 * SIDE :, column + 2 * SIDE :][:SIDE, :SIDE]
    return cut


def test_cloud_fractions_are_those_of_the_scene_classes(scenes: Scenes, tmp_path: Path) -> None:
    wanted = Clouds(mask="scl", drop=DROP)
    compared = 0
    cloudy: list[bool] = []
    with StacCatalogue(made(scenes.api, clouds={"mask": "scl"}), tmp_path) as catalogue:
        for window in windows_of(catalogue)[::3]:
            for item in catalogue.acquisitions(window):
                mask = cloud_mask(item, wanted)
                assert mask is not None
                expected = np.isin(reference(scenes, item.id, "SCL", window), DROP)
                assert (mask == expected).all()
                assert fraction(mask) == expected.mean()
                compared += 1
                if item.id == CLOUDY:
                    seen = select([item], Dates(), wanted)
                    assert isinstance(seen, Refusal) == bool(expected.any())
                    cloudy.append(isinstance(seen, Refusal))
    assert compared > 150
    assert np.mean(cloudy) > 0.8


def test_the_least_cloudy_item_is_the_one_the_classes_say(scenes: Scenes, tmp_path: Path) -> None:
    wanted = Clouds(mask="scl", drop=DROP, max_fraction=1.0)
    compared = 0
    with StacCatalogue(made(scenes.api, ["red"], clouds={"mask": "scl"}), tmp_path) as catalogue:
        for window in windows_of(catalogue)[::15]:
            items = catalogue.acquisitions(window)
            if not items:  # west of the scenes
                continue
            seen = select(items, Dates(), wanted)
            assert isinstance(seen, Selected)
            compared += 1
            fractions = {
                path.name: np.isin(reference(scenes, path.name, "SCL", window), DROP).mean()
                for path in sorted(scenes.folder.iterdir())
            }
            assert seen.cloud_fraction == min(fractions.values()) == fractions[seen.origin]
    assert compared > 10


def test_reflectance_is_a_ten_thousandth_as_the_offset_is_applied(scenes: Scenes, tmp_path: Path) -> None:
    with StacCatalogue(made(scenes.api), tmp_path) as catalogue:
        for window in windows_of(catalogue)[::40]:
            for item in catalogue.acquisitions(window):
                chip = item.read()
                numbers = np.stack([reference(scenes, item.id, key, window) for key in KEYS.values()])
                assert (chip.image == np.where(chip.nodata, 0, (numbers * 0.0001).astype(np.float32))).all()
                assert (chip.nodata == (numbers == 0).any(axis=0)).all()
                assert "no offset: earthsearch:boa_offset_applied" in chip.note


def test_a_wrong_offset_shows_as_negative_values(scenes: Scenes) -> None:
    """The item names an offset besides the flag: applied to these files it would be applied twice."""
    path = scenes.folder / CLOUDY.replace("0818", "0815") / f"{CLOUDY.replace('0818', '0815')}.json"
    item = json.loads(path.read_text())
    properties = item["properties"] | {"earthsearch:boa_offset_applied": False}
    rule = rule_of(properties, item["assets"]["blue"])
    assert rule is not None
    assert rule.offset == pytest.approx(-0.1)
    with rasterio.open(path.parent / "B02.tif") as file:
        numbers = file.read(1)
    assert (numbers[numbers > 0] < 1000).mean() > 0.9


def ids(catalogue: StacCatalogue) -> list[str]:
    """Of the items over the first window that is covered."""
    return next(
        [item.id for item in items] for window in windows_of(catalogue) if (items := catalogue.acquisitions(window))
    )


def test_the_api_is_searched_by_date_and_cloud_cover_and_paged(
    scenes: Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.imagery.stac.search.PAGE", 1)
    query = {"eo:cloud_cover": {"lt": 20}}
    with StacCatalogue(made(scenes.api, imagery={"query": query}), tmp_path) as catalogue:
        assert ids(catalogue) == ["S2A_33TWL_20230815_0_L2A", "S2B_33TWL_20230820_0_L2A"]
        assert catalogue.requests >= 4
    with StacCatalogue(made(scenes.api, imagery={"datetime": "2023-08-18"}), tmp_path) as catalogue:
        assert ids(catalogue) == [CLOUDY]


class Recording(FileServer):
    """Answers of a public API, played back in order for each path; after the last a page without items."""

    def __init__(self, path: Path, host: str) -> None:
        super().__init__()
        self.host, self.played = host, dict[str, list[str]]()
        for interaction in yaml.safe_load(path.read_text())["interactions"]:
            place = interaction["request"]["uri"].removeprefix(host) or "/"
            self.played.setdefault(place, []).append(interaction["response"]["body"]["string"])
            self.handlers[place] = self.play
        self.handlers.setdefault("/", self.root)

    def play(self, asked: Asked) -> Reply:
        left = self.played[asked.path]
        body = left.pop(0) if left else '{"type": "FeatureCollection", "features": [], "links": []}'
        return Reply(200, body.replace(self.host, self.url).encode(), {}, "application/json")

    def root(self, _: Asked) -> Any:
        search = {"rel": "search", "href": f"{self.url}/search", "method": "POST"}
        return {"type": "Catalog", "id": "recorded", "stac_version": "1.0.0", "description": "", "links": [search]}


def replayed(server: FileServer, bands: list[str], **imagery: Any) -> tuple[list[Any], Recipe]:
    wanted = recipe(server.url, bands, imagery=imagery)
    endpoint = endpoint_of(server.url, Path)
    with Client(retry_policy(1, 10.0), 10.0) as client:
        documents, everywhere = Documents(client, endpoint.remote), [(-180.0, -90.0, 180.0, 90.0)]
        found = find_items(endpoint, wanted.imagery, everywhere, documents)  # type: ignore[arg-type]
    items, left_out = read_items(found, wanted, remote=True)
    assert not left_out
    return items, wanted


EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
PLANETARY_COMPUTER = "https://planetarycomputer.microsoft.com/api/stac/v1"


@pytest.mark.parametrize("name", ["test_multiple_collections", "TestCLISearch.test_filter"])
def test_recorded_sentinel_2_of_earth_search(shared_data: Path, name: str) -> None:
    with Recording(shared_data / "stac" / "recordings" / f"{name}.yaml", EARTH_SEARCH) as server:
        items, _ = replayed(server, ["red", "nir"], collection="sentinel-2-l2a")
        assert len(server.asked_for("/search")) >= 2
    for item in items:
        assert item.id.endswith("_L2A")
        assert 0 <= item.cloud_cover <= 100
        assert item.bands[0].href.startswith("https://sentinel-cogs.s3.us-west-2.amazonaws.com/")
        assert set(item.layers) == {"SCL"}
        rule = rule_of(item.properties, item.bands[0].fields)
        assert rule is not None
        assert (rule.scale, rule.offset) == (0.0001, 0.0)


def test_recorded_landsat_of_earth_search_has_its_own_offset(shared_data: Path) -> None:
    path = shared_data / "stac" / "recordings" / "test_multiple_collections.yaml"
    with Recording(path, EARTH_SEARCH) as server:
        (item,), _ = replayed(server, ["red"], collection="landsat-c2-l2")
    rule = rule_of(item.properties, item.bands[0].fields)
    assert rule is not None
    assert (rule.scale, rule.offset) == (2.75e-05, -0.2)
    assert item.bands[0].href.startswith("s3://usgs-landsat/")


def test_recorded_pages_of_the_planetary_computer(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shared_data / "stac" / "recordings" / "TestItemSearch.test_item_collection.yaml"
    with Recording(path, PLANETARY_COMPUTER) as server:
        items, _ = replayed(server, ["image.1", "image.4"], collection="naip")
        assert len(server.asked_for("/search")) == 3
    assert len(items) == 20
    hrefs = {ref.href for item in items for ref in item.bands}
    with FileServer() as tokens:
        place = "/token/naipeuwest/naip"  # every asset lies in this container: others would be asked for, and are 404
        tokens.handlers[place] = lambda _: {"token": "sig=made-up", "msft:expiry": "2999-01-01T00:00:00Z"}
        monkeypatch.setenv("PC_SDK_SAS_URL", f"{tokens.url}/token")
        signer = Signer(retry_policy(1, 10.0), 10.0)
        assert {signer.signed(href) for href in hrefs} == {(f"{href}?sig=made-up", "sig=made-up") for href in hrefs}
        assert [asked.path for asked in tokens.asked] == [place]
        signer.close()
    assert all(rule_of(item.properties, item.bands[0].fields) is None for item in items)
    assert all(item.acquired_at and item.acquired_at > 1_200_000_000 for item in items)
