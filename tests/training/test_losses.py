"""Dice loss against numbers worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
    assert float(loss(logits, TARGET[:1] > 0, None)) == pytest.approx(-(2 * 1.5 + 1) / (1.5 + 2 + 1))


def test_half_precision_is_summed_in_single() -> None:
    loss = build_loss(DiceLoss(name="dice"))
    logits, target = torch.zeros(1, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool)
    halved = loss(logits.bfloat16(), target, None)
    assert halved.dtype == torch.float32
    assert float(halved) == float(loss(logits, target, None))


def test_gradient() -> None:
    probability = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 3, 3) < 0.5).double()
    assert torch.autograd.gradcheck(lambda p: soft_dice(p, target, 1.0), probability)
    logits = torch.zeros(2, 2, 2, requires_grad=True)
    build_loss(DiceLoss(name="dice"))(logits, TARGET > 0, None).backward()
    assert logits.grad is not None
    assert bool(((logits.grad < 0) == (TARGET > 0)).all())  # descending raises building and lowers the rest


CONFIGS = st.builds(
    DiceLoss, name=st.just("dice"), over=st.sampled_from(["batch", "sample"]), smooth=st.sampled_from([0.0, 1.0])
)


@given(
    config=CONFIGS,
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0, 1),
    elsewhere=st.sampled_from([0.0, 1e30, float("inf"), float("-inf"), float("nan")]),
)
def test_ignored_pixels_change_nothing(config: DiceLoss, seed: int, share: float, elsewhere: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, chance, hidden = torch.randn(3, 3, 5, 4, generator=generator).unbind(0)
    target, ignored = chance > 0, (hidden > 0) & (torch.rand(3, 5, 4, generator=generator) < 2 * share)

    def answer(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = logits.clone().requires_grad_()
        loss = build_loss(config)(leaf, target, ignored)
        loss.backward()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    loss, gradient = answer(logits, target)
    other_loss, other_gradient = answer(logits.masked_fill(ignored, elsewhere), target ^ ignored)
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)
    assert bool((gradient[ignored] == 0).all())
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(gradient).all())
    if config.over == "batch" and not bool(ignored.all()):
        kept = [values[~ignored][None, None] for values in (logits, target)]
        assert float(loss) == pytest.approx(float(build_loss(config)(*kept, None)), abs=1e-6)


@given(config=CONFIGS)
def test_ignoring_no_pixel_is_ignoring_nothing(config: DiceLoss) -> None:
    loss, logits = build_loss(config), torch.linspace(-3, 3, 8).view(2, 2, 2)
    assert float(loss(logits, TARGET > 0, torch.zeros(2, 2, 2, dtype=torch.bool))) == float(
        loss(logits, TARGET > 0, None)
    )


@given(config=CONFIGS)
def test_a_batch_of_ignored_pixels_alone_is_a_full_score_or_none(config: DiceLoss) -> None:
    logits = torch.randn(2, 2, 2).requires_grad_()
    loss = build_loss(config)(logits, TARGET > 0, torch.ones(2, 2, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == (-1 if config.over == "batch" and config.smooth else 0)
    assert logits.grad is not None
    assert bool((logits.grad == 0).all())


def test_a_sample_of_ignored_pixels_alone_has_no_part_in_the_mean() -> None:
    loss = build_loss(DiceLoss(name="dice", over="sample"))
    logits, ignored = torch.linspace(-3, 3, 8).view(2, 2, 2), torch.zeros(2, 2, 2, dtype=torch.bool)
    ignored[1] = True
    assert float(loss(logits, TARGET > 0, ignored)) == pytest.approx(float(loss(logits[:1], TARGET[:1] > 0, None)))
