"""A smoother copy of the weights: B. Polyak and A. Juditsky, 1992; warm-up as in TensorFlow's."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """`module` holds average = decay * average + (1 - decay) * value of all weights and buffers.

    The decay rises with the updates, min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=self._average, use_buffers=True)
        self.decay = self.decay_now = decay

    def update(self, model: nn.Module, step: int) -> None:
        """Take over a little of `model`, after optimizer step number `step`, counted from 1."""
        self.decay_now = min(self.decay, (1 + step) / (10 + step))
        self.update_parameters(model)

    def restore(self, state: dict[str, torch.Tensor], step: int) -> None:
        """Go on from the saved state of `module` after `step` updates."""
        self.module.load_state_dict(state)
        self.n_averaged.fill_(step)

    @torch.no_grad()
    def _average(self, averages: list[torch.Tensor], values: list[torch.Tensor], count: torch.Tensor) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - self.decay_now)
        else:  # counters, such as batch norm's
            torch._foreach_copy_(averages, values)
