"""Loaders of training images, ours and those of the libraries. All give what a network takes: float32, normalised.

With `uint8` all stop before the normalisation, where a library lets them.
"""

import gzip
import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm.data
import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from config import load_config
from data.build import build_train_and_val, build_train_loader, dataset_defaults
from data.datasets.idx import FashionMNIST
from modeling.build import build_input_spec, build_normalize
from tests.bench.measuring import Contender, Run, timed
from utils.errors import UserError

MEAN, STD, SIZE = timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD, 224
CROP = "[{RandomResizedCrop: {scale: [0.08, 1.0]}}, HFlip]"


@dataclass(frozen=True)
class Reading:
    """Images in class folders, in batches, cropped at random, resized to 224 pixels and flipped, by some workers."""

    root: Path
    batch_size: int
    workers: int
    uint8: bool = False

    @property
    def words(self) -> list[str]:
        """KEY VALUE words of our configuration."""
        data = f"DATASETS.NAME image_folder DATASETS.VAL_RATIO 0 SOLVER.BATCH_SIZE {self.batch_size}"
        size = ["INPUT.SIZE", f"[{SIZE},{SIZE}]", "INPUT.TRAIN_TRANSFORMS", CROP]
        return [*data.split(), "DATASETS.ROOT", str(self.root), *size]

    def ours(self, name: str = "strata", *words: str) -> Contender:
        return ours(name, [*self.words, *words], self.uint8)

    def with_workers(self, kind: str) -> Contender:
        """Returns ours with the number of workers set, all of one kind."""
        words = f"DATALOADER.NUM_WORKERS {self.workers} DATALOADER.WORKER_KIND {kind}".split()
        return self.ours(f"strata, {self.workers} {kind}", *words)

    def torchvision(self) -> Contender:
        """Returns torchvision's way of its references: PIL in workers."""
        return Contender("torchvision, PIL", lambda _: self._with_v2(datasets.folder.default_loader))

    def torchvision_tensors(self) -> Contender:
        """Returns torchvision's own decoder, and the transforms on tensors."""
        return Contender("torchvision, decode_jpeg", lambda _: self._with_v2(decode))

    def _with_v2(self, loader: Callable[[str], Any]) -> Run:
        steps: list[Any] = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(), v2.ToImage()]
        if not self.uint8:
            steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        dataset = datasets.ImageFolder(str(self.root), v2.Compose([*steps, v2.ToPureTensor()]), loader=loader)
        batches = peer_loader(dataset, self.batch_size, self.workers)
        return timed(lambda: images_of(batches))

    def timm(self) -> Contender:
        """Returns timm's loader as its script uses it without a GPU, with its fast collate, without colour jitter."""

        def prepare(_: ExitStack) -> Run:
            loader = timm.data.create_loader(
                timm.data.create_dataset("", str(self.root), is_training=True),
                (3, SIZE, SIZE),
                self.batch_size,
                is_training=True,
                color_jitter=None,  # type: ignore[arg-type]  # annotated as a number
                mean=MEAN,
                std=STD,
                num_workers=self.workers,
                device=torch.device("cpu"),
            )
            return timed(lambda: images_of(loader.loader if self.uint8 else loader))

        return Contender("timm", prepare)

    def decode_alone(self) -> Contender:
        """Returns the limit: every file decoded whole by OpenCV, from memory, in as many threads as workers."""

        def prepare(cleanup: ExitStack) -> Run:
            pool = cleanup.enter_context(ThreadPool(self.workers))
            files = [np.fromfile(path, np.uint8) for path in sorted(self.root.glob("*/*.jpg"))]
            return timed(lambda: pool.imap_unordered(lambda file: [cv2.imdecode(file, cv2.IMREAD_COLOR)], files))

        return Contender("decoding alone", prepare)


def ours(name: str, words: list[str], uint8: bool) -> Contender:
    """Returns our training loader of a configuration."""

    def prepare(cleanup: ExitStack) -> Run:
        cfg = load_config(None, words)
        spec = build_input_spec(cfg, dataset_defaults(cfg))
        loader = build_train_loader(cfg, build_train_and_val(cfg).train, spec)
        cleanup.callback(loader.close)
        normalize, epochs = build_normalize(cfg, spec), itertools.count()

        def batches() -> Iterator[torch.Tensor]:
            for batch in loader.batches(next(epochs)):
                yield batch.images if uint8 else normalize(batch.images)

        return timed(batches)

    return Contender(name, prepare)


def decode(path: str) -> torch.Tensor:
    return decode_jpeg(read_file(path), ImageReadMode.RGB)


def peer_loader(dataset: Any, batch_size: int, workers: int) -> DataLoader:
    """Returns PyTorch's loader, whose workers stay alive between epochs."""
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def images_of(loader: Any) -> Iterator[torch.Tensor]:
    return (images for images, _ in loader)


def idx_folder(folder: Path) -> Path:
    """Returns a root for torchvision's FashionMNIST: Debian's files, unpacked. Raises UserError without them."""
    source = FashionMNIST.system_folder
    packed = sorted(source.glob("*-ubyte.gz")) if source is not None else []
    if len(packed) != 4:
        raise UserError("Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for path in packed:
        if not (raw / path.stem).exists():
            unfinished = raw / f"{path.stem}.unfinished"
            with gzip.open(path) as file, unfinished.open("wb") as unpacked:
                shutil.copyfileobj(file, unpacked)
            unfinished.rename(raw / path.stem)
    return folder


def fashion_of_torchvision(folder: Path, workers: int, batch_size: int, count: int) -> Contender:
    """Returns torchvision's Fashion-MNIST, `count` images of it, with the transforms of our data set."""

    def prepare(_: ExitStack) -> Run:
        steps = [transforms.RandomCrop(28, padding=1), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        dataset = datasets.FashionMNIST(str(idx_folder(folder)), transform=transforms.Compose(steps))
        loader = peer_loader(Subset(dataset, range(count)), batch_size, workers)
        return timed(lambda: images_of(loader))

    return Contender(f"torchvision, {workers} workers", prepare)
