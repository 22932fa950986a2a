"""cfg -> optimizer and schedule."""

import inspect
import math
import typing
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from config import CfgNode
from solver.groups import learning_rates, parameter_groups
from solver.lr_scheduler import Schedule, with_warmup
from solver.optimizers import make_optimizer
from solver.registry import SCHEDULES, Steps
from utils.errors import UserError, one_line
from utils.registry import WRONG_VALUE, call


def build_optimizer(cfg: CfgNode, model: nn.Module, head: str | None = None) -> torch.optim.Optimizer:
    """An optimizer with its own arguments. `head` is the name of the last layer, where it is known."""
    given = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    rates = learning_rates(model, given["lr"], head, cfg.SOLVER.HEAD_LR_MULT, cfg.SOLVER.LAYER_DECAY)
    groups = parameter_groups(model, rates, given["weight_decay"])
    arguments = cfg.SOLVER.OPTIMIZER.arguments()
    return make_optimizer(cfg.SOLVER.OPTIMIZER.NAME, groups, arguments, "SOLVER.OPTIMIZER", **given)


def build_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Schedule:
    """The learning rate of each step. Lengths are epochs in the configuration and steps from here on."""
    return Schedule(optimizer, schedule_factor(cfg, steps_per_epoch))


def schedule_factor(cfg: CfgNode, steps_per_epoch: int) -> Callable[[int], float]:
    """The factor on BASE_LR of each step, warm-up and all."""
    total_steps = cfg.SOLVER.MAX_EPOCHS * steps_per_epoch
    warmup_steps = min(round(cfg.SOLVER.SCHEDULER.WARMUP_EPOCHS * steps_per_epoch), total_steps - 1)
    factor = _without_warmup(cfg, steps_per_epoch)
    if warmup_steps:
        factor = with_warmup(factor, warmup_steps)
    factor = partial(factor, total_steps=total_steps)
    _check_curve(factor, total_steps)
    return factor


def _check_curve(factor: Callable[[int], float], total_steps: int) -> None:
    """Raise UserError for a schedule that is negative or no number somewhere, looked at in up to 1000 places."""
    for step in sorted({*range(0, total_steps, math.ceil(total_steps / 1000)), total_steps - 1}):
        try:
            value = factor(step)
        except WRONG_VALUE as error:
            raise UserError(f"SOLVER.SCHEDULER: step {step}: {one_line(error)}") from error
        if not (isinstance(value, float | int) and 0 <= value < math.inf):
            raise UserError(f"SOLVER.SCHEDULER: the factor is {value} at step {step}, expected a number from 0 up")


def _without_warmup(cfg: CfgNode, steps_per_epoch: int) -> Callable[[int, int], float]:
    key = "SOLVER.SCHEDULER"
    function = SCHEDULES.get(cfg.SOLVER.SCHEDULER.NAME, f"{key}.NAME")
    arguments = cfg.SOLVER.SCHEDULER.arguments()
    parameters = inspect.signature(function).parameters
    for name, hint in typing.get_type_hints(function).items():
        if Steps in (hint, *typing.get_args(hint)):
            epochs = arguments.get(name, parameters[name].default)
            if epochs is not inspect.Parameter.empty:
                arguments[name] = _in_steps(epochs, steps_per_epoch, f"{key}.{name}")
    call(function, arguments, key, step=0, total_steps=1)
    return partial(function, **arguments)


def _in_steps(epochs: Any, steps_per_epoch: int, key: str) -> Any:
    if isinstance(epochs, (list, tuple)):
        return [_in_steps(value, steps_per_epoch, key) for value in epochs]
    if not isinstance(epochs, (int, float)) or not 0 < epochs < math.inf:
        raise UserError(f"{key}: found {epochs!r}, expected a length in epochs above 0")
    return max(round(epochs * steps_per_epoch), 1)
