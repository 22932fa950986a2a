"""Normalisation of a batch of images on the device."""

from collections.abc import Sequence

import torch
from torch import nn


class Normalize(nn.Module):
    """(x / 255 - mean) / std per channel: (N, C, H, W) in 0..255 -> float32 (N, channels, H, W).

    C is the length of `mean` and of `std`, for pixels in 0..1. Images are uint8, or float32 after MixUp. Gray images
    (C = 1) are repeated to the network's `channels`; others whose C is not `channels` raise RuntimeError.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int):
        super().__init__()
        self.channels = channels
        means, stds = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std))
        # One multiplication and one addition per pixel: x * scale + shift.
        self.register_buffer("scale", 1 / (255 * stds), persistent=False)
        self.register_buffer("shift", -means / stds, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = torch.addcmul(self.shift, images.float(), self.scale)
        return pixels if pixels.shape[1] == self.channels else pixels.expand(-1, self.channels, -1, -1)
