"""Shift, flip and rotate a batch: one transform a sample, the same for image and mask."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.config import Augmentation


def augment(images: Tensor, masks: Tensor, config: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Transformed images (float32) and masks (dtype kept), on the device that they are on.

    images: (n, bands, y, x), any dtype. masks: (n, y, x), integer. Images are sampled bilinearly and masks by
    the nearest pixel; what comes in from outside is the reflection of the inside. generator: a CPU generator,
    which alone decides the transforms.
    """
    floats = images.float()
    if not (config.shift or config.flip or config.rotate):
        return floats, masks
    return warp(floats, masks, random_transforms(len(images), config, generator))


def random_transforms(samples: int, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Affine transforms (n, 2, 3) from target to source, in units of half a side, x before y."""
    drawn = torch.rand((samples, 5), generator=generator)
    angle = (2 * drawn[:, 0] - 1) * math.radians(config.rotate)
    flips = torch.where(drawn[:, 1:3] < 0.5, -1.0, 1.0) if config.flip else torch.ones((samples, 2))
    shift = (2 * drawn[:, 3:5] - 1) * 2 * config.shift
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    return torch.cat([turn * flips[:, None, :], shift[:, :, None]], dim=2)


def warp(images: Tensor, masks: Tensor, transforms: Tensor) -> tuple[Tensor, Tensor]:
    """Apply ``transforms`` (as of :func:`random_transforms`) to float images (n, bands, y, x) and masks (n, y, x)."""
    height, width = images.shape[-2:]
    # A rotation of the picture is one of its pixels, not of a square that its sides were stretched to.
    stretch = torch.tensor([[1.0, height / width, 1.0], [width / height, 1.0, 1.0]])
    grid = functional.affine_grid(
        (transforms * stretch).to(images.device), [len(images), 1, height, width], align_corners=False
    )
    warped = functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    turned = functional.grid_sample(
        masks[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return warped, turned[:, 0].to(masks.dtype)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Centre and scale each band. images: (n, bands, y, x), 0 to 255; mean, std: (bands,), the same scale."""
    return (images.float() - mean[:, None, None]) / std[:, None, None]
