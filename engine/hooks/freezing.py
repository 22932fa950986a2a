"""Training the head alone for a while, or never training some parameters."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from engine.hooks.base import Hook
from utils.errors import UserError, did_you_mean


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match, such as layer1.*. Raises UserError for no match."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            layers = {f"{name.rpartition('.')[0]}.*" for name in names} | {f"{name.split('.')[0]}.*" for name in names}
            raise UserError(f"SOLVER.FREEZE: '{pattern}' matches no parameter; {did_you_mean(pattern, layers)}")
    frozen = {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if len(frozen) == len(names):
        raise UserError("SOLVER.FREEZE: every parameter is frozen; leave some to train")
    for name in frozen:
        model.get_parameter(name).requires_grad = False


class Freezing(Hook):
    """All but the `head` is frozen for the first `epochs` epochs; what is not trainable now stays frozen.

    What is frozen follows from the epoch, so that a resumed run needs no state for it. Frozen
    batch norms are in evaluation mode, so that their statistics stay too.
    """

    def __init__(self, model: nn.Module, epochs: int, head: str | None):
        self.epochs = epochs
        self.body: list[nn.Parameter] = []  # what is frozen for a while
        if epochs:
            trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            self.body = [parameter for name, parameter in trainable if not name.startswith(f"{head}.")]
            if len(self.body) == len(trainable):
                raise UserError("SOLVER.FREEZE_EPOCHS: SOLVER.FREEZE freezes the head too, nothing is left to train")

    def before_epoch(self, trainer: Any) -> None:
        for parameter in self.body:
            parameter.requires_grad = trainer.epoch >= self.epochs
        for module in trainer.model.modules():
            parameters = list(module.parameters(recurse=False))
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and parameters:
                module.train(any(parameter.requires_grad for parameter in parameters))
