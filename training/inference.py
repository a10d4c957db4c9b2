"""Use of a trained model. MLflow loads a registered one through ``_load_pyfunc``, without pickle."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.errors import TrainingError
from training.augment import normalise
from training.data import Batch
from training.metrics import OverlapCounter, Scores
from training.model_files import DatasetMetadata, load_files

THRESHOLD = 0.5  # probability from which a pixel counts as building


class Predictor:
    """A network in evaluation mode with the normalisation it was trained with, in float32."""

    def __init__(self, model: nn.Module, metadata: DatasetMetadata, *, batch: int, device: torch.device) -> None:
        """batch: samples to run at once. device: where to run; the network is moved there."""
        self.metadata, self.batch, self.device = metadata, batch, device
        self._model = model.to(device).eval()
        self._mean = torch.tensor(metadata.mean, device=device)
        self._std = torch.tensor(metadata.std, device=device)
        self._multiple = int(getattr(model, "multiple", 1))

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Probability of building, float32 (n, y, x), of images (n, bands, y, x) of the dtype of the training data.

        Raises TrainingError when the images do not fit the model.
        """
        self.check(images)
        parts = [
            self.probability(torch.from_numpy(np.ascontiguousarray(images[first : first + self.batch]))).cpu().numpy()
            for first in range(0, len(images), self.batch)
        ]
        return np.concatenate(parts) if parts else np.empty((0, *images.shape[2:]), dtype=np.float32)

    def probability(self, images: Tensor) -> Tensor:
        """As :meth:`predict`, for one batch of tensors; the answer stays on the device."""
        self.check(images)
        with torch.inference_mode():
            logits: Tensor = self._model(normalise(images.to(self.device), self._mean, self._std))
            return logits.float().sigmoid()

    def check(self, images: Tensor | NDArray[Any]) -> None:
        """Raise TrainingError when the dtype, bands or sides of images are not those that the model takes.

        Another dtype is refused because it mostly has another scale, which would only show in bad predictions.
        """
        dtype = str(images.dtype).removeprefix("torch.")
        if dtype != self.metadata.dtype or images.ndim != 4:
            raise TrainingError(
                f"expected images as {self.metadata.dtype} (n, {len(self.metadata.bands)}, y, x), which the model was "
                f"trained on, got {dtype} {tuple(images.shape)}"
            )
        _, bands, height, width = images.shape
        if bands != len(self.metadata.bands):
            raise TrainingError(
                f"the model was trained on {len(self.metadata.bands)} bands ({', '.join(self.metadata.bands)}), "
                f"the images have {bands}"
            )
        check_side(height, width, self._multiple)


def check_side(height: int, width: int, multiple: int) -> None:
    """Raise TrainingError when the sides of an image are not multiples of what the network halves."""
    if height % multiple or width % multiple:
        odd = height if height % multiple else width
        below, above = odd // multiple * multiple, -(-odd // multiple) * multiple
        choice = f"{below} or {above}" if below else str(above)
        raise TrainingError(
            f"images of {height} x {width} px do not fit the network, halving sides down to 1/{multiple}: they "
            f"must be multiples of {multiple}; set resize: {choice} in the recipe and build, or use fewer model.widths"
        )


def load_model(folder: Path | str, *, batch: int | None = None, device: str = "cpu") -> Predictor:
    """The model in a folder that training wrote. Raises TrainingError when a file is missing or damaged.

    batch: samples to run at once, by default as many as in training.
    """
    model, config, metadata = load_files(Path(folder))
    return Predictor(model, metadata, batch=batch or config.batch, device=torch.device(device))


def evaluate(predictor: Predictor, batches: Iterable[Batch], foreground: int) -> Scores:
    """Scores of a model on samples, ignored pixels left out. foreground: the masks' value for building.

    Raises TrainingError as ``predict``, and when every pixel is ignored.
    """
    counter = OverlapCounter()
    for batch in batches:
        predicted = predictor.probability(batch.images) >= THRESHOLD
        ignored = None if batch.ignored is None else batch.ignored.to(predicted.device)
        counter.update(predicted, batch.masks.to(predicted.device) == foreground, ignored)
    return counter.scores()


def _load_pyfunc(data_path: str) -> Predictor:
    return load_model(data_path)
