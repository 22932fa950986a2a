"""Loss functions."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from modeling.registry import LOSSES
from utils.contracts import Batch
from utils.errors import UserError, require

ClassWeights = Sequence[float] | None


class MeanLoss(nn.Module):
    """Base class: the mean over a batch of the samples' losses, each times its weight in `batch.weights`.

    Subclasses write `losses(outputs, batch)`; outputs in half precision arrive in float32. A dense loss (N, H, W) is
    averaged within each image first. The divisor is the number of samples, so that micro-batches add up to the batch.
    """

    def __init__(self) -> None:  # nn.Module's signature accepts any argument, so that none would be checked
        super().__init__()

    def forward(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        losses = self.losses(_full_precision(outputs), batch)
        if losses.shape not in (outputs.shape[:1], outputs.shape[:1] + outputs.shape[2:], outputs.shape):
            found = f"{type(self).__name__}.losses returned {list(losses.shape)} for outputs {list(outputs.shape)}"
            raise UserError(f"LOSS.NAME: {found}, expected {list(outputs.shape[:1])}: a loss for each sample")
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
        if class_weights is not None:
            is_list = isinstance(class_weights, list | tuple) and {type(w) for w in class_weights} <= {int, float}
            is_valid = is_list and all(0 <= weight < math.inf for weight in class_weights) and any(class_weights)
            require(is_valid, "class_weights", repr(class_weights), "a number from 0 up for each class, or balanced")
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
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
        require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "a share from 0 up to 1")
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index

    def forward(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        # torch's own mean takes 15 us less a step. A subclass may have losses of its own.
        is_plain = type(self) is CrossEntropy and batch.weights is None and self.class_weights is None
        if not is_plain or batch.targets.ndim != 1 or self.ignore_index >= 0:
            return super().forward(outputs, batch)
        return F.cross_entropy(_full_precision(outputs), batch.targets, label_smoothing=self.label_smoothing)

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        targets = batch.targets
        is_soft = targets.is_floating_point()
        ignored, smoothing = -100 if is_soft else self.ignore_index, self.label_smoothing
        losses = F.cross_entropy(
            outputs, targets, self.class_weights, ignore_index=ignored, label_smoothing=smoothing, reduction="none"
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
    """Binary cross entropy of logits (N, classes) and labels (N, classes) in 0..1, the mean over known labels.

    Labels below 0 are unknown; class indices (N,) stand for one label each. Class weights multiply the loss of
    labels that are present, as torch's `pos_weight`.
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


class RegressionLoss(MeanLoss):
    """The `error`, a function of torch, of outputs (N, k) and targets (N, k), or (N,) where k = 1."""

    def __init__(self, error: Callable[..., torch.Tensor]):
        super().__init__()
        self.error = error

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        # (N,) and (N, 1) would broadcast to (N, N).
        return self.error(outputs, batch.targets.to(outputs.dtype).reshape(outputs.shape), reduction="none")


LOSSES.register("mse", task="regression")(partial(RegressionLoss, F.mse_loss))
LOSSES.register("l1", task="regression")(partial(RegressionLoss, F.l1_loss))


@LOSSES.register("smooth_l1", task="regression")
class SmoothL1(RegressionLoss):
    """Squared error / (2 * beta) below `beta`, else absolute error - beta / 2: R. Girshick, 2015, arXiv:1504.08083."""

    def __init__(self, beta: float = 1.0):
        super().__init__(partial(F.smooth_l1_loss, beta=_from_0("beta", beta)))


def balanced_weights(targets: np.ndarray, num_classes: int, binary: bool = False) -> list[float]:
    """Returns n / (classes * n of the class) for each class of a training set, so that all have the same total weight.

    For `binary` losses, negatives / positives of each label among its known ones, and 1 for one without any of either.
    `targets` are class indices (n,) or labels (n, classes), of which those above 0 are summed and those below are
    unknown. Raises ValueError for a class that does not occur and for other targets, such as masks.
    """
    is_index = targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)
    if not is_index and targets.shape != (len(targets), num_classes):
        expected = f"one class index or {num_classes} labels per image; give a list of numbers"
        raise ValueError(f"balanced: found targets {list(targets.shape)}, expected {expected}")
    shares = np.bincount(targets, minlength=num_classes) if is_index else targets.clip(min=0).sum(axis=0)
    if binary:
        negatives = (len(targets) if is_index else (targets >= 0).sum(axis=0)) - shares.astype(np.float64)
        both = (negatives > 0) & (shares > 0)
        return np.divide(negatives, shares, out=np.ones(num_classes), where=both).tolist()
    if not shares.all():
        raise ValueError(f"balanced: class {int(np.argmin(shares))} does not occur in training; give a list of numbers")
    return (shares.sum() / (num_classes * shares.astype(np.float64))).tolist()


def _from_0(name: str, value: float) -> float:
    require(0 <= value < math.inf, name, value, "a number from 0 up")
    return value


def _full_precision(outputs: torch.Tensor) -> torch.Tensor:
    return outputs.float() if outputs.dtype.itemsize < 4 else outputs


def _label_vectors(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Converts class indices (N,) to labels (N, classes) with the logits' type; labels are only converted."""
    return (targets if targets.is_floating_point() else F.one_hot(targets, logits.shape[1])).to(logits.dtype)
