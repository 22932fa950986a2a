"""Hooks that act when the monitored metric no longer improves."""

import math

from engine.hooks.base import Hook
from engine.registry import HOOKS
from engine.trainer import Trainer
from utils.logger import get_logger


@HOOKS.register()
class EarlyStopping(Hook):
    """Stops the training after `patience` epochs in a row without a new best TEST.MONITOR.

    An equal value with a lower validation loss is a new best.
    """

    needs_validation = True

    def __init__(self, patience: int = 5):
        if patience < 1:
            raise ValueError(f"patience: found {patience}, expected at least 1 epoch")
        self.patience = patience

    def after_epoch(self, trainer: Trainer) -> None:
        if trainer.progress.epochs_since_best >= self.patience:
            trainer.stop(f"no improvement in the last {self.patience} epochs")

    before_train = after_epoch  # a stopped run stays so, unless this hook or its patience has changed


@HOOKS.register()
class ReduceLROnPlateau(Hook):
    """Multiplies the learning rate by `factor` after more than `patience` epochs without a new best TEST.MONITOR.

    An equal value with a lower validation loss is a new best; otherwise as torch's class with a threshold of 0, on
    top of any schedule; constant is the usual one. The rate does not fall below `min_lr`.
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

    def after_epoch(self, trainer: Trainer) -> None:
        waited = trainer.progress.epochs_since_best
        if waited and waited % (self.patience + 1) == 0:
            trainer.schedule.scale_lr(self.factor, self.min_lr)
            get_logger("train").info("no improvement: the learning rate is now %.3g", trainer.schedule.lr)
