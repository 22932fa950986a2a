"""Knowledge distillation."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from modeling.losses import ClassWeights, CrossEntropy
from modeling.registry import LOSSES
from utils.contracts import Batch
from utils.errors import require

Teacher = Callable[[torch.Tensor], torch.Tensor]


@LOSSES.register("distillation")
class Distillation(CrossEntropy):
    """(1 - weight) * cross entropy + weight * T^2 * KL(teacher || student): G. Hinton et al., 2015, arXiv:1503.02531.

    `teacher` maps the images of a batch, (N, C, H, W) in 0..255, to logits (N, classes). It is no submodule, so it is
    neither moved, saved, averaged, optimised nor set to training mode; the caller puts it on the device. Both networks'
    logits are divided by the `temperature` T. Class weights and label smoothing apply to the cross entropy alone, which
    is the whole loss in evaluation mode or without a teacher.
    """

    teacher: Teacher | None

    def __init__(
        self,
        teacher: Teacher | None,
        temperature: float = 4.0,
        weight: float = 0.9,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
    ):
        super().__init__(label_smoothing, class_weights)
        require(0 < temperature < math.inf, "temperature", temperature, "a number above 0")
        require(0 <= weight <= 1, "weight", weight, "a share from 0 to 1")
        if isinstance(teacher, nn.Module):
            teacher.eval()
        object.__setattr__(self, "teacher", teacher)  # nn.Module would register it
        self.temperature, self.weight = temperature, weight

    def losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        hard = super().losses(outputs, batch)
        if self.teacher is None or not self.training:
            return hard
        with torch.no_grad():
            expected = F.log_softmax(self.teacher(batch.images).to(outputs.dtype) / self.temperature, dim=1)
        found = F.log_softmax(outputs / self.temperature, dim=1)
        soft = F.kl_div(found, expected, reduction="none", log_target=True).sum(dim=1)  # (N, classes) -> (N,)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * soft
