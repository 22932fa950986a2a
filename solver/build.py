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
from solver.registry import SCHEDULES, Steps
from utils.errors import UserError, did_you_mean
from utils.registry import call

_UNFIT = {
    "LBFGS": "it needs to evaluate the loss several times a step",
    "SparseAdam": "it takes sparse gradients only",
    "Rprop": "it needs the gradient of the whole training set",
    "Muon": "it takes matrices only, and convolutions are not",
}


def build_optimizer(cfg: CfgNode, model: nn.Module, head: str | None = None) -> torch.optim.Optimizer:
    """A class of torch.optim with its own arguments. `head` is the name of the last layer, where it is known."""
    key = "SOLVER.OPTIMIZER"
    name = cfg.SOLVER.OPTIMIZER.NAME
    known = {n for n, c in vars(torch.optim).items() if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)}
    known -= {"Optimizer", *_UNFIT}
    if name in _UNFIT:
        raise UserError(f"{key}.NAME: {name} cannot serve here: {_UNFIT[name]}; use SGD or AdamW")
    if name not in known:
        raise UserError(f"{key}.NAME '{name}': no such optimizer in torch.optim; {did_you_mean(name, known)}")
    rate = learning_rates(model, cfg.SOLVER.BASE_LR, head, cfg.SOLVER.HEAD_LR_MULT, cfg.SOLVER.LAYER_DECAY)
    groups = parameter_groups(model, rate, cfg.SOLVER.WEIGHT_DECAY)
    given = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    return call(getattr(torch.optim, name), cfg.SOLVER.OPTIMIZER.arguments(), key, groups, **given)


def build_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Schedule:
    """The learning rate of each step. Lengths are epochs in the configuration and steps from here on."""
    total_steps = cfg.SOLVER.MAX_EPOCHS * steps_per_epoch
    warmup_steps = min(round(cfg.SOLVER.SCHEDULER.WARMUP_EPOCHS * steps_per_epoch), total_steps - 1)
    factor = schedule_factor(cfg, steps_per_epoch)
    if warmup_steps:
        factor = with_warmup(factor, warmup_steps)
    return Schedule(optimizer, partial(factor, total_steps=total_steps))


def schedule_factor(cfg: CfgNode, steps_per_epoch: int) -> Callable[..., float]:
    """The schedule without its warm-up, as a function of (step, total_steps)."""
    key = "SOLVER.SCHEDULER"
    function = SCHEDULES.get(cfg.SOLVER.SCHEDULER.NAME, f"{key}.NAME")
    arguments = cfg.SOLVER.SCHEDULER.arguments()
    for name, hint in typing.get_type_hints(function).items():
        if name in arguments and Steps in (hint, *typing.get_args(hint)):
            arguments[name] = _in_steps(arguments[name], steps_per_epoch, f"{key}.{name}")
    call(function, arguments, key, step=0, total_steps=1)
    return partial(function, **arguments)


def _in_steps(epochs: Any, steps_per_epoch: int, key: str) -> Any:
    if isinstance(epochs, (list, tuple)):
        return [_in_steps(value, steps_per_epoch, key) for value in epochs]
    if not isinstance(epochs, (int, float)) or not 0 < epochs < math.inf:
        raise UserError(f"{key}: found {epochs!r}, expected a length in epochs above 0")
    return max(round(epochs * steps_per_epoch), 1)
