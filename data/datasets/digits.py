"""The bundled data set: 1,797 real scans of handwritten digits, 8 by 8 pixels.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0).
"""

from pathlib import Path

import numpy as np

from data.image_datasets import ArrayDataset
from data.registry import DATASETS, MissingSplit

# Enlarged to 16 by 16, as networks halve the resolution several times.
_PRESET = {"size": (16, 16), "channels": 1, "train_transforms": ["Resize", {"RandomCrop": {"padding": 1}}]}


@DATASETS.register("digits", **_PRESET, mean=(0.305,), std=(0.376,))
class Digits(ArrayDataset):
    """Every fifth image is in the test set, the others in the training set. The images are beside this file."""

    def __init__(self, root: Path, split: str):
        if split == "val":
            raise MissingSplit("digits has no validation set of its own")
        file = Path(__file__).with_name("digits.npz")
        with np.load(file) as archive:
            images, labels = archive["images"], archive["labels"]
        index = np.arange(len(images))
        self.index = index[(index % 5 == 0) == (split == "test")]
        grays = np.rint(images[self.index] * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
        # (N, 8, 8) -> (N, 8, 8, 1)
        super().__init__(grays[..., np.newaxis], labels[self.index].astype(np.int64), list("0123456789"), split, file)

    def name(self, i: int) -> str:
        return f"digits/{self.index[i]:04d}"
