"""Regression: one or several numbers per image."""

import torch

from engine.predictions import NumberPredictions
from engine.registry import TASKS
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
