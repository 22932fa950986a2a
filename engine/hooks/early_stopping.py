"""Stop when the validation metric no longer improves."""

from typing import Any

from engine.hooks.base import Hook
from engine.registry import HOOKS


@HOOKS.register()
class EarlyStopping(Hook):
    """Stops after `patience` epochs in a row without a new best TEST.MONITOR."""

    needs_validation = True

    def __init__(self, patience: int = 5):
        if patience < 1:
            raise ValueError(f"patience: found {patience}, expected at least 1 epoch")
        self.patience = patience

    def before_train(self, trainer: Any) -> None:
        self._stop_if_due(trainer)  # a run that was stopped stays so, unless this hook or its patience changed

    def after_epoch(self, trainer: Any) -> None:
        self._stop_if_due(trainer)

    def _stop_if_due(self, trainer: Any) -> None:
        if trainer.epochs_since_best >= self.patience:
            trainer.stop(f"no better epoch in the last {self.patience}")
