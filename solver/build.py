"""cfg -> optimizer and schedule."""

import math

import torch
from torch import nn

from config import CfgNode
from solver.groups import learning_rates, other_groups, parameter_groups
from solver.lr_scheduler import check_factor
from solver.optimizers import find_optimizer, make_optimizer
from solver.registry import SCHEDULES, in_steps
from utils.contracts import Schedule
from utils.errors import UserError
from utils.registry import call


def build_optimizer(
    cfg: CfgNode, model: nn.Module, head: str | None = None, others: nn.Module | None = None, fused: bool = True
) -> torch.optim.Optimizer:
    """Returns an optimizer over the trainable parameters of a network, and of `others` such as the criterion.

    `head` is the name of the layer with SOLVER.HEAD_LR_MULT. The groups of the network come first. Parameters are
    on their device already; `fused` allows fused kernels on a GPU. Raises UserError for an unknown optimizer or
    invalid arguments.
    """
    name, arguments = cfg.SOLVER.OPTIMIZER.NAME, cfg.SOLVER.OPTIMIZER.arguments()
    find_optimizer(name)  # a misspelt name is reported before its missing learning rate
    lr, weight_decay = base_lr(cfg), cfg.SOLVER.WEIGHT_DECAY
    rates = learning_rates(model, lr, head, cfg.SOLVER.HEAD_LR_MULT, cfg.SOLVER.LAYER_DECAY)
    groups = parameter_groups(model, rates, weight_decay) + other_groups(others, lr)
    return make_optimizer(name, groups, arguments, lr, weight_decay, fused)


def base_lr(cfg: CfgNode) -> float:
    """Returns the peak learning rate: SOLVER.BASE_LR, or AdamW's default for the batch size.

    Adam's rate scales with the square root of the batch size: S. Malladi et al., 2022, arXiv:2205.10287. With 0.001 for
    32 images no network of tests/batteries/defaults.py diverges. Raises UserError if another optimizer has no rate.
    """
    if not cfg.SOLVER.BASE_LR and (name := cfg.SOLVER.OPTIMIZER.NAME) != "AdamW":
        expected = f"a number above 0 for {name}, such as 0.1 for SGD or 0.001 for Adam"
        raise UserError(f"SOLVER.BASE_LR: found 0, expected {expected}")
    return cfg.SOLVER.BASE_LR or 0.001 * math.sqrt(cfg.SOLVER.BATCH_SIZE / 32)


def build_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Schedule:
    """Returns the learning-rate schedule of an optimizer, warm-up included.

    Lengths are epochs in the configuration and steps from here on. Raises UserError for an unknown schedule,
    invalid arguments, or a factor that is negative or not finite.
    """
    key, scheduler = "SOLVER.SCHEDULER", cfg.SOLVER.SCHEDULER
    schedule = SCHEDULES.get(scheduler.NAME, f"{key}.NAME")
    arguments = in_steps(schedule, scheduler.arguments(), steps_per_epoch, key)
    call(schedule, arguments, key, step=0, total_steps=1)  # reports unknown and missing arguments
    total_steps = cfg.SOLVER.MAX_EPOCHS * steps_per_epoch
    warmup_steps = min(round(scheduler.WARMUP_EPOCHS * steps_per_epoch), total_steps - 1)

    def factor(step: int) -> float:
        if step < warmup_steps:  # linear, from above 0 to 1
            return (step + 1) / warmup_steps
        return schedule(step - warmup_steps, total_steps - warmup_steps, **arguments)

    check_factor(factor, total_steps, key)
    return Schedule(optimizer, factor, total_steps)
