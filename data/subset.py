"""A part of a data set that is a data set itself."""

from typing import Any

import numpy as np


class Subset:
    """The samples `indices` of a data set, in that order."""

    def __init__(self, dataset: Any, indices: np.ndarray):
        self.dataset = dataset
        self.indices = indices
        self.classes = dataset.classes
        self.targets = targets_of(dataset)[indices]
        weights = weights_of(dataset)
        self.weights = None if weights is None else weights[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.dataset[int(self.indices[i])]

    def name(self, i: int) -> str:
        return self.dataset.name(int(self.indices[i]))


def targets_of(dataset: Any) -> np.ndarray:
    """The class index (n,) or the labels (n, classes) of all samples: its `targets`, else read one by one."""
    targets = getattr(dataset, "targets", None)
    return np.array([dataset[i][1] for i in range(len(dataset))]) if targets is None else np.asarray(targets)


def weights_of(dataset: Any) -> np.ndarray | None:
    """The weight of every sample (n,), where the data set has weights."""
    return getattr(dataset, "weights", None)
