"""MNIST and its successors, from the idx files they are published in."""

import gzip
import string
import zlib
from pathlib import Path

import numpy as np

from data.download import find_or_download
from data.image_datasets import ArrayDataset
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, one_line


class IdxImages(ArrayDataset):
    """28 by 28 gray images from a pair of idx files, plain or gzipped.

    They are searched in the place of torchvision's class of the same name, in `root`, and in Debian's place, else
    downloaded by torchvision, which checks them.
    """

    classes: list[str]
    arguments: dict[str, str] = {}  # of torchvision's class
    system_folder: Path | None = None  # Debian's
    prefixes = {"train": "train", "test": "t10k"}  # of the file names
    first_label = 0  # of the first class

    def __init__(self, root: Path, split: str):
        name = type(self).__name__
        if split == "val":
            raise MissingSplit(f"{name} has no validation set of its own")
        folders = [root / name / "raw", root, *([self.system_folder] if self.system_folder else [])]
        files = [f"{self.prefixes[split]}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        images, labels = find_or_download(root, folders, files, name, arguments=self.arguments)
        targets = read_idx(labels, ndim=1).astype(np.int64) - self.first_label
        super().__init__(read_idx(images, ndim=3)[..., np.newaxis], targets, self.classes, split, labels.parent)


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Reads an idx file of bytes in `ndim` dimensions. Raises UserError if it is damaged or of another kind."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot read: {one_line(error)}; get the file again") from error
    header = 4 + 4 * ndim
    if data[:4] == bytes((0, 0, 8, ndim)) and len(data) >= header:
        shape = np.frombuffer(data[4:header], ">u4").astype(np.int64)
        if len(data) == header + shape.prod():
            return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
    problem = f"not an idx file of bytes in {ndim} dimensions, or cut short ({len(data)} bytes)"
    raise UserError(f"{path}: {problem}; get it again")


_PRESET = {"size": (28, 28), "channels": 1}
_CROP_1, _CROP_2 = ({"RandomCrop": {"padding": padding}} for padding in (1, 2))


@DATASETS.register("mnist", **_PRESET, mean=(0.1307,), std=(0.3081,), train_transforms=[_CROP_2])
class MNIST(IdxImages):
    """Handwritten digits: Y. LeCun et al., Gradient-based learning applied to document recognition, 1998."""

    classes = [str(digit) for digit in range(10)]


@DATASETS.register("fashion_mnist", **_PRESET, mean=(0.2860,), std=(0.3530,), train_transforms=[_CROP_1, "HFlip"])
class FashionMNIST(IdxImages):
    """Clothes: H. Xiao et al., Fashion-MNIST, 2017, arXiv:1708.07747."""

    classes = "T-shirt/top|Trouser|Pullover|Dress|Coat|Sandal|Shirt|Sneaker|Bag|Ankle boot".split("|")
    system_folder = Path("/usr/share/datasets/fashion-mnist")


@DATASETS.register("kmnist", **_PRESET, mean=(0.1918,), std=(0.3483,), train_transforms=[_CROP_2])
class KMNIST(IdxImages):
    """Cursive Japanese syllables: T. Clanuwat et al., Kuzushiji-MNIST, 2018, arXiv:1812.01718."""

    classes = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]


# Small letters that look like their capitals share a class with them.
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
_CHARACTERS = {
    "byclass": string.digits + string.ascii_uppercase + string.ascii_lowercase,
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": string.ascii_lowercase,
    "digits": string.digits,
    "mnist": string.digits,
}


# Mean and deviation of "balanced"; the others' differ little.
@DATASETS.register("emnist", **_PRESET, mean=(0.1751,), std=(0.3332,), train_transforms=[_CROP_2])
class EMNIST(IdxImages):
    """Handwritten digits and letters: G. Cohen et al., EMNIST, 2017, arXiv:1702.05373.

    `variant` is byclass, bymerge, balanced, letters (capital or not), digits or mnist.
    """

    def __init__(self, root: Path, split: str, variant: str = "balanced"):
        if variant not in _CHARACTERS:
            raise ValueError(f"variant: found {variant!r}, expected one of {', '.join(_CHARACTERS)}")
        self.classes, self.first_label = list(_CHARACTERS[variant]), int(variant == "letters")
        self.arguments, self.prefixes = {"split": variant}, {split: f"emnist-{variant}-{split}"}
        super().__init__(root, split)
        self.images = self.images.swapaxes(1, 2)  # the files have rows and columns exchanged
