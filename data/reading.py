"""Keys -> batches: decoding, transforms, replacement of corrupt images."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from data.image_io import MAX_PIXELS, BrokenImage, EncodedImage, Source, size_of, to_pixels
from data.samplers import SampleKey, stream
from data.subset import Target, strata_of
from utils.contracts import Batch, Dataset, Transform, targets_of
from utils.errors import Interrupted, UserCodeError, UserError, one_line, printable

Sample = tuple[np.ndarray, Target]  # pixels uint8 (H, W, C), target
# Treatment of a corrupt image: stop, read another sample in its place, or leave it out of the batch.
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
        """Whether the transforms bring images of 3:2 and of 2:3 to the size of the network's."""
        side, rng = max(self.size), np.random.default_rng(0)
        with suppress(Exception):
            for height, width in ((2 * side, 3 * side), (3 * side, 2 * side)):
                self._transform(np.zeros((height, width, self.channels), np.uint8), np.zeros((height, width)), rng)
            return True
        return False

    def read(self, keys: Sequence[SampleKey], out: np.ndarray | None = None) -> ReadResult:
        """Reads a batch, its pixels into `out`, uint8 (at least N, H, W, C), if given.

        Whatever is raised is in the result: a reader that ended would be waited for.
        """
        result = ReadResult()
        indices: list[int] = []
        targets: list[Target] = []
        name = "a sample"
        try:
            images = np.empty((len(keys), *self.size, self.channels), np.uint8) if out is None else out
            for key in keys:
                if sample := self._read_or_skip(key, result.broken):
                    images[len(indices)], target = sample
                    indices.append(key.index)
                    targets.append(target)
            if indices:
                result.batch = collate(images[: len(indices)], targets, indices, self.weights)
        except UserError as error:
            result.error = error
        except Interrupted:
            raise
        except BaseException as error:  # from the code of a data set or transform
            with suppress(Exception):  # which may fail too
                name = printable(self.dataset.name(key.index))
            result.error = UserCodeError(f"{name}: {one_line(error)}")
            result.error.__cause__ = error
        return result

    def read_sample(self, key: SampleKey) -> Sample:
        """Reads one sample: (uint8 (H, W, C), target). Raises BrokenImage, UserError, or what user code raises."""
        source, target = self.dataset[key.index]
        try:
            return self._transform(source, target, stream("augmentation", self.seed, key.epoch, key.position))
        except BrokenImage:
            raise
        except UserError as error:
            name = source.name if isinstance(source, EncodedImage) else printable(self.dataset.name(key.index))
            raise UserError(f"{name}: {error}") from error

    def _transform(self, source: Source, target: Target, rng: np.random.Generator) -> Sample:
        transforms = self.transforms
        plan, finish = (getattr(transforms[0], name, None) if transforms else None for name in ("plan", "finish"))
        if plan and finish and not self.spatial_targets:
            box = plan(size_of(source), rng)  # before anything is decoded
            image = finish(to_pixels(source, self.channels, self.max_pixels, box))
            transforms = transforms[1:]
        else:
            image = to_pixels(source, self.channels, self.max_pixels)
        if self.spatial_targets and np.shape(target)[:2] != image.shape[:2]:
            raise UserError(f"found a target {np.shape(target)} for an image {image.shape}, expected the same size")
        for transform in transforms:
            if self.spatial_targets and hasattr(transform, "joint"):
                image, target = transform.joint(image, target, rng)
            else:
                image = transform(image, rng)
        expected = (*self.size, self.channels)
        if image.shape != expected or image.dtype != np.uint8:
            raise UserError(
                f"{image.dtype} {image.shape} after the transforms, expected uint8 {expected}; "
                "end INPUT.TRAIN_TRANSFORMS and TEST_TRANSFORMS with a crop or resize to INPUT.SIZE"
            )
        return image, target

    def _read_or_skip(self, key: SampleKey, broken: dict[int, str]) -> Sample | None:
        try:
            return self.read_sample(key)
        except BrokenImage as error:
            if self.on_broken == "raise":
                raise
            broken[key.index] = str(error)
            if self.on_broken == "skip":
                return None
            for index in self._replacements(key.index):
                with suppress(BrokenImage):
                    return self.read_sample(key._replace(index=index))
            raise

    @cached_property
    def _strata(self) -> np.ndarray:
        return strata_of(self.dataset)

    def _replacements(self, index: int) -> Iterator[int]:
        """The samples that may replace one, in order after it: those of its class, or that share a label with it;
        then any other if there are none, or if samples have several labels."""
        others = np.roll(np.arange(len(self.dataset)), -index)[1:]
        is_similar = self._strata[others] == self._strata[index]
        yield from others[is_similar].tolist()
        if not is_similar.any() or targets_of(self.dataset).ndim > 1:
            yield from others[~is_similar].tolist()


def collate(images: np.ndarray, targets: Sequence[Target], indices: Sequence[int], weights: Weights = None) -> Batch:
    """Makes a batch of images uint8 (N, H, W, C) and N targets; `weights` are those of the whole data set."""
    labels = torch.from_numpy(np.asarray(targets))
    return Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),  # (N, H, W, C) -> (N, C, H, W)
        targets=labels.float() if labels.is_floating_point() else labels.long(),
        indices=torch.tensor(indices),
        weights=None if weights is None else torch.from_numpy(weights[list(indices)]).float(),
    )
