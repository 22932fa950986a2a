"""Batches of one split: order x reader x executor."""

import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from data.executors import Poll, on_device
from data.image_io import to_pixels
from data.reading import ReadResult, SampleReader
from data.samplers import Keys, batches_of_keys, epoch_order, usable_samples
from data.workers import Executor
from utils.contracts import Batch, Dataset
from utils.drawing import visible
from utils.errors import UserError
from utils.logger import get_logger

log = get_logger("data")


@dataclass(eq=False)
class Loader:
    """The batches of a data set on a device, epoch by epoch: the same from every executor, whatever was read before.

    With `shuffle`, for training, the order is a function of (seed, epoch), and a last batch of one sample is omitted;
    with `draw_weights` (n,) it draws n samples in proportion to them. A sample's augmentation is a function of (seed,
    epoch, position). Of `world_size` processes, number `rank` reads its part of each training batch, and every
    `world_size`-th batch otherwise. More corrupt images than `max_broken`, a share of the data set, end an epoch.
    """

    reader: SampleReader
    executor: Executor
    batch_size: int
    device: torch.device
    max_broken: float = 0.0
    shuffle: bool = False
    draw_weights: np.ndarray | None = None
    rank: int = 0
    world_size: int = 1
    broken: dict[int, str] = field(default_factory=dict)  # index -> reason, of the corrupt images found so far

    @property
    def dataset(self) -> Dataset:
        return self.reader.dataset

    @property
    def num_samples(self) -> int:
        """Number of samples in an epoch."""
        total = len(self.dataset)
        return usable_samples(total, self.batch_size) if self.shuffle else total

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(self.num_samples / self.batch_size)

    def batches(self, epoch: int = 0, start: int = 0, poll: Poll = lambda: None) -> Iterator[Batch]:
        """Yields the batches of an epoch from position `start` on, skipping everything before it unread.

        A batch's images are valid until the next one is asked for. `poll` is called at least every 0.2 s while
        waiting for data, and may raise to stop. Raises UserError for a sample that cannot be read.
        """
        order = np.arange(self.num_samples)
        if self.shuffle:
            order = epoch_order(len(self.dataset), self.reader.seed, epoch, self.draw_weights)[: self.num_samples]
        keys = batches_of_keys(order, self.batch_size, epoch, start)
        if self.world_size > 1:
            keys, poll = self._own(keys), lambda: None  # processes stop together, and not while one waits for data
        keys, read = itertools.tee(keys)
        with closing(self.executor.run(self.reader, read, poll)) as results:
            yield from on_device(self._checked(keys, results), self.device)

    def _own(self, keys: Iterator[Keys]) -> Iterator[Keys]:
        if self.shuffle:
            return (batch_keys.part(self.rank, self.world_size) for batch_keys in keys)
        return itertools.islice(keys, self.rank, None, self.world_size)

    def _checked(self, keys: Iterable[Keys], results: Iterable[ReadResult]) -> Iterator[Batch]:
        for result, batch_keys in zip(results, keys, strict=False):  # an error is the last result
            self._record(result.broken)
            if result.error is not None:
                raise result.error
            if result.batch is not None:
                yield result.batch if batch_keys.share == 1 else replace(result.batch, share=batch_keys.share)

    def image(self, index: int) -> np.ndarray:
        """A sample before its transforms, for display: uint8 (H, W, 1 or 3), RGB; of more channels the first three."""
        source, _ = self.dataset[index]
        is_array = isinstance(source, np.ndarray)
        return visible(np.atleast_3d(source)) if is_array else to_pixels(source, 3, self.reader.max_pixels)

    def close(self) -> None:
        """Ends reader processes; a later epoch starts them again."""
        self.executor.close()

    def _record(self, broken: dict[int, str]) -> None:
        """Logs each corrupt image once; raises UserError when there are too many."""
        outcome = "replaced by another sample" if self.reader.on_broken == "replace" else "skipped"
        for index, reason in broken.items():
            if index not in self.broken:
                log.warning("%s: %s", outcome, reason)
        self.broken |= broken
        if len(self.broken) > self.max_broken * len(self.dataset):
            found = f"{len(self.broken)} of {len(self.dataset)} images are corrupt"
            most = f"DATASETS.MAX_SKIPPED {self.max_broken} of them, such as {next(iter(self.broken.values()))}"
            raise UserError(f"DATASETS.ON_ERROR skip: {found}, more than {most}")
