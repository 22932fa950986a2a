"""Which samples, in which order: pure functions of the seed and the epoch."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class SampleKey(NamedTuple):
    """Which sample to read, and all that its augmentation depends on beside the seed."""

    index: int
    epoch: int
    position: int  # place in the epoch's whole sequence: a sample drawn twice looks different


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of range(num_samples), a function of seed and epoch."""
    return np.random.default_rng((seed, epoch)).permutation(num_samples)


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
    rng = np.random.default_rng((seed, 0x5917))  # a stream of its own, apart from the epochs' orders
    held_out = []
    for label in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == label))
        held_out.append(members[: min(round(len(members) * ratio), len(members) - 1)])
    val = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(targets)), val, assume_unique=True), val
