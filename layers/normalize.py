"""Bytes -> the floats a network expects, a whole batch at a time on its device."""

from collections.abc import Sequence

import torch
from torch import nn


class Normalize(nn.Module):
    """uint8 (N, C, H, W) in 0..255 -> float32 (N, channels, H, W), (x / 255 - mean) / std.

    Gray images (C = 1) are repeated to three channels for a network that takes three.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int):
        super().__init__()
        self.channels = channels
        mean, std = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std))
        # One multiplication and one addition a pixel: x * scale + shift.
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = torch.addcmul(self.shift, images.float(), self.scale)
        return pixels if pixels.shape[1] == self.channels else pixels.expand(-1, self.channels, -1, -1)
