"""Residual blocks of ResNet, with torchvision's parameter names.

K. He et al., Deep residual learning for image recognition, 2015, arXiv:1512.03385. The stride of a bottleneck
is in its 3x3 convolution, as in torchvision.
"""

import torch
from torch import nn


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class _Residual(nn.Module):
    """relu(body(x) + shortcut(x)): (N, in, H, W) -> (N, out, H / stride, W / stride).

    The shortcut is a 1x1 convolution where the shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.out_channels = out_channels
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.body(x) + shortcut)


class BasicBlock(_Residual):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__(in_channels, width, stride)
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(_Residual):
    """1x1, 3x3 and 1x1 convolutions, the last to 4 * width channels (ResNet-50 and deeper).

    `groups` gives ResNeXt, `base_width` a wide ResNet.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1, groups: int = 1, base_width: int = 64):
        out_channels = 4 * width
        inner = int(width * (base_width / 64)) * groups
        super().__init__(in_channels, out_channels, stride)
        self.conv1 = conv1x1(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))
