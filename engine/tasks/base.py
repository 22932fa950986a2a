"""Tasks: the network with its normalisation and loss, how it is trained, judged and used."""

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import nn

from engine.predictions import Predictions
from engine.registry import TASKS
from utils.contracts import Batch, Dataset, InputSpec, class_names
from utils.distributed import gather
from utils.errors import UserError
from utils.registry import translate

Metrics = Mapping[str, Callable[..., float]]  # called with Predictions


@dataclass(eq=False)
class StepResult:
    """Loss and outputs of one batch, in training and validation alike.

    `loss` is a scalar, the mean over the samples; `outputs` (N, ...) are logits or values, without those of
    auxiliary heads; `targets` and `indices` are the batch's, after mixing. A training step adds the learning
    rate it used and whether the weights were updated: an fp16 step whose gradients overflow is skipped.
    """

    loss: torch.Tensor
    outputs: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    lr: float = 0.0
    updated: bool = True

    def __len__(self) -> int:
        return self.indices.shape[0]  # Tensor.__len__ takes several times as long


class Task(nn.Module):
    """A network under `model` with its normalisation and its criterion. A new task is a subclass in engine/tasks/.

    Class attributes are the defaults of LOSS.NAME, TEST.METRICS and TEST.MONITOR. With `spatial_targets`
    targets lie in the image, such as masks, and are cropped and flipped with it.
    """

    default_loss = "cross_entropy"
    loss_tasks: Sequence[str] = ()  # losses registered for one of these tasks are accepted; empty: any
    default_metrics: Sequence[str] = ()
    default_monitor = "min loss"
    spatial_targets = False
    mixes_targets = False  # whether MixUp and CutMix may blend targets: class indices or vectors (N, classes)
    predictions_type: type[Predictions] = Predictions

    def __init__(self, model: nn.Module, normalize: nn.Module, criterion: nn.Module, names: Sequence[str]):
        super().__init__()
        self.model = model
        self.normalize = normalize
        self.criterion = criterion
        self.names = list(names)
        self.name = ""  # in the registry

    @classmethod
    def names_of(cls, dataset: Dataset) -> list[str]:
        """Returns the names of the network's outputs: the classes."""
        return class_names(dataset)

    @classmethod
    def num_outputs(cls, dataset: Dataset) -> int:
        """Returns the width of the network's head."""
        return len(cls.names_of(dataset))

    @classmethod
    def output_shape(cls, num_outputs: int, spec: InputSpec) -> tuple[int, ...]:
        """Returns the shape that the network's output for one image must have."""
        return (num_outputs,)

    @classmethod
    def check_outputs(cls, outputs: object, num_outputs: int, spec: InputSpec, key: str) -> None:
        """Raises UserError about `key` if a network's outputs for two images are not of `output_shape`."""
        expected = [2, *cls.output_shape(num_outputs, spec)]
        found = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        if found != expected:
            raise UserError(f"{key}: returned {found} for two images and {num_outputs} outputs, expected {expected}")

    @classmethod
    def check(cls, train_set: Dataset, val_set: Dataset | None) -> None:
        """Raises UserError for targets that do not match the task, before anything is trained."""

    def forward(self, batch: Batch) -> StepResult:
        """Computes outputs and loss of a batch, the same way in training and validation. Raises UserError for a loss
        that fails or is no scalar."""
        outputs = self.model(self.normalize(batch.images))
        try:
            loss = self.criterion(outputs, batch)
        except Exception as error:
            translate(error, f"LOSS.NAME: {type(self.criterion).__name__}", is_refusal=False)
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            kind = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            found = f"{type(self.criterion).__name__} returned {kind}"
            raise UserError(f"LOSS.NAME: {found}, expected a scalar: the mean over the batch")
        main = outputs if isinstance(outputs, torch.Tensor) else outputs[0]  # the others are of auxiliary heads
        return StepResult(loss, main, batch.targets, batch.indices)

    def train_metrics(self, result: StepResult) -> dict[str, torch.Tensor]:
        """Returns what the training log averages beside the loss: name -> a number per sample, (N,)."""
        return {}

    def evaluator(self, metrics: Metrics) -> "Evaluator":
        """Returns a new accumulator of a split's outputs and scores."""
        return Evaluator(self.predictions_type, self.names, metrics)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Maps outputs (N, ...) to what users see: probabilities, values, masks."""
        return self.predictions_type.activation(outputs)

    def with_model(self, model: nn.Module | None) -> "Task":
        """Returns the same task around another network, such as the averaged one, or none; all else is shared."""
        twin = copy.copy(self)
        twin._modules = {**self._modules, "model": model}
        return twin


def find_task(name: str) -> type[Task]:
    """Returns the class that TASK.NAME names. Raises UserError for an unknown name."""
    kind = TASKS.get(name, "TASK.NAME")
    assert isinstance(kind, type) and issubclass(kind, Task)
    return kind


def task_family(name: str) -> set[str]:
    """Returns the names of a task and of those it is derived from, whose metrics and report parts it shares."""
    return {other for other in TASKS.names() if issubclass(find_task(name), find_task(other))}


@dataclass(eq=False)
class Evaluator:
    """Accumulates the outputs of a split, and scores them when all are there."""

    kind: type[Predictions]
    names: Sequence[str]
    metrics: Metrics
    count: int = 0
    loss: float = 0.0
    _parts: list[list[np.ndarray]] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        """Adds a batch."""
        self.count += len(result)
        self.loss += result.loss.item() * len(result)
        columns = (result.indices, result.targets, result.outputs.float())
        self._parts.append([column.cpu().numpy() for column in columns])

    def gather(self) -> None:
        """Collects in the main process what all have added; collective. Subclasses with other state must extend it."""
        if found := gather((self.count, self.loss, self._parts)):
            counts, losses, parts = zip(*found, strict=True)
            self.count, self.loss = sum(counts), sum(losses)
            self._parts = sorted(itertools.chain(*parts), key=lambda columns: columns[0][0])  # by index

    def predictions(self) -> Predictions | None:
        """Returns outputs and targets, None if they are not kept. Raises UserError if there was no sample."""
        return self._joined

    @cached_property
    def _joined(self) -> Predictions:
        if not self.count:
            raise UserError("no image of the split could be read; tools/check_data.py lists the reason for each")
        indices, targets, outputs = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        self._parts.clear()  # half the memory
        return self.kind(indices, targets, outputs, self.names)

    def result(self) -> dict[str, float]:
        """Returns the loss, averaged over samples, and the metrics; NaN for metrics of outputs that are not finite."""
        predictions = self._joined
        finite = bool(np.isfinite(predictions.outputs).all()) or bool(np.isfinite(predictions.values).all())
        scores = {"loss": self.loss / self.count}
        for name, metric in self.metrics.items():
            scores[name] = metric(predictions) if finite else math.nan
        return scores
