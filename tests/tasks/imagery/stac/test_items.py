"""Which items count, where they are, and what their hrefs lead to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import shapely.geometry
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SourceError
from tasks.geo.georeference import Georeference
from tasks.imagery.stac.catalogue import search_boxes
from tasks.imagery.stac.items import ItemIndex, StacItem, locate, read_items
from tasks.samples.window import Window
from tests.support.stac_items import item, recipe


def placed(name: str, shape: Any, cloud: float = 1.0, at: int | None = 0) -> StacItem:
    return StacItem(name, shape, at, cloud, {}, (), {})


@given(
    boxes=st.lists(
        st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(0.1, 5), st.floats(0.0, 100.0)), max_size=12
    ),
    west=st.floats(-9, 9),
    south=st.floats(-9, 9),
)
def test_items_are_found_by_what_they_cover_least_cloudy_first(boxes: Any, west: float, south: float) -> None:
    items = [
        placed(f"{i}", shapely.box(x, y, x + size, y + size), cloud) for i, (x, y, size, cloud) in enumerate(boxes)
    ]
    window = shapely.box(west, south, west + 1, south + 1)
    found = ItemIndex(items).over(window)
    cover = {one.id: shapely.intersection(one.footprint, window).area for one in items}
    assert {one.id for one in found} == {name for name, area in cover.items() if area > 1e-4}
    assert [one.cloud_cover for one in found] == sorted(one.cloud_cover for one in found)


@pytest.mark.parametrize("window", [shapely.box(179.8, 0, 180.2, 1), shapely.box(-180.2, 0, -179.8, 1)])
@pytest.mark.parametrize(
    "footprint",
    [
        shapely.box(179.5, 0, 180.5, 1),
        shapely.box(-180.5, 0, -179.5, 1),
        shapely.union_all([shapely.box(179.5, 0, 180, 1), shapely.box(-180, 0, -179.5, 1)]),
        # Drawn the long way around, as some catalogues do.
        shapely.Polygon([(179.5, 0), (-179.5, 0), (-179.5, 1), (179.5, 1)]),
    ],
)
def test_footprints_over_the_antimeridian(footprint: Any, window: Any) -> None:
    made = item("a", {"red": "http://127.0.0.1/red.tif"}) | {
        "geometry": shapely.geometry.mapping(footprint),
        "self": "",
    }
    (read,), _ = read_items([made], recipe("http://127.0.0.1"), remote=True)
    assert [one.id for one in ItemIndex([read]).over(window)] == ["a"]
    assert not ItemIndex([read]).over(shapely.box(0, 0, 1, 1))


def test_names_that_no_sample_can_have_are_changed_and_stay_apart() -> None:
    made = [item(name, {"red": "http://127.0.0.1/red.tif"}) | {"self": ""} for name in ("a/b", "a b", "a_b")]
    items, _ = read_items(made, recipe("http://127.0.0.1"), remote=True)
    assert [one.id for one in items] == ["a_b", "a_b-2", "a_b-3"]


def test_items_without_what_is_needed_are_counted_by_what_they_lack() -> None:
    good = item("good", {"red": "http://127.0.0.1/red.tif", "scl": "http://127.0.0.1/scl.tif"}) | {"self": ""}
    other = {key: value for key, value in good["assets"].items() if key == "red"}
    found = [good, good | {"id": ""}, good | {"assets": None}, good | {"geometry": None}, good | {"assets": other}]
    items, left_out = read_items(found, recipe("http://127.0.0.1", clouds={"mask": "scl"}), remote=True)
    assert len(items) == 1
    assert left_out == {"without id or assets": 2, "without a polygon as geometry": 1, "without asset SCL": 1}
    with pytest.raises(SourceError, match="none of 1 items can be used: 1 without a polygon as geometry"):
        read_items([good | {"geometry": None}], recipe("http://127.0.0.1"), remote=True)


@pytest.mark.parametrize(
    ("href", "base", "remote", "found"),
    [
        ("https://h/x.tif", "https://c/i.json", True, "https://h/x.tif"),
        ("s3://b/x.tif", "https://c/i.json", True, "s3://b/x.tif"),
        ("./x.tif", "https://c/d/i.json", True, "https://c/d/x.tif"),
        ("../x.tif", "/data/d/i.json", False, "/data/x.tif"),
        ("/other/x.tif", "/data/d/i.json", False, "/other/x.tif"),
        ("file:///other/a%20b.tif", "/data/d/i.json", False, "/other/a b.tif"),
        ("https://h/x.tif", "/data/d/i.json", False, "https://h/x.tif"),
    ],
)
def test_where_an_href_leads(href: str, base: str, remote: bool, found: str) -> None:
    assert locate(href, base, remote, "item") == found


@pytest.mark.parametrize(
    ("href", "base", "remote"),
    [
        ("/vsicurl/http://h/x.tif", "/data/i.json", False),
        ("../../vsimem/x.tif", "/data/i.json", False),
        ("file:///vsimem/x.tif", "/data/i.json", False),
        ("zip:///data/x.zip", "/data/i.json", False),
        ("x.tif", "/data/i.json", True),
        ("", "", True),
    ],
)
def test_hrefs_that_are_not_followed(href: str, base: str, remote: bool) -> None:
    with pytest.raises(SourceError, match=r"item: its href .* is not read; expected http"):
        locate(href, base, remote, "item")


def window_at(epsg: int, west: float, north: float) -> Window:
    place = Georeference(f"EPSG:{epsg}", (10.0, 0.0, west, 0.0, -10.0, north))
    return Window("w", "w", "g", 0, 0, 64, 64, place)


def test_the_box_of_a_search_holds_all_windows() -> None:
    (box,) = search_boxes([window_at(32633, 500_000.0, 5_000_000.0), window_at(32632, 600_000.0, 5_100_000.0)])
    assert box == pytest.approx((10.29, 45.14, 15.01, 46.05), abs=0.02)


def test_a_search_over_the_antimeridian_has_two_boxes() -> None:
    east, west = search_boxes([window_at(32660, 820_000.0, 1_100_000.0), window_at(32601, 180_000.0, 1_100_000.0)])
    assert east == pytest.approx((179.92, 9.93, 180.0, 9.95), abs=0.02)
    assert west == pytest.approx((-180.0, 9.93, -179.91, 9.95), abs=0.02)
    assert np.isfinite([*east, *west]).all()


def test_a_path_of_this_machine_is_absolute(tmp_path: Path) -> None:
    assert locate("x.tif", str(tmp_path / "i.json"), False, "item") == str(tmp_path / "x.tif")
