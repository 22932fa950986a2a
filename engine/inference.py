"""Running a network over a split without training it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from engine.scores import Predictions
from utils.errors import UserError

_SAMPLES, _MAX_CLASSES = 16, 1000  # that pictures of an evaluation show


class Metrics(NamedTuple):
    """Metrics by name: those of each sample, which are averaged, and those of a whole split at once."""

    per_sample: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]
    whole_set: dict[str, Callable[[torch.Tensor, torch.Tensor], float]]


class Predictor:
    """Batches of bytes -> outputs of a network, in evaluation mode and without gradients.

    Always in float32, whatever it was trained in, so that an image gets the same answer
    in validation, testing and inference, alone or in a batch. With `multilabel` each class
    has a probability of its own. With `flip` the outputs are the mean of an image's and its mirror image's.
    """

    def __init__(
        self,
        model: nn.Module,
        normalize: nn.Module,
        device: torch.device,
        multilabel: bool = False,
        flip: bool = False,
    ):
        self.model = model
        self.normalize = normalize
        self.device = device
        self.multilabel = multilabel
        self.flip = flip

    def predict(self, batches: Iterable[Any]) -> Iterator[tuple[Any, torch.Tensor]]:
        """(batch, outputs) of every batch, both on the device."""
        self.model.eval()
        for batch in batches:
            batch = batch.to(self.device)
            with torch.inference_mode():
                images = self.normalize(batch.images)
                outputs = self.model(images)  # (N, C, H, W) -> (N, classes)
                if self.flip:
                    outputs = (outputs + self.model(images.flip(3))) / 2
            yield batch, outputs

    def probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) -> probabilities (N, classes): independent ones, or ones that sum to 1."""
        return outputs.sigmoid() if self.multilabel else outputs.softmax(dim=1)


class Averages:
    """Loss and metrics of a split, averaged over samples, not over batches; sums stay on the device."""

    def __init__(self, criterion: nn.Module, metrics: Metrics):
        self.criterion = criterion.eval()
        self.metrics = metrics
        self.count = 0
        self.sums: dict[str, torch.Tensor] = {}
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []  # outputs and targets, for metrics of the whole split

    def add(self, batch: Any, outputs: torch.Tensor) -> None:
        dtype = sum_dtype(outputs.device)
        with torch.inference_mode():
            values = {"loss": self.criterion(outputs, batch).to(dtype) * len(batch)}
            for name, metric in self.metrics.per_sample.items():
                value = metric(outputs, batch.targets)
                if value.shape != (len(batch),):
                    found = f"found {list(value.shape)} for {len(batch)} samples, expected a number for each"
                    raise UserError(f"TEST.METRICS {name}: {found}; register it with whole_set=True if it gives one")
                values[name] = value.sum(dtype=dtype)
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += len(batch)
        if self.metrics.whole_set:
            self.kept.append((outputs.float().cpu(), batch.targets.cpu()))

    def result(self) -> dict[str, float]:
        """Each number by its name; the loss first. Raises UserError where there was no sample."""
        if not self.count:
            raise UserError("no image of the split could be read; tools/check_data.py lists what is wrong with each")
        result = {name: total.item() / self.count for name, total in self.sums.items()}
        if self.kept:
            outputs, targets = map(torch.cat, zip(*self.kept, strict=True))
            result |= {name: float(metric(outputs, targets)) for name, metric in self.metrics.whole_set.items()}
        return result


def evaluate(predictor: Predictor, batches: Iterable[Any], averages: Averages) -> tuple[dict[str, float], Predictions]:
    """(numbers by name, what the network says of each sample). Raises UserError where there was no sample."""
    parts = []
    for batch, outputs in predictor.predict(batches):
        averages.add(batch, outputs)
        parts.append((batch.indices.cpu(), batch.targets.cpu(), outputs.cpu()))
    numbers = averages.result()
    indices, targets, outputs = (torch.cat(part) for part in zip(*parts, strict=True))
    probabilities = predictor.probabilities(outputs.double())  # in float32 many would be 1, and equal
    multilabel = predictor.multilabel and targets.ndim > 1  # the labels' loss may be given one class each
    return numbers, Predictions(indices.numpy(), targets.numpy(), probabilities.numpy(), multilabel)


class Evidence:
    """What pictures of an evaluation show: its first samples and, for single labels, what is taken for what.

    It stays on the device until it is asked for. Of very many classes no confusion matrix is kept.
    """

    def __init__(self, multilabel: bool):
        self.multilabel = multilabel
        self.missing = _SAMPLES
        self.first: list[tuple[torch.Tensor, ...]] = []  # images, targets and predictions, of each batch
        self.pairs: list[torch.Tensor] = []  # target * classes + prediction, of each batch
        self.classes = 0

    def add(self, batch: Any, outputs: torch.Tensor) -> None:
        targets, self.classes = batch.targets, outputs.shape[1]
        if self.multilabel and targets.ndim > 1:
            predictions = outputs >= 0  # labels of at least one half
        else:
            targets = targets if targets.ndim == 1 else targets.argmax(dim=1)
            predictions = outputs.argmax(dim=1)
            if self.classes <= _MAX_CLASSES:
                self.pairs.append(targets * self.classes + predictions)
        if self.missing:
            found = tuple(t[: self.missing].clone() for t in (batch.images, targets, predictions))
            self.missing -= len(found[0])
            self.first.append(found)

    def samples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first images uint8 (n, H, W, C), their targets and predictions, each (n,) or (n, classes)."""
        images, targets, predictions = (torch.cat(parts).cpu() for parts in zip(*self.first, strict=True))
        return images.permute(0, 2, 3, 1).numpy(), targets.numpy(), predictions.numpy()

    def confusion(self) -> np.ndarray | None:
        """How many samples of each target (rows) got each prediction (columns), int64 (classes, classes)."""
        if not self.pairs:
            return None
        # Once for all batches, because on a GPU each bincount waits for its input.
        counts = torch.bincount(torch.cat(self.pairs), minlength=self.classes**2)
        return counts.view(self.classes, self.classes).cpu().numpy()


def sum_dtype(device: torch.device) -> torch.dtype:
    """float64, so that a sum over a million samples is exact enough; float32 where a device has no other."""
    return torch.float32 if device.type == "mps" else torch.float64
