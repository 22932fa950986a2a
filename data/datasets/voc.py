"""Pascal VOC: photographs, each with the classes of the objects in it."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from data.download import find_files, find_or_download
from data.image_datasets import FileDataset
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, one_line

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()


@DATASETS.register("voc")
class VOC(FileDataset):
    """M. Everingham et al., The Pascal visual object classes challenge, IJCV 2010. Several labels an image.

    VOC<year> is searched in torchvision's place and in `root`, else downloaded by torchvision. Targets are float32
    (n, 20), -1 (ignored) where all objects are difficult. Raises UserError for a missing or damaged annotation.
    """

    classes = CLASSES

    def __init__(self, root: Path, split: str, year: int = 2007):
        images = _list_of_images(root, split, str(year))
        folder = images.parents[2]
        names = images.read_text().split()
        rows = [_read_annotation(folder / "Annotations" / f"{name}.xml") for name in names]
        targets = np.array(rows, np.float32).reshape(len(names), len(CLASSES))
        super().__init__(folder / "JPEGImages", (f"{name}.jpg" for name in names), targets)


def _list_of_images(root: Path, split: str, year: str) -> Path:
    """Returns the file ImageSets/Main/<split>.txt. Raises MissingSplit if there is none for val or test."""
    folders = [root / "VOCdevkit", root, root / "TrainVal" / "VOCdevkit"]
    names = [f"VOC{year}/ImageSets/Main/{split}.txt"]
    if split == "train" or (split, year) == ("test", "2007"):  # what can be downloaded
        error = UserError if split == "train" else MissingSplit
        return find_or_download(root, folders, names, "VOCDetection", error, {"year": year, "image_set": split})[0]
    if found := find_files(folders, names):
        return found[0]
    raise MissingSplit(f"no {names[0]} in {', '.join(map(str, folders))}")


def _read_annotation(path: Path) -> np.ndarray:
    """Returns the targets (classes,) of one image, from the objects in it: 1, or -1 if all of a class are difficult."""
    targets = np.zeros(len(CLASSES), np.float32)
    try:
        for node in ElementTree.parse(path).iterfind("object"):
            i = CLASSES.index(node.findtext("name", "").strip())
            targets[i] = targets[i] or -1 if node.findtext("difficult", "0").strip() == "1" else 1
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path}: cannot read the annotation ({one_line(error)}); get the file again") from error
    return targets
