"""Losses, in float32 whatever the precision of the network."""

from collections.abc import Callable

import torch
from torch import Tensor

from training.config import DiceLoss

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def build_loss(config: DiceLoss) -> Loss:
    """The loss that ``config`` names, a scalar to minimise.

    It takes logits, a foreground mask and the ignored pixels (None for none), all (n, y, x). Neither value nor
    gradient depend on what logits and mask are at ignored pixels, and the gradient there is 0. The loss is finite
    when all pixels are ignored.
    """
    per_sample = config.over == "sample"

    def loss(logits: Tensor, target: Tensor, ignored: Tensor | None) -> Tensor:
        logits = logits.float()
        if ignored is None:
            return -soft_dice(logits.sigmoid(), target.float(), config.smooth, per_sample=per_sample)
        # The sigmoid of minus infinity is 0, and so is its gradient, also where the logit was not a number.
        probability = logits.masked_fill(ignored, -torch.inf).sigmoid()
        counted = ~ignored.flatten(1).all(1)
        return -soft_dice(probability, (target & ~ignored).float(), config.smooth, counted, per_sample=per_sample)

    return loss


def soft_dice(
    probability: Tensor, target: Tensor, smooth: float, counted: Tensor | None = None, *, per_sample: bool = False
) -> Tensor:
    """Soft Dice coefficient (2 sum(p t) + s) / (sum(p) + sum(t) + s) of tensors (n, y, x); a scalar.

    The sums run over all pixels of the batch, so that samples with little building weigh little; with
    ``per_sample`` they run over the pixels of each sample, and the mean of the samples is returned: of those
    that are ``counted``, bool (n,), 0 when none is. ``smooth`` is s: it makes an empty mask found empty a full
    score. Without it, that scores 0.
    """
    over = (1, 2) if per_sample else (0, 1, 2)
    overlap = (probability * target).sum(over)
    total = probability.sum(over) + target.sum(over)
    dice = (2 * overlap + smooth) / (total + smooth).clamp(min=torch.finfo(total.dtype).tiny)
    if counted is None or not per_sample:
        return dice.mean()
    return (dice * counted).sum() / counted.sum().clamp(min=1)
