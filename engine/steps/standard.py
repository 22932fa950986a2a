"""One training step: forward, loss, backward, clipping, optimizer, schedule, moving average."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from engine.checkpoint import State
from engine.ema import ModelEma
from engine.precision import Precision
from engine.registry import STEPS
from engine.tasks.base import StepResult, Task
from utils.contracts import Batch, Schedule
from utils.distributed import GradientSync


@STEPS.register("standard")
@dataclass(eq=False)
class StandardStep:
    """One update of the weights from one batch.

    Called with a batch on the device, it returns the `StepResult` without gradients. `after_backward` is called
    when the gradients of the whole batch are complete, still scaled by the fp16 scaler and not clipped. A step with a
    state of its own gives it in `state_dict`. `micro_batches` split a batch to save memory; 0 for `clip_norm` or
    `clip_value` leaves gradients unclipped.
    """

    task: Task
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    ema: ModelEma | None = None
    micro_batches: int = 1
    clip_norm: float = 0.0
    clip_value: float = 0.0

    def __post_init__(self) -> None:
        self.after_backward: Callable[[], object] = lambda: None
        self._synced_task = GradientSync(self.task)
        self._updates = 0  # calls that the scaler lets through to the optimizer
        self.optimizer.register_step_post_hook(self._count)

    def __call__(self, batch: Batch) -> StepResult:
        result = self.backward(batch)
        result.lr = self.schedule.lr
        self.after_backward()
        result.updated = self.update()
        if result.updated:
            self.schedule.set_step(self.schedule.step + 1)
            if self.ema is not None:
                self.ema.update(self.task.model, self.schedule.step)
        return result

    def backward(self, batch: Batch) -> StepResult:
        """Accumulates the gradients of the batch, one micro-batch at a time."""
        results = []
        micro_batches = batch.split(self.micro_batches)
        for micro_batch in micro_batches:
            with self.precision.autocast():
                result = self._synced_task(micro_batch, is_last=micro_batch is micro_batches[-1])
            share = len(micro_batch) / len(batch)  # so that the gradients are those of the whole batch
            loss = result.loss if share == 1 else result.loss * share
            self.precision.scaler.scale(loss if batch.share == 1 else loss * batch.share).backward()
            result.loss, result.outputs = loss.detach(), result.outputs.detach()
            results.append(result)
        if not batch.share:  # another process counts these samples
            return StepResult(results[0].loss, *(t[:0] for t in (result.outputs, result.targets, result.indices)))
        if len(results) == 1:
            return results[0]
        columns = [(result.outputs, result.targets, result.indices) for result in results]
        outputs, targets, indices = (torch.cat(column) for column in zip(*columns, strict=True))
        return StepResult(torch.stack([result.loss for result in results]).sum(), outputs, targets, indices)

    def update(self) -> bool:
        """Clips, updates the weights, clears the gradients. Returns False if fp16 overflow skipped the update."""
        scaler, before = self.precision.scaler, self._updates
        if self.clip_norm or self.clip_value:
            scaler.unscale_(self.optimizer)
        if self.clip_value:
            nn.utils.clip_grad_value_(self.parameters_with_gradients(), self.clip_value)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.parameters_with_gradients(), self.clip_norm)
        scaler.step(self.optimizer)
        scaler.update()
        for parameter in self.parameters_with_gradients():  # in a fraction of the time of `zero_grad`
            parameter.grad = None
        return self._updates > before

    def parameters_with_gradients(self) -> list[nn.Parameter]:
        """Returns the parameters that this step updates."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass

    def _count(self, *_: object) -> None:
        self._updates += 1
