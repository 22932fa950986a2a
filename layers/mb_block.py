"""The inverted residual block of MobileNet and EfficientNet, with its squeeze-and-excitation and stochastic depth.

M. Sandler et al., MobileNetV2, 2018, arXiv:1801.04381. Parameter names are torchvision's.
"""

from collections.abc import Callable

import torch
from torch import nn

from layers.conv_layer import Activation, ConvNormAct


class SqueezeExcitation(nn.Module):
    """Scales each channel by a factor computed from the whole image: (N, C, H, W) -> (N, C, H, W).

    `scale_act` maps factors to 0..1: nn.Sigmoid, in MobileNetV3 nn.Hardsigmoid. J. Hu et al., 2017, arXiv:1709.01507.
    """

    def __init__(self, channels: int, squeezed: int, act: Activation, scale_act: type[nn.Module]):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.activation, self.scale_activation = act(inplace=True), scale_act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))  # (N, C, 1, 1)
        return x * self.scale_activation(scale)


class DropPath(nn.Module):
    """Stochastic depth: in training each sample of a branch (N, C, H, W) is set to 0 with probability `p`, else scaled
    by 1 / (1 - p). G. Huang et al., 2016, arXiv:1603.09382."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)


class MBBlock(nn.Module):
    """Expansion, depthwise convolution, `se`, projection: (N, in, H, W) -> (N, out, H / stride, W / stride).

    The input is added where the shape stays the same. `se` is a SqueezeExcitation of the `expanded` channels or None,
    `drop_path` the probability of dropping the branch.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        act: Activation,
        se: nn.Module | None = None,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        drop_path: float = 0.0,
    ):
        super().__init__()
        expansion = ConvNormAct(in_channels, expanded, 1, norm=norm, act=act) if expanded != in_channels else None
        depthwise = ConvNormAct(expanded, expanded, kernel_size, stride, groups=expanded, norm=norm, act=act)
        projection = ConvNormAct(expanded, out_channels, 1, norm=norm, act=None)
        layers = (expansion, depthwise, se, projection)
        self.block = nn.Sequential(*(layer for layer in layers if layer is not None))
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path(self.block(x)) if self.has_shortcut else self.block(x)


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Rounds a number of channels to a multiple of `divisor`, down by at most a tenth."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
