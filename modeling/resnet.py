"""ResNet, ResNeXt and wide ResNet.

K. He et al., Deep residual learning for image recognition, 2015, arXiv:1512.03385;
S. Xie et al., Aggregated residual transformations, 2016, arXiv:1611.05431;
S. Zagoruyko and N. Komodakis, Wide residual networks, 2016, arXiv:1605.07146.
Parameter names and outputs equal torchvision's.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from layers.blocks import BasicBlock, Bottleneck
from modeling.registry import MODELS

Block = Callable[[int, int, int], BasicBlock | Bottleneck]


class ResNet(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes); the last feature map is 1/32 of the input.

    `block(in_channels, width, stride)` returns a block, `depths` are the numbers of blocks in the four stages.
    `zero_init_residual`: each block starts as the identity, arXiv:1706.02677.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        block: Block,
        depths: Sequence[int],
        zero_init_residual: bool = False,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        stages: list[nn.Sequential] = []
        for depth, width in zip(depths, (64, 128, 256, 512), strict=True):
            blocks: list[BasicBlock | Bottleneck] = []
            for i in range(depth):
                blocks.append(block(channels, width, 2 if i == 0 and stages else 1))
                channels = blocks[-1].out_channels
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # K. He et al., arXiv:1502.01852
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                nn.init.zeros_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, H / 4, W / 4)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, C, H / 32, W / 32)
        return self.fc(self.avgpool(x).flatten(1))


_VARIANTS: dict[str, tuple[Block, tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
    "resnext50_32x4d": (partial(Bottleneck, groups=32, base_width=4), (3, 4, 6, 3)),
    "resnext101_32x8d": (partial(Bottleneck, groups=32, base_width=8), (3, 4, 23, 3)),
    "resnext101_64x4d": (partial(Bottleneck, groups=64, base_width=4), (3, 4, 23, 3)),
    "wide_resnet50_2": (partial(Bottleneck, base_width=128), (3, 4, 6, 3)),
    "wide_resnet101_2": (partial(Bottleneck, base_width=128), (3, 4, 23, 3)),
}

for _name, (_block, _depths) in _VARIANTS.items():
    MODELS.register(_name)(partial(ResNet, block=_block, depths=_depths))
