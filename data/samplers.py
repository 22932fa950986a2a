"""Which samples, in which order: pure functions of the seed and the epoch."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class SampleKey(NamedTuple):
    """Which sample to read, and all that its augmentation depends on beside the seed."""

    index: int
    epoch: int
    position: int  # place in the epoch's whole sequence: a sample drawn twice looks different


def epoch_order(num_samples: int, seed: int, epoch: int, weights: np.ndarray | None = None) -> np.ndarray:
    """The order of an epoch, a function of seed and epoch: a permutation of range(num_samples).

    With `weights` (num_samples,), as many draws with replacement, each in proportion to its weight.
    """
    rng = np.random.default_rng((seed, epoch))
    if weights is None:
        return rng.permutation(num_samples)
    return rng.choice(num_samples, num_samples, p=weights / weights.sum())


def usable_samples(num_samples: int, batch_size: int) -> int:
    """Samples that an epoch of training consumes: a last batch of one, which batch norm cannot take, is dropped."""
    return num_samples - 1 if num_samples % batch_size == 1 and batch_size > 1 else num_samples


def batches_of_keys(order: np.ndarray, batch_size: int, epoch: int, start: int = 0) -> Iterator[list[SampleKey]]:
    """The batches of an epoch from position `start` on; no sample before it is touched."""
    for first in range(start, len(order), batch_size):
        indices = order[first : first + batch_size].tolist()
        yield [SampleKey(index, epoch, first + offset) for offset, index in enumerate(indices)]


def stratified_split(targets: np.ndarray, ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation) indices, both sorted; each class gives its share, rounded.

    Every class keeps at least one sample for training; the whole is a function of the seed.
    """
    order, places, sizes = _by_class(targets, seed)
    return _divide(order, places < np.minimum(np.rint(sizes * ratio), sizes - 1))


def stratified_fold(targets: np.ndarray, fold: int, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation) indices, both sorted; validation is part `fold`, from 1, of `folds` equal parts.

    Parts differ by at most one sample, in all and in each class; no sample is in two of them.
    """
    order, _, _ = _by_class(targets, seed)
    return _divide(order, np.arange(len(order)) % folds == fold - 1)


def balanced_subset(targets: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The sorted indices of `count` samples, as many of each class as there are and as equal as can be."""
    order, places, _ = _by_class(targets, seed)
    return np.sort(order[np.argsort(places, kind="stable")[:count]])


def _by_class(targets: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indices class by class, in random order within each, the place of each in its class, the class's size).

    A sample with several labels, in targets (n, classes), goes by the rarest of them.
    """
    if targets.ndim > 1:
        counts = (targets > 0).sum(axis=0)
        targets = np.where(targets > 0, counts, len(targets) + 1).argmin(axis=1)
    rng = np.random.default_rng((seed, 0x5917))  # a stream of its own, apart from the epochs' orders
    members = [rng.permutation(np.flatnonzero(targets == label)) for label in np.unique(targets)]
    places = [np.arange(len(indices)) for indices in members]
    sizes = [np.full(len(indices), len(indices)) for indices in members]
    return np.concatenate(members), np.concatenate(places), np.concatenate(sizes)


def _divide(order: np.ndarray, is_val: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sort(order[~is_val]), np.sort(order[is_val])
