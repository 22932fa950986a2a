"""Facts about all samples of a data set, and a part of one."""

from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from utils.contracts import Dataset, class_names, is_soft, targets_of
from utils.labels import nfc

Target = Any  # of one sample: a class index, a vector, a mask, or whatever else the task understands


def weights_of(dataset: Dataset) -> np.ndarray | None:
    """Returns the weights of all samples (n,), None if the data set has none."""
    weights = getattr(dataset, "weights", None)
    return None if weights is None else np.asarray(weights)


def class_counts(dataset: Dataset) -> np.ndarray:
    """Returns the number of samples of each class (classes,); a sample with several labels adds to each."""
    targets, classes = targets_of(dataset), getattr(dataset, "classes", ())
    if targets.ndim > 1 and not is_soft(targets):
        return (targets > 0).sum(axis=0)
    return np.bincount(targets if targets.ndim == 1 else targets.argmax(axis=1), minlength=len(classes))


def class_gap(dataset: Dataset) -> str | None:
    """Returns a warning about classes without a sample, or a single class, else None; it reads no sample."""
    targets, classes = getattr(dataset, "targets", None), class_names(dataset)
    if targets is None or not classes or np.ndim(targets) > 2:
        return None
    absent = [name for name, count in zip(classes, class_counts(dataset), strict=True) if not count]
    if absent:
        return f"no sample of {len(absent)} of {len(classes)} classes, such as {absent[0]}"
    return f"only one class, {classes[0]}" if len(classes) == 1 and np.ndim(targets) == 1 else None


def strata_of(dataset: Dataset) -> np.ndarray:
    """Returns the stratum of each sample, an integer array (n,): the data set's `strata`, else its classes.

    Soft targets belong to the most probable class, several labels to one of them that does not depend on the other
    samples. All samples of a data set without classes, or with images as targets, belong to one stratum.
    """
    if (strata := getattr(dataset, "strata", None)) is not None:
        return np.asarray(strata)
    classes = class_names(dataset)
    if len(dataset) == 0 or not classes or has_spatial_targets(dataset):
        return np.zeros(len(dataset), np.int64)
    targets = targets_of(dataset)
    if targets.ndim == 1:
        return targets
    if is_soft(targets):
        return targets.argmax(axis=1)
    names = [nfc(name).encode("utf-8", "surrogateescape") for name in classes]
    ranks = np.argsort([blake2b(name).digest() for name in names]).argsort()  # an order of the classes alone
    lowest = np.where(targets > 0, ranks, len(ranks)).argmin(axis=1)
    return np.where((targets > 0).any(axis=1), lowest, len(ranks))  # those without a label have a stratum too


def has_spatial_targets(dataset: Dataset) -> bool:
    """Tests if the targets lie in the image, such as masks, by the first sample if the data set has no `targets`."""
    if isinstance(dataset, Subset):
        return has_spatial_targets(dataset.dataset)
    targets = getattr(dataset, "targets", None)
    return np.ndim(dataset[0][1]) > 1 if targets is None else np.ndim(targets) > 2


class Subset:
    """The samples `indices` of a data set, in that order; a data set itself."""

    def __init__(self, dataset: Dataset, indices: np.ndarray):
        self.dataset, self.indices = dataset, indices
        for name in {"classes", "target_names", "multilabel", "missing", "thread_safe"} & set(dir(dataset)):
            setattr(self, name, getattr(dataset, name))
        weights = weights_of(dataset)
        self.weights = None if weights is None else weights[indices]

    @cached_property
    def targets(self) -> np.ndarray:
        return targets_of(self.dataset)[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[Any, Target]:
        return self.dataset[int(self.indices[i])]

    def name(self, i: int) -> str:
        return self.dataset.name(int(self.indices[i]))
