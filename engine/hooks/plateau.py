"""Lower the learning rate when the validation metric no longer improves."""

import math
from typing import Any

from engine.hooks.base import Hook
from engine.registry import HOOKS
from utils.logger import get_logger


@HOOKS.register()
class ReduceLROnPlateau(Hook):
    """Times `factor` after more than `patience` epochs in a row without a new best TEST.MONITOR, down to `min_lr`.

    As torch's class of that name with a threshold of 0, on top of any schedule; constant is the usual one.
    """

    needs_validation = True

    def __init__(self, factor: float = 0.1, patience: int = 10, min_lr: float = 0.0):
        if not 0 < factor < 1:
            raise ValueError(f"factor: found {factor}, expected a number between 0 and 1")
        if patience < 0 or not 0 <= min_lr < math.inf:
            raise ValueError(f"patience {patience}, min_lr {min_lr}: expected 0 or more")
        self.factor = factor
        self.patience = patience
        self.min_lr = min_lr

    def after_epoch(self, trainer: Any) -> None:
        if trainer.epochs_since_best and trainer.epochs_since_best % (self.patience + 1) == 0:
            trainer.schedule.reduce(self.factor, self.min_lr)
            get_logger("train").info("no better epoch: the learning rate is now %.3g", trainer.schedule.lr)
