"""Servers that do wrong, as a user of the command line meets them: one line, an exit code, and nothing left."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.doors import LIMITS, SECRET, TILE
from tests.support.commands import assert_told, tilewright_started
from tests.support.fault_server import FaultServer
from tests.support.recipes import values_of
from tests.support.small import SmallRegion


def written(folder: Path, source: str, changes: Mapping[str, Any]) -> str:
    """A recipe's file."""
    (folder / "tiles.txt").write_text(f"{TILE.name}\n")
    path = folder / "faulty.yaml"
    path.write_text(json.dumps(values_of(source, {"limits": LIMITS, "imagery.attempts": 1, **changes})))
    return str(path)


PLANS: Mapping[str, tuple[str, str, Mapping[str, Any], str]] = {
    "an extract without end": (
        "length-absurd",
        "xyz",
        {"labels": {"source": "pbf", "url": "BAD/x.osm.pbf?token={env:LABELS_TOKEN}"}},
        "over limits.max_download_gb 0.02",
    ),
    "a page for an Overpass answer": (
        "html",
        "xyz",
        {"labels": {"source": "overpass", "url": "BAD/api", "attempts": 1, "rate_limit": False}},
        "a web page (HTML)",
    ),
    "a catalogue that never answers": (
        "drip-headers",
        "stac",
        {"imagery.api": "BAD/catalog.json?token={env:LABELS_TOKEN}", "imagery.timeout": 0.5},
        "not whole within 0.5 s",
    ),
    "a collection that says too much": (
        "bomb-gzip",
        "mlhub",
        {"imagery.reader": "api", "imagery.url": "BAD", "imagery.dataset": "x", "imagery.path": ...},
        "limits.max_answer_mb",
    ),
}


@pytest.mark.parametrize("what", PLANS)
def test_a_plan_ends_with_one_line(what: str, faults: FaultServer, tmp_path: Path) -> None:
    fault, source, changes, words = PLANS[what]
    if source == "xyz":
        changes = {**changes, "area": {"tiles": "tiles.txt"}, "grid.zoom": TILE.z}
    text = Path(written(tmp_path, source, changes))
    text.write_text(text.read_text().replace("BAD", faults.at(fault)))
    result = tilewright_started("plan", str(text), "--store", str(tmp_path / "store"))
    assert_told(result, "127.0.0.1", words)
    assert result.stderr.count("\n") == 1
    assert SECRET not in result.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.server
def test_a_build_hands_no_token_on(faults: FaultServer, tmp_path: Path, prefect_server: str) -> None:
    recipe = SmallRegion(side=8).write_recipe(tmp_path, faults.url)
    url = f"{faults.at('redirect-elsewhere')}/{{z}}/{{x}}/{{y}}.png?access={{token}}"
    settings = [f"imagery.url={url}", "imagery.token_env=TILES_TOKEN", "imagery.attempts=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    result = tilewright_started("build", str(recipe), "--store", str(tmp_path / "store"), *words)
    assert_told(result, "would hand it the token", faults.canary.url)
    assert SECRET not in result.stderr
    assert faults.canary.asked == []
