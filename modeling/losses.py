"""Loss functions."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modeling.registry import LOSSES
from utils.contracts import Batch

ClassWeights = Sequence[float] | None


class WithAuxiliaryHeads(nn.Module):
    """A loss for networks that return (outputs, auxiliary outputs, ...) in training.

    The losses of the auxiliary heads are added times `weight`. In evaluation mode such networks return a tensor.
    """

    def __init__(self, criterion: nn.Module, weight: float):
        super().__init__()
        self.criterion = criterion
        self.weight = weight

    def forward(self, outputs: torch.Tensor | Sequence[torch.Tensor | None], batch: Batch) -> torch.Tensor:
        if isinstance(outputs, torch.Tensor):
            return self.criterion(outputs, batch)
        main, *others = (self.criterion(head, batch) for head in outputs if head is not None)
        return main + self.weight * sum(others)


class MeanLoss(nn.Module):
    """Base class: the mean over a batch of the samples' losses, each times its weight in `batch.weights`.

    The method to write is `losses(outputs, batch)`; outputs in half precision arrive in float32. A dense loss
    (N, H, W) is averaged within each image first. The sum is divided by the number of samples, not by the sum of
    any weights, so that the losses of micro-batches add up to that of the batch.
    """

    def __init__(self) -> None:  # nn.Module's signature accepts any argument, so that none would be checked
        super().__init__()

    def forward(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        losses = self.losses(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), batch)
        losses = losses.flatten(1).mean(dim=1) if losses.ndim > 1 else losses
        return losses.mean() if batch.weights is None else (losses * batch.weights).mean()

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Returns the loss of each sample, (N,), or of each of its values, (N, ...)."""
        raise NotImplementedError


class _ClassWeightedLoss(MeanLoss):
    """Base class of losses with `class_weights`, one number from 0 up per class."""

    class_weights: torch.Tensor | None

    def __init__(self, class_weights: ClassWeights = None):
        super().__init__()
        weights = None if class_weights is None else _checked_weights(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)


@LOSSES.register("cross_entropy")
class CrossEntropy(_ClassWeightedLoss):
    """Cross entropy of logits (N, classes, ...) and class indices (N, ...) or probabilities (N, classes, ...).

    Pixels of the class `ignore_index` are ignored. Class weights multiply each class's share of the target, as
    `weight` of torch does; torch's mean over class indices divides by the sum of these weights, which for balanced
    weights and a whole training set is the same. Label smoothing: C. Szegedy et al., 2015, arXiv:1512.00567.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: ClassWeights = None, ignore_index: int = -100):
        super().__init__(class_weights)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: found {label_smoothing}, expected a share from 0 up to 1")
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        targets = batch.targets
        is_soft = targets.is_floating_point()
        losses = F.cross_entropy(
            outputs,
            targets,
            self.class_weights,
            ignore_index=-100 if is_soft else self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        if is_soft or losses.ndim == 1:
            return losses
        counted = (targets != self.ignore_index).flatten(1).sum(dim=1)
        return losses.flatten(1).sum(dim=1) / counted.clamp(min=1)


@LOSSES.register("focal")
class Focal(_ClassWeightedLoss):
    """Cross entropy times (1 - p) ** gamma, which lowers the weight of easy samples.

    Targets are class indices (N,) or probabilities (N, classes); class weights are alpha of the paper,
    T.-Y. Lin et al., 2017, arXiv:1708.02002.
    """

    def __init__(self, gamma: float = 2.0, class_weights: ClassWeights = None):
        super().__init__(class_weights)
        self.gamma = _from_0("gamma", gamma)

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        log_p = F.log_softmax(outputs, dim=1)
        # At p = 1 a gamma below 1 has an infinite slope, which would give 0 * inf.
        others = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        losses = -_label_vectors(batch.targets, outputs) * others**self.gamma * log_p
        return (losses if self.class_weights is None else losses * self.class_weights).sum(dim=1)


@LOSSES.register("bce", task="multilabel")
class BinaryCrossEntropy(_ClassWeightedLoss):
    """Binary cross entropy of each class: logits (N, classes) and labels (N, classes) in 0..1.

    Labels below 0 are unknown and ignored; class indices (N,) stand for one label each. The loss of a sample is
    the mean over its known labels. Class weights multiply the loss of labels that are present, as `pos_weight`
    of torch does.
    """

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        labels = _label_vectors(batch.targets, outputs)
        known = labels >= 0
        losses = self.label_losses(outputs, labels.clamp(min=0)) * known
        return losses.sum(dim=1) / known.sum(dim=1).clamp(min=1)

    def label_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the loss of every single label, (N, classes)."""
        return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.class_weights, reduction="none")


@LOSSES.register("focal_bce", task="multilabel")
class BinaryFocal(BinaryCrossEntropy):
    """`bce` with each label's loss times (1 - p) ** gamma, p the probability of the correct value: arXiv:1708.02002.

    Alpha of the paper is a class weight of alpha / (1 - alpha), up to a factor on the whole loss.
    """

    def __init__(self, gamma: float = 2.0, class_weights: ClassWeights = None):
        super().__init__(class_weights)
        self.gamma = _from_0("gamma", gamma)

    def label_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        log_present, log_absent = F.logsigmoid(logits), F.logsigmoid(-logits)
        present = -labels * (self.gamma * log_absent).exp() * log_present
        absent = -(1 - labels) * (self.gamma * log_present).exp() * log_absent
        return (present if self.class_weights is None else present * self.class_weights) + absent


@LOSSES.register("mse", task="regression")
class MeanSquaredError(MeanLoss):
    """Squared error of outputs (N, k) and targets (N, k), or (N,) where k = 1."""

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return F.mse_loss(outputs, _values(batch.targets, outputs), reduction="none")


@LOSSES.register("l1", task="regression")
class MeanAbsoluteError(MeanLoss):
    """Absolute error of outputs (N, k) and targets (N, k), or (N,) where k = 1."""

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return F.l1_loss(outputs, _values(batch.targets, outputs), reduction="none")


@LOSSES.register("smooth_l1", task="regression")
class SmoothL1(MeanLoss):
    """Squared error / (2 * beta) below `beta`, absolute error - beta / 2 above it: R. Girshick, 2015, arXiv:1504.08083.

    Of outputs (N, k) and targets (N, k), or (N,) where k = 1.
    """

    def __init__(self, beta: float = 1.0):
        super().__init__()
        self.beta = _from_0("beta", beta)

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return F.smooth_l1_loss(outputs, _values(batch.targets, outputs), reduction="none", beta=self.beta)


def balanced_weights(targets: np.ndarray, num_classes: int) -> list[float]:
    """Returns n / (classes * n of the class) for each class of a training set, so that all have the same total weight.

    `targets` are class indices (n,) or labels (n, classes), of which those above 0 are summed.
    Raises ValueError for a class that does not occur and for other targets, such as masks.
    """
    is_index = targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)
    if not is_index and targets.shape != (len(targets), num_classes):
        raise ValueError(
            f"balanced: found targets {list(targets.shape)}, expected one class index or {num_classes} labels per "
            "image; give a list of numbers"
        )
    shares = np.bincount(targets, minlength=num_classes) if is_index else targets.clip(min=0).sum(axis=0)
    if not shares.all():
        raise ValueError(f"balanced: class {int(np.argmin(shares))} does not occur in training; give a list of numbers")
    return (shares.sum() / (num_classes * shares.astype(np.float64))).tolist()


def _checked_weights(class_weights: Sequence[float]) -> torch.Tensor:
    is_list = isinstance(class_weights, list | tuple) and all(type(weight) in (int, float) for weight in class_weights)
    if not is_list or not all(0 <= weight < math.inf for weight in class_weights) or not any(class_weights):
        raise ValueError(
            f"class_weights: found {class_weights!r}, expected a number from 0 up for each class, or balanced"
        )
    return torch.tensor(class_weights, dtype=torch.float32)


def _from_0(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: found {value}, expected a number from 0 up")
    return value


def _label_vectors(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Converts class indices (N,) to labels (N, classes) with the logits' type; labels are only converted."""
    return (targets if targets.is_floating_point() else F.one_hot(targets, logits.shape[1])).to(logits.dtype)


def _values(targets: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Gives targets shape and type of the outputs; (N,) and (N, 1) would broadcast to (N, N)."""
    return targets.to(outputs.dtype).reshape(outputs.shape)
