"""Builds whose tiles are drawn among buildings: from any footprints, gone on with, and the night after."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pytest
import shapely
from numpy.typing import NDArray

from infra.sandbox.services.scripted import ScriptedServer
from tasks.build import line
from tasks.errors import AreaError
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.labels.outlines import LabelOutlines
from tests.support.builds import contents, job_of, run_build
from tests.support.fault_answers import said
from tests.support.fault_server import FaultServer
from tests.support.small import SmallRegion

REGION = SmallRegion(side=12)  # a quarter of its tiles has no building
AMONG = ("area.sample=40", "area.among=buildings")


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    with ScriptedServer(REGION.image, content_type="image/png") as server:
        yield REGION.write_recipe(tmp_path, server.url)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tiles each question for outlines had."""
    questions: list[int] = []
    near = LabelOutlines.near

    def counted(self: LabelOutlines, tiles: Sequence[Tile]) -> Iterator[NDArray[np.object_]]:
        questions.append(len(tiles))
        return near(self, tiles)

    monkeypatch.setattr(LabelOutlines, "near", counted)
    return questions


def extract(path: Path, shapes: Sequence[Any]) -> None:
    """An OSM extract of these polygons."""
    mutable = osmium.osm.mutable
    with osmium.SimpleWriter(str(path)) as writer:
        rings = [shapely.get_coordinates(shape)[:-1].tolist() for shape in shapes]
        for number, place in enumerate(place for ring in rings for place in ring):
            writer.add_node(mutable.Node(id=number + 1, location=tuple(place)))
        for number, _ in enumerate(rings):
            nodes = [4 * number + corner + 1 for corner in (0, 1, 2, 3, 0)]
            writer.add_way(mutable.Way(id=number + 1, nodes=nodes, tags={"building": "yes"}))


def narrowed(shapes: Sequence[Any]) -> list[Any]:
    """Polygons that touch no tile but their own."""
    return [shapely.buffer(shape, -1e-5, join_style="mitre") for shape in shapes]


def test_every_candidate_has_a_building(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "buildings.geojson").write_text(
        shapely.to_geojson(shapely.geometrycollections(narrowed(REGION.footprints())))
    )
    summary = run_build(recipe, tmp_path / "store", AMONG)
    assert (summary.candidates, summary.selected, summary.accepted) == (40, 40, 40)
    assert set(contents(tmp_path / "store")) < {tile.name for tile in REGION.selected}
    of_all = run_build(recipe, tmp_path / "all", AMONG[:1])
    assert of_all.candidates == 40
    assert of_all.selected < 40


def test_any_footprints_draw_the_same(recipe: Path, tmp_path: Path) -> None:
    shapes = narrowed(REGION.footprints())
    (tmp_path / "buildings.geojson").write_text(shapely.to_geojson(shapely.geometrycollections(shapes)))
    extract(tmp_path / "buildings.osm.pbf", shapes)
    drawn = {}
    with FaultServer(tmp_path) as server:
        server.pages["/never/api/interpreter"] = said(overpass(shapes))
        labels = {
            "vector": "{source: vector, path: buildings.geojson}",
            "pbf": "{source: pbf, path: buildings.osm.pbf}",
            "overpass": f"{{source: overpass, url: '{server.url}/never/api', rate_limit: false}}",
        }
        for name, given in labels.items():
            built = run_build(recipe, tmp_path / name, [*AMONG, f"labels={given}"])
            assert (built.candidates, built.selected) == (40, 40)
            drawn[name] = set(contents(tmp_path / name))
    assert drawn["vector"] == drawn["pbf"] == drawn["overpass"]


def overpass(shapes: Sequence[Any]) -> bytes:
    """An answer with these polygons."""
    elements: list[dict[str, Any]] = []
    for way, shape in enumerate(shapes):
        ring = shapely.get_coordinates(shape)[:-1].tolist()
        elements += [{"type": "node", "id": 4 * way + n + 1, "lon": x, "lat": y} for n, (x, y) in enumerate(ring)]
        nodes = [4 * way + corner + 1 for corner in (0, 1, 2, 3, 0)]
        elements.append({"type": "way", "id": way + 1, "nodes": nodes, "tags": {"building": "yes"}})
    return json.dumps(
        {"version": 0.6, "osm3s": {"timestamp_osm_base": "2026-01-01T00:00:00Z"}, "elements": elements}
    ).encode()


def test_a_run_goes_on_with_what_was_drawn(recipe: Path, tmp_path: Path, asked: list[int]) -> None:
    store = tmp_path / "store"
    planned = line.plan(job_of(recipe, store, AMONG))
    assert len(asked) == 1
    built = run_build(recipe, store, AMONG)
    assert built.candidates == planned.funnel.candidates
    assert len(asked) == 1
    assert run_build(recipe, store, AMONG).new is False
    assert len(asked) == 2  # a version was made, so the next run looks again


def test_the_night_after_most_tiles_are_drawn_again(recipe: Path, tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "buildings.geojson"
    tonight = narrowed(REGION.footprints())
    bare = [tile for tile in REGION.tiles if tile not in REGION.selected]
    built = [shapely.buffer(shapely.box(*lonlat_bounds(tile)), -1e-4, join_style="mitre") for tile in bare[:3]]
    file.write_text(shapely.to_geojson(shapely.geometrycollections(tonight)))
    run_build(recipe, store, AMONG)
    file.write_text(shapely.to_geojson(shapely.geometrycollections([*tonight[3:], *built])))
    assert run_build(recipe, store, AMONG).new
    first, second = contents(store, "v1"), contents(store, "v2")
    assert len(second) == 40
    same = first.keys() & second.keys()
    assert len(same) >= 36
    assert all(first[name][0] == second[name][0] for name in same)  # in the same split


def test_footprints_elsewhere_are_told(recipe: Path, tmp_path: Path) -> None:
    far = shapely.affinity.translate(shapely.geometrycollections(REGION.footprints()), 5, 0)
    (tmp_path / "buildings.geojson").write_text(shapely.to_geojson(far))
    with pytest.raises(AreaError, match=r"no footprint of the labels touches any of the area's tiles"):
        run_build(recipe, tmp_path / "store", AMONG)
