"""Results as files for other programs: metrics.json, predictions.csv and outputs.npz."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.inference import SplitResult
from engine.predictions import LabelPredictions
from utils.atomic_file import atomic_write

_TOP_K = 5
# Beyond so many values outputs.npz holds the highest ones of each sample and their logsumexp.
_MAX_VALUES, _KEPT = 50_000_000, 20


def to_json(record: Mapping[str, object], indent: int | None = None) -> str:
    """Returns a record as JSON, which has null for a number that is not finite."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, indent=indent, ensure_ascii=False)


def prediction_table(result: SplitResult) -> Iterator[Sequence[str]]:
    """Yields header and rows of predictions.csv: classes with their probabilities, or a column for each output."""
    predictions, names = result.predictions, result.names
    assert predictions is not None
    files = map(result.dataset.name, predictions.indices.tolist())
    if isinstance(predictions, LabelPredictions):
        yield "file", "target", "prediction", "probability", "top_k"
        best = torch.from_numpy(predictions.outputs).topk(min(_TOP_K, len(names)), dim=1)
        probabilities = np.take_along_axis(predictions.values, best.indices.numpy(), axis=1)
        for i, (file, labels) in enumerate(zip(files, best.indices.tolist(), strict=True)):
            values = probabilities[i].tolist()
            top = top_text([(names[label], value) for label, value in zip(labels, values, strict=True)])
            yield file, predictions.target_text(i), predictions.predicted_text(i), f"{values[0]:.6f}", top
        return
    columns = {"predicted": predictions.values}
    if predictions.targets.size == predictions.outputs.size:
        columns = {"target": predictions.target_table, **columns}
    yield ["file", *(f"{kind} {name}" for name in names for kind in columns)]
    table = np.stack(list(columns.values()), axis=2)  # (N, outputs, columns)
    yield from ([file, *(f"{value:.9g}" for value in row.flat)] for file, row in zip(files, table, strict=True))


def write_outputs(path: Path, result: SplitResult) -> None:
    """Writes raw logits or values float32 (N, outputs), uncalibrated, with targets and names of samples and outputs.

    Of very many outputs it writes the highest ones, `top_values` and `top_indices` (N, 20), and `logsumexp` (N,).
    """
    predictions = result.predictions
    assert predictions is not None
    columns: dict[str, Any] = {"targets": predictions.targets, "outputs": predictions.outputs}
    if predictions.outputs.size > _MAX_VALUES:
        outputs = torch.from_numpy(columns.pop("outputs"))
        top = outputs.topk(min(_KEPT, outputs.shape[1]), dim=1)
        columns |= {"top_values": top.values.numpy(), "top_indices": top.indices.numpy()}
        columns["logsumexp"] = outputs.logsumexp(dim=1).numpy()
    samples = np.array([result.dataset.name(index) for index in predictions.indices.tolist()])
    with atomic_write(path, "wb") as file:
        np.savez(file, samples=samples, names=np.array(result.names), **columns)


def top_text(top: Sequence[tuple[str, float]]) -> str:
    return "; ".join(f"{label} {probability:.6f}" for label, probability in top)


def class_rows(classes: Sequence[str], columns: Mapping[str, np.ndarray], digits: int) -> list[list[str]]:
    """Returns a row for each class, its name first; undefined numbers are empty cells."""
    rows = zip(classes, *(column.tolist() for column in columns.values()), strict=True)
    return [
        [name, *("" if math.isnan(x) else f"{x:.{digits}f}" if isinstance(x, float) else f"{x}" for x in numbers)]
        for name, *numbers in rows
    ]


def worst_classes(predictions: LabelPredictions, most: int) -> list[int]:
    """Returns at most so many classes, those with the lowest F1 first."""
    return np.argsort(np.nan_to_num(predictions.per_class["f1"]), kind="stable")[:most].tolist()
