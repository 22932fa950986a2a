"""Any folder of class folders."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.file_scan import IMAGE_SUFFIXES, is_image, is_junk, walk_files
from data.labelled_images import ImagePaths
from data.path_table import PathTable
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, did_you_mean, one_line
from utils.logger import get_logger

_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_NAMES_OF_SPLITS = {name for names in _SPLITS.values() for name in names}


@DATASETS.register("image_folder")
class ImageFolder(ImagePaths):
    """`root` has a folder for each class, or the folders train, val and test of class folders.

    Folders within a class folder belong to the class. `classes` are the training set's,
    None for the training set itself: a class folder without an image is left out of it.
    `names` is a file in `root` with a line for each class, the folder and then what it shows
    ("n01440764 tench, Tinca tinca"): the class is called by the whole line.
    Raises UserError for a folder without images or with classes that are not the training set's.
    """

    def __init__(self, root: Path, split: str, classes: Sequence[str] | None = None, names: str = ""):
        if not root.is_dir():
            raise UserError(f"DATASETS.ROOT {root}: no such folder; expected a folder with one folder for each class")
        self.root = _split_folder(root, split)
        self.names = _read_names(root / names) if names else {}
        folders = sorted(e.name for e in os.scandir(self.root) if e.is_dir() and not is_junk(e.name))
        if not folders:
            raise UserError(
                f"{self.root}: no class folders in it; put the images of each class into a folder of its own"
            )
        if classes is None and self.root == root and all(name.lower() in _NAMES_OF_SPLITS for name in folders):
            raise UserError(
                f"{self.root}: found only {', '.join(folders)}, expected a folder 'train' of class folders too"
            )
        folder_of = {name: folder for folder in folders if (name := self.class_of(folder)) is not None}
        strangers = [] if classes is None else sorted(set(folder_of) - set(classes))
        if strangers:
            raise UserError(
                f"{self.root / folder_of[strangers[0]]}: class '{strangers[0]}' is not in the training set; "
                f"{did_you_mean(strangers[0], classes or ())}"
            )
        self._scan(folder_of, classes)

    def class_of(self, folder: str) -> str | None:
        """What the class in a folder is called; None leaves the folder out."""
        return self.names.get(folder, folder)

    def _scan(self, folder_of: dict[str, str], classes: Sequence[str] | None) -> None:
        log = get_logger("data")
        paths: dict[str, list[str]] = {}
        others: list[str] = []
        for name, folder in folder_of.items():
            paths[name] = []
            for path in walk_files(self.root / folder, folder):
                (paths[name] if is_image(path) else others).append(path)
        empty = [name for name in (classes or folder_of) if not paths.get(name)]
        for name in empty:
            fate = "the class is left out" if classes is None else "none of this class is counted"
            log.warning("%s: no images of class '%s'; %s", self.root, name, fate)
        if others:
            log.warning("%s: skipped %d files that are no images, such as %s", self.root, len(others), min(others))
        self.classes = list(classes) if classes is not None else [name for name in folder_of if paths[name]]
        counts = [len(paths.get(name, ())) for name in self.classes]
        if not sum(counts):
            raise UserError(f"{self.root}: no images in its class folders; expected {', '.join(IMAGE_SUFFIXES)}")
        self.targets = np.repeat(np.arange(len(self.classes)), counts)
        self.paths = PathTable(path for name in self.classes for path in sorted(paths.get(name, ())))


def _split_folder(root: Path, split: str) -> Path:
    """The folder of a split, or `root` itself for the training set where there are no split folders.

    A network can be tested where the training set is gone.
    """
    present = {e.name.lower(): e.name for e in os.scandir(root) if e.is_dir()}
    train = next((root / present[name] for name in _SPLITS["train"] if name in present), None)
    has_train = train is not None and any(e.is_dir() for e in os.scandir(train))  # else it is a class of that name
    has_splits = has_train or present.keys() <= _NAMES_OF_SPLITS
    for name in _SPLITS[split]:
        if has_splits and name in present:
            return root / present[name]
    if split == "train":
        return root
    raise MissingSplit(f"{root} has no folder '{split}' beside 'train'")


def _read_names(path: Path) -> dict[str, str]:
    """Folder -> the whole of its line, in a file of lines that begin with a folder's name."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read the names of the classes: {one_line(error)}") from error
    return {line.split()[0]: " ".join(line.split()) for line in lines if line.strip()}
