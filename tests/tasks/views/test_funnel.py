from pathlib import Path

import pytest

from tasks.geo.tiles import Tile
from tasks.recipe.load import load_recipe
from tasks.recipe.model import Recipe
from tasks.state.ledger import Fetched, Measured
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import DENSITY, NODATA, Image
from tasks.views.funnel import Funnel, describe_funnel, percent
from tests.support.recipes import write_recipe

TILES = [Tile(20, x, 0) for x in range(100)]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write_recipe(tmp_path))


def funnel_of(folder: Path, recipe: Recipe, passing: int) -> Funnel:
    with open_ledger(folder / "ledger.sqlite") as ledger:
        ledger.set_candidates(tile.name for tile in TILES)
        ledger.record_measured(
            [
                Measured(tile.name, "" if i >= 100 - passing else DENSITY, building_fraction=i / 200, mask=b"")
                for i, tile in enumerate(TILES)
            ],
            "k",
        )
        return Funnel.of(ledger, recipe)


def test_the_funnel_counts_every_way_out(tmp_path: Path, recipe: Recipe) -> None:
    funnel_of(tmp_path, recipe, 70)
    with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.record_fetched(
            [
                *(Fetched(tile.name, Image.STAGED, sha256="s", bytes=9) for tile in TILES[40:90]),
                Fetched(TILES[90].name, Image.ABSENT, "x"),
                Fetched(TILES[91].name, Image.FAILED, "HTTP 503"),
                Fetched(TILES[92].name, Image.REJECTED, NODATA),
            ]
        )
        funnel = Funnel.of(ledger, recipe)
    assert (funnel.candidates, funnel.with_building, funnel.selected, funnel.rejected_density) == (100, 99, 70, 30)
    assert (funnel.staged, funnel.absent, funnel.failed, funnel.rejected_nodata, funnel.pending) == (50, 1, 1, 1, 17)
    parts = funnel.staged + funnel.absent + funnel.failed + funnel.rejected_nodata + funnel.pending
    assert parts == funnel.selected
    assert [count for _, count in funnel.rows()] == [100, 99, 70, 1, 1, 1, 50]


def test_an_empty_funnel_says_what_would_pass(tmp_path: Path, recipe: Recipe) -> None:
    text = describe_funnel(funnel_of(tmp_path, recipe, 0))
    assert "0  with at least 15% building" in text
    assert "would pass: 94 at 0.03, 85 at 0.075, 76 at 0.12" in text


@pytest.mark.parametrize(
    ("share", "told"),
    [(0, "0%"), (1, "100%"), (0.15, "15%"), (0.07, "7%"), (0.0001, "0.01%"), (1e-7, "0.00001%"), (1 / 3, "33.33%")],
)
def test_shares_in_percent(share: float, told: str) -> None:
    assert percent(share) == told


def test_a_small_minimum_is_not_told_as_none(tmp_path: Path, recipe: Recipe) -> None:
    small = recipe.replaced(filter={"min_building_fraction": 0.0001})
    assert "with at least 0.01% building" in describe_funnel(funnel_of(tmp_path, small, 70))
