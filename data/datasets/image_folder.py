"""A folder with one folder for each class."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data.file_scan import IMAGE_SUFFIXES, folders_in, ignored, is_image, is_junk, walk_files
from data.image_datasets import FileDataset
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, did_you_mean, one_line, printable
from utils.labels import nfc
from utils.logger import get_logger

_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_SPLITS = {split: (*names, *(f"{name}_set" for name in names)) for split, names in _SPLITS.items()}
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
        folders = folders_in(folder)
        if not folders:
            raise UserError(f"{folder}: no class folders in it; put the images of each class into a separate folder")
        if classes is None and folder == root and all(name.lower() in _NAMES_OF_SPLITS for name in folders):
            expected = "expected a folder 'train' of class folders too"
            raise UserError(f"{folder}: found only {', '.join(folders)}, {expected}")
        spelling = {nfc(name): name for name in classes or ()}
        named = [(name, each) for each in folders if (name := self.class_of(each)) is not None]
        named = [(spelling.setdefault(nfc(name), name), each) for name, each in named]
        folder_of = dict(named)
        if len(folder_of) < len(named):
            message = "%s: %d folders of %d classes; those with the same name in Unicode are merged"
            get_logger("data").warning(message, folder, len(named), len(folder_of))
        unknown = sorted(set(folder_of) - set(classes)) if classes is not None else []
        if unknown and (split != "train" or not folder_of.keys() >= set(classes or ())):
            problem = f"class '{unknown[0]}' is not in the training set; {did_you_mean(unknown[0], classes or ())}"
            raise UserError(f"{folder / folder_of[unknown[0]]}: {problem}")
        if unknown:  # the classes are those of a run, to which images may have been added since
            get_logger("data").warning("%s: ignored %d new classes: %s", folder, len(unknown), _some(unknown))
            named = [(name, each) for name, each in named if name not in unknown]
        if names and (unnamed := [each for each in folders if nfc(each) not in self.names]):
            message = "%s: no line for %d of %d folders, such as %s; they keep their names"
            get_logger("data").warning(message, root / names, len(unnamed), len(folders), unnamed[0])
        prefix = folder.relative_to(root)
        paths = _scan(root, prefix, named)
        if classes is None:
            inside = {name: [os.path.relpath(path, prefix) for path in own] for name, own in paths.items()}
            _check_layout(folder, inside)
            if empty := [name for name in folder_of if not paths[name]]:
                message = "%s: ignored %d folders without images: %s"
                get_logger("data").warning(message, folder, len(empty), _some(empty))
        self.classes = list(classes) if classes is not None else [name for name in folder_of if paths[name]]
        counts = [len(paths.get(name, ())) for name in self.classes]
        if not sum(counts):
            raise UserError(f"{folder}: no images in its class folders; expected {', '.join(IMAGE_SUFFIXES)}")
        targets = np.repeat(np.arange(len(self.classes)), counts)
        super().__init__(root, (path for name in self.classes for path in paths.get(name, ())), targets)

    def class_of(self, folder: str) -> str | None:
        """Returns the name of a folder's class, None to leave the folder out."""
        return self.names.get(nfc(folder), folder)


def _scan(root: Path, prefix: Path, folders: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Returns the sorted paths, relative to `root`, of the images of (class, folder below `prefix`)."""
    paths: dict[str, list[str]] = {}
    every: list[str] = []
    for name, folder in folders:
        files = sorted(walk_files(root / prefix / folder, str(prefix / folder)))
        paths.setdefault(name, []).extend(path for path in files if is_image(path))
        every += files
    # Images beside the class folders, and links to class folders that are gone.
    beside = [name for name in os.listdir(root / prefix) if not is_junk(name)]
    lost = [name for name in beside if is_image(name) or not os.path.exists(root / prefix / name)]
    if lost:
        message = "%s: ignored %d images and broken links outside the class folders, such as %s"
        get_logger("data").warning(message, root / prefix, len(lost), printable(min(lost)))
    for message in ignored(every):
        get_logger("data").warning("%s: %s", root, message)
    return paths


def _check_layout(folder: Path, paths: dict[str, list[str]]) -> None:
    """Raises UserError for class folders that hold splits or all classes, and warns if they look like it."""
    places = [[path.split(os.sep) for path in own] for own in paths.values() if own]
    inside = {parts[0][0]: {part[1] if len(part) > 2 else "" for part in parts} for parts in places}
    if not places or any("" in names for names in inside.values()):
        return
    (first, common), *others = inside.items()
    found = f"{folder}: found {_some(inside)} as classes, with the folders {_some(common)} and no image of their own"
    if not others:
        raise UserError(f"{found}; set DATASETS.ROOT to {folder / first}, or below it")
    words = {word for name in (*inside, *common) for word in re.split(r"[\W\d_]+", name.lower())}
    if words & _NAMES_OF_SPLITS and common.intersection(*(other for _, other in others)):
        raise UserError(f"{found}; expected the folders train, val and test, each with one folder for each class")
    if len(common) > 1 and all(other == common for _, other in others):
        get_logger("data").warning("%s; if those are the classes, set DATASETS.ROOT to one of these", found)


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (", ..." if len(set(names)) > 4 else "")


def _split_folder(root: Path, split: str) -> Path:
    """Returns the folder of a split, or `root` for the training set if there are no split folders; raises MissingSplit.

    The training set may be missing when a network is tested.
    """
    present = {name.lower(): name for name in folders_in(root)}
    candidates = (root / present[name] for name in _SPLITS["train"] if name in present)
    train = next(filter(folders_in, candidates), None)  # else it is a class of that name
    if train is not None and split == "train":
        others = [name for key, name in present.items() if key not in _NAMES_OF_SPLITS]
        if others := [name for name in others if any(map(is_image, walk_files(root / name)))]:
            found = f"{root}: found images in {_some(others)} beside the folder '{train.name}' of class folders"
            if len(present.keys() & _NAMES_OF_SPLITS) == 1:
                hint = f"move them, or if '{train.name}' is a class, its images out of the folders in it"
                raise UserError(f"{found}; {hint}")
            get_logger("data").warning("%s; they are ignored", found)
    has_splits = train is not None or present.keys() <= _NAMES_OF_SPLITS
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
