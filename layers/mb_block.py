"""The inverted residual block of MobileNet and EfficientNet.

M. Sandler et al., MobileNetV2, 2018, arXiv:1801.04381. Parameter names are torchvision's.
"""

from collections.abc import Callable

import torch
from torch import nn

from layers.conv_layer import ConvNormAct
from layers.drop_path import DropPath


class MBBlock(nn.Module):
    """(N, in, H, W) -> (N, out, H / stride, W / stride): expand, convolve each channel, gate, project.

    There is a shortcut where the shape stays the same. `gate` is the squeeze and
    excitation of the `expanded` channels, or None; `drop_path` the chance of dropping the branch.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        act: str,
        gate: nn.Module | None = None,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        drop_path: float = 0.0,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(ConvNormAct(in_channels, expanded, 1, norm=norm, act=act))
        layers.append(ConvNormAct(expanded, expanded, kernel_size, stride, groups=expanded, norm=norm, act=act))
        if gate is not None:
            layers.append(gate)
        layers.append(ConvNormAct(expanded, out_channels, 1, norm=norm, act=None))
        self.block = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path(self.block(x)) if self.has_shortcut else self.block(x)


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Channels rounded to a multiple of `divisor`, by no more than a tenth downwards."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
