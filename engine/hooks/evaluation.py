"""Validation after each epoch, and whether it was the best one."""

import math
from typing import Any

from engine.hooks.base import Hook
from engine.inference import Averages, Evidence, Metrics, Predictor


class Evaluation(Hook):
    """Sets `trainer.metrics` and `trainer.evidence`, and `trainer.epochs_since_best` by the metric called `monitor`.

    `mode` is max or min; a value or a loss that is not finite is never the best.
    """

    def __init__(self, predictor: Predictor, loader: Any, metrics: Metrics, monitor: str, mode: str):
        self.predictor = predictor
        self.loader = loader
        self.metrics = metrics
        self.monitor = monitor
        self.sign = 1 if mode == "max" else -1

    def evaluate(self, trainer: Any) -> None:
        averages, evidence = Averages(trainer.criterion, self.metrics), Evidence(self.predictor.multilabel)
        for batch, outputs in self.predictor.predict(self.loader.batches()):
            trainer.poll()
            averages.add(batch, outputs)
            evidence.add(batch, outputs)
        trainer.metrics, trainer.evidence = averages.result(), evidence

    def after_epoch(self, trainer: Any) -> None:
        value = trainer.metrics[self.monitor]
        better = trainer.best is None or self.sign * value > self.sign * trainer.best
        if better and math.isfinite(value) and math.isfinite(trainer.metrics["loss"]):
            trainer.best, trainer.epochs_since_best = value, 0
        else:
            trainer.epochs_since_best += 1

    def after_train(self, trainer: Any) -> None:
        self.loader.close()
