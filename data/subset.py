"""A part of a data set that is a data set itself."""

from typing import Any

import numpy as np

from data.targets import targets_of, weights_of


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
