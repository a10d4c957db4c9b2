"""Augmentation moves image and mask alike, and as the generator says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augment import augment, normalise, random_transforms, warp
from training.config import Augmentation

ALL = Augmentation(shift=0.2, flip=True, rotate=180.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc_and_bar(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask with no symmetry, and an image that is 200 exactly where the mask is 1."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    mask = ((y - 0.35 * side) ** 2 + (x - 0.4 * side) ** 2 < (0.2 * side) ** 2) | ((y > 0.7 * side) & (x > 0.5 * side))
    return (mask * 200)[None, None].to(torch.uint8), mask[None].to(torch.uint8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(0, 0.5), flip=st.booleans(), rotate=st.floats(0, 180))
def test_image_and_mask_stay_aligned(seed: int, shift: float, flip: bool, rotate: float) -> None:
    image, mask = disc_and_bar(48)
    config = Augmentation(shift=shift, flip=flip, rotate=rotate)
    masks = mask.repeat(3, 1, 1)
    moved, moved_mask, ignored = augment(image.repeat(3, 1, 1, 1), masks, masks == 1, config, generator(seed))
    assert ignored is not None
    assert ignored.dtype == torch.bool
    assert torch.equal(ignored, moved_mask == 1)
    assert moved.shape == (3, 1, 48, 48)
    assert set(moved_mask.unique().tolist()) <= {0, 1}
    # The nearest pixel is the one of the largest bilinear weight, or ties with it.
    inside, outside = moved[:, 0][moved_mask == 1], moved[:, 0][moved_mask == 0]
    assert bool((inside >= 200 * 0.25 - 1e-2).all())
    assert bool((outside <= 200 * 0.75 + 1e-2).all())
    agree = ((moved[:, 0] > 100) == (moved_mask == 1)).float().mean()
    assert agree > 0.97  # only pixels on an edge may differ


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_exact(quarters: int) -> None:
    images, masks = torch.rand(1, 3, 16, 16), torch.randint(0, 5, (1, 16, 16), dtype=torch.uint8)
    angle = quarters * math.pi / 2
    turn = torch.tensor([[[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]])
    moved, moved_masks = warp(images, masks, turn)
    assert torch.allclose(moved, torch.rot90(images, quarters, (2, 3)), atol=1e-4)
    assert torch.equal(moved_masks, torch.rot90(masks, quarters, (1, 2)))


def test_a_shift_reflects_at_the_edge() -> None:
    images, masks = torch.arange(8.0).view(1, 1, 1, 8).repeat(1, 1, 8, 1), torch.zeros(1, 8, 8, dtype=torch.uint8)
    two_pixels = torch.tensor([[[1.0, 0, 2 * 2 / 8], [0, 1.0, 0]]])
    moved, _ = warp(images, masks, two_pixels)
    assert moved[0, 0, 0].tolist() == pytest.approx([2, 3, 4, 5, 6, 7, 7, 6], abs=1e-4)


def test_rotation_keeps_shapes_in_oblong_images() -> None:
    mask = torch.zeros(1, 40, 80, dtype=torch.uint8)
    mask[0, 10:30, 36:44] = 1  # 20 high, 8 wide
    quarter = torch.tensor([[[0.0, -1.0, 0], [1.0, 0.0, 0]]])
    _, moved = warp(mask[:, None].float(), mask, quarter)
    rows, columns = moved[0, :, 20:60].nonzero().unbind(1)  # the rest is reflection
    assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (8, 20)


def test_the_seed_decides() -> None:
    images, masks = torch.rand(4, 3, 16, 16), torch.randint(0, 2, (4, 16, 16), dtype=torch.uint8)
    first, again, other = (augment(images, masks, None, ALL, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_ignored_pixels_do_not_change_what_happens_to_the_rest() -> None:
    images, masks = torch.rand(4, 3, 16, 16), torch.randint(0, 256, (4, 16, 16), dtype=torch.uint8)
    plain = augment(images, masks, None, ALL, generator(1))
    hidden = augment(images, masks, torch.rand(4, 16, 16) < 0.5, ALL, generator(1))
    assert torch.equal(plain[0], hidden[0])
    assert torch.equal(plain[1], hidden[1])
    assert plain[2] is None


def test_samples_get_transforms_of_their_own_within_the_bounds() -> None:
    transforms = random_transforms(500, Augmentation(shift=0.1, flip=False, rotate=30.0), generator(0))
    angles = torch.atan2(transforms[:, 1, 0], transforms[:, 0, 0]).rad2deg()
    assert angles.abs().max() <= 30.0
    assert angles.std() > 10
    assert transforms[:, :, 2].abs().max() <= 0.2  # in halves of a side
    flipped = random_transforms(500, Augmentation(flip=True), generator(0))
    assert {tuple(pair) for pair in flipped[:, [0, 1], [0, 1]].sign().tolist()} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}


def test_nothing_to_do_leaves_the_pixels() -> None:
    images, masks = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8), torch.zeros(2, 8, 8, dtype=torch.uint8)
    ignored = masks == 0
    moved, same, still = augment(images, masks, ignored, Augmentation(), generator(0))
    assert torch.equal(moved, images.float())
    assert same is masks
    assert still is ignored


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.uint8, 200), (torch.uint16, 60000), (torch.int16, -9000), (torch.float32, -0.25)]
)
def test_images_of_every_dtype_become_floats(dtype: torch.dtype, value: float) -> None:
    images, masks = torch.full((2, 3, 8, 8), value, dtype=dtype), torch.zeros(2, 8, 8, dtype=torch.uint8)
    moved, _, _ = augment(images, masks, None, ALL, generator(0))
    assert torch.allclose(moved, torch.full((2, 3, 8, 8), float(value)))
    assert torch.equal(normalise(images, torch.full((3,), float(value)), torch.ones(3)), torch.zeros(2, 3, 8, 8))


def test_normalise() -> None:
    images = torch.tensor([[[[10, 30]], [[100, 100]]]], dtype=torch.uint8)
    result = normalise(images, torch.tensor([20.0, 50.0]), torch.tensor([10.0, 25.0]))
    assert result.tolist() == [[[[-1.0, 1.0]], [[2.0, 2.0]]]]
