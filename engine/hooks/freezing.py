"""Freezes all but the head for the first epochs, or some parameters for good."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from engine.hooks.base import Hook
from engine.trainer import Trainer
from utils.errors import UserError, did_you_mean


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freezes the parameters whose names match a pattern, such as layer1.*. Raises UserError if none matches."""
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
    """Freezes all but the `head` for the first `epochs` epochs; parameters that are frozen already stay so.

    The epoch alone decides, so that a resumed run needs no state. Frozen batch norms are in evaluation mode, which
    freezes their statistics too.
    """

    def __init__(self, model: nn.Module, epochs: int, head: str | None):
        self.epochs = epochs
        self.body: list[nn.Parameter] = []  # frozen for the first epochs
        if epochs:
            trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            self.body = [parameter for name, parameter in trainable if not name.startswith(f"{head}.")]
            if len(self.body) == len(trainable):
                raise UserError("SOLVER.FREEZE_EPOCHS: SOLVER.FREEZE freezes the head too, nothing is left to train")

    def before_epoch(self, trainer: Trainer) -> None:
        for parameter in self.body:
            parameter.requires_grad = trainer.epoch >= self.epochs
        for module in trainer.task.model.modules():
            parameters = list(module.parameters(recurse=False))
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and parameters:
                module.train(any(parameter.requires_grad for parameter in parameters))
