"""The training step, optimiser and schedule, as Lightning wants them."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from tasks.errors import TrainingError
from tasks.versions.schema import TRAIN, VALIDATION
from training.augment import augment, normalise
from training.config import TrainingConfig
from training.data import Batch
from training.inference import THRESHOLD
from training.losses import build_loss
from training.metrics import OverlapCounter, Scores
from training.model_files import DatasetMetadata

MONITOR = "validation_loss"
NAMED_SAMPLES = 8  # of a bad batch, in the message


class SegmentationModule(pl.LightningModule):
    """A network learning to tell building from the rest. Batches are :class:`training.data.Batch`."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        metadata: DatasetMetadata,
        sample_ids: Mapping[str, Sequence[str]],
    ) -> None:
        """sample_ids: names of the samples by split, for the message when a loss is not finite."""
        super().__init__()
        self.model, self.config = model, config
        self.validation_scores: Scores | None = None  # of the last epoch
        self._loss = build_loss(config.loss)
        self._foreground, self._sample_ids = metadata.foreground, sample_ids
        self._generator = torch.Generator().manual_seed(config.seed)
        self._counter = OverlapCounter()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(metadata.mean))
        self.register_buffer("std", torch.tensor(metadata.std))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of an augmented batch. Raises TrainingError when it is not finite."""
        images, masks, ignored = augment(
            batch.images, batch.masks, batch.ignored, self.config.augmentation, self._generator
        )
        loss = self._loss(self.model(normalise(images, self.mean, self.std)), masks == self._foreground, ignored)
        self._check_finite(loss, TRAIN, batch, batch_idx)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the loss and the scores of a batch. Raises TrainingError when the loss is not finite."""
        logits = self.model(normalise(batch.images, self.mean, self.std))
        target = batch.masks == self._foreground
        loss = self._loss(logits, target, batch.ignored)
        self._check_finite(loss, VALIDATION, batch, batch_idx)
        self.log(MONITOR, loss, on_epoch=True, batch_size=len(target))
        self._counter.update(logits.float().sigmoid() >= THRESHOLD, target, batch.ignored)

    def on_validation_epoch_end(self) -> None:
        """Sum the scores up. Raises TrainingError when every pixel was ignored."""
        self.validation_scores, self._counter = self._counter.scores(), OverlapCounter()

    def configure_optimizers(self) -> Any:
        """Adam, with the plateau schedule when the configuration has one."""
        optimiser = torch.optim.Adam(self.model.parameters(), lr=self.config.optimiser.lr)
        schedule = self.config.schedule
        if schedule is None:
            return optimiser
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser,
            factor=schedule.factor,
            patience=schedule.patience - 1,  # torch counts the epochs that are let pass
            threshold=schedule.min_delta,
            threshold_mode="abs",
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": plateau, "monitor": MONITOR}}

    def _check_finite(self, loss: Tensor, split: str, batch: Batch, batch_idx: int) -> None:
        if torch.isfinite(loss):
            return
        names = [self._sample_ids[split][row] for row in batch.rows.tolist()]
        listed = ", ".join(names[:NAMED_SAMPLES])
        more = f" and {len(names) - NAMED_SAMPLES} more" if len(names) > NAMED_SAMPLES else ""
        raise TrainingError(
            f"the loss is not a finite number in epoch {self.current_epoch + 1}, {split} batch {batch_idx + 1} "
            f"(samples {listed}{more}); lower optimiser.lr ({self.config.optimiser.lr:g} now), or look at these samples"
        )
