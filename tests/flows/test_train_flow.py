"""Training from the command line: a pinned version in, a registered model out."""

import json
from pathlib import Path

import pytest

from infra.sandbox.services.scripted import ScriptedServer
from tests.support.builds import run_build
from tests.support.commands import Tilewright, assert_told, tilewright_started
from tests.support.small import SmallRegion

QUICK = ["--set", "stop.max_epochs=2", "--set", "model.widths=[4, 8]", "--json"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    region = SmallRegion(side=8)
    with ScriptedServer(region.image, content_type="image/png") as server:
        run_build(region.write_recipe(tmp_path, server.url), tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.server
def test_a_version_is_trained_on_and_the_model_registered(
    store: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store.parent}/mlflow.db")
    result = tilewright_started("train", f"{store}@v1", "--config", "unet-small", *QUICK)
    assert result.returncode == 0, result.stderr
    trained = json.loads(result.stdout)
    assert (trained["model_name"], trained["model_version"], trained["champion"]) == ("small", "1", True)
    assert (trained["dataset_version"], trained["epochs"]) == ("v1", 2)
    assert 0 <= trained["jaccard"] <= trained["dice"] <= 1

    from training.registry import Registry

    champion = Registry().champion("small")
    assert champion is not None
    assert champion.tags["snapshot"] == trained["snapshot"]
    assert (champion.tags["config"], champion.tags["dataset_version"]) == ("unet-small", "v1")
    picture = store.with_name("store.work") / "predictions.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.server
@pytest.mark.parametrize(
    ("words", "parts", "code"),
    [
        (["{store}@v7"], ["no version 'v7'; there are v1"], 1),
        (["{store}", "--config", "unet-huge"], ["no such training configuration; there are unet-dice, unet-small"], 2),
        (["{store}", "--set", "batsh=3"], ["--set batsh: unknown key; did you mean 'batch'?"], 2),
        (["{store}-none"], ["no store there"], 1),
    ],
)
def test_bad_input_is_told(
    store: Path, prefect_server: str, tilewright: Tilewright, words: list[str], parts: list[str], code: int
) -> None:
    tilewright.forks.load("training.train", "training.pictures")
    assert_told(tilewright("train", *(word.format(store=store) for word in words)), *parts, code=code)
