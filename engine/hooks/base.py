"""The interface of hooks. `Trainer.train` shows when each method is called."""

from engine.checkpoint import State
from engine.trainer import Trainer


class Hook:
    """Called by the trainer around its steps; every method does nothing unless overridden.

    docs/extending.md lists what a hook may read of the trainer. `trainer.stop(reason)` ends the training after the
    epoch. What must survive a stop is in `state_dict`: plain values and tensors.
    """

    needs_validation = False  # whether it reads `trainer.metrics` or `trainer.is_best`
    main_only = False  # whether it is called in the main process alone, if there are several

    def before_train(self, trainer: Trainer) -> None:
        """Called once, before the first step of this process; a resumed state has been restored."""

    def before_epoch(self, trainer: Trainer) -> None:
        """Called before the first step of an epoch, and before the first one after a resume within it."""

    def after_backward(self, trainer: Trainer) -> None:
        """Called within a step, before the update: gradients of the whole batch, still scaled and not clipped."""

    def after_step(self, trainer: Trainer) -> None:
        """Called after each step: counters and learning rate have moved, the weights if `trainer.result.updated`."""

    def before_evaluate(self, trainer: Trainer) -> None:
        """Called at the end of an epoch, in training mode; repeated if a run stops in it or in `evaluate`."""

    def evaluate(self, trainer: Trainer) -> None:
        """Called at the end of an epoch. Must not change saved state: a run stopped here repeats the evaluation."""

    def after_epoch(self, trainer: Trainer) -> None:
        """Called after the evaluation; the counters stand at the next epoch."""

    def on_failure(self, trainer: Trainer, error: BaseException) -> None:
        """Called when an exception, including an interrupt, leaves the loop."""

    def after_train(self, trainer: Trainer) -> None:
        """Always called on exit; close resources here."""

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass
