"""Dice loss against numbers worked out by hand."""

import pytest
import torch

from training.config import DiceLoss
from training.losses import build_loss, soft_dice

TARGET = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
GUESS = torch.tensor([[[1.0, 0.5], [0.5, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])


def test_over_the_batch() -> None:
    # Overlap 1 + 0.5, guessed 1 + 0.5 + 0.5 + 1, true 3.
    assert float(soft_dice(GUESS, TARGET, 0.0)) == pytest.approx(3 / 6)
    assert float(soft_dice(GUESS, TARGET, 1.0)) == pytest.approx(4 / 7)


def test_per_sample_is_the_mean_of_the_samples() -> None:
    # The second sample has no overlap.
    assert float(soft_dice(GUESS, TARGET, 0.0, per_sample=True)) == pytest.approx((3 / 4 + 0) / 2)


def test_smoothing_makes_an_empty_mask_found_empty_a_full_score() -> None:
    empty = torch.zeros(1, 2, 2)
    assert float(soft_dice(empty, empty, 1.0)) == 1.0


def test_the_loss_is_minus_dice_of_the_sigmoid() -> None:
    loss = build_loss(DiceLoss(name="dice"))
    logits = torch.tensor([[[0.0, 40.0], [-40.0, -40.0]]])
    assert float(loss(logits, TARGET[:1] > 0)) == pytest.approx(-(2 * 1.5 + 1) / (1.5 + 2 + 1))


def test_half_precision_is_summed_in_single() -> None:
    loss = build_loss(DiceLoss(name="dice"))
    logits, target = torch.zeros(1, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool)
    halved = loss(logits.bfloat16(), target)
    assert halved.dtype == torch.float32
    assert float(halved) == float(loss(logits, target))


def test_gradient() -> None:
    probability = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 3, 3) < 0.5).double()
    assert torch.autograd.gradcheck(lambda p: soft_dice(p, target, 1.0), probability)
    logits = torch.zeros(2, 2, 2, requires_grad=True)
    build_loss(DiceLoss(name="dice"))(logits, TARGET > 0).backward()
    assert logits.grad is not None
    assert bool(((logits.grad < 0) == (TARGET > 0)).all())  # descending raises building and lowers the rest
