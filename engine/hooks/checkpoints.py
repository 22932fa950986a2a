"""Saves `last`, `previous` and `best`, and copies that are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint import Checkpoint, Resolved, State, first_nonfinite, save_checkpoint
from engine.hooks.base import Hook
from engine.trainer import Trainer
from utils.atomic_file import link_over
from utils.contracts import SplitRecord
from utils.distributed import from_main, is_main, world_size
from utils.errors import Interrupted, UserError, one_line
from utils.interrupt import StopNow
from utils.logger import get_logger
from utils.run_folder import RunFolder

log = get_logger("train")


@dataclass(eq=False)
class Checkpoints(Hook):
    """Saves a checkpoint at the end of each epoch, every `every_steps` steps, and when the loop is left.

    `config`, `classes`, `resolved` and `splits` are stored in each. `keep_every_epochs` is the interval of copies that
    stay; 0: none.
    """

    run: RunFolder
    config: str
    classes: list[str]
    resolved: Resolved
    splits: SplitRecord
    every_steps: int = 0
    keep_every_epochs: int = 0

    def before_train(self, trainer: Trainer) -> None:
        self._note_saved(trainer)
        if from_main(lambda: not self.run.last.exists()):
            self._save(trainer)
        elif is_main() and trainer.epoch and trainer.progress.samples_seen == 0 and trainer.is_best:
            link_over(self.run.last, self.run.best)  # a kill may have come between the two names

    def after_step(self, trainer: Trainer) -> None:
        result = trainer.result
        if self.every_steps and result is not None and result.updated and trainer.step % self.every_steps == 0:
            self._save(trainer, must=False)

    def after_epoch(self, trainer: Trainer) -> None:
        names = [self.run.best] if trainer.is_best else []
        if self.keep_every_epochs and trainer.epoch % self.keep_every_epochs == 0:
            metric = self.resolved.monitor.partition(" ")[2]
            value = f"_{trainer.metrics[metric]:.4f}" if trainer.metrics else ""
            names.append(self.run.weights / f"epoch_{trainer.epoch:03d}{value}.pth")
        self._save(trainer, names, must=trainer.is_complete)

    def on_failure(self, trainer: Trainer, error: BaseException) -> None:
        if isinstance(error, StopNow):
            log.warning("stopped at once; the last checkpoint was saved at step %d", self.saved_step)
        elif trainer.at_step_boundary and (world_size() == 1 or isinstance(error, Interrupted)):
            self._save(trainer)
            log.info("saved %s at epoch %.2f, step %d", self.run.last, trainer.epochs_done, trainer.step)
        elif not isinstance(error, UserError):
            lost = trainer.step - self.saved_step
            log.error("failed within step %d; a resume repeats %d steps", trainer.step, lost)

    def _save(self, trainer: Trainer, names: Sequence[Path] = (), must: bool = True) -> None:
        """Saves; unless it `must`, a full disk is tolerated during the training: it may have room next time."""
        state = trainer.checkpointables.state_dict()
        problem = from_main(lambda: self._write(trainer, state, names))
        if not problem:
            self._note_saved(trainer)
        elif must:
            raise UserError(f"{self.run.last}: cannot save: {problem}; make room, then resume")
        else:
            lost = ", ".join(path.name for path in (self.run.last, *names))
            log.warning("cannot save %s: %s; training continues", lost, problem)
            # So that the next epoch that beats the file replaces it.
            trainer.progress.best, trainer.progress.best_loss = self.saved_best

    def _write(self, trainer: Trainer, state: State, names: Sequence[Path]) -> str:
        """Saves as `last`, which becomes `previous`, and gives the new file these further names.

        Returns the system's reason if it cannot.
        """
        if bad := first_nonfinite(state["model"]):
            hint = f"lower SOLVER.BASE_LR or add warm-up; {self.run.last} was saved at step {self.saved_step}"
            place = f"epoch {trainer.epochs_done:.2f}, step {trainer.step}"
            raise UserError(f"the weights are NaN or Inf ({bad}) at {place}: {hint}")
        try:
            if self.run.last.exists():
                link_over(self.run.last, self.run.previous)
            save_checkpoint(self.run.last, Checkpoint(self.config, self.classes, self.resolved, state, self.splits))
            for path in names if self.run.previous.exists() else (*names, self.run.previous):
                link_over(self.run.last, path)
        except OSError as error:
            return error.strerror or one_line(error)
        return ""

    def _note_saved(self, trainer: Trainer) -> None:
        self.saved_step, self.saved_best = trainer.step, (trainer.progress.best, trainer.progress.best_loss)
