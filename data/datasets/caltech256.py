"""Caltech-256: photographs in 256 classes of objects, and clutter."""

from pathlib import Path

from data.datasets.image_folder import ImageFolder
from data.download import find_or_download
from data.registry import DATASETS, MissingSplit
from utils.logger import get_logger


@DATASETS.register("caltech256")
class Caltech256(ImageFolder):
    """G. Griffin, A. Holub, P. Perona, Caltech-256 object category dataset, 2007.

    The folder 256_ObjectCategories is searched in torchvision's place and in `root`, else downloaded by torchvision.
    Without `clutter` the last class, images of none of the others, is left out.
    """

    def __init__(self, root: Path, split: str, clutter: bool = True):
        if split != "train":
            raise MissingSplit(f"caltech256 has no {split} set of its own")
        self.clutter = clutter
        folders = [root / "caltech256", root]
        (folder,) = find_or_download(root, folders, ["256_ObjectCategories"], "Caltech256")
        super().__init__(folder, split)
        if len(self.classes) < 256 + clutter:
            get_logger("data").warning("%s: found %d classes of %d", folder, len(self.classes), 256 + clutter)

    def class_of(self, folder: str) -> str | None:
        """001.ak47 -> ak47"""
        name = folder.partition(".")[2] or folder
        return None if name == "clutter" and not self.clutter else name
