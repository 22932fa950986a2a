"""Outputs of a network for a whole split, in the forms that metrics and reports need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch

from utils.contracts import is_soft
from utils.errors import UserError
from utils.labels import class_indices, label_text


@dataclass
class Predictions:
    """Outputs of a network for N samples, on the CPU.

    `indices` (N,) are the samples' indices in their data set, `targets` (N, ...) as the data set has them,
    `outputs` float32 (N, outputs) raw logits or values, and `names` the names of the outputs. `columns` compute the
    scores of each output, (outputs,), by name.
    """

    columns: ClassVar[Mapping[str, Callable[..., np.ndarray]]] = {}

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


class NumberPredictions(Predictions):
    """Predictions of numbers: targets (N, outputs), or (N,) for one output."""

    columns = {
        "mae": lambda p: np.abs(p.errors).mean(axis=0),
        "rmse": lambda p: np.sqrt(np.square(p.errors).mean(axis=0)),
        "bias": lambda p: p.errors.mean(axis=0),
    }

    @cached_property
    def errors(self) -> np.ndarray:
        """float64 (N, outputs)"""
        return self.values - self.target_table


class LabelPredictions(Predictions):
    """Predictions of classes: one per sample, or any number of labels.

    `labels` int8 (N, classes) are 1 where a label is present, 0 where absent, -1 where unknown and ignored;
    `predicted` bool (N, classes); `confidence` float64 (N,), of the predicted classes.
    """

    columns = {
        "support": lambda p: p.class_scores[3],
        "precision": lambda p: p.class_scores[0],
        "recall": lambda p: p.class_scores[1],
        "f1": lambda p: p.class_scores[2],
        "roc_auc": lambda p: p.roc_aucs,
        "average_precision": lambda p: p.average_precisions,
    }

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray

    def target_text(self, row: int) -> str:
        return label_text(self.labels[row], self.names)

    def predicted_text(self, row: int) -> str:
        return "|".join(self.predicted_names(row))

    def predicted_names(self, row: int) -> list[str]:
        return [self.names[label] for label in class_indices(self.predicted[row], len(self.names))]

    @cached_property
    def class_scores(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(precision, recall, F1, support) of each class, each (classes,); NaN where undefined."""
        truth = self.labels > 0
        tables = self.predicted & truth, self.predicted & (self.labels >= 0), truth
        hits, guesses, support = (np.count_nonzero(table, axis=0) for table in tables)
        with np.errstate(invalid="ignore"):  # 0 / 0
            return hits / guesses, hits / support, 2 * hits / (guesses + support), support

    @cached_property
    def mistakes(self) -> np.ndarray:
        """bool (N, classes): the known labels that are predicted incorrectly."""
        return (self.predicted != (self.labels > 0)) & (self.labels >= 0)

    @cached_property
    def correct(self) -> np.ndarray:
        """bool (N,): whether all known labels of a sample are predicted correctly."""
        return np.logical_not(self.mistakes.any(axis=1))

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
        return {name: column(self) for name, column in self.columns.items()}


class SingleLabel(LabelPredictions):
    """One class per sample: targets int64 (N,), or class probabilities (N, classes), reduced to the highest."""

    @staticmethod
    def activation(outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(dim=1)

    @cached_property
    def target_classes(self) -> np.ndarray:
        """int64 (N,). Raises UserError for samples of several labels."""
        if self.targets.ndim > 1 and not is_soft(self.targets):
            hint = "set TASK.NAME to multilabel, and train"
            raise UserError(f"images have several labels, the network predicts one; {hint}")
        return self.targets if self.targets.ndim == 1 else self.targets.argmax(axis=1)

    @cached_property
    def predicted_classes(self) -> np.ndarray:
        """int64 (N,): the most probable class."""
        return self.outputs.argmax(axis=1)

    @cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        return np.equal.outer(self.target_classes, range(len(self.names))).view(np.int8)

    @cached_property
    def predicted(self) -> np.ndarray:  # type: ignore[override]
        return np.equal.outer(self.predicted_classes, range(len(self.names)))

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
        if self.targets.ndim == 1:
            return np.equal.outer(self.targets, range(len(self.names))).view(np.int8)
        return np.sign(self.targets).astype(np.int8)

    @cached_property
    def predicted(self) -> np.ndarray:  # type: ignore[override]
        return self.outputs >= 0  # a probability of at least 0.5

    @cached_property
    def confidence(self) -> np.ndarray:  # type: ignore[override]
        """float64 (N,): the maximum over the incorrect labels, or else the minimum over all labels."""
        certainty = np.maximum(self.values, 1 - self.values)  # the probability of the more probable value
        least = certainty.min(axis=1, where=self.labels >= 0, initial=1)
        return np.where(self.correct, least, certainty.max(axis=1, where=self.mistakes, initial=0))
