"""Bounding boxes that cannot be meant, and where samples may be drawn among buildings."""

from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.recipes import recipe_of

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "box",
    [
        [6.0, 45.0, 6.5, 45.5],
        [179, -17, -179, -16],  # over the antimeridian
        [180, -17, -170, -16],
        [10, 45, -180, 46],
        [1, 45, -179, 46],  # 180 degrees
        [-180, -90, 180, 90],
        [-30, 0, 180, 10],
        [-180, 0, 20, 10],
        [-90, -80, 90, 80],
    ],
)
def test_a_box(box: list[float]) -> None:
    area = recipe_of("xyz", {"area": {"bbox": box}}).area
    assert area is not None
    assert area.bbox == box


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (
            [6.5, 45.0, 6.0, 45.5],
            r"from west 6\.5 over the antimeridian to east 6 are 359\.5 degrees, over 180; if 0\.5",
        ),
        (
            [-179.9, -17, 179.9, -16],
            r"from west -179\.9 eastwards to east 179\.9 are 359\.8 degrees.*swap west and east",
        ),
        ([-100, 0, 100, 1], r"are 200 degrees, over 180.*for more than 180 give area\.geojson"),
        ([-33.9, 151.0, -33.8, 151.2], "longitude comes before latitude"),
        ([6.0, 45.5, 6.5, 45.0], "south < north"),
        ([6.0, 45.0, 6.5, 45.0], "south < north"),
        ([6.0, 45.0, 6.0, 45.5], "west and east differing"),
        ([180, 45.0, -180, 45.5], "west and east differing"),
        ([NAN, 45.0, 6.5, 45.5], "finite number"),
        ([6.0, 45.0, INF, 45.5], "finite number"),
        ([6.0, 45.0, 6.5, NAN], "finite number"),
        ([600000, 5000000, 600100, 5000100], "in degrees"),
        ([6.0, 45.0, 6.5], r"got 3 numbers"),
        ([], r"got 0 numbers"),
    ],
)
def test_a_box_that_cannot_be_meant(box: list[float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe_of("xyz", {"area": {"bbox": box}})


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("xyz", {"labels": {"source": "rasters", "path": "labels/{scene}.tif"}}, "buildings goes with footprints"),
        ("stac", {"labels": {"source": "rasters", "path": "labels/{scene}.tif"}}, "buildings goes with footprints"),
        ("xyz", {"area.sample": ...}, "goes with area.sample"),
        ("xyz", {"area.among": "houses"}, "'all' or 'buildings'"),
    ],
)
def test_samples_among_buildings_need_footprints(source: str, changes: dict[str, Any], message: str) -> None:
    given = {"area": {"bbox": [6.0, 45.0, 6.5, 45.5], "sample": 5, "among": "buildings"}}
    assert recipe_of(source, given).area
    with pytest.raises(ValidationError, match=message):
        recipe_of(source, {**given, **changes})


def test_among_all_is_what_recipes_said_before() -> None:
    area = {"bbox": [6.0, 45.0, 6.5, 45.5], "sample": 5}
    plain, named = (recipe_of("xyz", {"area": one}) for one in (area, {**area, "among": "all"}))
    assert plain.content_hash() == named.content_hash()
    assert plain.hash() == named.hash()
    drawn = recipe_of("xyz", {"area": {**area, "among": "buildings"}})
    assert drawn.content_hash() != plain.content_hash()
