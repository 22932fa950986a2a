"""What a data set says of its samples: classes, labels, weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.errors import UserError


def targets_of(dataset: Any) -> np.ndarray:
    """The class index (n,) or the labels (n, classes) of all samples: its `targets`, else read one by one."""
    targets = getattr(dataset, "targets", None)
    return np.array([dataset[i][1] for i in range(len(dataset))]) if targets is None else np.asarray(targets)


def weights_of(dataset: Any) -> np.ndarray | None:
    """The weight of every sample (n,), where the data set has weights."""
    return getattr(dataset, "weights", None)


def class_counts(dataset: Any) -> np.ndarray:
    """The samples of each class (classes,); one of several labels counts for each."""
    targets = targets_of(dataset)
    return np.bincount(targets, minlength=len(dataset.classes)) if targets.ndim == 1 else (targets > 0).sum(axis=0)


def class_indices(target: Any, num_classes: int) -> list[int]:
    """The classes of a target: its index, or the places above 0 of a vector of several labels.

    Raises UserError for a target that does not fit the number of classes.
    """
    target = np.asarray(target)
    if target.ndim == 0 and 0 <= target < num_classes:
        return [int(target)]
    if target.shape == (num_classes,):
        return np.flatnonzero(target > 0).tolist()
    raise UserError(f"found the target {target}, expected an index below {num_classes}, or {num_classes} numbers")


def label_text(target: Any, classes: Sequence[str]) -> str:
    """A target in words: its class, or the classes that are present."""
    return "|".join(classes[label] for label in class_indices(target, len(classes)))
