"""What a test leaves behind: numbers and the prediction of every sample."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from utils.atomic_file import atomic_write


def top_k(probabilities: torch.Tensor, k: int) -> Iterator[tuple[list[float], list[int]]]:
    """(N, classes) -> for each sample its k most probable classes: (probabilities, classes)."""
    best = probabilities.topk(min(k, probabilities.shape[1]), dim=1)
    yield from zip(best.values.tolist(), best.indices.tolist(), strict=True)


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """`metrics.json`; shares such as top1 are fractions."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "metrics.json") as file:
        json.dump(metrics, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_predictions(folder: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """`predictions.csv`, a row a sample."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "predictions.csv") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
