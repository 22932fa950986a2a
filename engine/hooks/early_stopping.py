"""Early stopping, when the monitored metric no longer improves."""

from engine.hooks.base import Hook
from engine.registry import HOOKS
from engine.trainer import Trainer


@HOOKS.register()
class EarlyStopping(Hook):
    """Stops the training after `patience` epochs in a row without a new best TEST.MONITOR."""

    needs_validation = True

    def __init__(self, patience: int = 5):
        if patience < 1:
            raise ValueError(f"patience: found {patience}, expected at least 1 epoch")
        self.patience = patience

    def before_train(self, trainer: Trainer) -> None:
        self._stop_if_due(trainer)  # a stopped run stays so, unless this hook or its patience has changed

    def after_epoch(self, trainer: Trainer) -> None:
        self._stop_if_due(trainer)

    def _stop_if_due(self, trainer: Trainer) -> None:
        if trainer.progress.epochs_since_best >= self.patience:
            trainer.stop(f"no improvement in the last {self.patience} epochs")
