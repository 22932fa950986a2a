"""MobileNetV3: A. Howard et al., Searching for MobileNetV3, 2019, arXiv:1905.02244.

Parameter names and outputs equal torchvision's.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from layers.conv_layer import Activation, ConvNormAct, init_convolutions
from layers.mb_block import MBBlock, SqueezeExcitation, make_divisible
from modeling.registry import MODELS

_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)

# A row of tables 1 and 2: kernel size, expanded and output channels, squeeze and excitation, activation, stride.
Block = tuple[int, int, int, bool, Activation, int]
_LARGE: list[Block] = [
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
]
_SMALL: list[Block] = [
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
]


class MobileNetV3(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes); the last feature map is 1/32 of the input."""

    def __init__(
        self, num_classes: int, in_channels: int = 3, *, blocks: Sequence[Block], hidden: int, dropout: float = 0.2
    ):
        super().__init__()
        channels = 16
        features: list[nn.Module] = [ConvNormAct(in_channels, channels, 3, 2, norm=_norm, act=nn.Hardswish)]
        for kernel_size, expanded, out_channels, has_se, act, stride in blocks:
            se = SqueezeExcitation(expanded, make_divisible(expanded // 4), nn.ReLU, nn.Hardsigmoid) if has_se else None
            features.append(MBBlock(channels, expanded, out_channels, kernel_size, stride, act, se, norm=_norm))
            channels = out_channels
        features.append(ConvNormAct(channels, 6 * channels, 1, norm=_norm, act=nn.Hardswish))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        first, last = nn.Linear(6 * channels, hidden), nn.Linear(hidden, num_classes)
        self.classifier = nn.Sequential(first, nn.Hardswish(inplace=True), nn.Dropout(dropout), last)
        init_convolutions(self)
        for linear in (first, last):
            nn.init.normal_(linear.weight, 0, 0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.features(x)).flatten(1)  # (N, in_channels, H, W) -> (N, 6 * channels)
        return self.classifier(x)


MODELS.register("mobilenet_v3_small")(partial(MobileNetV3, blocks=_SMALL, hidden=1024))
MODELS.register("mobilenet_v3_large")(partial(MobileNetV3, blocks=_LARGE, hidden=1280))
