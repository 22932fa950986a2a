"""What is drawn of a training and of a test."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from engine.scores import Predictions, Scores, precision_recall
from utils import plotting
from utils.annotate import encode_png
from utils.labels import label_text

_GALLERY = 24  # pictures of a gallery
_SMALL, _THUMBNAIL = 64, 160  # pixels: what is shown as it is, and what larger pictures are reduced to
_PAIRS = 20


class Picture(NamedTuple):
    """`name` is that of its file; `caption` says what is seen."""

    name: str
    caption: str
    data: bytes


def read_history(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl; none where there is no such file, and none of a line that a crash has torn."""
    records: list[Any] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict) and record.keys() >= {"kind", "epoch", "step"}]


def training_pictures(history: Sequence[dict[str, Any]], chosen: float | None) -> list[Picture]:
    """The curves of a training; `chosen` is the epoch whose weights are tested."""
    epochs = [record for record in history if record["kind"] == "epoch"]
    steps = [record for record in history if record["kind"] == "step"]
    names = [key for key in (epochs[-1] if epochs else ()) if key.startswith(("train_", "val_"))]
    curves: dict[str, dict[str, Any]] = {}
    for name in names:
        split, _, metric = name.partition("_")
        panel = "loss" if metric == "loss" else "metrics"
        known = [record for record in epochs if name in record]
        values = [math.nan if record[name] is None else record[name] for record in known]
        curves.setdefault(panel, {})[f"{split} {metric}"] = [record["epoch"] for record in known], values
    pictures = []
    if curves:
        drawn = plotting.learning_curves(curves, chosen)
        pictures.append(Picture("learning_curves", "Learning curves; the chosen epoch is dotted", drawn))
    if len(steps) > 1:
        rates = [record["lr"] for record in steps]
        drawn = plotting.learning_rate([record["epoch"] for record in steps], rates, "")
        pictures.append(Picture("learning_rate", "Learning rate", drawn))
    return pictures


def result_pictures(predictions: Predictions, scores: Scores, classes: Sequence[str]) -> list[Picture]:
    """What the answers to a split look like."""
    pictures = []
    if scores.confusion is not None:
        for name, caption, normalised in (
            ("confusion_matrix", "Confusion matrix, in images", False),
            ("confusion_matrix_normalised", "Confusion matrix, each row divided by its sum", True),
        ):
            drawn = plotting.confusion_matrix(scores.confusion, classes, normalised)
            pictures.append(Picture(name, caption, drawn))
    if scores.calibration is not None:
        caption = "Reliability: is an answer of 80 % right in 80 % of the cases?"
        pictures.append(Picture("reliability", caption, plotting.reliability_diagram(*scores.calibration)))
    averages = scores.per_class["average_precision"]
    worst = [label for label in np.argsort(averages)[: plotting.CURVES] if np.isfinite(averages[label])]
    if worst:
        curves = {}
        for label in worst:
            precision, recall = precision_recall(predictions, label)
            curves[classes[label]] = recall, precision, averages[label]
        drawn = plotting.precision_recall(curves, int(np.isfinite(averages).sum()))
        pictures.append(Picture("precision_recall", "Precision and recall of each class at every threshold", drawn))
    drawn = plotting.class_bars(classes, np.nan_to_num(scores.per_class["f1"]), "F1")
    return [*pictures, Picture("per_class", "F1, the harmonic mean of precision and recall, by class", drawn)]


def worst_pairs(confusion: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """(target, prediction, images, share of the target's) of the most frequent mistakes."""
    mistakes = confusion * ~np.eye(len(confusion), dtype=bool)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(place), len(confusion)) for place in order if mistakes.flat[place]]
    totals = confusion.sum(axis=1)
    return [(classes[t], classes[p], f"{mistakes[t, p]}", f"{mistakes[t, p] / totals[t]:.1%}") for t, p in pairs]


def galleries(
    predictions: Predictions, classes: Sequence[str], name: Callable[[int], str], read: Callable[[int], np.ndarray]
) -> dict[str, list[Picture]]:
    """The most confident mistakes and the least certain right answers, each picture with what was said of it.

    `read` gives a sample as uint8 (H, W, 1 or 3), RGB.
    """
    right, confidence = predictions.correct_and_confidence()
    wrong = np.flatnonzero(~right)
    unsure = np.flatnonzero(right)
    found = {
        "The most confident mistakes": wrong[np.argsort(-confidence[wrong], kind="stable")],
        "The least certain right answers": unsure[np.argsort(confidence[unsure], kind="stable")],
    }
    labels, answers = predictions.labels, predictions.predicted_labels

    def pictures(places: Iterable[int]) -> Iterable[Picture]:
        for i in places:
            index = int(predictions.indices[i])
            target, answer = label_text(labels[i], classes) or "none", label_text(answers[i], classes) or "none"
            verdict = target if right[i] else f"{target}, taken for {answer}"
            yield Picture(name(index), f"{verdict}: {confidence[i]:.3f}", thumbnail(read(index)))

    return {title: list(pictures(places[:_GALLERY])) for title, places in found.items() if len(places)}


def thumbnail(image: np.ndarray) -> bytes:
    """A small image uint8 (H, W, 1 or 3), RGB, as PNG, every pixel as it is; a larger one reduced, as JPEG."""
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image
    scale = _THUMBNAIL / max(image.shape[:2])
    if max(image.shape[:2]) <= _SMALL:
        return encode_png(image)
    size = [max(round(length * min(scale, 1)), 1) for length in (image.shape[1], image.shape[0])]
    return cv2.imencode(".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA))[1].tobytes()
