"""U-Net with same padding and batch norm after each ReLU."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """The U-Net of Ronneberger, Fischer and Brox (2015), with the changes of the paper behind ``unet-dice``.

    Each level has two 3x3 convolutions, each followed by ReLU and then batch norm. Levels are joined by 2x2
    max pooling on the way down and by 2x2 up-convolutions and concatenation on the way up. Same padding keeps
    the size, so height and width must be multiples of :attr:`multiple`. There is no dropout.
    """

    def __init__(self, bands: int, widths: Sequence[int]) -> None:
        """bands: channels of the input. widths: channels of each level, from full resolution down."""
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        into = [bands, *widths[:-1]]
        self.down = nn.ModuleList(_double(before, width) for before, width in zip(into, widths, strict=True))
        self.pool = nn.MaxPool2d(2)
        pairs = [(widths[i], widths[i - 1]) for i in range(len(widths) - 1, 0, -1)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, width, 2, stride=2) for deep, width in pairs)
        self.join = nn.ModuleList(_double(2 * width, width) for _, width in pairs)
        self.head = nn.Conv2d(widths[0], 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # as the U-Net paper does
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, y, x) of normalised images (n, bands, y, x)."""
        skips: list[Tensor] = []
        features = images
        for level, block in enumerate(self.down):
            features = block(features if level == 0 else self.pool(features))
            skips.append(features)
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            features = join(torch.cat([skips.pop(), up(features)], dim=1))
        logits: Tensor = self.head(features)
        return logits.squeeze(1)


def _double(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(width),
    )
