"""Multi-label classification: any number of labels per image, each with a probability of its own."""

import torch

from engine.predictions import MultiLabel
from engine.registry import TASKS
from engine.tasks.base import StepResult, Task
from utils.contracts import Dataset, class_names, targets_of
from utils.errors import UserError


@TASKS.register("multilabel")
class MultiLabelClassification(Task):
    """Logits (N, classes) against labels (N, classes): 1 present, 0 absent, below 0 unknown and ignored."""

    default_loss = "bce"
    loss_tasks = ("multilabel",)
    default_metrics = ("mean_average_precision", "f1_macro")
    default_monitor = "max mean_average_precision"
    mixes_targets = True
    predictions_type = MultiLabel

    @classmethod
    def check(cls, train_set: Dataset, val_set: Dataset | None) -> None:
        targets, names = targets_of(train_set), class_names(train_set)
        if not names or (targets.ndim == 2 and targets.shape[1] != len(names)) or targets.ndim > 2:
            found = f"found targets {targets.shape} for {len(names)} classes"
            raise UserError(f"TASK.NAME multilabel: {found}, expected a label for each class")

    def train_metrics(self, result: StepResult) -> dict[str, torch.Tensor]:
        """`label_accuracy` (N,): the share of an image's known labels that is predicted correctly."""
        outputs, targets = result.outputs, result.targets
        if targets.ndim == 1:
            targets = torch.nn.functional.one_hot(targets, outputs.shape[1])
        known = targets >= 0
        correct = ((outputs >= 0) == (targets >= 0.5)) & known
        return {"label_accuracy": correct.sum(dim=1) / known.sum(dim=1).clamp(min=1)}
