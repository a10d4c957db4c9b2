"""Training end to end on tiny stores, and what it refuses."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.errors import StoreError, TrainingError
from tasks.versions.read import DatasetVersion
from tests.training.samples import CLASSES, make_store
from training.config import TrainingConfig, load_config
from training.data import SplitReader
from training.inference import Predictor, evaluate, load_model
from training.losses import build_loss
from training.module import SegmentationModule
from training.train import EpochReport, TrainingResult, new_model, read_metadata, train


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir())


def test_end_to_end(version: DatasetVersion, tiny: TrainingConfig, tracking: str, in_an_empty_folder: Path) -> None:
    reports: list[EpochReport] = []
    out = in_an_empty_folder.parent / "out"
    result = train(f"{version.uri}@v1", tiny, out=out, tracking_uri=tracking, progress=reports.append)
    assert (result.model_name, result.model_version, result.champion) == ("town", "1", True)
    assert (result.dataset_version, result.snapshot, result.device) == ("v1", version.snapshot, "cpu")
    assert [report.epoch for report in reports] == [1, 2]
    assert result.epochs == 2
    assert result.best_epoch == 1 + int(np.argmin([report.validation_loss for report in reports]))
    assert result.images_per_second > 0
    assert "epoch 2/2" in str(reports[1])
    again = evaluate(load_model(result.checkpoint), SplitReader(version.split("test"), 3), foreground=3)
    assert again.dice == pytest.approx(result.dice, abs=1e-6)
    assert sorted(path.name for path in Path(result.checkpoint).iterdir()) == [
        "config.yaml",
        "data.json",
        "weights.safetensors",
    ]


def test_the_seed_decides(version: DatasetVersion, tiny: TrainingConfig, tracking: str, tmp_path: Path) -> None:
    def losses(config: TrainingConfig) -> tuple[list[float], TrainingResult]:
        reports: list[EpochReport] = []
        result = train(version.uri, config, tracking_uri=tracking, progress=reports.append)
        return [report.validation_loss for report in reports], result

    first, result = losses(tiny)
    again, _ = losses(tiny.replaced(cache="none"))
    other, _ = losses(tiny.replaced(seed=1))
    assert first == again
    assert first != other
    assert result.checkpoint == "models:/town/1"


def test_half_precision_trains_and_tests(version: DatasetVersion, tiny: TrainingConfig, tracking: str) -> None:
    reports: list[EpochReport] = []
    train(version.uri, tiny.replaced(precision="bf16"), tracking_uri=tracking, progress=reports.append)
    single: list[EpochReport] = []
    train(version.uri, tiny, tracking_uri=tracking, progress=single.append)
    assert reports[-1].train_loss != single[-1].train_loss
    assert reports[-1].train_loss == pytest.approx(single[-1].train_loss, abs=0.02)


def test_a_small_network_learns_eight_samples_by_heart(tmp_path: Path) -> None:
    version = make_store(tmp_path / "store", counts={"train": 8, "validation": 1, "test": 1})
    config = load_config("unet-small", ["model.widths=[8,16]", "augmentation={}", "batch=8"])
    metadata = read_metadata(version)
    model = new_model(config, metadata)
    module = SegmentationModule(model, config, metadata, {"train": version.split("train").sample_id})
    optimiser = module.configure_optimizers()["optimizer"]
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    reader = SplitReader(version.split("train"), 8, shuffle=True)
    for step in range(150):
        (batch,) = reader
        optimiser.zero_grad()
        module.training_step(batch, step).backward()
        optimiser.step()
    predictor = Predictor(model, metadata, batch=8, device=torch.device("cpu"))
    assert evaluate(predictor, reader, foreground=3).dice > 0.9


def test_the_learning_rate_halves_and_training_stops(
    version: DatasetVersion, tiny: TrainingConfig, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a loss that never gets lower than in epoch 1, the rate halves after each 2 more, and 5 more are the end."""
    constant = build_loss(tiny.loss)
    monkeypatch.setattr("training.module.build_loss", lambda _config: lambda *args: constant(*args) * 0)
    config = tiny.replaced(
        stop={"patience": 5, "max_epochs": 50},
        schedule={"name": "plateau", "factor": 0.5, "patience": 2, "min_delta": 1e-4},
    )
    reports: list[EpochReport] = []
    result = train(version.uri, config, tracking_uri=tracking, progress=reports.append)
    assert result.epochs == 6
    assert result.best_epoch == 1
    rate = tiny.optimiser.lr
    assert [report.lr for report in reports] == [rate, rate, rate, rate / 2, rate / 2, rate / 4]


def test_the_best_epochs_weights_are_tested(
    version: DatasetVersion, tiny: TrainingConfig, tracking: str, tmp_path: Path
) -> None:
    """The rate is so high that the network gets worse; what is tested is from before that."""
    reports: list[EpochReport] = []
    config = tiny.replaced(optimiser={"name": "adam", "lr": 0.5}, stop={"patience": 9, "max_epochs": 4})
    result = train(version.uri, config, out=tmp_path, tracking_uri=tracking, progress=reports.append)
    best = min(reports, key=lambda report: report.validation_loss)
    assert result.best_epoch == best.epoch
    predictor = load_model(result.checkpoint)
    scores = evaluate(predictor, SplitReader(version.split("validation"), 8), foreground=3)
    assert scores.dice == pytest.approx(best.validation.dice, abs=1e-6)


def test_a_loss_that_is_not_finite_names_epoch_batch_and_samples(
    version: DatasetVersion, tiny: TrainingConfig, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def loss(logits: Tensor, target: Tensor, ignored: Tensor | None) -> Tensor:
        calls.append(1)
        return (logits * 0).sum() + (float("nan") if len(calls) == 6 else 0.0)  # 3 of training, 1 of validation, 2

    monkeypatch.setattr("training.module.build_loss", lambda _config: loss)
    with pytest.raises(TrainingError, match=r"epoch 2, train batch 2 \(samples 18/\d+/0, .*lower optimiser\.lr"):
        train(version.uri, tiny, tracking_uri=tracking)


def test_weights_that_overflow_are_told(version: DatasetVersion, tiny: TrainingConfig, tracking: str) -> None:
    config = tiny.replaced(optimiser={"name": "adam", "lr": 1e30})
    with pytest.raises(TrainingError, match="not a finite number in epoch 1"):
        train(version.uri, config, tracking_uri=tracking)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split(split: str, tiny: TrainingConfig, tracking: str, tmp_path: Path) -> None:
    make_store(tmp_path / "store", counts={"train": 4, "validation": 2, "test": 2, split: 0})
    with pytest.raises(TrainingError, match=rf"store@v1: the {split} split is empty; .*splits\.{split}"):
        train(str(tmp_path / "store"), tiny, tracking_uri=tracking)


def test_no_class_named_building(tiny: TrainingConfig, tracking: str, tmp_path: Path) -> None:
    make_store(tmp_path / "store", classes=[CLASSES[0], {**CLASSES[1], "name": "water"}])
    with pytest.raises(TrainingError, match=r"no class named 'building' \(there are background, water\);.*name it"):
        train(str(tmp_path / "store"), tiny, tracking_uri=tracking)


def test_images_that_the_network_cannot_halve(tiny: TrainingConfig, tracking: str, tmp_path: Path) -> None:
    make_store(tmp_path / "store", side=30)
    with pytest.raises(TrainingError, match=r"30 x 30 px.*multiples of 4; set resize: 28 or 32"):
        train(str(tmp_path / "store"), tiny, tracking_uri=tracking)


def test_a_version_that_is_not_there(version: DatasetVersion, tiny: TrainingConfig, tracking: str) -> None:
    with pytest.raises(StoreError, match="no version 'v7'; there are v1"):
        train(f"{version.uri}@v7", tiny, tracking_uri=tracking)


def test_a_gpu_that_is_not_there(
    version: DatasetVersion, tiny: TrainingConfig, tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="device: auto or cpu"):
        train(version.uri, tiny.replaced(device="cuda"), tracking_uri=tracking)
