"""Squeeze and excitation: J. Hu et al., 2017, arXiv:1709.01507."""

import torch
from torch import nn

from layers.activation import activation


class SqueezeExcitation(nn.Module):
    """(N, C, H, W) -> the same shape, each channel scaled by a gate that sees all of the image.

    `gate` squashes to 0..1: nn.Sigmoid, or nn.Hardsigmoid in MobileNetV3.
    """

    def __init__(self, channels: int, squeezed: int, act: str, gate: type[nn.Module]):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation(act)
        self.gate = gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))  # the gate is (N, C, 1, 1)
