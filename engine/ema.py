"""Exponential moving average of the weights: B. Polyak and A. Juditsky, 1992; warm-up as in TensorFlow's."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class ModelEma(AveragedModel):
    """`module` holds average = decay * average + (1 - decay) * value of all weights and buffers.

    The decay rises with the updates, min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=self._average, use_buffers=True)
        self.decay = self.decay_now = decay

    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards `model`, after optimizer step number `step`, counted from 1."""
        self.decay_now = min(self.decay, (1 + step) / (10 + step))
        self.update_parameters(model)

    def set_step(self, step: int) -> None:
        """Continues after `step` updates, with the state of `module` restored."""
        self.n_averaged.fill_(step)

    @torch.no_grad()
    def _average(self, averages: Sequence[torch.Tensor], values: Sequence[torch.Tensor], count: object) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(values), 1 - self.decay_now)
        else:  # counters, such as batch norm's
            torch._foreach_copy_(list(averages), list(values))
