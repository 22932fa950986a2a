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
    """Cross entropy of logits (N, classes) against class indices (N,), in float32.

    Label smoothing: C. Szegedy et al., 2015, arXiv:1512.00567.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: found {label_smoothing}, expected a share from 0 up to 1")
        self.label_smoothing = label_smoothing

    def forward(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return F.cross_entropy(outputs.float(), batch.targets, label_smoothing=self.label_smoothing)
