"""Saving: `last`, `previous`, `best`, and copies that are kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.checkpoint import first_nonfinite, save_checkpoint
from engine.hooks.base import Hook
from engine.interrupt import StopNow
from utils.atomic_file import link_over
from utils.errors import UserError, one_line
from utils.logger import get_logger
from utils.run_folder import RunFolder

log = get_logger("train")


class Checkpoints(Hook):
    """Saves at the end of each epoch, every `every_steps` steps, and when the loop is left.

    `header` is what is saved beside the trainer's state: config, classes, input. Every
    `keep_every` epochs a copy is kept for good, named by the epoch and the metric `monitor`.
    """

    def __init__(self, run: RunFolder, header: dict[str, Any], monitor: str, every_steps: int = 0, keep_every: int = 0):
        self.run = run
        self.header = header
        self.monitor = monitor
        self.every_steps = every_steps
        self.keep_every = keep_every
        self.saved_step = 0
        self.saved_best: float | None = None

    def before_train(self, trainer: Any) -> None:
        self.saved_step, self.saved_best = trainer.step, trainer.best
        if not self.run.last.exists():
            self._save_or_fail(trainer)
        elif trainer.epoch and trainer.position == 0 and trainer.is_best:
            link_over(self.run.last, self.run.best)  # a kill may have come between the two names

    def after_step(self, trainer: Any) -> None:
        if self.every_steps and trainer.updated and trainer.step % self.every_steps == 0:
            self._save_or_warn(trainer)

    def after_epoch(self, trainer: Any) -> None:
        names = [self.run.best] if trainer.is_best else []
        if self.keep_every and trainer.epoch % self.keep_every == 0:
            value = f"_{trainer.metrics[self.monitor]:.4f}" if trainer.metrics else ""
            names.append(self.run.weights / f"epoch_{trainer.epoch:03d}{value}.pth")
        save = self._save_or_fail if trainer.is_complete else self._save_or_warn
        save(trainer, names)

    def on_failure(self, trainer: Any, error: BaseException) -> None:
        if isinstance(error, StopNow):
            log.warning("stopped at once; the last checkpoint is of step %d", self.saved_step)
        elif trainer.is_exact:
            self._save_or_fail(trainer)
            log.info("saved %s at epoch %.2f, step %d", self.run.last, trainer.progress, trainer.step)
        elif not isinstance(error, UserError):
            self._save_crash(trainer)

    def _save_or_fail(self, trainer: Any, names: Sequence[Path] = ()) -> None:
        try:
            self._save(trainer, names)
        except OSError as error:
            raise UserError(
                f"{self.run.last}: cannot save: {error.strerror or one_line(error)}; make room, then resume"
            ) from error

    def _save_or_warn(self, trainer: Any, names: Sequence[Path] = ()) -> None:
        """Save while there is training to go on with: a full disk may have room again next time."""
        try:
            self._save(trainer, names)
        except OSError as error:
            lost = ", ".join(path.name for path in (self.run.last, *names))
            log.warning("cannot save %s: %s; training goes on", lost, error.strerror or one_line(error))
            trainer.best = self.saved_best  # so that the next epoch that beats the file takes its place

    def _save(self, trainer: Any, names: Sequence[Path]) -> None:
        """Save as `last`, which becomes `previous`, and give the new file these further names."""
        state = {**trainer.state_dict(), **self.header}
        broken = first_nonfinite(state["model"])
        if broken is not None:
            raise UserError(
                f"the weights are no longer finite ({broken}) at epoch {trainer.progress:.2f}, step {trainer.step}: "
                f"lower SOLVER.BASE_LR or add warm-up; {self.run.last} is of step {self.saved_step}"
            )
        if self.run.last.exists():
            link_over(self.run.last, self.run.previous)
        save_checkpoint(self.run.last, state)
        for path in names if self.run.previous.exists() else (*names, self.run.previous):
            link_over(self.run.last, path)
        self.saved_step, self.saved_best = trainer.step, trainer.best

    def _save_crash(self, trainer: Any) -> None:
        path = self.run.weights / "crash.pth"
        try:
            save_checkpoint(path, {**trainer.state_dict(), **self.header, "exact": False})
        except Exception as error:  # the first error is the one to report
            log.warning("cannot save %s: %s", path, one_line(error))
            return
        lost = trainer.step - self.saved_step
        log.error(
            "failed within step %d; resuming repeats %d steps; state at the failure: %s", trainer.step, lost, path
        )
