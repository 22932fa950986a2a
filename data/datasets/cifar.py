"""CIFAR-10 and CIFAR-100, from the pickles of their "python version"."""

from collections.abc import Callable
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any

import numpy as np

from data.download import find_or_download
from data.labelled_images import ImageArrays
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, one_line
from utils.registry import WRONG_VALUE

_PRESET = {"size": (32, 32), "channels": 3, "train_transforms": [{"RandomCrop": {"padding": 4}}, "HFlip"]}


@DATASETS.register("cifar10", **_PRESET, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
class CIFAR10(ImageArrays):
    """Vehicles and animals: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    The files are looked for where torchvision's class of the same name puts them and in `root`,
    and then downloaded by it.
    """

    folder = "cifar-10-batches-py"
    files = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    labels_key = "labels"
    meta, names_key = "batches.meta", "label_names"

    def __init__(self, root: Path, split: str):
        if split == "val":
            raise MissingSplit(f"{type(self).__name__} has no validation set of its own")
        wanted = [self.meta, *self.files[split]]
        meta, *batches = find_or_download(root, [root / self.folder, root], wanted, type(self).__name__)
        classes = read_pickle(meta, lambda content: [_text(name) for name in content[self.names_key]])
        images, labels = zip(*[read_pickle(batch, self._convert) for batch in batches], strict=True)
        super().__init__(np.concatenate(images), np.concatenate(labels), classes, split, meta.parent)

    def _convert(self, content: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        planes = content["data"].array().reshape(-1, 3, 32, 32)  # a row is all red, then green, then blue
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.array(content[self.labels_key], np.int64)


@DATASETS.register("cifar100", **_PRESET, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))
class CIFAR100(CIFAR10):
    """A hundred kinds of things and animals: the "fine" labels."""

    folder = "cifar-100-python"
    files = {"train": ["train"], "test": ["test"]}
    labels_key = "fine_labels"
    meta, names_key = "meta", "fine_label_names"


def read_pickle(path: Path, convert: Callable[[dict[str, Any]], Any]) -> Any:
    """`convert` of the dict that Python 2 or 3 has pickled in a file; arrays are `SavedArray`s.

    Raises UserError, and runs nothing, for a file that is damaged or wants more than that.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file, encoding="latin1").load()
        return convert({_text(key): value for key, value in content.items()})
    except (OSError, EOFError, UnpicklingError, AttributeError, *WRONG_VALUE) as error:
        raise UserError(f"{path}: damaged, or no file of this data set ({one_line(error)}); get it again") from error


class SavedArray:
    """A NumPy object as a pickle describes it. NumPy's own would let a forged file make an array of any memory."""

    def __init__(self, *_: Any):
        self.state = ()  # what counts is said later

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array of bytes that was saved. Raises ValueError or TypeError for anything else."""
        _, shape, _, is_fortran, data = self.state
        data = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")


class _Reader(Unpickler):
    """Reads plain values and arrays; a file that wants anything else to be called is refused."""

    known = {
        "numpy.core.multiarray._reconstruct": SavedArray,
        "numpy._core.multiarray._reconstruct": SavedArray,
        "numpy.ndarray": SavedArray,
        "numpy.dtype": SavedArray,
        "_codecs.encode": lambda text, _: text.encode("latin1"),  # so does Python 3 save bytes for Python 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.known:
            raise UnpicklingError(f"it wants to run {module}.{name}")
        return self.known[f"{module}.{name}"]


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
