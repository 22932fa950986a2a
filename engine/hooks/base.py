"""What a hook can do. `Trainer.train` shows when."""

from typing import Any


class Hook:
    """Called by the trainer between its steps. All methods do nothing unless overridden.

    Whatever a hook must remember across a stop is in its `state_dict`, plain values and tensors.
    """

    needs_validation = False  # whether it reads `trainer.metrics` or `trainer.is_best`

    def before_train(self, trainer: Any) -> None:
        """Once, before the first step of this process; a resumed state is loaded already."""

    def before_epoch(self, trainer: Any) -> None:
        """Before the first step of an epoch, and before the first one after a resume within it."""

    def after_backward(self, trainer: Any) -> None:
        """Within each step, before the update: the gradients of the whole batch, as yet scaled and not clipped."""

    def after_step(self, trainer: Any) -> None:
        """After each step: counters, learning rate and weights have moved."""

    def evaluate(self, trainer: Any) -> None:
        """All samples of the epoch are used. Must not change any state: a stop here is resumed here."""

    def after_epoch(self, trainer: Any) -> None:
        """The counters stand at the next epoch; `trainer.metrics` is what `evaluate` found."""

    def on_failure(self, trainer: Any, error: BaseException) -> None:
        """The loop was left by an exception, a signal for example."""

    def after_train(self, trainer: Any) -> None:
        """At the end, however it came: release what was opened."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
