from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.geo.tiles import Tile
from tasks.recipe.load import Recipe, load_recipe
from tasks.state.ledger import Density, Fetched, Ledger, State
from tasks.views.funnel import Funnel, describe_funnel, draw_samples, estimate
from tests.support.recipes import write_recipe

TILES = [Tile(20, x, 0) for x in range(100)]


BANDS = ("red", "green", "blue")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write_recipe(tmp_path))


def funnel_of(folder: Path, recipe: Recipe, passing: int) -> Funnel:
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.set_candidates(tile.name for tile in TILES)
        ledger.record_densities(
            [Density(tile.name, i / 200, "m", b"" if i >= 100 - passing else None) for i, tile in enumerate(TILES)], "k"
        )
        return Funnel.of(ledger, recipe)


def test_the_funnel_counts_every_way_out(tmp_path: Path, recipe: Recipe) -> None:
    funnel_of(tmp_path, recipe, 70)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.record_fetched(
            [
                *(Fetched(tile.name, State.KEPT, sha256="s", bytes=9) for tile in TILES[40:90]),
                Fetched(TILES[90].name, State.ABSENT, "x"),
                Fetched(TILES[91].name, State.FAILED, "HTTP 503"),
                Fetched(TILES[92].name, State.REJECTED, "nodata"),
            ]
        )
        funnel = Funnel.of(ledger, recipe)
    assert (funnel.candidates, funnel.with_building, funnel.selected, funnel.rejected_density) == (100, 99, 70, 30)
    assert (funnel.kept, funnel.absent, funnel.failed, funnel.rejected_nodata, funnel.pending) == (50, 1, 1, 1, 17)
    parts = funnel.kept + funnel.absent + funnel.failed + funnel.rejected_nodata + funnel.pending
    assert parts == funnel.selected
    assert [count for _, count in funnel.rows()] == [100, 99, 70, 1, 1, 1, 50]


def test_an_empty_funnel_says_what_would_pass(tmp_path: Path, recipe: Recipe) -> None:
    text = describe_funnel(funnel_of(tmp_path, recipe, 0))
    assert "0  with at least 15% building" in text
    assert "would pass: 94 at 0.03, 85 at 0.075, 76 at 0.12" in text


def test_estimates_bill_only_mapbox_beyond_the_free_requests(tmp_path: Path, recipe: Recipe) -> None:
    funnel = funnel_of(tmp_path, recipe, 100)
    free = estimate(funnel, recipe, None)
    assert (free.requests, free.dollars, free.bytes) == (100, None, 100 * 21_000)
    assert estimate(funnel, recipe, 5_000.0).bytes == 500_000
    billed = load_recipe(write_recipe(tmp_path), ["imagery={source: mapbox}"])
    assert estimate(funnel, billed, None).dollars == 0.0
    many = Funnel(**{**vars(funnel), "pending": 1_200_000})
    assert estimate(many, billed, None).dollars == 250.0
    slow = load_recipe(write_recipe(tmp_path), ["imagery.requests_per_second=10"])
    assert estimate(funnel, slow, None).seconds == pytest.approx(10, abs=1)


def test_samples_are_drawn_with_their_masks(tmp_path: Path) -> None:
    image = np.full((3, 64, 64), 100, dtype=np.uint8)
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = 1
    draw_samples(tmp_path / "sheet.png", [(image, mask)] * 5, BANDS, {0: "#000000", 1: "#ffffff"})
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 262 + 6, 2 * 524 + 6)
        assert sheet.getpixel((6 + 200, 6 + 100)) == (100, 100, 100)
        assert sheet.getpixel((6 + 10, 6 + 256 + 100)) == (100, 100, 100)
        red, green, _ = sheet.getpixel((6 + 200, 6 + 256 + 100))  # type: ignore[misc]
        assert red > 150 > green
    draw_samples(tmp_path / "none.png", [], BANDS, {})
    assert not (tmp_path / "none.png").exists()
