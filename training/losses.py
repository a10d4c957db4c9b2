"""Losses, in float32 whatever the precision of the network."""

from collections.abc import Callable

from torch import Tensor

from training.config import DiceLoss

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(config: DiceLoss) -> Loss:
    """The loss that ``config`` names: logits (n, y, x) and a foreground mask (n, y, x) to a scalar to minimise."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return -soft_dice(logits.float().sigmoid(), target.float(), config.smooth, per_sample=config.over == "sample")

    return loss


def soft_dice(probability: Tensor, target: Tensor, smooth: float, *, per_sample: bool = False) -> Tensor:
    """Soft Dice coefficient (2 sum(p t) + s) / (sum(p) + sum(t) + s) of tensors (n, y, x); a scalar.

    The sums run over all pixels of the batch, so that samples with little building weigh little; with
    ``per_sample`` they run over the pixels of each sample, and the mean of the samples is returned.
    ``smooth`` is s: it keeps an empty mask from dividing by zero.
    """
    over = (1, 2) if per_sample else (0, 1, 2)
    overlap = (probability * target).sum(over)
    total = probability.sum(over) + target.sum(over)
    return ((2 * overlap + smooth) / (total + smooth)).mean()
