"""Training the head alone for a while, or never training some parameters."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from engine.hooks.base import Hook
from utils.errors import UserError, did_you_mean


def freeze(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Freeze the parameters whose names match, such as layer1.*; their names. Raises UserError for no match."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"SOLVER.FREEZE: '{pattern}' matches no parameter; {did_you_mean(pattern, names)}")
    frozen = {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if len(frozen) == len(names):
        raise UserError("SOLVER.FREEZE: every parameter is frozen; leave some to train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name not in frozen
    return frozen


class Freezing(Hook):
    """All but the layer `head` is frozen for the first `epochs` epochs; `always` are the names frozen for good.

    What is frozen follows from the epoch, so that a resumed run needs no state for it. Frozen
    batch norms are in evaluation mode, so that their statistics stay too.
    """

    def __init__(self, epochs: int, head: str | None, always: set[str]):
        self.epochs = epochs
        self.head = head
        self.always = always

    def before_epoch(self, trainer: Any) -> None:
        head_alone = trainer.epoch < self.epochs
        for name, parameter in trainer.model.named_parameters():
            in_head = self.head is not None and name.startswith(f"{self.head}.")
            parameter.requires_grad = name not in self.always and (in_head or not head_alone)
        for module in trainer.model.modules():
            parameters = list(module.parameters(recurse=False))
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and parameters:
                module.train(any(parameter.requires_grad for parameter in parameters))
