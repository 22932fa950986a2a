"""Runs a task over a split without training it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.predictions import Predictions
from engine.tasks.base import Evaluator, Metrics, Task
from utils.contracts import Batch, Dataset, Loader
from utils.distributed import all_reduce_sum, from_main, is_main, world_size
from utils.errors import UserError

Watch = Callable[[Iterable[Batch], int], Iterable[Batch]]  # wraps batches of so many samples in all, to show progress


@dataclass(frozen=True)
class SplitResult:
    """Scores and predictions of a split.

    `scores` are the loss and the metrics by name; `predictions` None from a task that keeps none; `names` those of
    the outputs; `read_image(i)` returns a sample for display: uint8 (H, W, 1 or 3), RGB.
    """

    task: str
    split: str
    scores: dict[str, float]
    predictions: Predictions | None
    names: list[str]
    dataset: Dataset
    read_image: Callable[[int], np.ndarray]
    num_samples: int
    num_skipped: int = 0


def evaluate(
    task: Task,
    split: str,
    loader: Loader,
    metrics: Metrics,
    poll: Callable[[], None] = lambda: None,
    watch: Watch = lambda batches, total: batches,
) -> SplitResult:
    """Runs a task in evaluation mode over all batches of a loader, and leaves the loader open.

    Always in float32, whatever it was trained in, so that validation, testing and inference agree. `poll` is called
    between batches and while waiting for them, and may raise.
    """
    task.eval()
    evaluator = task.evaluator(metrics)
    own = type(evaluator)
    if world_size() > 1 and own.add is not Evaluator.add and own.gather is Evaluator.gather:
        raise UserError(f"{own.__name__}: override gather() to merge the results of all processes")
    polls = -(-len(loader) // world_size())  # the same in all processes
    for batch in watch(loader.batches(poll=poll), len(loader.dataset)):
        poll()
        polls -= 1
        with torch.inference_mode():
            evaluator.add(task(batch))
    for _ in range(polls):
        poll()
    evaluator.gather()
    counts = all_reduce_sum(np.array([evaluator.count if is_main() else 0, len(loader.broken)]))
    scores = from_main(lambda: {key: _number(v, f"TEST.METRICS {key}") for key, v in evaluator.result().items()})
    found = scores, evaluator.predictions() if is_main() else None, task.names
    return SplitResult(task.name, split, *found, loader.dataset, loader.image, *map(int, counts))


def _number(value: Any, key: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{key}: returned {type(value).__name__}, expected a number") from error


class FlipAverage(nn.Module):
    """Test-time augmentation: the mean of a network's outputs for the images and their mirror images."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mirrored = self.model(images.flip(3))
        if mirrored.ndim == 4:  # dense outputs (N, outputs, H, W)
            mirrored = mirrored.flip(3)
        return (self.model(images) + mirrored) / 2
