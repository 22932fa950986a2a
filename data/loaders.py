"""Samples -> batches, the same ones for any number of worker processes."""

import atexit
import contextlib
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from data.image_io import MAX_PIXELS, BrokenImage, to_pixels
from data.samplers import SampleKey, batches_of_keys, epoch_order, usable_samples
from data.targets import targets_of
from utils.errors import UserError
from utils.logger import get_logger

log = get_logger("data")


@dataclass(frozen=True)
class Batch:
    """Images uint8 (N, C, H, W) in channels-last memory; targets int64 (N,) or float32 (N, classes).

    `indices` (N,) say which samples of the data set these are; `weights` float32 (N,), of each
    sample in the loss, is None unless samples are weighted.
    """

    images: torch.Tensor
    targets: torch.Tensor
    indices: torch.Tensor
    weights: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._map(torch.Tensor.pin_memory)

    def split(self, parts: int) -> "list[Batch]":
        """As many parts, of nearly equal size; fewer where one would hold a single sample, too few for batch norm."""
        parts = max(min(parts, len(self) // 2), 1)
        return [self._map(lambda tensor, i=i: tensor.tensor_split(parts)[i]) for i in range(parts)]

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return replace(self, **{k: function(v) for k, v in vars(self).items() if v is not None})


class SampleReader:
    """Reads a list of keys as a Batch: source -> pixels -> transforms, one sample after the other.

    What a sample looks like is a function of (seed, epoch, position) alone, so it does
    not matter which process reads it, when, or after which other samples. `on_broken` says what
    a broken image does: raise, replace (by another one of its class), or leave_out.
    """

    def __init__(
        self,
        dataset: Any,
        transforms: Sequence,
        size: tuple[int, int],
        channels: int,
        seed: int,
        weights: np.ndarray | None = None,
        on_broken: str = "raise",
        max_pixels: int = MAX_PIXELS,
    ):
        self.dataset = dataset
        self.transforms = transforms
        self.size = size
        self.channels = channels
        self.seed = seed
        self.weights = weights
        self.on_broken = on_broken
        self.max_pixels = max_pixels

    def __getitem__(self, keys: Sequence[SampleKey]) -> "tuple[Batch | None, dict[int, str]] | UserError":
        """(the batch, None for an empty one; why which samples are broken), or the error to raise.

        An error is given back because torch would wrap one from a worker in its traceback.
        """
        broken: dict[int, str] = {}
        try:
            samples = [(key.index, self._read_or_skip(key, broken)) for key in keys]
        except UserError as error:
            return error
        samples = [(index, sample) for index, sample in samples if sample is not None]
        if not samples:
            return None, broken
        images, targets = zip(*[sample for _, sample in samples], strict=True)
        return collate(images, targets, [index for index, _ in samples], self.weights), broken

    def _read_or_skip(self, key: SampleKey, broken: dict[int, str]) -> tuple[np.ndarray, Any] | None:
        try:
            return self.read(key)
        except BrokenImage as error:
            if self.on_broken == "raise":
                raise
            broken[key.index] = str(error)
            for index in self._same_class(key.index) if self.on_broken == "replace" else ():
                with contextlib.suppress(BrokenImage):
                    return self.read(key._replace(index=index))
            if self.on_broken == "replace":
                raise
            return None

    def _same_class(self, index: int) -> np.ndarray:
        """The other samples of its class, those behind it first: what stands in for it depends on nothing else."""
        targets = targets_of(self.dataset)
        matches = targets == targets[index]
        others = np.flatnonzero(matches if matches.ndim == 1 else matches.all(axis=1))
        return np.roll(others, -np.searchsorted(others, index))[1:]

    def read(self, key: SampleKey) -> tuple[np.ndarray, Any]:
        """One sample: (uint8 (H, W, C), target)."""
        source, target = self.dataset[key.index]
        image = to_pixels(source, self.channels, self.max_pixels)
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


def collate(
    images: Sequence[np.ndarray], targets: Sequence[Any], indices: Sequence[int], weights: np.ndarray | None = None
) -> Batch:
    """Samples, each uint8 (H, W, C) with its target, as one batch; `weights` are those of the whole data set."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    labels = torch.from_numpy(np.asarray(targets))
    labels = labels.float() if labels.is_floating_point() else labels.long()
    own_weights = None if weights is None else torch.from_numpy(weights[list(indices)]).float()
    return Batch(pixels, labels, torch.tensor(indices), own_weights)


class Workers(NamedTuple):
    """The processes that read batches: how many, batches each is ahead, and how they are started.

    `kind` is fork, forkserver, spawn, or auto for Python's default.
    """

    count: int = 0
    prefetch: int = 2
    kind: str = "auto"


NO_WORKERS = Workers()


class Loader:
    """The batches of one split. `shuffle` is for training: another order in each epoch.

    With `draw_weights` (n,) an epoch is as many draws in proportion to them. `batches(epoch,
    start)` begins at a position within the epoch without reading what came before it. More
    broken images than `max_broken`, a share of the data set, end it.
    """

    def __init__(
        self,
        reader: SampleReader,
        batch_size: int,
        shuffle: bool = False,
        workers: Workers = NO_WORKERS,
        pin_memory: bool = False,
        draw_weights: np.ndarray | None = None,
        max_broken: float = 0.0,
    ):
        cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads do not survive their fork
        self.dataset = reader.dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = reader.seed
        self.draw_weights = draw_weights
        self.max_broken = max_broken
        self.broken: dict[int, str] = {}  # index -> why, of the broken images met so far
        total = len(reader.dataset)
        self.num_samples = usable_samples(total, batch_size) if shuffle else total
        self._keys = _Keys()
        own_processes = {
            "persistent_workers": True,
            "prefetch_factor": workers.prefetch,
            "multiprocessing_context": None if workers.kind == "auto" else workers.kind,
            "worker_init_fn": _start_worker,
        }
        self._loader = DataLoader(
            reader,
            batch_size=None,
            sampler=self._keys,
            num_workers=workers.count,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(0),  # torch's own would be drawn from, and change the training
            **(own_processes if workers.count else {}),
        )
        if workers.count:
            atexit.register(self.close)  # before Python waits for processes that ignore its signal to end

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(self.num_samples / self.batch_size)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from position `start` on. Raises UserError for a sample that cannot be read."""
        total = len(self.dataset)
        order = epoch_order(total, self.seed, epoch, self.draw_weights) if self.shuffle else np.arange(total)
        self._keys.batches = batches_of_keys(order[: self.num_samples], self.batch_size, epoch, start)
        before = len(self.broken)
        for item in self._loader:
            if isinstance(item, UserError):
                raise item
            batch, broken = item
            self._count(broken)
            if batch is not None:
                yield batch
        fate = "replaced by another of its class" if self.shuffle else "left out"
        for reason in list(self.broken.values())[before:]:
            log.warning("%s: %s", fate, reason)

    def close(self) -> None:
        """End the worker processes."""
        atexit.unregister(self.close)
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
        self._loader = None

    def _count(self, broken: dict[int, str]) -> None:
        self.broken |= broken
        if len(self.broken) > self.max_broken * len(self.dataset):
            raise UserError(
                f"DATASETS.ON_ERROR skip: {len(self.broken)} of {len(self.dataset)} images are broken, more than "
                f"DATASETS.MAX_SKIPPED {self.max_broken} of them, such as {next(iter(self.broken.values()))}"
            )


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
