"""Pascal VOC: photographs with the kinds of things to be seen in each."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from data.download import find_files, find_or_download
from data.labelled_images import ImagePaths
from data.path_table import PathTable
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, one_line

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()
_MARKS = {"1": 1, "-1": 0, "0": -1}  # present, absent, and nothing but difficult ones, which do not count


@DATASETS.register("voc")
class VOC(ImagePaths):
    """M. Everingham et al., The Pascal visual object classes challenge, IJCV 2010. Several labels an image.

    VOC<year> is looked for where torchvision puts it and in `root`, and then downloaded by torchvision.
    Raises UserError for a list or an annotation that is missing or damaged.
    """

    classes = CLASSES

    def __init__(self, root: Path, split: str, year: int = 2007):
        images = _list_of_images(root, split, str(year))
        folder = images.parents[2]
        names = [words[0] for words in _lines(images)]
        lists = [images.with_name(f"{name}_{split}.txt") for name in CLASSES]
        if all(path.is_file() for path in lists):
            self.targets = np.stack([_from_list(path, names) for path in lists], axis=1)
        else:
            rows = [_from_xml(folder / "Annotations" / f"{name}.xml") for name in names]
            self.targets = np.array(rows, np.float32).reshape(len(names), len(CLASSES))
        self.root = folder / "JPEGImages"
        self.paths = PathTable(f"{name}.jpg" for name in names)


def _list_of_images(root: Path, split: str, year: str) -> Path:
    """The file ImageSets/Main/<split>.txt. Raises MissingSplit where there is none for val or test."""
    folders = [root / "VOCdevkit", root, root / "TrainVal" / "VOCdevkit"]
    names = [f"VOC{year}/ImageSets/Main/{split}.txt"]
    if split == "train" or (split, year) == ("test", "2007"):  # what can be downloaded
        error = UserError if split == "train" else MissingSplit
        return find_or_download(root, folders, names, "VOCDetection", error=error, year=year, image_set=split)[0]
    if not (found := find_files(folders, names)):
        raise MissingSplit(f"no {names[0]} in {', '.join(map(str, folders))}")
    return found[0]


def _lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines() if line.strip()]


def _from_list(path: Path, names: Sequence[str]) -> np.ndarray:
    """The targets (N,) of one class, from its list of images, each marked 1, -1 or 0."""
    try:
        marks = dict(_lines(path))
        return np.array([_MARKS[marks[name]] for name in names], np.float32)
    except (OSError, ValueError, KeyError) as error:
        found = one_line(error)
        raise UserError(f"{path}: expected 1, -1 or 0 after each image's name ({found}); get the file again") from error


def _from_xml(path: Path) -> np.ndarray:
    """The targets (classes,) of one image, from the things that are marked in it."""
    targets = np.zeros(len(CLASSES), np.float32)
    try:
        for thing in ElementTree.parse(path).getroot().findall("object"):
            i = CLASSES.index(thing.findtext("name", "").strip())
            is_difficult = thing.findtext("difficult", "0").strip() == "1"
            targets[i] = targets[i] or -1 if is_difficult else 1
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path}: cannot read the annotation ({one_line(error)}); get the file again") from error
    return targets
