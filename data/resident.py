"""Data sets that are kept in memory and read by whole batches."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from data.image_datasets import ArrayDataset
from data.image_io import to_pixels
from data.reading import ReadResult, SampleReader, augment, collate
from data.samplers import Keys, Row
from data.subset import Subset
from utils.contracts import Dataset, Transform, targets_of


@dataclass
class Memory:
    """Images as they are before the first random transform, `pixels` uint8 (N, H, W, C).

    `places` int64 (n,) are those of the samples in it, `is_read` bool (n,) tells which are there already.
    """

    pixels: np.ndarray
    places: np.ndarray
    is_read: np.ndarray


@dataclass(eq=False)
class ResidentReader(SampleReader):
    """Keeps images in memory as they are before the first random transform; each is read when it is first needed.

    The other transforms are given whole batches where they have a `batch` form. All pixels are those of a SampleReader.
    """

    memory: Memory | None = None

    def read(self, keys: Keys, out: np.ndarray | None = None) -> ReadResult:
        with suppress(Exception):  # reading one by one tells the sample and the cause
            images = self._images(keys)
            self._checked(images[0], None)
            return ReadResult(collate(images, targets_of(self.dataset)[keys.indices], keys.indices, self.weights))
        return super().read(keys, out)

    def _images(self, keys: Keys) -> np.ndarray:
        """Returns the images of a batch (N, H, W, C)."""
        memory = self.memory
        assert memory is not None
        fixed, rest = _split(self.transforms)
        for index in keys.indices[~memory.is_read[keys.indices]].tolist():
            image = to_pixels(self.dataset[index][0], self.channels, self.max_pixels)
            memory.pixels[index] = augment(image, fixed)
            memory.is_read[index] = True
        images, draws, drawn = memory.pixels[memory.places[keys.indices]], self._draws(keys), 0
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
        memory = Memory(*arrays, np.ones(count, np.bool_))
    elif count * math.prod(shape) <= limit:
        memory = Memory(np.empty((count, *shape), np.uint8), np.arange(count), np.zeros(count, np.bool_))
    else:
        return reader
    return ResidentReader(**vars(reader), memory=memory)


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
