"""Recipes to change in tests: one as a file, and the least one of every source as values."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.recipe.model import Recipe

RECIPE = """\
name: zanzibar
title: Buildings of Zanzibar
area: {tiles: tiles.txt}
grid: {zoom: 20, tile_size: 256}
imagery: {source: xyz, url: "http://127.0.0.1:8000/{z}/{x}/{y}.png", attribution: "a"}
labels: {source: vector, path: buildings.geojson}
classes: [{name: background, value: 0, color: "#000000"}, {name: building, value: 1, color: "#ffffff"}]
filter: {min_building_fraction: 0.15, max_nodata_fraction: 0.05}
resize: null
splits: {train: 0.70, validation: 0.15, test: 0.15, by: block, block_zoom: 16, buffer: 0}
"""


def write_recipe(folder: Path, *changes: tuple[str, str]) -> Path:
    """The recipe above as a file in ``folder``, with texts replaced."""
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "zanzibar.yaml"
    path.write_text(text)
    return path


_FOOTPRINTS = {"source": "vector", "path": "buildings.geojson"}
_AREA = {"bbox": [6.0, 45.0, 6.5, 45.5]}
_LEAST: Mapping[str, dict[str, Any]] = {
    "xyz": {"area": _AREA, "grid": {"zoom": 18}, "imagery": {"url": "https://example.org/{z}/{x}/{y}.png"}},
    "mapbox": {"area": _AREA, "grid": {"zoom": 18}},
    "ign": {"area": _AREA, "grid": {"zoom": 18}},
    "stac": {
        "area": _AREA,
        "imagery": {
            "api": "earth-search",
            "collection": "sentinel-2-c1-l2a",
            "bands": ["red"],
            "cells": {"kind": "utm", "size": 64, "resolution": 10},
        },
    },
    "mlhub": {
        "imagery": {"reader": "local", "path": "archives", "bands": ["red"]},
        "labels": {"source": "provided"},
    },
    "scenes": {
        "imagery": {"images": "images/{scene}.tif", "bands": ["red"], "windows": {"size": 64}},
        "labels": {"source": "rasters", "path": "labels/{scene}.tif"},
    },
}
SOURCES = tuple(_LEAST)


def values_of(source: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The least recipe of a source of imagery, with values by dotted key put in; ``...`` takes one out."""
    given = copy.deepcopy(_LEAST[source])
    values: dict[str, Any] = {
        "name": source,
        "title": "Small",
        "labels": dict(_FOOTPRINTS),
        "classes": [
            {"name": "background", "value": 0, "color": "#000000"},
            {"name": "building", "value": 1, "color": "#ffffff"},
        ],
        **given,
        "imagery": {"source": source, **given.get("imagery", {})},
    }
    for dotted, value in (changes or {}).items():
        *path, last = (int(part) if part.isdigit() else part for part in dotted.split("."))
        holder: Any = values
        for part in path:
            holder = holder[part] if isinstance(holder, list) else holder.setdefault(part, {})
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    return values


def recipe_of(source: str, changes: Mapping[str, Any] | None = None, folder: Path | None = None) -> Recipe:
    """:func:`values_of` as a recipe whose paths are relative to ``folder``."""
    made = Recipe.model_validate(values_of(source, changes))
    return made if folder is None else made.in_folder(folder)
