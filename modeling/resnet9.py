"""A small, fast network for small images: a narrower ResNet-9 that downsamples early, for training on a CPU.

D. Page, How to train your ResNet, 2018 (myrtle.ai).
"""

import torch
from torch import nn

from layers.blocks import ConvNormAct
from modeling.registry import MODELS


def _pool_norm(channels: int) -> nn.Module:
    """Pooling before batch norm, which then processes a quarter of the pixels."""
    return nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(channels))


class _Residual(nn.Module):
    """x + body(x), the body two 3x3 convolutions: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(ConvNormAct(channels, channels), ConvNormAct(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


@MODELS.register("resnet9", size=(64, 64), min_size=(8, 8))
class ResNet9(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes). Eight convolutions and a linear layer.

    The first convolution has `width` channels, the others 2, 4 and 8 times as many.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16):
        super().__init__()
        self.features = nn.Sequential(
            ConvNormAct(in_channels, width, norm=_pool_norm),
            ConvNormAct(width, 2 * width, norm=_pool_norm),
            _Residual(2 * width),
            ConvNormAct(2 * width, 4 * width),
            ConvNormAct(4 * width, 8 * width, norm=_pool_norm),
            _Residual(8 * width),
        )
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)  # (N, 8 * width, H / 8, W / 8)
        return self.fc(x.amax(dim=(2, 3)))  # adaptive max pooling has no deterministic backward on a GPU
