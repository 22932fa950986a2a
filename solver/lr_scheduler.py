"""The learning rate as a pure function of the optimizer step."""

import math
from collections.abc import Callable
from typing import Any

import torch

from solver.registry import SCHEDULES, Steps


@SCHEDULES.register()
def constant(step: int, total_steps: int) -> float:
    """Always BASE_LR."""
    return 1.0


@SCHEDULES.register("step")
def step_decay(step: int, total_steps: int, step_size: Steps, gamma: float = 0.1) -> float:
    """Times `gamma` every `step_size`, as torch's StepLR."""
    return gamma ** (step // step_size)


@SCHEDULES.register()
def multi_step(step: int, total_steps: int, milestones: list[Steps], gamma: float = 0.1) -> float:
    """Times `gamma` at each of the `milestones`, as torch's MultiStepLR."""
    return gamma ** sum(step >= milestone for milestone in milestones)


@SCHEDULES.register()
def cosine(step: int, total_steps: int, min_factor: float = 0.0) -> float:
    """Half a cosine from 1 to `min_factor`, as torch's CosineAnnealingLR (arXiv:1608.03983)."""
    return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * min(step / total_steps, 1.0))) / 2


@SCHEDULES.register()
def polynomial(step: int, total_steps: int, power: float = 1.0) -> float:
    """(1 - progress) ** power, as torch's PolynomialLR; a straight line to 0 for power 1."""
    _check(power > 0, "power", power, "a number above 0")
    return (1 - min(step / total_steps, 1.0)) ** power


@SCHEDULES.register()
def linear(step: int, total_steps: int, end_factor: float = 0.0) -> float:
    """A straight line from 1 to `end_factor`, as torch's LinearLR."""
    _check(end_factor >= 0, "end_factor", end_factor, "a number of at least 0")
    return 1 + (end_factor - 1) * min(step / total_steps, 1.0)


@SCHEDULES.register()
def exponential(step: int, total_steps: int, gamma: float, epoch: Steps = 1) -> float:
    """Times `gamma` every `epoch`, as torch's ExponentialLR, and smoothly in between."""
    _check(0 < gamma <= 1, "gamma", gamma, "a number above 0, at most 1")
    return gamma ** (step / epoch)


@SCHEDULES.register()
def cosine_restarts(step: int, total_steps: int, period: Steps, factor: float = 1.0, min_factor: float = 0.0) -> float:
    """`cosine` over and over, each time `factor` times as long as before, the first `period` long.

    As torch's CosineAnnealingWarmRestarts (SGDR: I. Loshchilov and F. Hutter, arXiv:1608.03983).
    """
    _check(factor >= 1, "factor", factor, "a number of at least 1")
    length: float = period
    while step >= length:
        step, length = step - length, length * factor
    return cosine(step, length, min_factor)


@SCHEDULES.register()
def warmup_stable_decay(step: int, total_steps: int, decay_share: float = 0.2, shape: str = "1-sqrt") -> float:
    """1, and over the last `decay_share` of the steps down to 0: by 1 - sqrt(progress), or 1 - progress for linear.

    A. Hägele et al., arXiv:2405.18392. The stable part does not depend on the length of the training.
    """
    _check(0 < decay_share <= 1, "decay_share", decay_share, "a share above 0, at most 1")
    _check(shape in ("1-sqrt", "linear"), "shape", shape, "1-sqrt or linear")
    progress = min(max(1 - (1 - step / total_steps) / decay_share, 0.0), 1.0)
    return 1 - (math.sqrt(progress) if shape == "1-sqrt" else progress)


@SCHEDULES.register()
def one_cycle(
    step: int, total_steps: int, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> float:
    """Up from 1 / div_factor for `pct_start` of the steps, then down to 1 / (div_factor * final_div_factor).

    Both by half a cosine, as torch's OneCycleLR (L. Smith, arXiv:1708.07120).
    """
    peak = pct_start * total_steps - 1
    low, last = 1 / div_factor, 1 / (div_factor * final_div_factor)
    if step <= peak:
        return _anneal(low, 1.0, step / peak if peak else 1.0)
    return _anneal(1.0, last, (step - peak) / max(total_steps - 1 - peak, 1e-9))


def _check(is_fine: bool, name: str, found: object, expected: str) -> None:
    if not is_fine:
        raise ValueError(f"{name}: found {found}, expected {expected}")


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def with_warmup(factor: Callable[[int, int], float], warmup_steps: int) -> Callable[[int, int], float]:
    """`factor` after a straight line up to 1 over `warmup_steps` steps, the first of which is not 0."""

    def warmed(step: int, total_steps: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return factor(step - warmup_steps, total_steps - warmup_steps)

    return warmed


class Schedule:
    """Sets the learning rate of every parameter group: its own at the start, times `factor(step)`, times `scale`.

    `scale` is lowered by `reduce`, `shift` is added to the step; both are remembered. `lr` is what
    a group without multipliers has.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float]):
        self.optimizer = optimizer
        self.factor = factor
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.scale, self.shift = 1.0, 0
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Make ready for optimizer step number `step`, counted from 0."""
        self.step = step
        factor = self.factor(step + self.shift) * self.scale
        self.lr = self.optimizer.defaults["lr"] * factor
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base_lr * factor

    def reduce(self, factor: float, min_lr: float) -> None:
        """From now on all rates are `factor` times what they were, but `lr` is not brought below `min_lr`."""
        if self.lr > 0:
            self.scale *= min(max(factor, min_lr / self.lr), 1.0)
        self.set_step(self.step)

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "shift": self.shift}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale, self.shift = state["scale"], state["shift"]
