"""What data sets are made of: images in memory or in files, each with its target.

Targets are int64 (N,), or float32 (N, classes) where an image has several labels: 1 is present,
0 absent, and -1 does not count, which loss and metrics leave out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.image_io import EncodedImage, printable
from data.path_table import PathTable
from utils.errors import UserError


class ImageArrays:
    """Images uint8 (N, H, W, C) and class indices (N,), read from the file or folder `source`.

    Raises UserError where they do not fit each other or the `classes`.
    """

    def __init__(self, images: np.ndarray, targets: np.ndarray, classes: list[str], split: str, source: Path):
        low, high = targets.min(initial=0), targets.max(initial=0)
        if len(targets) != len(images) or low < 0 or high >= len(classes):
            raise UserError(
                f"{source}: found {len(images)} images and {len(targets)} labels between {low} and {high}, "
                f"expected as many of both and labels from 0 to {len(classes) - 1}; get the files again"
            )
        self.images, self.targets = images, targets
        self.classes, self.split = classes, split

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.images[i], int(self.targets[i])

    def name(self, i: int) -> str:
        return f"{self.split}/{i:05d}"


class ImagePaths:
    """Images in files: `paths` are relative to `root`."""

    root: Path
    paths: PathTable
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[EncodedImage, Any]:
        target = self.targets[i]
        return EncodedImage.open(self.root / self.paths[i]), target if target.ndim else int(target)

    def name(self, i: int) -> str:
        return printable(self.root / self.paths[i])


class ImageFiles:
    """A list of image files as a data set whose targets are all 0."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[EncodedImage, int]:
        return EncodedImage.open(self.paths[i]), 0

    def name(self, i: int) -> str:
        return printable(self.paths[i])
