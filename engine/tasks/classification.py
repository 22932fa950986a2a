"""Classification: one class per image."""

import torch

from engine.predictions import SingleLabel
from engine.registry import TASKS
from engine.tasks.base import StepResult, Task
from utils.contracts import Dataset, class_names, is_soft, targets_of
from utils.errors import UserError


def top1(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether the most probable class is the target: logits (N, classes), targets (N,) or (N, classes) -> (N,).

    For the probabilities of mixed images any class with the highest one is correct.
    """
    best = outputs.argmax(dim=1)
    if targets.ndim == 1:
        return best == targets
    return targets.gather(1, best[:, None])[:, 0] == targets.amax(dim=1)


@TASKS.register("classification")
class Classification(Task):
    """Logits (N, classes) against class indices (N,), or against probabilities (N, classes)."""

    default_loss = "cross_entropy"
    loss_tasks = ("classification", "multilabel")
    default_metrics = ("top1", "top5")
    default_monitor = "max top1"
    mixes_targets = True
    predictions_type = SingleLabel

    @classmethod
    def check(cls, train_set: Dataset, val_set: Dataset | None) -> None:
        targets, key = targets_of(train_set), "TASK.NAME classification"
        if not class_names(train_set):
            raise UserError(f"{key}: the data set has no `classes`; set TASK.NAME to regression")
        several = any(getattr(dataset, "multilabel", False) for dataset in (train_set, val_set))
        if several or (targets.ndim > 1 and not is_soft(targets)):
            raise UserError(f"{key}: the images have several labels each; set TASK.NAME to multilabel")
        if targets.ndim == 1 and targets.dtype.kind == "f":
            raise UserError(f"{key}: the targets are numbers; set TASK.NAME to regression")

    def train_metrics(self, result: StepResult) -> dict[str, torch.Tensor]:
        return {"top1": top1(result.outputs, result.targets)}


def guess_task(dataset: Dataset) -> str:
    """Returns the task that a data set's targets are plainly meant for. Raises UserError if that is not plain."""
    targets, names = targets_of(dataset), class_names(dataset)
    if getattr(dataset, "multilabel", False):
        return "multilabel"
    if names and ((targets.ndim == 1 and targets.dtype.kind in "iub") or is_soft(targets)):
        return "classification"
    if names and targets.ndim == 2:
        return "multilabel"
    if targets.ndim <= 2 and targets.dtype.kind == "f":
        return "regression"
    raise UserError(f"TASK.NAME: cannot be inferred from targets {targets.dtype} {targets.shape}; set it")
