"""Outputs of a network for a whole split, in the forms that metrics and reports need."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from utils.labels import label_text

_THRESHOLD = 0.5  # probability from which a label of a multi-label task is predicted


@dataclass
class Predictions:
    """Outputs of a network for N samples, on the CPU.

    `indices` (N,) are the samples' indices in their data set, `targets` (N, ...) as the data set has them,
    `outputs` float32 (N, outputs) raw logits or values, and `names` the names of the outputs.
    """

    indices: np.ndarray
    targets: np.ndarray
    outputs: np.ndarray
    names: Sequence[str]

    @staticmethod
    def activation(outputs: torch.Tensor) -> torch.Tensor:
        """Maps raw outputs to predictions: probabilities or values, of the same shape."""
        return outputs

    @cached_property
    def values(self) -> np.ndarray:
        """float64 (N, outputs): the predictions; in float32 many probabilities would be 1, and tied."""
        return self.activation(torch.from_numpy(self.outputs).double()).numpy()

    @cached_property
    def target_table(self) -> np.ndarray:
        """float64 (N, outputs): the targets in the shape of the predictions."""
        return np.asarray(self.targets, np.float64).reshape(self.outputs.shape)

    def target_text(self, row: int) -> str:
        return ", ".join(f"{value:.6g}" for value in np.ravel(self.targets[row]))

    def predicted_text(self, row: int) -> str:
        return ", ".join(f"{value:.6g}" for value in self.values[row])


class LabelPredictions(Predictions):
    """Predictions of classes: one per sample, or any number of labels.

    `labels` int8 (N, classes) are 1 where a label is present, 0 where absent, -1 where unknown and ignored;
    `predicted` bool (N, classes); `correct` bool (N,); `confidence` float64 (N,), of the predicted classes.
    """

    labels: np.ndarray
    predicted: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray

    def target_text(self, row: int) -> str:
        return label_text(self.labels[row], self.names)

    def predicted_text(self, row: int) -> str:
        return label_text(self.predicted[row], self.names)

    @cached_property
    def class_scores(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(precision, recall, F1, support) of each class, each (classes,); NaN where undefined. By scikit-learn."""
        from sklearn.metrics import precision_recall_fscore_support

        # With an empty class at the end, because scikit-learn treats a single column as two classes.
        tables = (self.labels > 0, self.predicted & (self.labels >= 0))
        truth, guess = (np.pad(table, ((0, 0), (0, 1))) for table in tables)
        precision, recall, f1, support = precision_recall_fscore_support(truth, guess, zero_division=np.nan)
        return precision[:-1], recall[:-1], f1[:-1], support[:-1]

    @cached_property
    def occurs(self) -> np.ndarray:
        """bool (classes,): the classes that occur or are predicted; averages over classes ignore the others."""
        return (self.class_scores[3] > 0) | (self.predicted & (self.labels >= 0)).any(axis=0)

    @cached_property
    def average_precisions(self) -> np.ndarray:
        """Average precision of each class (classes,), NaN for those without a positive sample. By scikit-learn."""
        from sklearn.metrics import average_precision_score

        pairs = map(self.scores_of, range(len(self.names)))
        return np.array([average_precision_score(*pair) if pair[0].any() else np.nan for pair in pairs])

    @cached_property
    def roc_aucs(self) -> np.ndarray:
        """Area under the ROC curve of each class (classes,), NaN where all or no samples are positive."""
        from sklearn.metrics import roc_auc_score

        pairs = map(self.scores_of, range(len(self.names)))
        return np.array([roc_auc_score(*p) if p[0].any() and not p[0].all() else np.nan for p in pairs])

    def scores_of(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """(is positive, predicted probability) of the samples whose label is known, for one class."""
        known = self.labels[:, label] >= 0
        return self.labels[known, label] > 0, self.values[known, label]

    @cached_property
    def per_class(self) -> dict[str, np.ndarray]:
        """Column -> (classes,): support, precision, recall, F1, ROC AUC and average precision."""
        precision, recall, f1, support = self.class_scores
        columns = {"support": support, "precision": precision, "recall": recall, "f1": f1}
        return columns | {"roc_auc": self.roc_aucs, "average_precision": self.average_precisions}


class SingleLabel(LabelPredictions):
    """One class per sample: targets int64 (N,), or class probabilities (N, classes), reduced to the highest."""

    @staticmethod
    def activation(outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(dim=1)

    @cached_property
    def target_classes(self) -> np.ndarray:
        """int64 (N,)"""
        return self.targets if self.targets.ndim == 1 else self.targets.argmax(axis=1)

    @cached_property
    def predicted_classes(self) -> np.ndarray:
        """int64 (N,): the most probable class."""
        return self.outputs.argmax(axis=1)

    @cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        return np.eye(len(self.names), dtype=np.int8)[self.target_classes]

    @cached_property
    def predicted(self) -> np.ndarray:  # type: ignore[override]
        return np.eye(len(self.names), dtype=bool)[self.predicted_classes]

    @cached_property
    def correct(self) -> np.ndarray:  # type: ignore[override]
        return np.equal(self.predicted_classes, self.target_classes)

    @cached_property
    def confidence(self) -> np.ndarray:  # type: ignore[override]
        return self.values.max(axis=1)

    @cached_property
    def confusion(self) -> np.ndarray:
        """The confusion matrix, int64 (classes, classes): targets in rows, predictions in columns."""
        classes = len(self.names)
        pairs = self.target_classes * classes + self.predicted_classes
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


class MultiLabel(LabelPredictions):
    """Any number of labels per sample: targets float32 (N, classes), below 0 where unknown, or one class index (N,)."""

    @staticmethod
    def activation(outputs: torch.Tensor) -> torch.Tensor:
        return outputs.sigmoid()

    @cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        is_indices = self.targets.ndim == 1
        return (np.eye(len(self.names))[self.targets] if is_indices else np.sign(self.targets)).astype(np.int8)

    @cached_property
    def predicted(self) -> np.ndarray:  # type: ignore[override]
        return self.values >= _THRESHOLD

    @cached_property
    def _mistakes(self) -> np.ndarray:
        return np.where(self.labels >= 0, self.predicted != (self.labels > 0), False)

    @cached_property
    def correct(self) -> np.ndarray:  # type: ignore[override]
        """bool (N,): whether all known labels of a sample are predicted correctly."""
        return np.logical_not(self._mistakes.any(axis=1))

    @cached_property
    def confidence(self) -> np.ndarray:  # type: ignore[override]
        """float64 (N,): the maximum over the incorrect labels, or else the minimum over all labels."""
        certainty = np.maximum(self.values, 1 - self.values)
        least = np.where(self.labels >= 0, certainty, 1).min(axis=1)
        return np.where(self.correct, least, np.where(self._mistakes, certainty, 0).max(axis=1))
