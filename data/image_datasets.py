"""Base classes of data sets: images in memory or in files, each with its target."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data.image_io import EncodedImage
from data.subset import Target
from utils.errors import UserError


class ArrayDataset:
    """Images uint8 (N, H, W, C) and class indices (N,) in memory, read from the file or folder `source`.

    Raises UserError unless images, targets and `classes` agree in number.
    """

    thread_safe = True

    def __init__(self, images: np.ndarray, targets: np.ndarray, classes: list[str], split: str, source: Path):
        low, high = targets.min(initial=0), targets.max(initial=0)
        if len(targets) != len(images) or low < 0 or high >= len(classes):
            found = f"found {len(images)} images and {len(targets)} labels between {low} and {high}"
            expected = f"expected as many of both and labels from 0 to {len(classes) - 1}"
            raise UserError(f"{source}: {found}, {expected}; get the files again")
        self.images, self.targets, self.classes, self.split = images, targets, classes, split

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.images[i], int(self.targets[i])

    def name(self, i: int) -> str:
        return f"{self.split}/{i:05d}"


class FileDataset:
    """Images in files, with targets (N,) or (N, ...); `paths` are relative to `root`."""

    thread_safe = True

    def __init__(self, root: Path, paths: Iterable[str], targets: np.ndarray):
        self.root, self.targets = root, targets
        # Packed: reference counts of a list of strings would copy it page by page into every reader process.
        encoded = [os.fsencode(path) for path in paths]
        self._characters = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)

    def _stored(self, i: int) -> str:
        start = self._ends[i - 1] if i else 0
        return os.fsdecode(self._characters[start : self._ends[i]].tobytes())

    def path(self, i: int) -> Path:
        return self.root / self._stored(i)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> tuple[EncodedImage, Target]:
        target = self.targets[i]
        return EncodedImage.open(self.path(i)), target if target.ndim else int(target)

    def name(self, i: int) -> str:
        """The path relative to `root`, normalized but never escaped; absolute for a file given so outside it."""
        path = os.path.normpath(self._stored(i))
        if os.path.isabs(path):
            path = path.removeprefix(os.path.join(os.path.abspath(self.root), ""))
        return path.replace(os.sep, "/")
