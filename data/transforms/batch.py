"""Mixing the images of a batch, and their targets with them; on the device, all at once."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from data.registry import BATCH_TRANSFORMS

Mixed = tuple[torch.Tensor, torch.Tensor]  # images (N, C, H, W), targets (N, classes)


class BatchTransforms:
    """One of `transforms`, drawn anew for each batch; what is drawn follows from (seed, epoch, position).

    Class indices become probabilities (N, classes). From epoch `until` on nothing is mixed; 0: never so.
    """

    def __init__(self, transforms: Sequence[Any], num_classes: int, seed: int, until: int = 0):
        self.transforms = transforms
        self.num_classes = num_classes
        self.seed = seed
        self.until = until

    def __call__(self, batch: Any, epoch: int, position: int) -> Any:
        if 0 < self.until <= epoch:
            return batch
        rng = np.random.default_rng((self.seed, epoch, position, 0xBA7C))  # apart from the samples' own streams
        targets = batch.targets
        if not targets.is_floating_point():
            targets = F.one_hot(targets, self.num_classes).float()
        transform = self.transforms[rng.integers(len(self.transforms))]
        images, targets = transform(batch.images, targets, rng)
        return replace(batch, images=images, targets=targets)


@BATCH_TRANSFORMS.register()
class MixUp:
    """Blend each image with another one of the batch: H. Zhang et al., 2017, arXiv:1710.09412.

    The share of the first is drawn from Beta(alpha, alpha), once for the batch.
    """

    def __init__(self, alpha: float = 0.2):
        self.alpha = _positive(alpha)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator) -> Mixed:
        share, partners = rng.beta(self.alpha, self.alpha), _partners(images, rng)
        return _blend(images.float(), partners, share), _blend_targets(targets, partners, share)


@BATCH_TRANSFORMS.register()
class CutMix:
    """Paste a box of another image of the batch into each: S. Yun et al., 2019, arXiv:1905.04899.

    The share of the box's area is drawn from Beta(alpha, alpha); targets go by the area that was really pasted.
    """

    def __init__(self, alpha: float = 1.0):
        self.alpha = _positive(alpha)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator) -> Mixed:
        height, width = images.shape[2:]
        side = math.sqrt(1 - rng.beta(self.alpha, self.alpha))  # of the box, relative to the image
        rows, columns = _span(height, side, rng), _span(width, side, rng)
        partners = _partners(images, rng)
        images = images.clone()
        images[:, :, rows, columns] = images[partners][:, :, rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        return images, _blend_targets(targets, partners, 1 - pasted)


def _positive(alpha: float) -> float:
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha: found {alpha}, expected a number above 0")
    return alpha


def _partners(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.permutation(len(images))).to(images.device)


def _blend(values: torch.Tensor, partners: torch.Tensor, share: float) -> torch.Tensor:
    return share * values + (1 - share) * values[partners]


def _blend_targets(targets: torch.Tensor, partners: torch.Tensor, share: float) -> torch.Tensor:
    """A label that does not count in one image, which is below 0, does not count in the mixture."""
    unknown = (targets < 0) | (targets[partners] < 0)
    return _blend(targets, partners, share).masked_fill(unknown, -1)


def _span(length: int, side: float, rng: np.random.Generator) -> slice:
    """A stretch of `side * length` pixels around a random centre, cut off at the border."""
    centre, half = rng.integers(length), round(side * length) // 2
    return slice(max(int(centre) - half, 0), min(int(centre) + half, length))
