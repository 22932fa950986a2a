"""A progress bar on a terminal."""

import sys
from typing import TYPE_CHECKING

from engine.hooks.base import Hook
from engine.registry import HOOKS
from engine.trainer import Trainer

if TYPE_CHECKING:
    from tqdm import tqdm


@HOOKS.register(always=True)
class ProgressBar(Hook):
    """Shows images of the whole training, loss, metrics, learning rate, speed and time left; only on a terminal."""

    main_only = True

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def before_train(self, trainer: Trainer) -> None:
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        samples = trainer.train_loader.num_samples
        total, done = trainer.max_epochs * samples, trainer.epoch * samples + trainer.progress.samples_seen
        self.bar = tqdm(total=total, initial=done, unit="img", unit_scale=True, dynamic_ncols=True, file=sys.stderr)

    def after_step(self, trainer: Trainer) -> None:
        if self.bar is None or trainer.result is None:
            return
        self.bar.set_description(f"epoch {trainer.epoch + 1}/{trainer.max_epochs}", refresh=False)
        shown = {key[6:]: f"{value:.3f}" for key, value in trainer.last_record.items() if key.startswith("train_")}
        shown["lr"] = f"{trainer.result.lr:.2e}"
        self.bar.set_postfix(shown, refresh=False)
        done = trainer.epoch * trainer.train_loader.num_samples + trainer.progress.samples_seen
        self.bar.update(done - self.bar.n)

    def after_train(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self.bar.close()
