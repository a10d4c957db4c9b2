"""The sandbox's STAC API, asked with a client that is not ours, and its scenes."""

from typing import Any

import numpy as np
import pystac_client
import pytest
import requests
import shapely
import shapely.geometry
from rasterio.io import MemoryFile

from infra.sandbox.files import sentinel
from infra.sandbox.files.sentinel import COLLECTION
from infra.sandbox.services.server import Running
from infra.sandbox.services.stac_api import STAC_PATH
from infra.sandbox.world.region import REGION_BOUNDS

DAYS = ["2024-09-10", "2024-08-01", "2024-07-05", "2024-06-12"]  # newest first


@pytest.fixture(scope="module")
def client(sandbox: Running) -> pystac_client.Client:
    return pystac_client.Client.open(sandbox.url + STAC_PATH)


def days(client: pystac_client.Client, **asked: Any) -> list[str]:
    """The days of the items found, by GET and by POST alike."""
    found = [
        [str(item.properties["datetime"])[:10] for item in client.search(method=method, **asked).items()]
        for method in ("GET", "POST")
    ]
    assert found[0] == found[1]
    return found[0]


def test_collections(client: pystac_client.Client) -> None:
    (collection,) = client.get_collections()
    assert collection.id == client.get_collection(COLLECTION).id == COLLECTION
    assert collection.extent.temporal.intervals[0][0].isoformat() == "2024-06-12T10:10:31+00:00"
    assert [str(item.properties["datetime"])[:10] for item in collection.get_items()] == DAYS


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, DAYS),
        ({"collections": [COLLECTION]}, DAYS),
        ({"collections": ["sentinel-1-grd"]}, []),
        ({"datetime": "2024-06-01/2024-07-31"}, DAYS[2:]),
        ({"datetime": "2024-08-01/.."}, DAYS[:2]),
        ({"datetime": "2024-08-01T10:10:31Z"}, DAYS[1:2]),
        ({"bbox": REGION_BOUNDS}, DAYS),
        ({"bbox": [0.070, 0.05, 0.071, 0.06]}, [*DAYS[:2], DAYS[3]]),  # where a swath does not reach
        ({"bbox": [10, 10, 11, 11]}, []),
        ({"intersects": shapely.geometry.mapping(shapely.Point(0.0705, 0.06))}, [*DAYS[:2], DAYS[3]]),
        ({"query": {"eo:cloud_cover": {"lt": 40}}}, [DAYS[0], *DAYS[2:]]),
        ({"query": {"eo:cloud_cover": {"gte": 40}, "platform": {"eq": "sentinel-2a"}}}, DAYS[1:2]),
        ({"query": {"no:such": {"eq": 1}}}, []),
        ({"limit": 1}, DAYS),
        ({"limit": 3, "datetime": "2024-06-01/2024-08-31"}, DAYS[1:]),
    ],
)
def test_search(client: pystac_client.Client, asked: dict[str, Any], found: list[str]) -> None:
    assert days(client, **asked) == found


def test_search_by_id_and_item(client: pystac_client.Client) -> None:
    first = next(client.search().items())
    assert [item.id for item in client.search(ids=[first.id]).items()] == [first.id]
    alone = client.get_collection(COLLECTION).get_item(first.id)
    assert alone is not None
    assert alone.to_dict()["assets"] == first.to_dict()["assets"]


def test_pages(sandbox: Running) -> None:
    url = f"{sandbox.url}{STAC_PATH}/search"
    first = requests.post(url, json={"limit": 3}, timeout=30).json()
    assert (first["numberMatched"], first["numberReturned"]) == (4, 3)
    (following,) = [link for link in first["links"] if link["rel"] == "next"]
    last = requests.post(following["href"], json={"limit": 3, **following["body"]}, timeout=30).json()
    assert len(last["features"]) == 1
    assert [link["rel"] for link in last["links"]] == ["root"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[]", b'{"datetime": "soon"}', b'{"bbox": [1]}', b'{"limit": 0}', b'{"limit": "all"}'),
        *(b'{"query": {"eo:cloud_cover": {"about": 1}}}', b'{"query": 1}', b'{"intersects": {"type": "X"}}'),
        b'{"bbox": [0,0,1,1], "intersects": {}}',
    ],
)
def test_what_is_no_search_is_refused(sandbox: Running, body: bytes) -> None:
    answer = requests.post(f"{sandbox.url}{STAC_PATH}/search", data=body, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (400, "400")


@pytest.mark.parametrize(
    "path", ["collections/none", f"collections/{COLLECTION}/items/none", "files/none/red.tif", "files/..%2F..%2F/x.tif"]
)
def test_what_is_not_there(sandbox: Running, path: str) -> None:
    assert requests.get(f"{sandbox.url}{STAC_PATH}/{path}", timeout=30).status_code == 404


def test_files_by_ranges(sandbox: Running, client: pystac_client.Client) -> None:
    href = next(client.search().items()).assets["red"].href
    whole = requests.get(href, timeout=30)
    part = requests.get(href, headers={"Range": "bytes=100-199"}, timeout=30)
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(whole.content)}"
    assert whole.headers["Content-Type"] == "image/tiff"


@pytest.fixture(scope="module")
def items() -> list[sentinel.MadeItem]:
    return sentinel.make_items()


def test_items_tell_what_their_files_hold(client: pystac_client.Client, items: list[sentinel.MadeItem]) -> None:
    for item, made in zip(client.search().items(), reversed(items), strict=True):
        assert item.id == made.id
        assert "earthsearch:boa_offset_applied" not in item.properties
        assert item.properties["s2:processing_baseline"] == "05.10"
        for key, values in {**made.bands, "scl": made.scl}.items():
            asset = item.assets[key].to_dict()
            # Not opened by its URL: GDAL would hold the interpreter that the server needs.
            with MemoryFile(requests.get(asset["href"], timeout=30).content) as memory, memory.open() as file:
                np.testing.assert_array_equal(file.read(1), values)
                assert (file.nodata, file.dtypes[0]) == (0, asset["raster:bands"][0]["data_type"])
                assert str(file.crs) == item.properties["proj:code"] == "EPSG:32631"
                assert list(file.transform)[:6] == asset["proj:transform"]
                assert list(file.shape) == asset["proj:shape"]
                assert file.transform.a == asset["raster:bands"][0]["spatial_resolution"]
                assert file.overviews(1)
                assert file.block_shapes == [(128, 128)]
            if key != "scl":
                assert (asset["raster:bands"][0]["scale"], asset["raster:bands"][0]["offset"]) == (0.0001, -0.1)


def test_scenes_look_as_their_scene_classes_say(items: list[sentinel.MadeItem]) -> None:
    for made in items:
        valid = made.scl != 0
        assert np.isin(made.scl[valid], (8, 9)).mean() == pytest.approx(made.seen.clouds, abs=0.15)
        classes = np.repeat(np.repeat(made.scl, 2, axis=0), 2, axis=1)
        nowhere = classes == 0
        assert nowhere.mean() == pytest.approx(1 - made.seen.reach, abs=0.01)
        for values in made.bands.values():
            assert (values[nowhere] == 0).all()
            assert (values[~nowhere] > 1000).all()  # reflectance is positive after the offset
        red, nir = made.bands["red"].astype(float), made.bands["nir"].astype(float)
        if made.seen.clouds:
            assert np.median(red[classes == 9]) > 7000
        assert np.median(nir[classes == 6]) < np.median(nir[classes == 4])


def test_houses_are_where_the_tiles_have_them(items: list[sentinel.MadeItem]) -> None:
    """Pixels inside large buildings of the region are brighter than what lies around the town."""
    from infra.sandbox.world.osm import footprints_frame

    clear = next(item for item in items if item.seen.clouds == 0)
    frame = footprints_frame().to_crs(sentinel.CRS)
    large = frame[frame.oddity.isna() & (frame.area > 900)].geometry
    assert len(large) > 20
    t = clear.place.transform
    inside = large.representative_point()
    columns, rows = ((inside.x - t.c) // 10).astype(int), ((t.f - inside.y) // 10).astype(int)
    red = clear.bands["red"]
    assert np.median(red[rows, columns]) > 2 * (np.median(red) - 1000) + 1000


def test_another_seed_is_another_scene(items: list[sentinel.MadeItem]) -> None:
    again, other = sentinel.make_items(), sentinel.make_items(seed=1)
    for one, same, different in zip(items, again, other, strict=True):
        np.testing.assert_array_equal(one.bands["nir"], same.bands["nir"])
        np.testing.assert_array_equal(one.scl, same.scl)
        assert (one.bands["nir"] != different.bands["nir"]).any()
