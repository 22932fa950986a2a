"""What the training makes small."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from modeling.registry import LOSSES


class WithAuxiliaryHeads(nn.Module):
    """A loss for networks that give (logits, auxiliary logits, ...) in training: theirs is added, times `weight`."""

    def __init__(self, criterion: nn.Module, weight: float):
        super().__init__()
        self.criterion = criterion
        self.weight = weight

    def forward(self, outputs: Any, batch: Any) -> torch.Tensor:
        if isinstance(outputs, torch.Tensor):  # in testing there is only one
            return self.criterion(outputs, batch)
        main, *others = (self.criterion(logits, batch) for logits in outputs if logits is not None)
        return main + self.weight * sum(others)


@LOSSES.register("cross_entropy")
class CrossEntropy(nn.Module):
    """Cross entropy of logits (N, classes) against class indices (N,) or probabilities (N, classes), in float32.

    Label smoothing: C. Szegedy et al., 2015, arXiv:1512.00567.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: found {label_smoothing}, expected a share from 0 up to 1")
        self.label_smoothing = label_smoothing

    def forward(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        losses = F.cross_entropy(outputs.float(), batch.targets, label_smoothing=self.label_smoothing, reduction="none")
        return weighted_mean(losses, batch.weights)


@LOSSES.register("bce", multilabel=True)
class BinaryCrossEntropy(nn.Module):
    """A question of yes or no for each class: logits (N, classes) against labels (N, classes) in 0..1, in float32.

    Labels below 0 do not count; class indices (N,) stand for one label each. The mean of a
    sample is over the classes that count.
    """

    def forward(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        targets = batch.targets
        if not targets.is_floating_point():
            targets = F.one_hot(targets, outputs.shape[1]).float()
        counts = targets >= 0
        losses = F.binary_cross_entropy_with_logits(outputs.float(), targets.clamp(min=0), reduction="none") * counts
        return weighted_mean(losses.sum(dim=1) / counts.sum(dim=1).clamp(min=1), batch.weights)


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The mean of (N,) losses, each times its weight, whose mean over the training set is 1."""
    return losses.mean() if weights is None else (losses * weights).mean()
