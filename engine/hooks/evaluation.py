"""Validation after each epoch, and whether it was the best one."""

import math
from dataclasses import dataclass

from engine.hooks.base import Hook
from engine.inference import evaluate
from engine.tasks.base import Metrics, Task
from engine.trainer import Trainer
from utils.contracts import Loader
from utils.distributed import broadcast
from utils.logger import get_logger


@dataclass(eq=False)
class Evaluation(Hook):
    """Sets `trainer.evaluation`, and `epochs_since_best` by the metric that `monitor` names, such as "max top1".

    Of equal values the one with the lower loss is better. A metric or a loss that is not finite is never the best.
    `task` holds the network to evaluate, which may be an average of the trained one.
    """

    task: Task
    loader: Loader
    metrics: Metrics
    monitor: str

    def evaluate(self, trainer: Trainer) -> None:
        broadcast(self.task.buffers())  # DDP does so before the next forward pass
        trainer.evaluation = evaluate(self.task, "val", self.loader, self.metrics, trainer.poll)

    def after_epoch(self, trainer: Trainer) -> None:
        mode, _, metric = self.monitor.partition(" ")
        progress, value, loss = trainer.progress, trainer.metrics[metric], trainer.metrics["loss"]
        sign = 1 if mode == "max" else -1
        better = progress.best is None or (sign * value, -loss) > (sign * progress.best, -progress.best_loss)
        if better and math.isfinite(value) and math.isfinite(loss):
            progress.best, progress.best_loss, progress.epochs_since_best = value, loss, 0
        else:
            progress.epochs_since_best += 1
            if not (math.isfinite(value) and math.isfinite(loss)):
                message = "TEST.MONITOR %s is %s with loss %s: not finite, so never the best"
                get_logger("train").warning(message, metric, value, loss)

    def after_train(self, trainer: Trainer) -> None:
        self.loader.close()
