"""The order of samples and the streams of random numbers: pure functions of the seed and the epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from data.subset import weights_of
from utils.contracts import Dataset, targets_of
from utils.errors import UserError

# Every use of random numbers has a tag of its own, so that no two uses share a stream.
_TAGS = {"order": 1, "augmentation": 2, "uniforms": 3, "mixing": 4}


def _seeds(use: str, seed: int, *numbers: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(np.array([_TAGS[use], seed & 0xFFFFFFFF, seed >> 32, *numbers], np.uint32))


def stream(use: str, seed: int, *numbers: int) -> np.random.Generator:
    """Returns the generator of one use, by `seed` below 2**64 and `numbers` below 2**32: "order" (epoch), or
    "mixing" (epoch, samples seen)."""
    return np.random.Generator(np.random.PCG64(_seeds(use, seed, *numbers)))


@dataclass(frozen=True, eq=False)
class Keys:
    """The samples of a batch to read, `indices` int64 (n,), and what their augmentation depends on beside the seed.

    `position` is the first one's place in the epoch's sequence: a sample drawn twice is augmented differently. `share`
    is `Batch.share`.
    """

    indices: np.ndarray
    epoch: int
    position: int
    share: float = 1.0

    def part(self, rank: int, world_size: int) -> "Keys":
        """Returns the part of a training batch for process `rank`.

        Neighbours, the samples 2i and 2i + 1, stay together for MixUp, and no part is a single sample, which batch norm
        cannot be trained with. A process without samples reads the first two with a share of 0, to take part in the
        collectives.
        """
        count = len(self.indices)
        edges = [2 * -(-(count // 2) * number // world_size) for number in (rank, rank + 1)]
        start, stop = (edge if edge < 2 * (count // 2) else count for edge in edges)
        share = (stop - start) * world_size / count
        start, stop = (start, stop) if share else (0, 2)
        return Keys(self.indices[start:stop], self.epoch, self.position + start, share)


class Row:
    """A row of uniform numbers in [0, 1), in place of a generator for transforms that draw a fixed number of them."""

    def __init__(self, uniforms: np.ndarray):
        self.random = iter(uniforms.tolist()).__next__


Rng = np.random.Generator | Row | None  # None for transforms that draw nothing


@dataclass(eq=False)
class Draws:
    """The random numbers of a batch's samples, each a function of (seed, epoch, position)."""

    seed: int
    keys: Keys
    width: int  # uniform numbers that the transforms draw for a sample

    @cached_property
    def uniforms(self) -> np.ndarray:
        """The batch's rows (n, width) of the epoch's table of numbers in [0, 1)."""
        bits = np.random.PCG64(_seeds("uniforms", self.seed, self.keys.epoch)).advance(self.keys.position * self.width)
        return np.random.Generator(bits).random((len(self.keys.indices), self.width))

    def row(self, number: int) -> Row:
        return Row(self.uniforms[number])

    def generator(self, number: int) -> np.random.Generator:
        """Returns the generator of sample `number` of the batch; it is the same object, set anew, for each sample."""
        bits, state, generator = self._philox
        state["state"]["counter"][1] = self.keys.position + number  # leaves 2**64 blocks of numbers to each sample
        bits.state = state
        return generator

    @cached_property
    def _philox(self) -> tuple[np.random.Philox, Any, np.random.Generator]:
        bits = np.random.Philox(_seeds("augmentation", self.seed, self.keys.epoch))
        return bits, bits.state, np.random.Generator(bits)


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


def batches_of_keys(order: np.ndarray, batch_size: int, epoch: int, start: int = 0) -> Iterator[Keys]:
    """Yields the keys of each batch of an epoch, `order` (samples,), from position `start` on."""
    for first in range(start, len(order), batch_size):
        yield Keys(order[first : first + batch_size], epoch, first)


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
