"""Results as files for other programs: metrics.json, per_class.csv, predictions.csv."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.report.scores import Predictions
from utils.atomic_file import atomic_write
from utils.labels import label_text

TOP_K = 5


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Numbers by name; shares such as top1 are fractions."""
    with atomic_write(path) as file:
        json.dump(metrics, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def prediction_rows(
    predictions: Predictions, classes: Sequence[str], name: Callable[[int], str]
) -> Iterator[tuple[str, str, str, str, str]]:
    """(file, target, prediction, probability, top-k) of every sample; several labels as cat|dog."""
    probabilities = torch.from_numpy(predictions.probabilities)
    columns = (predictions.indices.tolist(), predictions.labels, predictions.predicted_labels)
    for index, labels, answers, top in zip(*columns, top_k(probabilities, TOP_K), strict=True):
        named = [(classes[label], probability) for label, probability in top]
        texts = (label_text(labels, classes), label_text(answers, classes), f"{top[0][1]:.6f}", top_text(named))
        yield name(index), *texts


def top_k(probabilities: torch.Tensor, k: int) -> Iterator[list[tuple[int, float]]]:
    """(N, classes) -> for each sample its k most probable classes with their probabilities."""
    best = probabilities.topk(min(k, probabilities.shape[1]), dim=1)
    for labels, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        yield list(zip(labels, values, strict=True))


def top_text(top: Sequence[tuple[str, float]]) -> str:
    return "; ".join(f"{label} {probability:.6f}" for label, probability in top)


def class_rows(classes: Sequence[str], columns: dict[str, np.ndarray], digits: int) -> list[list[str]]:
    """A row for each class, its name first; a cell is empty where a number is not defined."""
    cells = [
        [
            "" if math.isnan(value) else f"{value:.{digits}f}" if isinstance(value, float) else f"{value}"
            for value in row
        ]
        for row in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
    return [[name, *numbers] for name, numbers in zip(classes, cells, strict=True)]
