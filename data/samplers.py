"""The order of samples and the streams of random numbers: pure functions of the seed and the epoch."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.subset import weights_of
from utils.contracts import Dataset, targets_of
from utils.errors import UserError

# Every use of random numbers has a tag of its own, so that no two uses share a stream.
_TAGS = {"order": 1, "augmentation": 2, "mixing": 4}


def stream(use: str, seed: int, *numbers: int) -> np.random.Generator:
    """Returns the generator of one use, by `seed` below 2**64 and `numbers` below 2**32: "order" (epoch),
    "augmentation" (epoch, position), or "mixing" (epoch, samples seen).
    """
    words = np.array([_TAGS[use], seed & 0xFFFFFFFF, seed >> 32, *numbers], np.uint32)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


class SampleKey(NamedTuple):
    """A sample to read, and what its augmentation depends on beside the seed."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    epoch: int
    position: int  # place in the epoch's sequence: a sample drawn twice is augmented differently


def epoch_order(num_samples: int, seed: int, epoch: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns the order of an epoch, int64 (num_samples,): a permutation of range(num_samples).

    With `weights` (num_samples,), draws with replacement in proportion to them.
    """
    rng = stream("order", seed, epoch)
    if weights is None:
        return rng.permutation(num_samples)
    return rng.choice(num_samples, num_samples, p=weights / weights.sum())


def usable_samples(num_samples: int, batch_size: int) -> int:
    """Number of samples in a training epoch: a last batch of one, which batch norm cannot take, is dropped."""
    return num_samples - 1 if num_samples % batch_size == 1 else num_samples


def batches_of_keys(order: np.ndarray, batch_size: int, epoch: int, start: int = 0) -> Iterator[list[SampleKey]]:
    """Yields the keys of each batch of an epoch, `order` (samples,), from position `start` on."""
    for first in range(start, len(order), batch_size):
        indices = order[first : first + batch_size].tolist()
        yield [SampleKey(index, epoch, first + offset) for offset, index in enumerate(indices)]


def sampling_weights(dataset: Dataset, sampler: str, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the weights (n,) that samples are drawn by, and those of their losses, None for equal ones.

    `sampler` is shuffle, balanced (classes are drawn equally often) or weighted (by the data set's weights, which
    the loss does not apply again). Raises UserError if the data set called `name` lacks what it needs.
    """
    weights = weights_of(dataset)
    if weights is not None and not weights.any():
        raise UserError(f"DATASETS.NAME {name}: all weights are 0; raise some of them, or remove all")
    if sampler == "weighted":
        if weights is None:
            raise UserError(f"DATASETS.SAMPLER weighted: {name} has no weights; use shuffle or balanced")
        return weights.astype(np.float64), None
    if weights is not None:
        weights = weights / weights.mean()  # so that BASE_LR keeps its meaning
    if sampler == "shuffle":
        return None, weights
    targets = targets_of(dataset)
    if targets.ndim > 1 or not getattr(dataset, "classes", None):
        raise UserError(f"DATASETS.SAMPLER balanced: the images of {name} have no class each; use shuffle or weighted")
    return 1 / np.bincount(targets)[targets], weights
