"""Places by name: what is asked of Nominatim, what is kept, and what cannot be a place."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import osmnx
import pytest
import shapely

from tasks.errors import AreaError
from tasks.samples.shapes import area_shape
from tasks.web.retry import RetryPolicy
from tests.support.fault_answers import said
from tests.support.fault_server import FaultServer
from tests.support.recipes import recipe_of

HERE = "/never"  # a fault in front of what is answered as it should be
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [0.3, 0], [0.3, 0.3], [0, 0.3], [0, 0]]]}
POINT = {"type": "Point", "coordinates": [0, 0]}


@pytest.fixture(scope="module")
def the_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    with FaultServer(tmp_path_factory.mktemp("faults")) as server:
        yield server


@pytest.fixture
def nominatim(the_server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    the_server.forget()
    monkeypatch.setattr(osmnx.settings, "nominatim_url", f"{the_server.url}{HERE}")
    monkeypatch.setattr("osmnx._nominatim.time", SimpleNamespace(sleep=lambda _: None))  # a second, to be polite
    monkeypatch.setattr("tasks.samples.places.PLACE_POLICY", RetryPolicy(2, 5.0, 0.01))
    monkeypatch.setattr("tasks.samples.places.PLACE_SECONDS", 0.5)
    return the_server


def found(geometry: Any, importance: Any = 0.5) -> dict[str, Any]:
    return {"importance": importance, "geojson": geometry, "boundingbox": ["0", "1", "0", "1"], "lat": "0", "lon": "0"}


def page(content: Any) -> bytes:
    return said(json.dumps(content).encode())


def shape_of(place: str, folder: Path) -> Any:
    return area_shape(recipe_of("xyz", {"area": {"place": place}}, folder), folder)


def test_a_place_is_looked_up_once(tmp_path: Path, nominatim: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nominatim.pages[f"{HERE}/lookup"] = page([found(SQUARE)])
    work = tmp_path / "work"
    assert shape_of("R42", work).equals(shapely.box(0, 0, 0.3, 0.3))
    assert shape_of("R42", work).equals(shapely.box(0, 0, 0.3, 0.3))
    (asked,) = nominatim.asked
    assert parse_qs(urlsplit(asked.target).query)["osm_ids"] == ["R42"]
    assert "OSMnx" in asked.headers.get("User-Agent", asked.headers.get("user-agent", ""))
    assert [path.name for path in work.iterdir()] == ["place-R42.geojson"]
    assert [path.name for path in tmp_path.iterdir()] == ["work"]  # no cache of osmnx


def test_the_most_important_polygon_is_taken(tmp_path: Path, nominatim: FaultServer) -> None:
    far = {"type": "Polygon", "coordinates": [[[9, 9], [10, 9], [10, 10], [9, 9]]]}
    results = [found(far, 0.1), found(SQUARE, 0.6), found(POINT, 0.9), found(far, None), found(None, "much"), {}]
    nominatim.pages[f"{HERE}/search"] = page(results)
    assert shape_of("Annecy, France", tmp_path).area == pytest.approx(0.09)


def test_places_in_other_letters_are_kept_apart(tmp_path: Path, nominatim: FaultServer) -> None:
    nominatim.pages[f"{HERE}/search"] = page([found(SQUARE)])
    for place in ("東京", "大阪", "x" * 260, "x" * 261, "Zürich"):
        shape_of(place, tmp_path)
    assert len(nominatim.asked) == len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    "place",
    ["", "  ", "a\0b", "two\nlines", "\ud800", "x" * 501],
    ids=["empty", "blank", "nul", "lines", "surrogate", "long"],
)
def test_what_is_no_name_is_not_asked_for(tmp_path: Path, nominatim: FaultServer, place: str) -> None:
    with pytest.raises(AreaError, match=r"^area\.place .*give a name"):
        shape_of(place, tmp_path)
    assert nominatim.asked == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (page([]), r"was not found \(0 results\)"),
        (page([found(POINT)]), "has no polygon, only a point or a line"),
        (page({"error": "no"}), "the answer is no list of places"),
        (page([1]), "the answer is no list of places"),
        (said(b"<html>busy</html>", kind="text/html"), r"a web page \(HTML\), where JSON was expected"),
        (said(b"[" * 200_000), "nested too deeply"),
        (said(b"", "403 Forbidden"), "the server answered 403 Forbidden"),
        (said(b"", "503 Busy"), r"the server answered 503 Busy; gave up after 2 attempts"),
        (page([found({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]})]), "place-Atlantis.geojson: is not valid"),
        (page([found({"type": "Polygon", "coordinates": "x"})]), "place-Atlantis.geojson: is not valid"),
    ],
)
def test_a_place_that_is_not_had_says_what_to_do(
    tmp_path: Path, nominatim: FaultServer, answer: bytes, message: str
) -> None:
    nominatim.pages[f"{HERE}/search"] = answer
    with pytest.raises(AreaError, match=rf"area\.place.*{message}"):
        shape_of("Atlantis", tmp_path)
    nominatim.pages[f"{HERE}/search"] = page([found(SQUARE)])
    assert not shape_of("Atlantis", tmp_path).is_empty  # what was no use is not kept


def test_an_answer_has_bounds(tmp_path: Path, nominatim: FaultServer) -> None:
    recipe: Callable[[float], Any] = lambda most: recipe_of(  # noqa: E731
        "xyz", {"area": {"place": "Atlantis"}, "limits.max_answer_mb": most}, tmp_path
    )
    with pytest.raises(
        AreaError, match=r"no answer \(not whole within 0.5 s\); gave up after 2 attempts; check the con"
    ):
        area_shape(recipe(1.0), tmp_path)
    nominatim.pages[f"{HERE}/search"] = page([found(SQUARE), "x" * 10_000])
    with pytest.raises(
        AreaError, match=r"area\.place 'Atlantis' at 127\.0\.0\.1: .* more than 0\.005 MB, limits\.max_a"
    ):
        area_shape(recipe(0.005), tmp_path)
