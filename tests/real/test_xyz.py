"""Zanzibar and Kampala: real tiles served over HTTP, real footprints, known right answers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from infra.sandbox.services.scripted import ScriptedServer
from tasks.geo.tiles import Tile
from tasks.recipe.load import load_recipe
from tasks.state import masks
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import State
from tasks.state.workdir import WorkDir
from tasks.versions.read import open_version
from tests.support.builds import contents, run_build

pytestmark = pytest.mark.real

RECIPE = """\
name: {site}
title: Buildings of {site}
area: {{tiles: tiles.txt}}
grid: {{zoom: {zoom}, tile_size: 256}}
imagery: {{source: xyz, url: "{url}/{{z}}/{{x}}/{{y}}.png", attribution: OpenAerialMap, licence: CC-BY-4.0}}
labels: {{source: vector, path: "{footprints}"}}
classes: [{{name: background, value: 0, color: "#000000"}}, {{name: building, value: 1, color: "#ffffff"}}]
filter: {{min_building_fraction: 0.15, max_nodata_fraction: 1.0}}
splits: {{train: 0.70, validation: 0.15, test: 0.15, by: tile}}
"""

KNOWN = [
    ("zanzibar", 19, 46, 12, 9),
    ("zanzibar", 20, 184, 55, 82),
    ("zanzibar", 21, 736, 177, 440),
    ("kampala", 19, 7, 7, 0),
    ("kampala", 20, 28, 21, 0),
    ("kampala", 21, 112, 75, 9),
]


@pytest.fixture(scope="module")
def server(shared_data: Path) -> Iterator[ScriptedServer]:
    site = {"site": Path()}

    def content(key: str) -> bytes | None:
        path = site["site"] / key.lstrip("/")
        return path.read_bytes() if path.is_file() else None

    with ScriptedServer(content, content_type="image/png") as running:
        running.site = site  # type: ignore[attr-defined]
        yield running


def prepare(folder: Path, data: Path, server: ScriptedServer, site: str, zoom: int) -> Path:
    source = data / "xyz" / site
    server.site["site"] = source  # type: ignore[attr-defined]
    server.reset()
    names = sorted("/".join(path.with_suffix("").parts[-3:]) for path in (source / str(zoom)).glob("*/*.png"))
    (folder / "tiles.txt").write_text("\n".join(names))
    recipe = folder / f"{site}.yaml"
    recipe.write_text(RECIPE.format(site=site, zoom=zoom, url=server.url, footprints=source / "buildings.geojson"))
    return recipe


@pytest.mark.parametrize(("site", "zoom", "candidates", "accepted", "empty"), KNOWN)
def test_known_tiles_are_staged_and_no_other_is_asked_for(
    tmp_path: Path,
    shared_data: Path,
    server: ScriptedServer,
    site: str,
    zoom: int,
    candidates: int,
    accepted: int,
    empty: int,
) -> None:
    recipe = prepare(tmp_path, shared_data, server, site, zoom)
    store = tmp_path / "store"
    summary = run_build(recipe, store)
    assert (summary.candidates, summary.selected, summary.accepted) == (candidates, accepted, accepted)
    assert (summary.absent, summary.failed) == (0, 0)
    assert summary.requests == {"imagery": accepted, "labels": 0}
    assert len(server.requests) == accepted
    with open_ledger(WorkDir.of(str(store)).ledger) as ledger:
        assert sum(fraction == 0 for fraction in ledger.building_fractions()) == empty

    version = open_version(str(store))
    for split in ("train", "validation", "test"):
        arrays = version.split(split)
        for i, name in enumerate(arrays.sample_id):
            with Image.open(shared_data / "xyz" / site / f"{name}.png") as image:
                expected = np.moveaxis(np.asarray(image.convert("RGBA"))[..., :3], -1, 0)
            assert np.array_equal(np.asarray(arrays.image[i]), expected)

    server.reset()
    again = run_build(recipe, store)
    assert (again.version, again.new, again.requests["imagery"], len(server.requests)) == ("v1", False, 0, 0)


def test_kampala_masks_are_reproduced_pixel_for_pixel(
    tmp_path: Path, shared_data: Path, server: ScriptedServer
) -> None:
    compared = 0
    for zoom in (19, 20, 21):
        folder = tmp_path / str(zoom)
        folder.mkdir()
        recipe = prepare(folder, shared_data, server, "kampala", zoom)
        run_build(recipe, folder / "store", ["filter.min_building_fraction=0.0"])
        with open_ledger(WorkDir.of(str(folder / "store")).ledger) as ledger:
            for name in ledger.names(State.STAGED):
                path = shared_data / "xyz" / "kampala-masks" / f"{name}.tif"
                with rasterio.open(path) as reference:
                    expected = reference.read(1)
                mask = masks.decode(ledger.mask(name), 256, 256)
                assert np.array_equal(mask, expected.astype(bool)), name
                compared += bool(expected.any())
    assert compared == 138


def test_transparent_tiles_of_kampala_are_nodata(tmp_path: Path, shared_data: Path, server: ScriptedServer) -> None:
    recipe = prepare(tmp_path, shared_data, server, "kampala", 21)
    overrides = ["filter.min_building_fraction=0.0", "filter.max_nodata_fraction=0.01"]
    summary = run_build(recipe, tmp_path / "store", overrides)
    transparent = 0
    for path in (shared_data / "xyz" / "kampala" / "21").glob("*/*.png"):
        with Image.open(path) as image:
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
        transparent += bool((alpha == 0).mean() > 0.01)
    assert summary.accepted == 112 - transparent
    assert transparent > 0


def test_transparent_pixels_of_kampala_have_no_label_where_the_recipe_has_a_value_for_that(
    tmp_path: Path, shared_data: Path, server: ScriptedServer
) -> None:
    recipe = prepare(tmp_path, shared_data, server, "kampala", 21)
    run_build(recipe, tmp_path / "plain", ["filter.min_building_fraction=0.0"])
    run_build(recipe, tmp_path / "ignoring", ["filter.min_building_fraction=0.0", "ignore_index=255"])
    plain, ignoring = contents(tmp_path / "plain"), contents(tmp_path / "ignoring")
    assert len(plain) == len(ignoring) == 112
    hidden = 0
    for name, (_, pixels, before) in plain.items():
        with Image.open(shared_data / "xyz" / "kampala" / f"{name}.png") as image:
            clear = np.asarray(image.convert("RGBA"))[..., 3].ravel() == 0
        expected = np.where(clear, 255, np.frombuffer(before, np.uint8))
        assert ignoring[name][1:] == (pixels, expected.tobytes())
        hidden += int(clear.sum())
    assert hidden > 0


def test_splits_of_zanzibar_by_block_share_no_block(tmp_path: Path, shared_data: Path, server: ScriptedServer) -> None:
    recipe = prepare(tmp_path, shared_data, server, "zanzibar", 20)
    store = tmp_path / "store"
    summary = run_build(recipe, store, ["splits.by=block", "splits.block_zoom=18"])
    assert summary.accepted == 55
    version = open_version(str(store))
    blocks = {
        split: {Tile(*row).parent(18) for row in version.split(split).array("tile").tolist()}
        for split in ("train", "validation", "test")
    }
    assert not blocks["train"] & blocks["validation"]
    assert not blocks["train"] & blocks["test"]
    assert not blocks["validation"] & blocks["test"]
    assert load_recipe(recipe).splits.by == "tile"
