"""Dice and Jaccard by hand, and against torchmetrics on random masks."""

import pytest
import torch
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from tasks.errors import TrainingError
from training.metrics import OverlapCounter


def masks(*rows: str) -> torch.Tensor:
    """One row of pixels a sample, ``#`` for foreground."""
    return torch.tensor([[[character == "#" for character in row]] for row in rows])


def test_by_hand() -> None:
    counter = OverlapCounter()
    counter.update(masks("##..", "...."), masks(".##.", "...."))
    counter.update(masks("####"), masks("####"))
    scores = counter.scores()
    assert scores.jaccard == pytest.approx((1 + 0 + 4) / (3 + 0 + 4))
    assert scores.dice == pytest.approx(2 * 5 / (4 + 8))
    assert scores.jaccard_mean == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert scores.dice_mean == pytest.approx((2 / 4 + 1 + 1) / 3)


def test_nothing_true_and_nothing_found_is_a_full_score() -> None:
    counter = OverlapCounter()
    counter.update(masks("...."), masks("...."))
    assert counter.scores().dice == counter.scores().jaccard_mean == 1.0


def test_ignored_pixels_and_samples_without_others_are_left_out() -> None:
    counter = OverlapCounter()
    counter.update(masks("##..", "####"), masks(".##.", "...."), masks("#...", "####"))
    counter.update(masks("####"), masks("####"))
    scores = counter.scores()
    assert scores.jaccard == pytest.approx((1 + 4) / (2 + 4))
    assert scores.dice == pytest.approx(2 * 5 / (3 + 8))
    assert scores.jaccard_mean == pytest.approx((1 / 2 + 1) / 2)
    assert scores.dice_mean == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_what_stands_at_ignored_pixels_does_not_matter(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted, target, ignored, other = (torch.rand((4, 6, 5), generator=generator) < 0.5 for _ in range(4))
    scores = []
    for change in (torch.zeros_like(ignored), ignored & other, ignored):
        counter = OverlapCounter()
        counter.update(predicted ^ change, target ^ (change & other), ignored)
        scores.append(counter.scores())
    assert scores[0] == scores[1] == scores[2]


def test_ignored_pixels_alone_have_no_score() -> None:
    counter = OverlapCounter()
    counter.update(masks("##..", "...."), masks(".##.", "...."), masks("####", "####"))
    with pytest.raises(TrainingError, match="every pixel of all 2 samples is ignored"):
        counter.scores()


def test_nothing_counted_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sample"):
        OverlapCounter().scores()


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_torchmetrics(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted, target = (torch.rand((10, 16, 16), generator=generator) < 0.3 + 0.1 * seed for _ in range(2))
    counter = OverlapCounter()
    for part in range(0, 10, 4):
        counter.update(predicted[part : part + 4], target[part : part + 4])
    scores = counter.scores()
    assert scores.dice == pytest.approx(float(binary_f1_score(predicted.int(), target.int())), abs=1e-6)
    assert scores.jaccard == pytest.approx(float(binary_jaccard_index(predicted.int(), target.int())), abs=1e-6)
    each = [float(binary_f1_score(p.int(), t.int())) for p, t in zip(predicted, target, strict=True)]
    assert scores.dice_mean == pytest.approx(sum(each) / len(each), abs=1e-6)
