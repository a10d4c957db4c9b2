"""Dice and Jaccard of binary masks, from pixel counts over a whole split."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from tasks.errors import TrainingError


@dataclass(frozen=True)
class Scores:
    """Agreement of predicted and true foreground, each from 0 to 1.

    ``dice`` and ``jaccard`` count the pixels of the whole split; the ``_mean`` ones are the mean over samples,
    where a sample with neither true nor predicted foreground counts 1. Ignored pixels are in none of them, nor
    are samples that have no other.
    """

    dice: float
    jaccard: float
    dice_mean: float
    jaccard_mean: float

    def as_metrics(self, prefix: str) -> dict[str, float]:
        """Values by name, such as ``test_dice``."""
        return {f"{prefix}_{name}": value for name, value in asdict(self).items()}


class OverlapCounter:
    """Pixel counts of batches, kept on the device of the masks until :meth:`scores` is asked for."""

    def __init__(self) -> None:
        """Nothing counted yet."""
        self._counts: list[Tensor] = []

    def update(self, predicted: Tensor, target: Tensor, ignored: Tensor | None = None) -> None:
        """Count a batch of boolean masks (n, y, x), but not the pixels that are ignored."""
        if ignored is None:
            counted = torch.ones(len(target), dtype=torch.bool, device=target.device)
        else:
            predicted, target = predicted & ~ignored, target & ~ignored
            counted = ~ignored.flatten(1).all(1)
        both = (predicted & target).sum((1, 2))
        either = (predicted | target).sum((1, 2))
        self._counts.append(torch.stack([both, either, counted], dim=1))

    def scores(self) -> Scores:
        """Scores of everything counted.

        Raises ValueError when no batch was, TrainingError when all their pixels were ignored.
        """
        if not self._counts:
            raise ValueError("no sample was counted")
        counts = torch.cat(self._counts).cpu().double()
        both, either, _ = counts[counts[:, 2] > 0].unbind(1)
        if not len(both):
            raise TrainingError(
                f"there is nothing to score: every pixel of all {len(counts)} samples is ignored (under clouds, or "
                "without a label); build with clearer imagery, or with another split"
            )
        jaccard = torch.where(either > 0, both / either.clamp(min=1), 1.0)
        dice = 2 * jaccard / (1 + jaccard)
        total = float(both.sum() / either.sum()) if float(either.sum()) > 0 else 1.0
        return Scores(
            dice=2 * total / (1 + total),
            jaccard=total,
            dice_mean=float(dice.mean()),
            jaccard_mean=float(jaccard.mean()),
        )
