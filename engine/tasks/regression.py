"""Regression: one or several numbers per image, and its metrics."""

import math

import numpy as np
import torch

from engine.predictions import NumberPredictions
from engine.registry import METRICS, TASKS
from engine.tasks.base import StepResult, Task
from utils.contracts import Dataset, targets_of
from utils.errors import UserError


@TASKS.register("regression")
class Regression(Task):
    """Values (N, outputs) against numbers (N,) or (N, outputs)."""

    default_loss = "mse"
    loss_tasks = ("regression",)
    default_metrics = ("mae", "rmse", "r2")
    default_monitor = "min mae"
    predictions_type = NumberPredictions

    @classmethod
    def names_of(cls, dataset: Dataset) -> list[str]:
        """Returns the data set's `target_names`, or else numbered ones."""
        targets = targets_of(dataset)
        width = targets.shape[1] if targets.ndim == 2 else 1
        numbered = ["value"] if width == 1 else [f"value {i}" for i in range(width)]
        return list(getattr(dataset, "target_names", numbered))

    @classmethod
    def check(cls, train_set: Dataset, val_set: Dataset | None) -> None:
        targets, names = targets_of(train_set), cls.names_of(train_set)
        if targets.ndim > 2 or len(names) != (targets.shape[1] if targets.ndim == 2 else 1):
            found = f"found targets {targets.shape} and {len(names)} target_names"
            raise UserError(f"TASK.NAME regression: {found}, expected (n,) or (n, outputs) and a name for each output")

    def train_metrics(self, result: StepResult) -> dict[str, torch.Tensor]:
        """`mae` (N,): the absolute error, averaged over the outputs."""
        targets = result.targets.reshape(result.outputs.shape)
        return {"mae": (result.outputs - targets).abs().float().mean(dim=1)}


@METRICS.register(tasks=("regression",))
def mae(predictions: NumberPredictions) -> float:
    """Mean absolute error, averaged over samples and outputs."""
    return float(np.abs(predictions.errors).mean())


@METRICS.register(tasks=("regression",))
def rmse(predictions: NumberPredictions) -> float:
    """Root mean squared error of each output, averaged over the outputs."""
    return float(np.sqrt(np.square(predictions.errors).mean(axis=0)).mean())


@METRICS.register(tasks=("regression",))
def r2(predictions: NumberPredictions) -> float:
    """Coefficient of determination of each output, averaged over the outputs; NaN for fewer than two samples."""
    if len(predictions.indices) < 2:
        return math.nan
    from sklearn.metrics import r2_score

    return float(r2_score(predictions.target_table, predictions.values))
