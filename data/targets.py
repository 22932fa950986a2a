"""What a data set says of its samples: classes, labels, weights."""

from typing import Any

import numpy as np


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
    if targets.ndim > 1 and not is_soft(targets):
        return (targets > 0).sum(axis=0)
    return np.bincount(targets if targets.ndim == 1 else targets.argmax(axis=1), minlength=len(dataset.classes))


def is_soft(targets: np.ndarray) -> bool:
    """Whether targets are probabilities of classes (n, classes), not several labels."""
    return bool(targets.ndim > 1 and (targets >= 0).all() and np.allclose(targets.sum(axis=1), 1))
