"""Learning-rate schedules: pure functions of the optimizer step."""

import math
from collections.abc import Callable

from solver.registry import SCHEDULES, Steps
from utils.errors import UserError, require
from utils.registry import translate

_ONE_EPOCH = Steps(1)


@SCHEDULES.register()
def constant(step: int, total_steps: int) -> float:
    """Always BASE_LR."""
    return 1.0


@SCHEDULES.register("step")
def step_decay(step: int, total_steps: int, step_size: Steps, gamma: float = 0.1) -> float:
    """Multiplies by `gamma` every `step_size`, as torch's StepLR."""
    return gamma ** (step // step_size)


@SCHEDULES.register()
def multi_step(step: int, total_steps: int, milestones: list[Steps], gamma: float = 0.1) -> float:
    """Multiplies by `gamma` at each of the `milestones`, as torch's MultiStepLR."""
    return gamma ** sum(step >= milestone for milestone in milestones)


@SCHEDULES.register()
def cosine(step: int, total_steps: int, min_factor: float = 0.0) -> float:
    """Half a cosine from 1 to `min_factor`, as torch's CosineAnnealingLR (arXiv:1608.03983)."""
    return _anneal(1.0, min_factor, step / total_steps)


@SCHEDULES.register()
def polynomial(step: int, total_steps: int, power: float = 1.0) -> float:
    """(1 - progress) ** power, as torch's PolynomialLR; linear to 0 for power 1."""
    require(power > 0, "power", power, "a number above 0")
    return (1 - min(step / total_steps, 1.0)) ** power


@SCHEDULES.register()
def linear(step: int, total_steps: int, end_factor: float = 0.0) -> float:
    """Linear from 1 to `end_factor`, as torch's LinearLR."""
    require(end_factor >= 0, "end_factor", end_factor, "a number of at least 0")
    return 1 + (end_factor - 1) * min(step / total_steps, 1.0)


@SCHEDULES.register()
def exponential(step: int, total_steps: int, gamma: float, epoch: Steps = _ONE_EPOCH) -> float:
    """Multiplies by `gamma` every `epoch`, as torch's ExponentialLR, and smoothly in between."""
    require(0 < gamma <= 1, "gamma", gamma, "a number above 0, at most 1")
    return gamma ** (step / epoch)


@SCHEDULES.register()
def cosine_restarts(step: int, total_steps: int, period: Steps, factor: float = 1.0, min_factor: float = 0.0) -> float:
    """`cosine` repeatedly, at first for a `period`, then `factor` times as long each time: SGDR, arXiv:1608.03983."""
    require(factor >= 1, "factor", factor, "a number of at least 1")
    start, length = 0.0, float(period)
    while step >= start + length:
        start, length = start + length, length * factor
    return _anneal(1.0, min_factor, (step - start) / length)


@SCHEDULES.register()
def warmup_stable_decay(step: int, total_steps: int, decay_share: float = 0.2, shape: str = "1-sqrt") -> float:
    """1, then decay to 0 in the last `decay_share` of the steps, as 1 - sqrt(progress) or linear: arXiv:2405.18392."""
    require(0 < decay_share <= 1, "decay_share", decay_share, "a share above 0, at most 1")
    require(shape in ("1-sqrt", "linear"), "shape", shape, "1-sqrt or linear")
    progress = min(max(1 - (1 - step / total_steps) / decay_share, 0.0), 1.0)
    return 1 - (math.sqrt(progress) if shape == "1-sqrt" else progress)


@SCHEDULES.register()
def one_cycle(
    step: int, total_steps: int, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> float:
    """Rises from 1 / div_factor for `pct_start` of the steps, then falls to 1 / (div_factor * final_div_factor).

    Each half a cosine, as torch's OneCycleLR (L. Smith, arXiv:1708.07120).
    """
    peak = pct_start * total_steps - 1
    if step <= peak:
        return _anneal(1 / div_factor, 1.0, step / peak if peak else 1.0)
    return _anneal(1.0, 1 / (div_factor * final_div_factor), (step - peak) / max(total_steps - 1 - peak, 1e-9))


def _anneal(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def check_factor(factor: Callable[[int], float], total_steps: int, key: str) -> None:
    """Evaluates a factor at up to 1000 steps, the last among them.

    Raises UserError about the key `key` if it is negative or not finite, UserCodeError if a schedule's code fails.
    """
    for step in sorted({*range(0, total_steps, math.ceil(total_steps / 1000)), total_steps - 1}):
        try:
            value = factor(step)
        except Exception as error:
            translate(error, f"{key}: step {step}", is_refusal=isinstance(error, ValueError | ArithmeticError))
        if not (isinstance(value, float | int) and 0 <= value < math.inf):
            raise UserError(f"{key}: found the factor {value} at step {step}, expected a number from 0 up")
