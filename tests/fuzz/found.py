"""Cases that were found once, by kind: small, and run again with every seed."""

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from tests.fuzz.case import Case
from tests.support.odd_rasters import RARE


def _json(name: str, document: Any) -> Case:
    return Case({name: json.dumps(document).encode()})


def _features(*geometries: Any) -> Any:
    features = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in geometries]
    return {"type": "FeatureCollection", "features": features}


def _elements(*elements: Any) -> Case:
    return _json("interpreter", {"version": 0.6, "elements": elements})


def _collections(*names: str) -> Case:
    dataset = json.dumps({"collections": [{"id": name} for name in names]}).encode()
    return Case({"dataset": dataset, "items": b'{"features": []}', "B02.tif": b""})


_LINE = {"type": "Polygon", "coordinates": [[[6, 45], [6.1, 45], [6.2, 45], [6, 45]]]}  # a polygon without surface
_HUGE = {"type": "Polygon", "coordinates": [[[10**400, 45], [7, 45], [7, 46], [6, 45]]]}
FOUND: Mapping[str, Sequence[Case]] = {
    "recipe": [
        Case({"recipe.yaml": b"name: a\nclasses: [" + b"[{name: background, value: 0}], " * 60 + b"]\n"}),
        Case({"recipe.yaml": b"".join(b"key%d: 1\n" % number for number in range(3000))}),
    ],
    "geojson": [Case({"labels.geojson": b'{"type": \x1b[31m'})],
    "area": [
        _json("area.geojson", _features(_LINE)),
        _json("area.geojson", {"type": "Polygon", "coordinates": [[[6, 45], [6.1, 89, 0], [6.2, 45], [6, 45]]]}),
    ],
    "place": [_json("search", [{"osm_type": "relation", "osm_id": 1, "geojson": _LINE}])],
    "polygons": [
        _json("area.geojson", _features({"type": "Curve", "coordinates": []})),
        _json("area.geojson", _features({"type": "Polygon", "coordinates": []})),
        _json("area.geojson", _features({"type": "Polygon", "coordinates": [[]]})),
        _json("area.geojson", _features({"type": "MultiPolygon", "coordinates": [[]]})),
        _json("area.geojson", _features(_LINE)),
        _json("area.geojson", _features(_HUGE)),
    ],
    "overpass": [
        _elements({"type": {"a": 1}}),
        _elements({"type": ["node"]}),
        _elements({"type": "way", "id": 1, "nodes": ["\x1b[31m"]}),
    ],
    "mlhub": [_collections("x" * 5000), _collections("\ud800")],
    "raster": [Case({"odd.tif": RARE["tiff of NaNs that signal"](Random(0))})],
}
