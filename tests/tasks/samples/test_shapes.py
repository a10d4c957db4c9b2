"""Areas as GeoJSON files: what is read, and that a message names file and feature of what is not."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from tasks.errors import AreaError
from tasks.samples.shapes import clip_to_map, read_geojson

SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def features(*geometries: Any) -> dict[str, Any]:
    return {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "properties": {}, "geometry": one} for one in geometries],
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "area.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def star(corners: int, jagged: float) -> list[list[float]]:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = 1 + jagged * np.random.default_rng(0).uniform(-1, 1, corners)
    ring = np.column_stack((6 + radius * np.cos(angle), 46 + radius * np.sin(angle))).tolist()
    return [*ring, ring[0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"type": "Polygon", "coordinates": [[[0,0],', "is not valid GeoJSON"),
        ({"type": "Point", "coordinates": [0, 0]}, "holds no polygon"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        (features(None), "holds no polygon"),
        ([1, 2], "is not valid GeoJSON"),
        ({"type": "FeatureCollection", "features": 7}, "is not valid GeoJSON"),
        (features(polygon(SQUARE), {"type": "Polygon"}), "feature 1: is not valid GeoJSON"),
        (features(polygon(SQUARE), polygon(SQUARE[:4])), "feature 1: is not valid GeoJSON .*do not form a closed"),
        (features(None, polygon([*SQUARE[:2], ["a", 0], SQUARE[0]])), "feature 1: is not valid GeoJSON"),
        ({"type": "FeatureCollection", "features": [3]}, "feature 0: is not valid GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[0,0],[1,NaN],[1,1],[0,0]]]}', "NaN is no number in JSON"),
        ('{"type": "Polygon", "coordinates": [[[0,0],[1,1e400],[1,1],[0,0]]]}', "is not valid GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[0,0],[1,' + "9" * 5000 + "],[1,1],[0,0]]]}", "is not valid GeoJSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 200_000 + "1" + "}" * 200_000, "is nested too deeply"),
        (
            features(polygon(SQUARE), polygon([[1e6, 0], [2e6, 0], [2e6, 1e6], [1e6, 0]])),
            "feature 1: .*are not degrees",
        ),
        (polygon([[-34, 151], [-33, 151], [-33, 152], [-34, 151]]), "longitude comes before latitude"),
        (
            features(polygon([[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]])),
            "feature 0: an edge goes from .* 179",
        ),
    ],
)
def test_bad_geojson_names_file_and_feature(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(AreaError, match=rf"area\.geojson: .*{message}|area\.geojson: {message}"):
        read_geojson(write(tmp_path, content))


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(AreaError, match="is no file"):
            read_geojson(path)
    for path in (tmp_path / "none", tmp_path / "a\0b", tmp_path / ("x" * 300), write(tmp_path, "{}") / "below"):
        with pytest.raises(AreaError, match="cannot be read"):
            read_geojson(path)
    (tmp_path / "latin").write_bytes(b'{"name": "Z\xfcrich"}')
    with pytest.raises(AreaError, match="is not UTF-8 text"):
        read_geojson(tmp_path / "latin")


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.samples.shapes.MAX_GEOJSON_BYTES", 1 << 20)
    with pytest.raises(AreaError, match="larger than 1 MiB"):
        read_geojson(write(tmp_path, " " * (1 << 20) + "{}"))


def test_a_feature_collection_is_united(tmp_path: Path) -> None:
    bow = [[2, 0], [3, 1], [3, 0], [2, 1], [2, 0]]
    nested = {
        "type": "GeometryCollection",
        "geometries": [{"type": "GeometryCollection", "geometries": [polygon(bow)]}],
    }
    shape = read_geojson(write(tmp_path, features(polygon(SQUARE), None, polygon(SQUARE), nested)))
    assert shape.area == pytest.approx(1.5)
    path = write(tmp_path, "\ufeff" + json.dumps(polygon(SQUARE)).replace(" ", "\r\n"))
    assert read_geojson(path).equals(shapely.box(0, 0, 1, 1))


def test_islands_and_both_sides_of_the_antimeridian_are_one_area(tmp_path: Path) -> None:
    sides = {"type": "MultiPolygon", "coordinates": [[[[x, 0], [x + 1, 0], [x + 1, 1], [x, 0]]] for x in (179, -180)]}
    assert read_geojson(write(tmp_path, sides)).area == pytest.approx(1.0)
    globe = [[-180, -60], [180, -60], [180, 60], [-180, 60], [-180, -60]]
    assert clip_to_map(read_geojson(write(tmp_path, polygon(globe)))).bounds == (-180, -60, 180, 60)


def test_a_long_outline_is_read_and_a_jagged_one_refused(tmp_path: Path) -> None:
    """One of 10^6 jagged edges took three minutes and 2 GB."""
    shape = read_geojson(write(tmp_path, polygon(star(100_000, 0.0))))
    assert shape.area == pytest.approx(np.pi, rel=1e-6)
    with pytest.raises(
        AreaError, match=r"feature 1: its outline is too jagged \(60,004 edges in the file, over 100,000,"
    ):
        read_geojson(write(tmp_path, features(polygon(SQUARE), polygon(star(60_000, 0.9)))))


def test_a_crooked_outline_is_repaired_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crooked = star(2_000, 0.0)
    crooked[5], crooked[6] = crooked[6], crooked[5]
    shape = read_geojson(write(tmp_path, features(polygon(SQUARE), polygon(crooked))))
    assert shape.is_valid
    assert shape.area == pytest.approx(1 + np.pi, rel=1e-4)
    monkeypatch.setattr("tasks.samples.shapes.MAX_REPAIRED", 1_000)
    with pytest.raises(
        AreaError, match=r"feature 1: is not valid \(Self-intersection.*more than 1,000 corners.*makevalid"
    ):
        read_geojson(write(tmp_path, features(polygon(SQUARE), polygon(crooked))))
