"""MNIST and its successors, from the idx files that they are published in."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, one_line

_FILES = {"train": "train", "test": "t10k"}


class IdxImages:
    """28 by 28 gray images from a pair of idx files, plain or gzipped.

    They are looked for in `root`, in the folders that torchvision and Debian put them in,
    and then downloaded by torchvision, which checks them.
    """

    classes: list[str]
    # The class of torchvision that downloads the files, and its folder under root.
    torchvision_name: str
    system_folder: Path | None = None

    def __init__(self, root: Path, split: str):
        if split == "val":
            raise MissingSplit(f"{self.torchvision_name} has no validation set of its own")
        self.split = split
        folder = self._find(Path(root), _FILES[split]) or self._download(Path(root))
        self.images = read_idx(_file(folder, f"{_FILES[split]}-images-idx3-ubyte"), ndim=3)[..., np.newaxis]
        labels = read_idx(_file(folder, f"{_FILES[split]}-labels-idx1-ubyte"), ndim=1)
        if len(labels) != len(self.images) or labels.max(initial=0) >= len(self.classes):
            raise UserError(
                f"{folder}: found {len(self.images)} images and {len(labels)} labels up to {labels.max(initial=0)}, "
                f"expected as many of both and labels below {len(self.classes)}; get the files again"
            )
        self.targets = labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.images[i], int(self.targets[i])  # (28, 28, 1)

    def name(self, i: int) -> str:
        return f"{self.split}/{i:05d}"

    def _folders(self, root: Path) -> list[Path]:
        below = [root, root / self.torchvision_name / "raw"]
        return below + ([self.system_folder] if self.system_folder else [])

    def _find(self, root: Path, prefix: str) -> Path | None:
        for folder in self._folders(root):
            if _file(folder, f"{prefix}-images-idx3-ubyte") and _file(folder, f"{prefix}-labels-idx1-ubyte"):
                return folder
        return None

    def _download(self, root: Path) -> Path:
        import torchvision

        try:
            getattr(torchvision.datasets, self.torchvision_name)(root, download=True)
        except (OSError, RuntimeError) as error:
            looked = ", ".join(str(folder) for folder in self._folders(root))
            package = " install Debian's package dataset-fashion-mnist," if self.system_folder else ""
            raise UserError(
                f"DATASETS.NAME: {self.torchvision_name} is not in {looked}, and the download failed "
                f"({one_line(error)}): put the four idx files into {root},{package} or allow the download"
            ) from error
        return root / self.torchvision_name / "raw"


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """An idx file of unsigned bytes as an array of `ndim` dimensions.

    Raises UserError for a file that is damaged or of another kind.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot read: {one_line(error)}; get the file again") from error
    header = 4 + 4 * ndim
    is_idx = data[:4] == bytes((0, 0, 8, ndim)) and len(data) >= header
    shape = np.frombuffer(data[4:header], ">u4").astype(np.int64) if is_idx else np.zeros(ndim, np.int64)
    if not is_idx or len(data) != header + shape.prod():
        raise UserError(
            f"{path}: not an idx file of bytes in {ndim} dimensions, or cut short ({len(data)} bytes); get it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


_PRESET = {"size": (28, 28), "channels": 1}


@DATASETS.register("mnist", **_PRESET, mean=(0.1307,), std=(0.3081,), train_transforms=[{"RandomCrop": {"padding": 2}}])
class MNIST(IdxImages):
    """Handwritten digits: Y. LeCun et al., Gradient-based learning applied to document recognition, 1998."""

    classes = [str(digit) for digit in range(10)]
    torchvision_name = "MNIST"


@DATASETS.register(
    "fashion_mnist",
    **_PRESET,
    mean=(0.2860,),
    std=(0.3530,),
    train_transforms=[{"RandomCrop": {"padding": 1}}, "HFlip"],
)
class FashionMNIST(IdxImages):
    """Clothes: H. Xiao et al., Fashion-MNIST, 2017, arXiv:1708.07747."""

    classes = [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ]
    torchvision_name = "FashionMNIST"
    system_folder = Path("/usr/share/datasets/fashion-mnist")
