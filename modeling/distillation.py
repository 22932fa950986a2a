"""Learning from a network that was trained before."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from modeling.losses import CrossEntropy
from modeling.registry import LOSSES


@LOSSES.register("distillation")
class Distillation(CrossEntropy):
    """(1 - weight) * cross entropy + weight * T^2 * KL(teacher || student): G. Hinton et al., 2015, arXiv:1503.02531.

    `teacher` maps a batch's own images, in 0..255, to logits (N, classes); it is kept in evaluation
    mode and gets no gradients. Both networks' logits are divided by `temperature` T. In evaluation
    mode, or where `teacher` is None, it is the cross entropy alone, to which class weights and label
    smoothing are confined.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        temperature: float = 4.0,
        weight: float = 0.9,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(label_smoothing, class_weights)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: found {temperature}, expected a number above 0")
        if not 0 <= weight <= 1:
            raise ValueError(f"weight: found {weight}, expected a share from 0 to 1")
        self.teacher = teacher
        self.temperature = temperature
        self.weight = weight

    def train(self, mode: bool = True) -> "Distillation":
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def losses(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        hard = super().losses(logits, batch)
        if self.teacher is None or not self.training:
            return hard
        with torch.no_grad():
            wanted = F.log_softmax(self.teacher(batch.images).to(logits.dtype) / self.temperature, dim=1)
        found = F.log_softmax(logits / self.temperature, dim=1)
        soft = F.kl_div(found, wanted, reduction="none", log_target=True).sum(dim=1)  # (N, classes) -> (N,)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * soft
