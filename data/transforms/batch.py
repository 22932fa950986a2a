"""MixUp and CutMix: mixing the images of a batch and their targets, on the device."""

import math

import numpy as np
import torch

from data.registry import BATCH_TRANSFORMS, Mixed
from utils.errors import require


@BATCH_TRANSFORMS.register()
class MixUp:
    """Blends each image with another one of the batch: H. Zhang et al., 2017, arXiv:1710.09412.

    The first image's share is drawn from Beta(alpha, alpha), once for the batch.
    """

    def __init__(self, alpha: float = 0.2):
        require(0 < alpha < math.inf, "alpha", alpha, "a number above 0")
        self.alpha = alpha

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator) -> Mixed:
        share, partners = rng.beta(self.alpha, self.alpha), _partners(images)
        return _blend(images.float(), partners, share), _blend_targets(targets, partners, share)


@BATCH_TRANSFORMS.register()
class CutMix(MixUp):
    """Pastes a box of another image of the batch into each: S. Yun et al., 2019, arXiv:1905.04899.

    The box's share of the area is drawn from Beta(alpha, alpha); targets are mixed by the area actually pasted.
    """

    def __init__(self, alpha: float = 1.0):
        super().__init__(alpha)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator) -> Mixed:
        height, width = images.shape[2:]
        side = math.sqrt(1 - rng.beta(self.alpha, self.alpha))  # of the box, relative to the image
        rows, columns = _span(height, side, rng), _span(width, side, rng)
        partners = _partners(images)
        images = images.clone()
        images[:, :, rows, columns] = images[partners][:, :, rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return images, _blend_targets(targets, partners, 1 - pasted)


def _partners(images: torch.Tensor) -> torch.Tensor:
    """Neighbours of the shuffled order, 2i and 2i + 1, which one process reads; a last one without is its own."""
    return (torch.arange(len(images), device=images.device) ^ 1).clamp(max=len(images) - 1)


def _blend(values: torch.Tensor, partners: torch.Tensor, share: float) -> torch.Tensor:
    return share * values + (1 - share) * values[partners]


def _blend_targets(targets: torch.Tensor, partners: torch.Tensor, share: float) -> torch.Tensor:
    """Blends targets; a label that is ignored (below 0) in one of two images is ignored in the mixture."""
    unknown = (targets < 0) | (targets[partners] < 0)
    return _blend(targets, partners, share).masked_fill(unknown, -1)


def _span(length: int, side: float, rng: np.random.Generator) -> slice:
    """Returns a span of `side * length` pixels around a random centre, cut off at the border."""
    centre, half = rng.integers(length), round(side * length) // 2
    return slice(max(int(centre) - half, 0), min(int(centre) + half, length))
