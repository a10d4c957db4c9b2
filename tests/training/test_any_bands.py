"""Stores of any bands and dtype, with clouds: trained end to end, and what ignored pixels change (nothing)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.errors import TrainingError
from tasks.versions.read import DatasetVersion
from tasks.versions.schema import SPLITS
from tests.training.samples import BUILDING
from tests.training.stores import IGNORE, Samples, draw, write_store
from training.config import TrainingConfig
from training.data import SplitReader, content_digest
from training.inference import evaluate, load_model
from training.model_files import save_model
from training.module import SegmentationModule
from training.pictures import predictions_picture
from training.train import new_model, open_readers, read_metadata, train


def store(path: Path, bands: int, dtype: str, shape: tuple[int, int] = (16, 16)) -> DatasetVersion:
    return write_store(path, {split: draw(6, bands, dtype, shape, seed) for seed, split in enumerate(SPLITS)})


@pytest.mark.parametrize(
    ("bands", "dtype", "shape"),
    [(1, "uint8", (16, 16)), (4, "uint16", (16, 16)), (2, "int16", (16, 24)), (13, "float32", (16, 16))],
)
def test_end_to_end(
    bands: int, dtype: str, shape: tuple[int, int], tiny: TrainingConfig, tracking: str, tmp_path: Path
) -> None:
    version = store(tmp_path / "store", bands, dtype, shape)
    config = tiny.replaced(stop={"patience": 1, "max_epochs": 1}, batch=4)
    result = train(version.uri, config, out=tmp_path / "out", tracking_uri=tracking)
    assert 0 <= result.dice <= 1
    metadata = json.loads((Path(result.checkpoint) / "data.json").read_text())
    assert (metadata["dtype"], metadata["ignore_index"], len(metadata["bands"])) == (dtype, IGNORE, bands)

    import mlflow
    import mlflow.pyfunc

    kept = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking)
    try:
        registered = mlflow.pyfunc.load_model("models:/land@champion")
    finally:
        mlflow.set_tracking_uri(kept)
    spec = registered.metadata.signature.inputs.inputs[0]
    assert (spec.type, spec.shape) == (np.dtype(dtype), (-1, bands, -1, -1))
    test = version.split("test")
    images, masks = np.asarray(test.image[:]), np.asarray(test.mask[:])
    probability = registered.predict(images)
    assert np.array_equal(probability, load_model(result.checkpoint).predict(images))

    counts = (masks != IGNORE) & (np.asarray(test.array("cloud_mask")) == 0)
    found, true = (probability >= 0.5) & counts, (masks == BUILDING) & counts
    assert result.jaccard == pytest.approx((found & true).sum() / (found | true).sum())

    predictions_picture(version.uri, result.checkpoint, tmp_path / "sheet.png", count=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    scale = 256 // shape[1]
    left, height, width = 6 + shape[1] * scale + 6, shape[0] * scale, shape[1] * scale
    mask = sheet[20 : 20 + height : scale, left : left + width : scale]
    assert ((mask == (128, 128, 128)).all(-1) == ~counts[0]).all()


@pytest.mark.parametrize("augmentation", [{}, {"shift": 0.2, "flip": True, "rotate": 180.0}])
@pytest.mark.parametrize("over", ["batch", "sample"])
def test_wrong_labels_under_clouds_change_no_loss_and_no_gradient(
    over: str, augmentation: dict[str, object], tiny: TrainingConfig, tmp_path: Path
) -> None:
    config = tiny.replaced(loss={"name": "dice", "over": over}, augmentation=augmentation)
    right = draw(6, 4, "uint16")
    assert right.cloud_mask is not None
    hidden = right.cloud_mask == 1
    wrong = right._replace(mask=np.where(hidden, np.uint8(BUILDING) - right.mask, right.mask))
    no_label = right._replace(mask=np.where(hidden, np.uint8(IGNORE), right.mask), cloud_mask=None)

    def learnt(name: str, samples: Samples) -> list[torch.Tensor]:
        """Losses of training and validation, scores, and the gradients of all weights."""
        version = write_store(tmp_path / name, dict.fromkeys(SPLITS, samples))
        metadata = read_metadata(version)
        model = new_model(config, metadata)
        module = SegmentationModule(model, config, metadata, {})
        logged: list[torch.Tensor] = []
        module.log = lambda _name, value, **_: logged.append(value.detach())  # type: ignore[method-assign]
        (batch,) = open_readers(version, config.replaced(batch=6), pin=False)["train"]
        module.training_step(batch, 0).backward()
        module.validation_step(batch, 0)
        module.on_validation_epoch_end()
        assert module.validation_scores is not None
        scores = torch.tensor(list(module.validation_scores.as_metrics("").values()))
        return [*logged, scores, *(weights.grad for weights in model.parameters() if weights.grad is not None)]

    clean = learnt("clean", right)
    assert all(float(gradient.abs().max()) > 0 for gradient in clean[-2:])  # of the last layer
    for name, samples in (("wrong", wrong), ("no-label", no_label)):
        assert all(map(torch.equal, learnt(name, samples), clean))
    seen = learnt("seen", wrong._replace(cloud_mask=None))
    assert not any(map(torch.equal, seen[:2], clean))
    assert not all(map(torch.equal, seen[3:], clean[3:]))


def test_values_above_the_range_of_signed_numbers(tiny: TrainingConfig, tmp_path: Path) -> None:
    version = store(tmp_path / "store", 2, "uint16")
    metadata = read_metadata(version)
    model = new_model(tiny, metadata)
    save_model(tmp_path / "model", model, tiny, metadata)
    images = np.asarray(version.split("test").image[:])
    assert images.max() > 50_000
    mean, std = (np.array(values)[:, None, None] for values in (metadata.mean, metadata.std))
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy((images - mean) / std).float()).sigmoid().numpy()
    assert np.allclose(load_model(tmp_path / "model").predict(images), expected, atol=1e-5)


def test_the_metadata_tell_test_splits_apart_by_what_they_ignore(tmp_path: Path) -> None:
    version = store(tmp_path / "store", 1, "uint8")
    test = version.split("test")
    assert read_metadata(version).test_split == content_digest(test, ignore_index=IGNORE) != content_digest(test)


def test_images_of_another_dtype_than_the_models(tiny: TrainingConfig, tmp_path: Path) -> None:
    version = store(tmp_path / "store", 2, "uint16")
    metadata = read_metadata(version)
    save_model(tmp_path / "model", new_model(tiny, metadata), tiny, metadata)
    other = store(tmp_path / "other", 2, "float32")
    with pytest.raises(TrainingError, match=r"expected images as uint16 \(n, 2, y, x\).*got float32 \(4, 2, 16, 16\)"):
        evaluate(load_model(tmp_path / "model"), SplitReader(other.split("test"), 4), BUILDING)


def test_a_dtype_that_training_does_not_know(tmp_path: Path) -> None:
    samples = draw(2, 1, "float32")
    version = write_store(
        tmp_path / "store", dict.fromkeys(SPLITS, samples._replace(image=samples.image.astype(np.float64)))
    )
    with pytest.raises(TrainingError, match="images are float64, expected one of uint8, uint16, int16, float32"):
        read_metadata(version)


def test_oblong_images_that_the_network_cannot_halve(tiny: TrainingConfig, tmp_path: Path) -> None:
    version = store(tmp_path / "store", 1, "uint8", (20, 16))
    config = tiny.replaced(model={"name": "unet", "widths": [4, 4, 4, 4]})
    with pytest.raises(TrainingError, match=r"20 x 16 px.*multiples of 8; set resize: 16 or 24"):
        new_model(config, read_metadata(version))


def test_a_split_under_clouds_alone_cannot_be_scored(tiny: TrainingConfig, tracking: str, tmp_path: Path) -> None:
    seen = draw(4, 1, "uint8")
    clouded = seen._replace(cloud_mask=np.ones_like(seen.mask))
    for name, validation, test in (("validation", clouded, seen), ("test", seen, clouded)):
        version = write_store(tmp_path / name, {"train": seen, "validation": validation, "test": test})
        with pytest.raises(TrainingError, match="every pixel of all 4 samples is ignored"):
            train(version.uri, tiny.replaced(stop={"patience": 1, "max_epochs": 1}), tracking_uri=tracking)


def test_a_model_from_before_there_were_other_dtypes(
    version: DatasetVersion, tiny: TrainingConfig, tmp_path: Path
) -> None:
    metadata = read_metadata(version)
    save_model(tmp_path, new_model(tiny, metadata), tiny, metadata)
    data = json.loads((tmp_path / "data.json").read_text())
    for name in ("dtype", "ignore_index", "height"):
        del data[name]
    (tmp_path / "data.json").write_text(json.dumps(data))
    loaded = load_model(tmp_path).metadata
    assert (loaded.dtype, loaded.ignore_index, loaded.height) == ("uint8", None, None)


@pytest.mark.parametrize("ignore", [None, 254])
def test_a_model_from_before_the_ignore_index_was_called_so(
    version: DatasetVersion, tiny: TrainingConfig, tmp_path: Path, ignore: int | None
) -> None:
    metadata = read_metadata(version)
    save_model(tmp_path, new_model(tiny, metadata), tiny, metadata)
    data = json.loads((tmp_path / "data.json").read_text())
    del data["ignore_index"]
    (tmp_path / "data.json").write_text(json.dumps({**data, "ignore": ignore}))
    assert load_model(tmp_path).metadata == metadata.replaced(ignore_index=ignore)
