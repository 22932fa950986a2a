"""Metrics of classes: top-k accuracy, precision, recall, F1, ROC AUC, average precision, calibration.

ROC AUC and average precision are computed by scikit-learn, imported on demand. An undefined precision or recall is 0 in
an average over classes, which leaves out classes that neither occur nor are predicted.
"""

import math
from functools import partial

import numpy as np
import torch

from engine.predictions import LabelPredictions, SingleLabel
from engine.registry import METRICS

_LABELS = ("classification", "multilabel")
_SINGLE = ("classification",)
CALIBRATION_BINS = 15  # as in C. Guo et al., 2017, arXiv:1706.04599


@METRICS.register(tasks=_SINGLE)
def top1(predictions: SingleLabel) -> float:
    """Top-1 accuracy."""
    return float(predictions.correct.mean())


@METRICS.register(tasks=_SINGLE)
def top5(predictions: SingleLabel) -> float:
    """Top-5 accuracy; always 1 for five classes or fewer."""
    best = torch.from_numpy(predictions.outputs).topk(min(5, len(predictions.names)), dim=1).indices.numpy()
    return float((best == predictions.target_classes[:, None]).any(axis=1).mean())


@METRICS.register(tasks=_SINGLE)
def balanced_accuracy(predictions: SingleLabel) -> float:
    """Recall, averaged over the classes that occur."""
    _, recall, _, support = predictions.class_scores
    return mean(recall[support > 0])


@METRICS.register(tasks=("multilabel",))
def exact_match(predictions: LabelPredictions) -> float:
    """Share of the images of which every known label is predicted correctly."""
    return float(predictions.correct.mean())


def _macro(column: int, predictions: LabelPredictions) -> float:
    f1 = predictions.class_scores[2]  # undefined for classes that neither occur nor are predicted
    return mean(predictions.class_scores[column][np.isfinite(f1)])


def _weighted(column: int, predictions: LabelPredictions) -> float:
    support = predictions.class_scores[3]
    return float(np.nan_to_num(predictions.class_scores[column]) @ support / (support.sum() or math.nan))


for _column, _name in enumerate(("precision", "recall", "f1")):
    METRICS.register(f"{_name}_macro", tasks=_LABELS)(partial(_macro, _column))
    METRICS.register(f"{_name}_weighted", tasks=_LABELS)(partial(_weighted, _column))


@METRICS.register(tasks=_LABELS)
def roc_auc_macro(predictions: LabelPredictions) -> float:
    """Area under the ROC curve, one class against the rest, averaged over the classes that define it."""
    return mean(predictions.roc_aucs[np.isfinite(predictions.roc_aucs)])


@METRICS.register(tasks=_LABELS)
def mean_average_precision(predictions: LabelPredictions) -> float:
    """Average precision, averaged over the classes that occur."""
    return mean(predictions.average_precisions[np.isfinite(predictions.average_precisions)])


@METRICS.register(tasks=_SINGLE)
def expected_calibration_error(predictions: SingleLabel) -> float:
    """Mean of |accuracy - confidence| over bins of equal width, weighted by their samples: arXiv:1706.04599."""
    counts, confidence, accuracy = calibration_bins(predictions.correct, predictions.confidence)
    return float(np.abs(confidence - accuracy)[counts > 0] @ counts[counts > 0] / max(counts.sum(), 1))


def calibration_bins(correct: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool (N,), confidence in 0..1 (N,) -> (samples, mean confidence, accuracy) of each bin, (bins,), NaN if empty."""
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, None)  # a bin includes its upper edge
    counts, *sums = (np.bincount(bins, w, CALIBRATION_BINS) for w in (None, confidence, correct))
    means = [np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0) for total in sums]
    return counts, means[0], means[1]


def mean(values: np.ndarray) -> float:
    """Mean of (n,) with undefined values as 0; NaN for no values."""
    return float(np.nan_to_num(values).mean()) if len(values) else math.nan
