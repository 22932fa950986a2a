"""Running a network over a split without training it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

MetricFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Predictor:
    """Batches of bytes -> outputs of a network, in evaluation mode and without gradients.

    Always in float32, whatever it was trained in, so that an image gets the same answer
    in validation, testing and inference, alone or in a batch.
    """

    def __init__(self, model: nn.Module, normalize: nn.Module, device: torch.device):
        self.model = model
        self.normalize = normalize
        self.device = device

    def predict(self, batches: Iterable[Any]) -> Iterator[tuple[Any, torch.Tensor]]:
        """(batch, outputs) of every batch, both on the device."""
        self.model.eval()
        for batch in batches:
            batch = batch.to(self.device)
            with torch.inference_mode():
                outputs = self.model(self.normalize(batch.images))  # (N, C, H, W) -> (N, classes)
            yield batch, outputs


class Averages:
    """Loss and metrics averaged over samples, not over batches; sums stay on the device."""

    def __init__(self, criterion: nn.Module, metrics: dict[str, MetricFunction]):
        self.criterion = criterion.eval()
        self.metrics = metrics
        self.count = 0
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, batch: Any, outputs: torch.Tensor) -> None:
        dtype = sum_dtype(outputs.device)
        with torch.inference_mode():
            values = {"loss": self.criterion(outputs, batch).to(dtype) * len(batch)}
            values |= {name: metric(outputs, batch.targets).sum(dtype=dtype) for name, metric in self.metrics.items()}
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += len(batch)

    def result(self) -> dict[str, float]:
        """Each average by its name; the loss first."""
        return {name: total.item() / self.count for name, total in self.sums.items()}


def sum_dtype(device: torch.device) -> torch.dtype:
    """float64, so that a sum over a million samples is exact enough; float32 where a device has no other."""
    return torch.float32 if device.type == "mps" else torch.float64
