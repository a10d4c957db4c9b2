"""Runs and models in MLflow, and who is champion."""

from pathlib import Path

import numpy as np
import pytest

from tasks.errors import TrainingError
from tasks.versions.read import DatasetVersion
from tests.training.samples import make_store
from training.config import TrainingConfig
from training.inference import load_model
from training.registry import Registered, Registry, flat, git_revision, judge
from training.train import train

PRESENT = Registered("town", "4", "run", {"test_split": "same", "test_dice": "0.7"})


def never(_: Registered) -> float:
    raise AssertionError("nothing was to be measured")


def test_the_first_model_is_champion() -> None:
    assert judge(0.0, "same", None, never).champion


@pytest.mark.parametrize(("dice", "champion"), [(0.71, True), (0.7, False), (0.69, False)])
def test_only_a_better_model_replaces_the_champion(dice: float, champion: bool) -> None:
    verdict = judge(dice, "same", PRESENT, never)
    assert verdict.champion is champion
    assert "0.7000 of version 4, on the same test split" in verdict.reason


@pytest.mark.parametrize(("measured", "champion"), [(0.5, True), (0.65, False)])
def test_on_another_test_split_the_champion_is_measured_again(measured: float, champion: bool) -> None:
    verdict = judge(0.6, "other", PRESENT, lambda present: measured if present is PRESENT else 1.0)
    assert verdict.champion is champion
    assert "measured on this version" in verdict.reason


def test_a_champion_without_a_recorded_dice_is_measured() -> None:
    by_hand = Registered("town", "2", "run", {"test_split": "same"})
    assert judge(0.6, "same", by_hand, lambda _: 0.5).champion


def test_a_champion_that_cannot_be_measured_stays() -> None:
    def fails(_: Registered) -> float:
        raise TrainingError("the model was trained on 4 bands")

    verdict = judge(0.99, "other", PRESENT, fails)
    assert not verdict.champion
    assert "cannot be run on it (the model was trained on 4 bands)" in verdict.reason


def test_what_is_recorded(version: DatasetVersion, tiny: TrainingConfig, tracking: str, tmp_path: Path) -> None:
    result = train(version.uri, tiny, config_name="tiny", out=tmp_path / "out", tracking_uri=tracking)
    from mlflow import MlflowClient

    client = MlflowClient(tracking)
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_dice"] == result.dice
    assert run.data.params["model.widths"] == "[4, 8, 8]"
    assert len(client.get_metric_history(result.run_id, "validation_loss")) == 2
    model = client.get_model_version_by_alias("town", "champion")
    assert str(model.version) == result.model_version
    expected = {
        "dataset": "town",
        "dataset_version": "v1",
        "snapshot": version.snapshot,
        "recipe_hash": "abc",
        "config": "tiny",
        "config_hash": tiny.hash(),
        "test_dice": repr(result.dice),
        "test_jaccard": repr(result.jaccard),
    }
    assert expected.items() <= model.tags.items()
    assert {"software_version", "git_revision", "test_split"} <= model.tags.keys()
    files = sorted(path.name for path in (tmp_path / "ml" / "mlruns").rglob("*") if path.is_file())
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".ckpt"))]
    assert "weights.safetensors" in files


def test_the_registered_model_predicts_as_the_trained_one(
    version: DatasetVersion, tiny: TrainingConfig, tracking: str, tmp_path: Path
) -> None:
    result = train(version.uri, tiny, out=tmp_path / "out", tracking_uri=tracking)
    images = np.asarray(version.split("test").image[:])
    before = load_model(result.checkpoint).predict(images)
    with Registry(tracking).files(Registered("town", "1", result.run_id, {})) as folder:
        assert np.array_equal(load_model(folder).predict(images), before)

    import mlflow
    import mlflow.pyfunc

    kept = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking)
    try:
        loaded = mlflow.pyfunc.load_model("models:/town@champion")
    finally:
        mlflow.set_tracking_uri(kept)
    after = loaded.predict(images)
    assert after.dtype == np.float32
    assert np.array_equal(after, before)


def test_a_version_with_another_test_split(tiny: TrainingConfig, tracking: str, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    make_store(tmp_path / "store")
    make_store(tmp_path / "store", seed=1)
    make_store(tmp_path / "store", seed=2, side=30)
    first = train(f"{store}@v1", tiny.replaced(stop={"patience": 20, "max_epochs": 8}), tracking_uri=tracking)
    second = train(f"{store}@v2", tiny, tracking_uri=tracking)
    assert first.champion
    assert not second.champion
    with Registry(tracking).files(Registered("town", "1", first.run_id, {})) as folder:
        theirs = _dice_on(folder, store, "v2")
    assert f"{second.dice:.4f} against {theirs:.4f} of version 1, measured on this" in second.champion_reason
    third = train(f"{store}@v3", tiny.replaced(model={"name": "unet", "widths": [4, 8]}), tracking_uri=tracking)
    assert not third.champion
    assert "cannot be run on it (images of 30 x 30 px" in third.champion_reason


def _dice_on(folder: Path, store: str, version: str) -> float:
    from tasks.versions.read import open_version
    from training.data import SplitReader
    from training.inference import evaluate

    return evaluate(load_model(folder), SplitReader(open_version(store, version).split("test"), 8), 3).dice


def test_a_run_that_fails_is_marked_so(version: DatasetVersion, tiny: TrainingConfig, tracking: str) -> None:
    with pytest.raises(TrainingError):
        train(version.uri, tiny.replaced(optimiser={"name": "adam", "lr": 1e30}), tracking_uri=tracking)
    from mlflow import MlflowClient

    client = MlflowClient(tracking)
    (run,) = client.search_runs([client.get_experiment_by_name("town").experiment_id])
    assert run.info.status == "FAILED"
    assert not client.search_registered_models()


def test_a_tracking_server_that_is_not_there(
    version: DatasetVersion, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrainingError, match=r"http://127\.0\.0\.1:9: MLflow failed .*MLFLOW_TRACKING_URI"):
        train(version.uri, tiny, tracking_uri="http://127.0.0.1:9")


def test_the_default_is_a_database_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere/ml.db")
    assert Registry().uri.endswith("elsewhere/ml.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    registry = Registry()
    with registry.run("town", "a run", {}, {}) as run_id:
        registry.log_metrics(run_id, {"x": 1.0})
    assert (tmp_path / "mlflow.db").is_file()


def test_flat() -> None:
    assert flat({"a": {"b": 1, "c": [2]}, "d": None}) == {"a.b": "1", "a.c": "[2]", "d": "None"}


def test_git_revision_is_a_commit_or_none() -> None:
    revision = git_revision()
    assert revision is None or len(revision) == 40
