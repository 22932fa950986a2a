"""Keys -> batches: decoding, transforms, replacement of corrupt images, data sets that are kept in memory."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from data.image_datasets import ArrayDataset
from data.image_io import MAX_PIXELS, BrokenImage, EncodedImage, Source, size_of, to_pixels
from data.samplers import Draws, Keys, Rng, Row
from data.subset import Subset, Target
from utils.contracts import Batch, Dataset, Transform, targets_of
from utils.errors import Interrupted, UserCodeError, UserError, one_line, printable

Sample = tuple[np.ndarray, Target]  # pixels uint8 (H, W, C), target
# Treatment of a corrupt image: stop, read the next readable sample in its place, or leave it out of the batch.
OnBroken = Literal["raise", "replace", "skip"]
Weights = np.ndarray | None  # (n,), of all samples of a data set in the loss


@dataclass
class ReadResult:
    """Outcome of reading one batch."""

    batch: Batch | None = None  # None if it is empty
    broken: dict[int, str] = field(default_factory=dict)  # index -> reason, of corrupt samples
    error: UserError | None = None  # ends the epoch


@dataclass(eq=False)
class SampleReader:
    """Reads one sample after the other: source -> pixels -> transforms.

    The pixels of a sample are a function of (seed, epoch, position), whoever reads it, and when. `weights` (n,) belong
    to all samples of the data set. With `spatial_targets` targets are arrays (H, W, ...) that move with the image.
    """

    dataset: Dataset
    transforms: Sequence[Transform]
    size: tuple[int, int]
    channels: int
    seed: int
    weights: Weights = None
    on_broken: OnBroken = "raise"
    max_pixels: int = MAX_PIXELS
    spatial_targets: bool = False

    def takes_any_size(self) -> bool:
        """Tests if the transforms bring images of 3:2 and of 2:3 to the size of the network's."""
        side, rng = max(self.size), np.random.default_rng(0)
        with suppress(Exception):
            for height, width in ((2 * side, 3 * side), (3 * side, 2 * side)):
                image, mask = np.zeros((height, width, self.channels), np.uint8), np.zeros((height, width))
                self._checked(*self._transform(image, mask, rng, rng))
            return True
        return False

    def read(self, keys: Keys, out: np.ndarray | None = None) -> ReadResult:
        """Reads a batch, its pixels into `out`, uint8 (at least N, H, W, C), if given.

        Whatever is raised is in the result: a reader that ended would be waited for.
        """
        result = ReadResult()
        indices: list[int] = []
        targets: list[Target] = []
        index, name = -1, "a sample"
        try:
            images = np.empty((len(keys.indices), *self.size, self.channels), np.uint8) if out is None else out
            draws = self._draws(keys)
            for number, index in enumerate(keys.indices.tolist()):
                if sample := self._read_or_skip(index, draws, number, result.broken):
                    images[len(indices)], target = sample
                    indices.append(index)
                    targets.append(target)
            if indices:
                result.batch = collate(images[: len(indices)], targets, np.array(indices), self.weights)
        except UserError as error:
            result.error = error
        except Interrupted:
            raise
        except BaseException as error:  # from the code of a data set or transform
            with suppress(Exception):  # which may fail too
                name = printable(self.dataset.name(index))
            result.error = UserCodeError(f"{name}: {one_line(error)}")
            result.error.__cause__ = error
        return result

    def read_sample(self, index: int, epoch: int = 0, position: int = 0) -> Sample:
        """Reads one sample: (uint8 (H, W, C), target). Raises BrokenImage, UserError, or what user code raises."""
        return self._read(index, self._draws(Keys(np.array([index]), epoch, position)), 0)

    def _draws(self, keys: Keys) -> Draws:
        return Draws(self.seed, keys, sum(getattr(transform, "draws", None) or 0 for transform in self.transforms))

    def _read(self, index: int, draws: Draws, number: int) -> Sample:
        source, target = self.dataset[index]
        try:
            return self._checked(*self._transform(source, target, draws.generator(number), draws.row(number)))
        except BrokenImage:
            raise
        except UserError as error:
            name = source.name if isinstance(source, EncodedImage) else printable(self.dataset.name(index))
            raise UserError(f"{name}: {error}") from error

    def _transform(self, source: Source, target: Target, rng: Rng, row: Rng) -> Sample:
        transforms = self.transforms
        plan, finish = (getattr(transforms[0], name, None) if transforms else None for name in ("plan", "finish"))
        if plan and finish and not self.spatial_targets:
            box = plan(size_of(source), rng)  # before anything is decoded
            least = getattr(transforms[0], "size", None)
            image = finish(to_pixels(source, self.channels, self.max_pixels, box, least))
            transforms = transforms[1:]
        else:
            image = to_pixels(source, self.channels, self.max_pixels)
        if not self.spatial_targets:
            return augment(image, transforms, rng, row), target
        if np.shape(target)[:2] != image.shape[:2]:
            raise UserError(f"found a target {np.shape(target)} for an image {image.shape}, expected the same size")
        for transform in transforms:
            if hasattr(transform, "joint"):
                image, target = transform.joint(image, target, rng)
            else:
                image = transform(image, rng)
        return image, target

    def _checked(self, image: np.ndarray, target: Target) -> Sample:
        expected = (*self.size, self.channels)
        if image.shape != expected or image.dtype != np.uint8:
            raise UserError(
                f"{image.dtype} {image.shape} after the transforms, expected uint8 {expected}; "
                "end INPUT.TRAIN_TRANSFORMS and TEST_TRANSFORMS with a crop or resize to INPUT.SIZE"
            )
        return image, target

    def _read_or_skip(self, index: int, draws: Draws, number: int, broken: dict[int, str]) -> Sample | None:
        try:
            return self._read(index, draws, number)
        except BrokenImage as error:
            if self.on_broken == "raise":
                raise
            broken[index] = str(error)
            if self.on_broken == "skip":
                return None
            for offset in range(1, len(self.dataset)):
                with suppress(BrokenImage):
                    return self._read((index + offset) % len(self.dataset), draws, number)
            raise


def augment(image: np.ndarray, transforms: Sequence[Transform], rng: Rng = None, row: Rng = None) -> np.ndarray:
    """Applies transforms to an image (H, W, C): those that have a `batch` form draw from `row`, others from `rng`."""
    for transform in transforms:
        image = transform(image, row if hasattr(transform, "batch") else rng)
    return image


def collate(images: np.ndarray, targets: Sequence[Target], indices: np.ndarray, weights: Weights = None) -> Batch:
    """Makes a batch of images uint8 (N, H, W, C) and N targets; `weights` are those of the whole data set."""
    labels = torch.from_numpy(np.asarray(targets))
    return Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),  # (N, H, W, C) -> (N, C, H, W)
        targets=labels.float() if labels.is_floating_point() else labels.long(),
        indices=torch.from_numpy(indices),
        weights=None if weights is None else torch.from_numpy(weights[indices]).float(),
    )


@dataclass(eq=False, kw_only=True)
class ResidentReader(SampleReader):
    """Keeps images in memory as they are before the first random transform; each is read when it is first needed.

    The other transforms are given whole batches where they have a `batch` form. All pixels are those of a SampleReader.
    `places` int64 (n,) are those of the samples in `memory`, `is_read` bool (n,) tells which are there already.
    """

    memory: np.ndarray  # uint8 (N, H, W, C)
    places: np.ndarray
    is_read: np.ndarray

    def read(self, keys: Keys, out: np.ndarray | None = None) -> ReadResult:
        with suppress(Exception):  # reading one by one tells the sample and the cause
            images = self._images(keys)
            self._checked(images[0], None)
            return ReadResult(collate(images, targets_of(self.dataset)[keys.indices], keys.indices, self.weights))
        return super().read(keys, out)

    def _images(self, keys: Keys) -> np.ndarray:
        """Returns the images of a batch (N, H, W, C)."""
        fixed, rest = _split(self.transforms)
        for index in keys.indices[~self.is_read[keys.indices]].tolist():
            image = to_pixels(self.dataset[index][0], self.channels, self.max_pixels)
            self.memory[index] = augment(image, fixed)
            self.is_read[index] = True
        images, draws, drawn = self.memory[self.places[keys.indices]], self._draws(keys), 0
        while rest and hasattr(rest[0], "batch"):
            batch, count = (getattr(rest[0], name) for name in ("batch", "draws"))
            images = batch(images, draws.uniforms[:, drawn : drawn + count])
            rest, drawn = rest[1:], drawn + count
        if not rest:
            return images
        sources = ((draws.generator(i), Row(row[drawn:])) for i, row in enumerate(draws.uniforms))
        return np.stack([augment(image, rest, *next(sources)) for image in images])


def resident(reader: SampleReader, limit: int) -> SampleReader:
    """Returns a reader that keeps the images in memory if they have one size before the first random transform.

    It is the given one if they would take more than `limit` bytes beside what the data set itself has in memory.
    """
    arrays, side, shapes = _arrays(reader.dataset), max(reader.size), set()
    fixed, _ = _split(reader.transforms)
    with suppress(Exception):
        for size in [arrays[0].shape[1:3]] if arrays else [(2 * side, 3 * side), (3 * side, 2 * side)]:
            shapes.add(augment(np.zeros((*size, reader.channels), np.uint8), fixed).shape)
    if len(shapes) != 1 or reader.spatial_targets or getattr(reader.dataset, "targets", None) is None:
        return reader
    count, shape = len(reader.dataset), shapes.pop()
    if arrays and not fixed and arrays[0].shape[1:] == shape:
        (memory, places), is_read = arrays, np.ones(count, np.bool_)
    elif count * math.prod(shape) <= limit:
        memory, places = np.empty((count, *shape), np.uint8), np.arange(count)
        is_read = np.zeros(count, np.bool_)
    else:
        return reader
    return ResidentReader(**vars(reader), memory=memory, places=places, is_read=is_read)


def _split(transforms: Sequence[Transform]) -> tuple[Sequence[Transform], Sequence[Transform]]:
    """Splits transforms before the first random one."""
    is_random = [getattr(transform, "draws", None) != 0 for transform in transforms]
    first = is_random.index(True) if any(is_random) else len(transforms)
    return transforms[:first], transforms[first:]


def _arrays(dataset: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the images that a data set has in memory, (N, H, W, C), and the place of each sample among them, (n,)."""
    places = np.arange(len(dataset))
    while isinstance(dataset, Subset):
        places, dataset = dataset.indices[places], dataset.dataset
    if isinstance(dataset, ArrayDataset) and type(dataset).__getitem__ is ArrayDataset.__getitem__:
        return dataset.images, places
    return None
