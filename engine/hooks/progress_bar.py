"""A bar for a person who watches."""

import sys
from typing import Any

from engine.hooks.base import Hook


class ProgressBar(Hook):
    """Images of the whole training, with loss, accuracy, learning rate, speed and time left."""

    def before_train(self, trainer: Any) -> None:
        from tqdm import tqdm

        samples = trainer.train_loader.num_samples
        self.bar = tqdm(
            total=trainer.max_epochs * samples,
            initial=trainer.epoch * samples + trainer.position,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            file=sys.stderr,
        )

    def after_step(self, trainer: Any) -> None:
        self.bar.set_description(f"epoch {trainer.epoch + 1}/{trainer.max_epochs}", refresh=False)
        latest = trainer.latest
        if latest:
            shown = {"loss": f"{latest['train_loss']:.3f}", "top1": f"{latest['train_top1']:.3f}"}
            self.bar.set_postfix(shown | {"lr": f"{trainer.lr:.2e}"}, refresh=False)
        self.bar.update(len(trainer.batch))

    def after_train(self, trainer: Any) -> None:
        self.bar.close()
