"""What the training makes small."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
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


class MeanLoss(nn.Module):
    """The mean over a batch of `losses(logits, batch)`, (N,), which a subclass gives; at least in float32.

    A weighted sample counts times its weight, whose mean over the training set is 1. Of
    `class_weights`, one number for each class, each loss says what they multiply. The mean is over
    the samples, not over the sum of the class weights, so that a loss is the same in batches of any size.
    """

    def __init__(self, class_weights: Sequence[float] | None = None):
        super().__init__()
        weights = None if class_weights is None else _checked(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        losses = self.losses(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), batch)
        return losses.mean() if batch.weights is None else (losses * batch.weights).mean()

    def losses(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        raise NotImplementedError


@LOSSES.register("cross_entropy")
class CrossEntropy(MeanLoss):
    """Cross entropy of logits (N, classes) against class indices (N,) or probabilities (N, classes).

    Class weights multiply each class's share of the target, as torch's `weight` does. Of class
    indices torch's mean is divided by the sum of their weights: over a whole training set with
    balanced weights that is the same. Label smoothing: C. Szegedy et al., 2015, arXiv:1512.00567.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None):
        super().__init__(class_weights)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: found {label_smoothing}, expected a share from 0 up to 1")
        self.label_smoothing = label_smoothing

    def losses(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        return F.cross_entropy(
            logits, batch.targets, self.class_weights, label_smoothing=self.label_smoothing, reduction="none"
        )


@LOSSES.register("focal")
class Focal(MeanLoss):
    """Cross entropy times (1 - p) ** gamma, which leaves out what is easy: T.-Y. Lin et al., 2017, arXiv:1708.02002.

    Targets are class indices (N,) or probabilities (N, classes); class weights are the paper's alpha.
    """

    def __init__(self, gamma: float = 2.0, class_weights: Sequence[float] | None = None):
        super().__init__(class_weights)
        self.gamma = _exponent(gamma)

    def losses(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        log_p = F.log_softmax(logits, dim=1)
        # Where p is 1 a gamma below 1 has an infinite slope, which would make 0 * inf.
        others = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        losses = -_shares(batch.targets, logits) * others**self.gamma * log_p
        return (losses if self.class_weights is None else losses * self.class_weights).sum(dim=1)


@LOSSES.register("bce", multilabel=True)
class BinaryCrossEntropy(MeanLoss):
    """A question of yes or no for each class: logits (N, classes) against labels (N, classes) in 0..1.

    Labels below 0 do not count; class indices (N,) stand for one label each. The mean of a
    sample is over the classes that count. Class weights multiply the loss of labels that are
    present, as torch's `pos_weight` does.
    """

    def losses(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        labels = _shares(batch.targets, logits)
        counts = labels >= 0
        losses = self.label_losses(logits, labels.clamp(min=0)) * counts
        return losses.sum(dim=1) / counts.sum(dim=1).clamp(min=1)

    def label_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of every single label, (N, classes)."""
        return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.class_weights, reduction="none")


@LOSSES.register("focal_bce", multilabel=True)
class BinaryFocal(BinaryCrossEntropy):
    """`bce`, each label's loss times (1 - the probability of the right answer) ** gamma: arXiv:1708.02002, as `focal`.

    The paper's alpha is a class weight of alpha / (1 - alpha), up to a factor on the whole.
    """

    def __init__(self, gamma: float = 2.0, class_weights: Sequence[float] | None = None):
        super().__init__(class_weights)
        self.gamma = _exponent(gamma)

    def label_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        log_yes, log_no = F.logsigmoid(logits), F.logsigmoid(-logits)
        present = -labels * (self.gamma * log_no).exp() * log_yes
        absent = -(1 - labels) * (self.gamma * log_yes).exp() * log_no
        return (present if self.class_weights is None else present * self.class_weights) + absent


def balanced_weights(targets: np.ndarray, num_classes: int) -> list[float]:
    """n / (classes * n of the class) for each class of a training set, so that all count as much together.

    `targets` are class indices (n,) or labels (n, classes), of which those above 0 are counted.
    Raises ValueError for a class that does not occur.
    """
    shares = np.bincount(targets, minlength=num_classes) if targets.ndim == 1 else targets.clip(min=0).sum(axis=0)
    if not shares.all():
        raise ValueError(f"balanced: class {int(np.argmin(shares))} does not occur in training; give a list of numbers")
    return (shares.sum() / (num_classes * shares.astype(np.float64))).tolist()


def _checked(class_weights: Sequence[float]) -> torch.Tensor:
    is_list = isinstance(class_weights, (list, tuple)) and all(type(weight) in (int, float) for weight in class_weights)
    if not is_list or not all(0 <= weight < math.inf for weight in class_weights) or not any(class_weights):
        raise ValueError(
            f"class_weights: found {class_weights!r}, expected a number from 0 up for each class, or balanced"
        )
    return torch.tensor(class_weights, dtype=torch.float32)


def _exponent(gamma: float) -> float:
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma: found {gamma}, expected a number from 0 up")
    return gamma


def _shares(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Class indices (N,) as labels (N, classes); labels as they are."""
    return (targets if targets.is_floating_point() else F.one_hot(targets, logits.shape[1])).to(logits.dtype)
