"""A recipe to change in tests."""

from pathlib import Path

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
