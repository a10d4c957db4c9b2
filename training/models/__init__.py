"""Networks by name."""

from torch import nn

from training.config import UNetModel
from training.models.unet import UNet

__all__ = ["UNet", "build_model"]


def build_model(config: UNetModel, bands: int) -> nn.Module:
    """The network that ``config`` names: images (n, bands, y, x) to logits (n, y, x)."""
    return UNet(bands, config.widths)
