"""The Python API for predicting: a trained run -> predictions for images, in a notebook or a script.

classifier = Classifier.load("runs/default/2026-01-01_12-00-00")
print(classifier("image.jpg").label)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, overload

import numpy as np
import torch

from config import CfgNode
from data.build import build_eval_loader, build_reader
from data.image_io import BrokenImage, EncodedImage, to_pixels
from data.samplers import Keys
from engine.build_inference import build_trained_task, prepare_checkpoint, resolve_device
from engine.checkpoint import Checkpoint, load_checkpoint
from engine.inference import Watch
from engine.predictions import LabelPredictions
from engine.resume import find_checkpoint
from utils.contracts import Batch
from utils.errors import UserError


class File(Protocol):
    def read(self) -> bytes: ...


ImageLike = str | Path | bytes | bytearray | memoryview | File | np.ndarray
Images = list[ImageLike] | tuple[ImageLike, ...] | Iterator[ImageLike]
_CHUNK = 32  # batch size for a list of images


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image: `values` (outputs,) are the probabilities of `names`, or numbers of regression.

    An image that cannot be read has an `error`, and no values. `image` uint8 (C, H, W) is what the network saw.
    `labels` are the predicted classes, as in a test: one, or any number for several labels; None for other tasks.
    """

    source: str
    names: Sequence[str]
    values: np.ndarray | None
    image: torch.Tensor | None = None
    error: str = ""
    labels: list[str] | None = None

    @property
    def label(self) -> str:
        """The predicted class; several are joined by `|`. Raises ValueError as `top`."""
        self.top(1)
        return "|".join(self.labels or ())

    @property
    def probability(self) -> float:
        """The highest probability."""
        return self.top(1)[0][1]

    def top(self, k: int) -> list[tuple[str, float]]:
        """Returns the k most probable classes with their probabilities. Raises ValueError if there are none."""
        if self.values is None:
            raise ValueError(self.error)
        if k < 1:
            raise ValueError(f"k: found {k}, expected at least 1")
        if self.labels is None:
            raise ValueError("predictions of this task have no labels; use `values`")
        return [(self.names[i], float(self.values[i])) for i in np.argsort(-self.values, kind="stable")[:k]]


class Classifier:
    """A trained network with its preprocessing. Called with an image or a list of them, it returns predictions.

    An image is a path, the bytes of an image file, a file opened for reading bytes, or an array uint8 (H, W) or
    (H, W, C), RGB. Several are a list, a tuple or an iterator.
    """

    def __init__(self, checkpoint: Checkpoint, cfg: CfgNode, device: torch.device):
        self.cfg = cfg
        self.source = checkpoint.source
        self.spec = checkpoint.resolved.input
        self.names = checkpoint.resolved.names
        self.device = device
        self.task = build_trained_task(checkpoint, cfg, device)
        self.has_labels = issubclass(self.task.predictions_type, LabelPredictions)
        self._sources = _Sources([], self.spec.channels)
        self._reader = build_reader(cfg, self._sources, self.spec, train=False)

    @classmethod
    def load(cls, run_or_checkpoint: str | Path, device: str = "auto", overrides: Sequence[str] = ()) -> "Classifier":
        """Loads the best weights of a run, of the newest run in a folder, or a checkpoint.

        `overrides` are KEY VALUE pairs such as ("TEST.TTA_FLIP", "true"). Raises UserError if it cannot be loaded.
        """
        checkpoint = load_checkpoint(find_checkpoint(Path(run_or_checkpoint).expanduser()), mapped=True)
        # An image that cannot be read is reported, however many they are.
        skip = ["DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "1"]
        return cls(*prepare_checkpoint(checkpoint, [*skip, *overrides]), resolve_device(device))

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...
    @overload
    def __call__(self, images: Images) -> list[Prediction]: ...
    def __call__(self, images: ImageLike | Images) -> Prediction | list[Prediction]:
        """Predicts one image, or several."""
        if isinstance(images, (list, tuple, Iterator)) and not hasattr(images, "read"):
            return self.predict(list(images))
        return self.predict([cast("ImageLike", images)])[0]

    def predict(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """Predicts images in the order given. Raises UserError for a failure that no image explains."""
        predictions: list[Prediction] = []
        for start in range(0, len(images), _CHUNK):
            self._sources.images = images[start : start + _CHUNK]
            read = self._reader.read(Keys(np.arange(len(self._sources)), 0, 0))
            if read.error is not None:
                raise read.error
            found = dict(self._run(read.batch, read.broken, self._sources))
            predictions += [found[i] for i in sorted(found)]
        return predictions

    def stream(
        self, files: Sequence[Path], watch: Watch = lambda batches, total: batches
    ) -> Iterator[tuple[int, Prediction]]:
        """Yields (index, prediction) of files as they come, read ahead in batches; unreadable ones at the end."""
        sources = _Sources(files, self.spec.channels)
        loader = build_eval_loader(self.cfg, sources, self.spec)
        try:
            for batch in watch(loader.batches(), len(files)):
                yield from self._run(batch, {}, sources)
            yield from self._run(None, loader.broken, sources)
        finally:
            loader.close()

    def _run(
        self, batch: Batch | None, broken: Mapping[int, str], sources: "_Sources"
    ) -> Iterator[tuple[int, Prediction]]:
        """Yields (index, prediction) for the images of a batch, and for those that could not be read."""
        if batch is not None:
            with torch.inference_mode():
                outputs = self.task.model(self.task.normalize(batch.images.to(self.device)))
                values = self.task.predict(outputs).float().cpu().numpy()
            indices, raw = batch.indices.numpy(), outputs.float().cpu().numpy()
            found = self.task.predictions_type(indices, indices, raw, self.names)  # without targets
            for row, (i, image) in enumerate(zip(indices.tolist(), batch.images.clone(), strict=True)):
                labels = found.predicted_names(row) if isinstance(found, LabelPredictions) else None
                yield i, Prediction(sources.name(i), self.names, values[row], image, labels=labels)
        for i, reason in broken.items():
            yield i, Prediction(sources.name(i), self.names, None, error=reason)


@dataclass
class _Sources:
    """The caller's images as a data set whose targets are all 0."""

    images: Sequence[ImageLike]
    channels: int
    thread_safe = True

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray | EncodedImage, int]:
        image, name = self.images[i], self.name(i)
        if isinstance(image, (str, Path)):
            return EncodedImage.open(Path(image)), 0
        if isinstance(image, np.ndarray):
            try:
                return to_pixels(image, self.channels), 0
            except UserError as error:
                raise BrokenImage(f"{name}: {error}") from error
        content = image.read() if hasattr(image, "read") else image
        if isinstance(content, (bytes, bytearray, memoryview)):
            return EncodedImage(bytes(content), name), 0
        expected = "a path, the bytes of an image file, or an array uint8 (H, W) or (H, W, C)"
        raise BrokenImage(f"{name}: found {type(content).__name__}, expected {expected}")

    def name(self, i: int) -> str:
        image = self.images[i]
        return str(image) if isinstance(image, (str, Path)) else f"image {i}"
