"""Results as files for other programs: metrics.json, per_class.csv, predictions.csv."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.scores import Predictions, Scores
from utils.atomic_file import atomic_write
from utils.labels import label_text

TOP_K = 5


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Numbers by name; shares such as top1 are fractions, and null is no number."""
    with atomic_write(path) as file:
        file.write(to_json(metrics, indent=2) + "\n")


def to_json(record: dict[str, Any], indent: int | None = None) -> str:
    """A record as JSON, which has no word for a number that is not finite but null."""
    record = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(record, indent=indent, ensure_ascii=False)


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


def class_rows(
    classes: Sequence[str], columns: dict[str, np.ndarray], digits: int, labels: Sequence[int] | None = None
) -> list[list[str]]:
    """A row for each class, or for each of `labels`, its name first; a cell is empty where a number is not defined."""
    rows = list(zip(classes, *(column.tolist() for column in columns.values()), strict=True))
    return [
        [name, *("" if math.isnan(x) else f"{x:.{digits}f}" if isinstance(x, float) else f"{x}" for x in numbers)]
        for name, *numbers in (rows if labels is None else [rows[label] for label in labels])
    ]


def worst_classes(scores: Scores, most: int) -> list[int]:
    """At most so many classes, those with the least F1 first."""
    return np.argsort(np.nan_to_num(scores.per_class["f1"]), kind="stable")[:most].tolist()
