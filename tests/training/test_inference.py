"""Model folders: a round trip, and what a damaged one says. Pictures of predictions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.errors import RecipeError, TrainingError
from tasks.versions.read import DatasetVersion
from training.config import TrainingConfig
from training.inference import load_model
from training.model_files import load_files, save_model
from training.models import UNet
from training.pictures import predictions_picture
from training.train import new_model, read_metadata


@pytest.fixture
def folder(version: DatasetVersion, tiny: TrainingConfig, tmp_path: Path) -> Path:
    metadata = read_metadata(version)
    save_model(tmp_path / "model", new_model(tiny, metadata), tiny, metadata)
    return tmp_path / "model"


def test_prediction_is_normalised_and_cut_into_batches(folder: Path, version: DatasetVersion) -> None:
    images = np.asarray(version.split("train").image[:5])
    probability = load_model(folder).predict(images)
    assert probability.shape == (5, 32, 32)
    assert probability.dtype == np.float32
    assert np.allclose(load_model(folder, batch=2).predict(images), probability, atol=1e-6)
    metadata = json.loads((folder / "data.json").read_text())
    network = UNet(3, (4, 8, 8)).eval()
    network.load_state_dict(load_files(folder)[0].state_dict())
    mean, std = (torch.tensor(metadata[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = network((torch.from_numpy(images) - mean) / std).sigmoid().numpy()
    assert np.allclose(probability, expected, atol=1e-6)
    assert load_model(folder).predict(images[:0]).shape == (0, 32, 32)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 4, 32, 32), np.uint8), r"trained on 3 bands \(red, green, blue\), the images have 4"),
        (np.zeros((1, 3, 32, 32), np.float32), "expected images as uint8"),
        (np.zeros((3, 32, 32), np.uint8), "expected images as uint8"),
        (np.zeros((1, 3, 3, 3), np.uint8), "multiples of 4; set resize: 4 in"),
    ],
)
def test_images_that_do_not_fit(folder: Path, images: np.ndarray, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_model(folder).predict(images)


def test_damaged_weights(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"weights\.safetensors: damaged"):
        load_model(folder)


def test_weights_of_another_network(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("- 8\n  - 8", "- 8\n  - 16"))
    with pytest.raises(TrainingError, match=r"weights of another network than config\.yaml says"):
        load_model(folder)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    (folder / "data.json").unlink()
    with pytest.raises(TrainingError, match=r"data\.json: not a model's data file"):
        load_model(folder)
    with pytest.raises(RecipeError, match=r"config\.yaml: cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [1.0] * 4}, "3 bands, 4 of mean and 3 of std"),
        ({"bands": [], "mean": [], "std": []}, "0 bands"),
        ({"std": [0.0, 1.0, 1.0]}, "expected finite numbers as mean, and as std such above 0"),
        ({"side": "x"}, "side: Input should be a valid integer"),
    ],
)
def test_data_that_cannot_be(folder: Path, changes: dict[str, object], message: str) -> None:
    data = folder / "data.json"
    data.write_text(json.dumps(json.loads(data.read_text()) | changes))
    with pytest.raises(TrainingError, match=rf"data\.json: not a model's data file \({message}"):
        load_model(folder)


def test_a_picture_of_predictions(folder: Path, version: DatasetVersion, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    predictions_picture(version.uri, folder, path, count=3)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (20 + 3 * 262, 3 * 262 + 6, 3)  # 32 px are shown at eight times their size
    first = np.moveaxis(np.asarray(version.split("test").image[0]), 0, -1)
    assert np.array_equal(sheet[20:276:8, 6:262:8], first)
    truth = np.asarray(version.split("test").mask[0]) == 3
    shown = sheet[20:276:8, 268:524:8]
    assert (shown[truth] == (255, 170, 0)).all()
    assert (shown[~truth] == 0).all()
