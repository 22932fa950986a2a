"""Building blocks of convolutional networks: convolution, norm and activation, and the residual blocks of ResNet.

K. He et al., Deep residual learning for image recognition, 2015, arXiv:1512.03385. The residual blocks have
torchvision's parameter names, and the stride of a bottleneck in its 3x3 convolution, as there.
"""

from collections.abc import Callable

import torch
from torch import nn


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    padding = kernel_size // 2
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)


class ConvNormAct(nn.Sequential):
    """A 3x3 convolution without bias, `norm` and ReLU.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    ):
        super().__init__(_conv(in_channels, out_channels, 3, stride), norm(out_channels), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    """relu(body(x) + shortcut(x)), the latter a 1x1 convolution where the shape changes.

    (N, in, H, W) -> (N, out, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.out_channels = out_channels
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.body(x) + shortcut)


class BasicBlock(_Residual):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__(in_channels, width, stride)
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(_Residual):
    """1x1, 3x3 and 1x1 convolutions, the last to 4 * width channels; `groups`: ResNeXt, `base_width`: wide ResNet."""

    def __init__(self, in_channels: int, width: int, stride: int = 1, groups: int = 1, base_width: int = 64):
        out_channels, inner = 4 * width, int(width * (base_width / 64)) * groups
        super().__init__(in_channels, out_channels, stride)
        self.conv1 = _conv(in_channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _conv(inner, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))
