"""Samples -> batches, the same ones for any number of worker processes."""

import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from data.image_io import to_pixels
from data.samplers import SampleKey, batches_of_keys, epoch_order, usable_samples
from utils.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Images uint8 (N, C, H, W) in channels-last memory; targets int64 (N,) or float32 (N, classes).

    `indices` (N,) say which samples of the data set these are; `weights` (N,) is None
    unless samples are weighted.
    """

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    weights: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Batch":
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if v is not None}
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        return replace(self, **{k: v.pin_memory() for k, v in vars(self).items() if v is not None})


class SampleReader:
    """Reads a list of keys as a Batch: source -> pixels -> transforms, one sample after the other.

    What a sample looks like is a function of (seed, epoch, position) alone, so it does
    not matter which process reads it, when, or after which other samples.
    """

    def __init__(self, dataset: Any, transforms: Sequence, size: tuple[int, int], channels: int, seed: int):
        self.dataset = dataset
        self.transforms = transforms
        self.size = size
        self.channels = channels
        self.seed = seed

    def __getitem__(self, keys: Sequence[SampleKey]) -> "Batch | UserError":
        """The batch, or the error to raise: torch would wrap an error from a worker in its traceback."""
        try:
            images, targets = zip(*map(self.read, keys), strict=True)
        except UserError as error:
            return error
        return collate(images, targets, [key.index for key in keys])

    def read(self, key: SampleKey) -> tuple[np.ndarray, Any]:
        """One sample: (uint8 (H, W, C), target)."""
        source, target = self.dataset[key.index]
        image = to_pixels(source, self.channels)
        rng = np.random.default_rng((self.seed, key.epoch, key.position))
        for transform in self.transforms:
            image = transform(image, rng)
        expected = (*self.size, self.channels)
        if image.shape != expected or image.dtype != np.uint8:
            raise UserError(
                f"{self.dataset.name(key.index)}: {image.dtype} {image.shape} after the transforms, expected uint8 "
                f"{expected}; end INPUT.TRAIN_TRANSFORMS and TEST_TRANSFORMS with a crop or resize to INPUT.SIZE"
            )
        return image, target


def collate(images: Sequence[np.ndarray], targets: Sequence[Any], indices: Sequence[int]) -> Batch:
    """Samples, each uint8 (H, W, C) with its target, as one batch."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    labels = torch.from_numpy(np.asarray(targets))
    labels = labels.float() if labels.is_floating_point() else labels.long()
    return Batch(pixels, labels, torch.tensor(indices))


class Loader:
    """The batches of one split. `shuffle` is for training: another order in each epoch.

    `batches(epoch, start)` begins at a position within the epoch without reading what
    came before it.
    """

    def __init__(
        self,
        reader: SampleReader,
        batch_size: int,
        shuffle: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads do not survive their fork
        self.dataset = reader.dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = reader.seed
        total = len(reader.dataset)
        self.num_samples = usable_samples(total, batch_size) if shuffle else total
        self._keys = _Keys()
        self._loader = DataLoader(
            reader,
            batch_size=None,
            sampler=self._keys,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=_start_worker if num_workers else None,
            generator=torch.Generator().manual_seed(0),  # torch's own would be drawn from, and change the training
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self.num_samples / self.batch_size)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from position `start` on. Raises UserError for a sample that cannot be read."""
        order = epoch_order(len(self.dataset), self.seed, epoch) if self.shuffle else np.arange(len(self.dataset))
        self._keys.batches = batches_of_keys(order[: self.num_samples], self.batch_size, epoch, start)
        for item in self._loader:
            if isinstance(item, UserError):
                raise item
            yield item

    def close(self) -> None:
        """End the worker processes."""
        self._loader = None


class _Keys:
    """Hands a loader's current batches of keys to torch; iterated in the main process only."""

    batches: Iterator[list[SampleKey]] = iter(())

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return self.batches


def _start_worker(worker_id: int) -> None:
    # A signal for the whole process group is for the main process, which saves; it ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
