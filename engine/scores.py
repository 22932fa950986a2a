"""Numbers of a whole split, counted by scikit-learn, which is imported only when they are asked for."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils.errors import UserError

_HALF = 0.5  # from this probability on a label is predicted
_BINS = 15  # of the calibration error, as in the paper


class Predictions(NamedTuple):
    """What a network says of N samples of a split.

    `indices` (N,) are theirs in the data set; `targets` int64 (N,), or float32 (N, classes): soft ones or, with
    `multilabel`, several labels, of which those below 0 do not count; `probabilities` float64 (N, classes).
    """

    indices: np.ndarray
    targets: np.ndarray
    probabilities: np.ndarray
    multilabel: bool

    @property
    def target_classes(self) -> np.ndarray:
        """(N,), where each sample has one class; of soft targets the highest."""
        return self.targets if self.targets.ndim == 1 else self.targets.argmax(axis=1)

    @property
    def predicted_classes(self) -> np.ndarray:
        """(N,): the most probable class of each sample."""
        return self.probabilities.argmax(axis=1)

    @property
    def labels(self) -> np.ndarray:
        """int8 (N, classes): 1 for present, 0 for absent, -1 for what does not count."""
        if self.multilabel:
            return np.sign(self.targets).astype(np.int8)
        return np.eye(self.probabilities.shape[1], dtype=np.int8)[self.target_classes]

    @property
    def predicted_labels(self) -> np.ndarray:
        """bool (N, classes): the most probable class, or every label of at least one half."""
        if self.multilabel:
            return self.probabilities >= _HALF
        return np.eye(self.probabilities.shape[1], dtype=bool)[self.predicted_classes]

    def correct_and_confidence(self) -> tuple[np.ndarray, np.ndarray]:
        """(is each sample right (N,), how sure was the network (N,)).

        Of several labels all must be right; it was as sure as of the worst mistake, or as of the least sure label.
        """
        if not self.multilabel:
            return self.predicted_classes == self.target_classes, self.probabilities.max(axis=1)
        counts = self.labels >= 0
        wrong = (self.predicted_labels != (self.labels > 0)) & counts
        sure = np.maximum(self.probabilities, 1 - self.probabilities)
        right = ~wrong.any(axis=1)
        return right, np.where(right, np.where(counts, sure, 1).min(axis=1), np.where(wrong, sure, 0).max(axis=1))


class Calibration(NamedTuple):
    """Samples in equal bins of their answer's probability; the means of an empty bin are nan.

    `error` is the mean of |accuracy - confidence| over all samples (C. Guo et al., 2017, arXiv:1706.04599).
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    error: float


@dataclass(frozen=True)
class Scores:
    """`summary`: name -> number. `per_class`: column -> (classes,), nan where the samples do not define it.

    `confusion` (classes, classes), targets in rows, and `calibration` are of samples with one class each.
    """

    summary: dict[str, float]
    per_class: dict[str, np.ndarray]
    confusion: np.ndarray | None
    calibration: Calibration | None


def score(predictions: Predictions) -> Scores:
    """All numbers of a split. Averages over classes leave out those that neither occur nor are predicted.

    Raises UserError for probabilities that are not finite.
    """
    broken = ~np.isfinite(predictions.probabilities).all(axis=1)
    if broken.any():
        raise UserError(
            f"the network gives no finite probabilities for {broken.sum()} of {len(broken)} images: it did not learn; "
            "train it again with a lower SOLVER.BASE_LR or with warm-up"
        )
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, answers = predictions.labels, predictions.predicted_labels & (predictions.labels >= 0)
    # With an empty class at the end, because scikit-learn takes a single column for two classes.
    truth, guess = (np.pad(table, ((0, 0), (0, 1))) for table in (labels > 0, answers))
    *counted, support = (column[:-1] for column in precision_recall_fscore_support(truth, guess, zero_division=np.nan))
    per_class = dict(zip(("precision", "recall", "f1"), counted, strict=True))
    seen = (support > 0) | answers.any(axis=0)
    summary = {f"{name}_macro": _mean(values[seen]) for name, values in per_class.items()}
    summary |= {
        f"{name}_weighted": float(np.nan_to_num(values) @ support / (support.sum() or math.nan))
        for name, values in per_class.items()
    }
    per_class["roc_auc"] = roc_aucs(labels, predictions.probabilities)
    per_class["average_precision"] = average_precisions(labels, predictions.probabilities)
    for name, column in (("roc_auc_macro", "roc_auc"), ("mean_average_precision", "average_precision")):
        summary[name] = _mean(per_class[column][np.isfinite(per_class[column])])
    per_class = {"support": support, **per_class}
    if predictions.multilabel:
        return Scores(_defined(summary), per_class, None, None)
    summary["balanced_accuracy"] = _mean(per_class["recall"][support > 0])
    calibration = calibrate(*predictions.correct_and_confidence())
    summary["expected_calibration_error"] = calibration.error
    classes = range(labels.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there are many classes for so few samples
        confusion = confusion_matrix(predictions.target_classes, predictions.predicted_classes, labels=classes)
    return Scores(_defined(summary), per_class, confusion, calibration)


def average_precisions(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Of each class (classes,), nan for those that do not occur. (N, classes) both; labels below 0 do not count."""
    from sklearn.metrics import average_precision_score

    return np.array([average_precision_score(*pair) if pair[0].any() else np.nan for pair in _columns(labels, scores)])


def roc_aucs(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under each class's ROC curve (classes,), nan where all samples or none are of it."""
    from sklearn.metrics import roc_auc_score

    return np.array(
        [roc_auc_score(*pair) if pair[0].any() and not pair[0].all() else np.nan for pair in _columns(labels, scores)]
    )


def precision_recall(predictions: Predictions, label: int) -> tuple[np.ndarray, np.ndarray]:
    """(precisions, recalls) of a class at every threshold."""
    from sklearn.metrics import precision_recall_curve

    ((truth, scores),) = _columns(predictions.labels[:, [label]], predictions.probabilities[:, [label]])
    return precision_recall_curve(truth, scores)[:2]


def calibrate(right: np.ndarray, confidence: np.ndarray) -> Calibration:
    """How far the probability of an answer is the chance that it is right; (N,) both."""
    bins = np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)  # each holds its upper edge
    counts = np.bincount(bins, minlength=_BINS)
    sums = [np.bincount(bins, weights=values, minlength=_BINS) for values in (confidence, right)]
    error = float(np.abs(sums[0] - sums[1]).sum() / max(len(right), 1))
    means = [np.divide(total, counts, out=np.full(_BINS, np.nan), where=counts > 0) for total in sums]
    return Calibration(*means, counts, error)


def _columns(labels: np.ndarray, scores: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(is it of the class, its score) of the samples that count, for each class."""
    for label, score in zip(labels.T, scores.T, strict=True):
        yield label[label >= 0] > 0, score[label >= 0]


def _mean(values: np.ndarray) -> float:
    """The mean, where an undefined value is 0: what was never predicted, or never there, was never right."""
    return float(np.nan_to_num(values).mean()) if len(values) else math.nan


def _defined(summary: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in summary.items() if math.isfinite(value)}
