"""The network has the levels, layers and sizes that the paper gives it."""

import pytest
import torch
from torch import nn

from training.models import UNet

PAPER = (64, 128, 256, 512)


def convolution(before: int, after: int, kernel: int) -> int:
    return before * after * kernel * kernel + after


def level(before: int, width: int) -> int:
    batch_norm = 2 * width
    return convolution(before, width, 3) + convolution(width, width, 3) + 2 * batch_norm


def test_parameters_of_the_papers_network() -> None:
    down = level(3, 64) + level(64, 128) + level(128, 256) + level(256, 512)
    up = convolution(512, 256, 2) + convolution(256, 128, 2) + convolution(128, 64, 2)
    joined = level(512, 256) + level(256, 128) + level(128, 64)
    network = UNet(3, PAPER)
    assert sum(value.numel() for value in network.parameters()) == down + up + joined + convolution(64, 1, 1)
    assert sum(value.numel() for value in network.parameters()) == 7_702_977


def test_layers_are_the_papers() -> None:
    network = UNet(3, PAPER)
    kinds = [type(module) for module in network.modules()]
    assert sum(kind is nn.Conv2d for kind in kinds) == 15  # two for each of 4 + 3 levels, and the head
    assert sum(kind is nn.ConvTranspose2d for kind in kinds) == 3
    assert max(module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)) == 512
    assert nn.Dropout not in kinds
    assert nn.Dropout2d not in kinds


def test_batch_norm_follows_each_relu() -> None:
    for block in [*UNet(3, PAPER).down, *UNet(3, PAPER).join]:
        assert [type(layer) for layer in block] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d] * 2


@pytest.mark.parametrize(("widths", "multiple"), [((4, 8), 2), ((4, 8, 8), 4), ((4, 4, 4, 4), 8)])
def test_the_size_stays_and_the_sides_may_differ(widths: tuple[int, ...], multiple: int) -> None:
    network = UNet(5, widths).eval()
    assert network.multiple == multiple
    assert network(torch.zeros(2, 5, 4 * multiple, 3 * multiple)).shape == (2, 4 * multiple, 3 * multiple)


def test_levels_see_halved_images() -> None:
    seen = []
    network = UNet(3, (4, 8, 16)).eval()
    for block in network.down:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape[1:])))
    network(torch.zeros(1, 3, 32, 32))
    assert seen == [(4, 32, 32), (8, 16, 16), (16, 8, 8)]


def test_every_parameter_learns() -> None:
    network = UNet(3, (4, 8, 8))
    network(torch.randn(2, 3, 16, 16)).square().mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in network.parameters())
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in network.head.parameters())
