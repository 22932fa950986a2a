"""A folder with one folder for each class."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.file_scan import IMAGE_SUFFIXES, ignored, is_image, is_junk, walk_files
from data.image_datasets import FileDataset
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, did_you_mean, one_line
from utils.labels import nfc
from utils.logger import get_logger

_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_NAMES_OF_SPLITS = {name for names in _SPLITS.values() for name in names}


@DATASETS.register("image_folder")
class ImageFolder(FileDataset):
    """`root` has a folder for each class, or the folders train, val and test of class folders.

    Folders within a class folder belong to the class. `classes` are the training set's, None for the training set
    itself, which leaves out a class folder without images. `names` is a file in `root` with a line for each class,
    its folder and then its name ("n01440764 tench, Tinca tinca"): the whole line becomes the name of the class.
    Raises UserError for a folder without images or with classes that are not the training set's.
    """

    def __init__(self, root: Path, split: str, classes: Sequence[str] | None = None, names: str = ""):
        if not root.is_dir():
            raise UserError(f"DATASETS.ROOT {root}: no such folder; expected a folder with one folder for each class")
        folder = _split_folder(root, split)
        self.names = _read_names(root / names) if names else {}
        folders = sorted((e.name for e in os.scandir(folder) if e.is_dir() and not is_junk(e.name)), key=nfc)
        if not folders:
            raise UserError(f"{folder}: no class folders in it; put the images of each class into a separate folder")
        if classes is None and folder == root and all(name.lower() in _NAMES_OF_SPLITS for name in folders):
            raise UserError(
                f"{folder}: found only {', '.join(folders)}, expected a folder 'train' of class folders too"
            )
        spelling = {nfc(name): name for name in classes or ()}
        named = [(name, each) for each in folders if (name := self.class_of(each)) is not None]
        named = [(spelling.setdefault(nfc(name), name), each) for name, each in named]
        folder_of = dict(named)
        if len(folder_of) < len(named):
            message = "%s: %d folders of %d classes; those with the same name in Unicode are merged"
            get_logger("data").warning(message, folder, len(named), len(folder_of))
        unknown = sorted(set(folder_of) - set(classes)) if classes is not None else []
        if unknown and (split != "train" or not folder_of.keys() >= set(classes or ())):
            raise UserError(
                f"{folder / folder_of[unknown[0]]}: class '{unknown[0]}' is not in the training set; "
                f"{did_you_mean(unknown[0], classes or ())}"
            )
        if unknown:  # the classes are those of a run, to which images may have been added since
            get_logger("data").warning("%s: ignored %d new classes, such as %s", folder, len(unknown), unknown[0])
            named = [(name, each) for name, each in named if name not in unknown]
        paths = _scan(root, [(name, str(folder.relative_to(root) / each)) for name, each in named])
        for name in [name for name in (classes or folder_of) if not paths.get(name)]:
            outcome = "the class is left out" if classes is None else "the class cannot be evaluated"
            get_logger("data").warning("%s: no images of class '%s'; %s", folder, name, outcome)
        self.classes = list(classes) if classes is not None else [name for name in folder_of if paths[name]]
        counts = [len(paths.get(name, ())) for name in self.classes]
        if not sum(counts):
            raise UserError(f"{folder}: no images in its class folders; expected {', '.join(IMAGE_SUFFIXES)}")
        targets = np.repeat(np.arange(len(self.classes)), counts)
        super().__init__(root, (path for name in self.classes for path in paths.get(name, ())), targets)

    def class_of(self, folder: str) -> str | None:
        """Returns the name of a folder's class, None to leave the folder out."""
        return self.names.get(nfc(folder), folder)


def _scan(root: Path, folders: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Returns the sorted paths of each class's images, relative to `root`."""
    paths: dict[str, list[str]] = {}
    every: list[str] = []
    for name, folder in folders:
        files = sorted(walk_files(root / folder, folder))
        paths.setdefault(name, []).extend(path for path in files if is_image(path))
        every += files
    for message in ignored(every):
        get_logger("data").warning("%s: %s", root, message)
    return paths


def _split_folder(root: Path, split: str) -> Path:
    """Returns the folder of a split, or `root` for the training set if there are no split folders; raises MissingSplit.

    The training set may be missing when a network is tested.
    """
    present = {e.name.lower(): e.name for e in os.scandir(root) if e.is_dir()}
    train = next((root / present[name] for name in _SPLITS["train"] if name in present), None)
    has_train = train is not None and any(e.is_dir() for e in os.scandir(train))  # else it is a class of that name
    has_splits = has_train or present.keys() <= _NAMES_OF_SPLITS
    for name in _SPLITS[split] if has_splits else ():
        if name in present:
            return root / present[name]
    if split == "train":
        return root
    raise MissingSplit(f"{root} has no folder '{split}' beside 'train'")


def _read_names(path: Path) -> dict[str, str]:
    """Reads a file whose lines begin with a folder: folder -> the whole line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read the names of the classes: {one_line(error)}") from error
    return {nfc(line.split()[0]): " ".join(line.split()) for line in lines if line.strip()}
