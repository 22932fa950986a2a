"""CIFAR-10 and CIFAR-100, read by torchvision."""

from pathlib import Path

import numpy as np

from data.download import find_or_download
from data.image_datasets import ArrayDataset
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, one_line

_PRESET = {"size": (32, 32), "channels": 3, "train_transforms": [{"RandomCrop": {"padding": 4}}, "HFlip"]}


@DATASETS.register("cifar10", **_PRESET, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
class CIFAR10(ArrayDataset):
    """Vehicles and animals: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.

    The files are searched in torchvision's place and in `root`, else downloaded; torchvision verifies their checksums
    before it unpickles them. Raises UserError for files that are missing or have other contents.
    """

    folder = "cifar-10-batches-py"
    files = ["batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]

    def __init__(self, root: Path, split: str):
        name = type(self).__name__
        if split == "val":
            raise MissingSplit(f"{name} has no validation set of its own")
        folder = find_or_download(root, [root / self.folder, root], self.files, name)[0].absolute().parent
        import torchvision

        reader = type(name, (getattr(torchvision.datasets, name),), {"base_folder": folder.name})
        try:
            content = reader(str(folder.parent), train=split == "train")
        except (RuntimeError, OSError) as error:
            problem = f"its files are not those of {name} ({one_line(error)})"
            raise UserError(f"{folder}: {problem}; remove them, to download them again") from error
        super().__init__(content.data, np.array(content.targets, np.int64), content.classes, split, folder)


@DATASETS.register("cifar100", **_PRESET, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))
class CIFAR100(CIFAR10):
    """A hundred classes of objects and animals: the "fine" labels."""

    folder = "cifar-100-python"
    files = ["meta", "train", "test"]
