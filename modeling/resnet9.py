"""A small, fast network for small images.

After the ResNet-9 of D. Page, How to train your ResNet, 2018 (myrtle.ai), made for a CPU:
narrower, and shrinking the image early.
"""

import torch
from torch import nn

from layers.conv_layer import ConvNormAct
from modeling.registry import MODELS


def _halved(channels: int) -> nn.Module:
    """Pooling before the norm, which then has a quarter of the pixels to look at."""
    return nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(channels))


class _Shortcut(nn.Module):
    """x + body(x) for a body of two convolutions that keeps the shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(ConvNormAct(channels, channels), ConvNormAct(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


@MODELS.register("resnet9", size=(64, 64), min_size=(8, 8))
class ResNet9(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes). Eight convolutions and a linear layer.

    `width` is the channels of the first convolution; the others have 2, 4 and 8 times as many.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16):
        super().__init__()
        self.features = nn.Sequential(
            ConvNormAct(in_channels, width, norm=_halved),
            ConvNormAct(width, 2 * width, norm=_halved),
            _Shortcut(2 * width),
            ConvNormAct(2 * width, 4 * width),
            ConvNormAct(4 * width, 8 * width, norm=_halved),
            _Shortcut(8 * width),
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)  # (N, 8 * width, H / 8, W / 8)
        return self.fc(self.pool(x).flatten(1))
