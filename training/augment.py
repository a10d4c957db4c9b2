"""Shift, flip and rotate a batch: one transform a sample, the same for image and mask."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.config import Augmentation


def augment(
    images: Tensor, masks: Tensor, ignored: Tensor | None, config: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Transformed images (float32), masks (dtype kept) and ignored pixels, on the device that they are on.

    images: (n, bands, y, x), any dtype. masks: (n, y, x), integer. ignored: bool (n, y, x), None where no pixel is.
    Images are sampled bilinearly, masks and ignored pixels by the nearest pixel; what comes in from outside is the
    reflection of the inside. generator: a CPU generator, which alone decides the transforms.
    """
    floats = images.float()
    if not (config.shift or config.flip or config.rotate):
        return floats, masks, ignored
    transforms = random_transforms(len(images), config, generator)
    if ignored is None:
        return *warp(floats, masks, transforms), None
    warped, layers = warp(floats, torch.stack([masks, ignored.to(masks.dtype)], dim=1), transforms)
    return warped, layers[:, 0], layers[:, 1].bool()


def random_transforms(samples: int, config: Augmentation, generator: torch.Generator) -> Tensor:
    """Affine transforms (n, 2, 3) from target to source, in units of half a side, x before y."""
    drawn = torch.rand((samples, 5), generator=generator)
    angle = (2 * drawn[:, 0] - 1) * math.radians(config.rotate)
    flips = torch.where(drawn[:, 1:3] < 0.5, -1.0, 1.0) if config.flip else torch.ones((samples, 2))
    shift = (2 * drawn[:, 3:5] - 1) * 2 * config.shift
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    return torch.cat([turn * flips[:, None, :], shift[:, :, None]], dim=2)


def warp(images: Tensor, masks: Tensor, transforms: Tensor) -> tuple[Tensor, Tensor]:
    """Apply ``transforms`` (as of :func:`random_transforms`) to float images (n, bands, y, x) and their masks.

    masks: (n, y, x), or several of each sample as (n, layers, y, x), integer.
    """
    height, width = images.shape[-2:]
    # A rotation of the picture is one of its pixels, not of a square that its sides were stretched to.
    stretch = torch.tensor([[1.0, height / width, 1.0], [width / height, 1.0, 1.0]])
    grid = functional.affine_grid(
        (transforms * stretch).to(images.device), [len(images), 1, height, width], align_corners=False
    )
    warped = functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    layers = (masks if masks.ndim == 4 else masks[:, None]).float()
    turned = functional.grid_sample(layers, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return warped, turned.reshape(masks.shape).to(masks.dtype)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Centre and scale each band. images: (n, bands, y, x), any dtype; mean, std: (bands,), on the images' scale."""
    return (images.float() - mean[:, None, None]) / std[:, None, None]
