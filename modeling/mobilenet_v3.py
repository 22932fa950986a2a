"""MobileNetV3: A. Howard et al., Searching for MobileNetV3, 2019, arXiv:1905.02244.

Parameter names and outputs equal torchvision's.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from layers.activation import activation
from layers.conv_layer import ConvNormAct, init_convolutions
from layers.mb_block import MBBlock, make_divisible
from layers.se_block import SqueezeExcitation
from modeling.registry import MODELS

_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


class Row(NamedTuple):
    """A line of the paper's tables: kernel size, expanded and out channels, gate, activation, stride."""

    kernel_size: int
    expanded: int
    out_channels: int
    has_gate: bool
    act: str
    stride: int


_LARGE = [
    Row(3, 16, 16, False, "relu", 1),
    Row(3, 64, 24, False, "relu", 2),
    Row(3, 72, 24, False, "relu", 1),
    Row(5, 72, 40, True, "relu", 2),
    Row(5, 120, 40, True, "relu", 1),
    Row(5, 120, 40, True, "relu", 1),
    Row(3, 240, 80, False, "hardswish", 2),
    Row(3, 200, 80, False, "hardswish", 1),
    Row(3, 184, 80, False, "hardswish", 1),
    Row(3, 184, 80, False, "hardswish", 1),
    Row(3, 480, 112, True, "hardswish", 1),
    Row(3, 672, 112, True, "hardswish", 1),
    Row(5, 672, 160, True, "hardswish", 2),
    Row(5, 960, 160, True, "hardswish", 1),
    Row(5, 960, 160, True, "hardswish", 1),
]
_SMALL = [
    Row(3, 16, 16, True, "relu", 2),
    Row(3, 72, 24, False, "relu", 2),
    Row(3, 88, 24, False, "relu", 1),
    Row(5, 96, 40, True, "hardswish", 2),
    Row(5, 240, 40, True, "hardswish", 1),
    Row(5, 240, 40, True, "hardswish", 1),
    Row(5, 120, 48, True, "hardswish", 1),
    Row(5, 144, 48, True, "hardswish", 1),
    Row(5, 288, 96, True, "hardswish", 2),
    Row(5, 576, 96, True, "hardswish", 1),
    Row(5, 576, 96, True, "hardswish", 1),
]


class MobileNetV3(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes); the last feature map is 1/32 of the input."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        rows: Sequence[Row],
        hidden: int,
        dropout: float = 0.2,
    ):
        super().__init__()
        channels = 16
        features: list[nn.Module] = [ConvNormAct(in_channels, channels, 3, 2, norm=_norm, act="hardswish")]
        for row in rows:
            gate = None
            if row.has_gate:
                gate = SqueezeExcitation(row.expanded, make_divisible(row.expanded // 4), "relu", nn.Hardsigmoid)
            features.append(
                MBBlock(
                    channels, row.expanded, row.out_channels, row.kernel_size, row.stride, row.act, gate, norm=_norm
                )
            )
            channels = row.out_channels
        features.append(ConvNormAct(channels, 6 * channels, 1, norm=_norm, act="hardswish"))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden),
            activation("hardswish"),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        init_convolutions(self)
        for linear in (self.classifier[0], self.classifier[-1]):
            nn.init.normal_(linear.weight, 0, 0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.features(x)).flatten(1)  # (N, in_channels, H, W) -> (N, 6 * channels)
        return self.classifier(x)


MODELS.register("mobilenet_v3_small")(partial(MobileNetV3, rows=_SMALL, hidden=1024))
MODELS.register("mobilenet_v3_large")(partial(MobileNetV3, rows=_LARGE, hidden=1280))
