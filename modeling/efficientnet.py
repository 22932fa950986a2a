"""EfficientNet: M. Tan and Q. Le, 2019, arXiv:1905.11946. Parameter names and outputs equal torchvision's."""

import math
from functools import partial

import torch
from torch import nn

from layers.conv_layer import ConvNormAct, init_convolutions
from layers.mb_block import MBBlock, SqueezeExcitation, make_divisible
from modeling.registry import MODELS

# Stages of B0: expansion, kernel size, stride, out channels, blocks.
_STAGES = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]
# Name -> width, depth, dropout, input size.
_VARIANTS = {
    "efficientnet_b0": (1.0, 1.0, 0.2, 224),
    "efficientnet_b1": (1.0, 1.1, 0.2, 240),
    "efficientnet_b2": (1.1, 1.2, 0.3, 288),
    "efficientnet_b3": (1.2, 1.4, 0.3, 300),
    "efficientnet_b4": (1.4, 1.8, 0.4, 380),
    "efficientnet_b5": (1.6, 2.2, 0.4, 456),
    "efficientnet_b6": (1.8, 2.6, 0.5, 528),
    "efficientnet_b7": (2.0, 3.1, 0.5, 600),
}


class EfficientNet(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes); the last feature map is 1/32 of the input.

    `width` and `depth` scale the channels and blocks of B0; `drop_path` is the probability of dropping the
    branch of the last block, which falls linearly to 0 at the first.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        width: float,
        depth: float,
        dropout: float,
        drop_path: float = 0.2,
    ):
        super().__init__()
        # The weights of B5 to B7 were trained with TensorFlow's settings of batch norm.
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01) if width >= 1.6 else nn.BatchNorm2d
        channels = make_divisible(32 * width)
        features: list[nn.Module] = [ConvNormAct(in_channels, channels, 3, 2, norm=norm, act=nn.SiLU)]
        total, done = sum(math.ceil(blocks * depth) for *_, blocks in _STAGES), 0
        for expansion, kernel_size, stride, base_channels, blocks in _STAGES:
            stage = []
            for i in range(math.ceil(blocks * depth)):
                expanded, out_channels = make_divisible(channels * expansion), make_divisible(base_channels * width)
                se = SqueezeExcitation(expanded, max(1, channels // 4), nn.SiLU, nn.Sigmoid)
                own_stride, drop = stride if i == 0 else 1, drop_path * done / total
                block = MBBlock(channels, expanded, out_channels, kernel_size, own_stride, nn.SiLU, se, norm, drop)
                stage.append(block)
                channels, done = out_channels, done + 1
            features.append(nn.Sequential(*stage))
        features.append(ConvNormAct(channels, 4 * channels, 1, norm=norm, act=nn.SiLU))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        head = nn.Linear(4 * channels, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), head)
        init_convolutions(self)
        bound = 1 / math.sqrt(num_classes)
        nn.init.uniform_(head.weight, -bound, bound)
        nn.init.zeros_(head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.avgpool(self.features(x)).flatten(1)  # (N, in_channels, H, W) -> (N, 4 * channels)
        return self.classifier(x)


for _name, (_width, _depth, _dropout, _size) in _VARIANTS.items():
    MODELS.register(_name, size=(_size, _size))(partial(EfficientNet, width=_width, depth=_depth, dropout=_dropout))
