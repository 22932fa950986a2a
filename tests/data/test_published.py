"""Published data sets, from small files in the formats that they are published in. Nothing is downloaded."""

import gzip
import logging
import os
import pickle
import struct
from http.client import IncompleteRead
from pathlib import Path

import cv2
import numpy as np
import pytest
import torchvision

from config import load_config
from data.build import build_split, build_train_and_val, dataset_defaults
from data.datasets.caltech256 import Caltech256
from data.datasets.cifar import CIFAR10, CIFAR100
from data.datasets.idx import EMNIST, KMNIST
from data.datasets.voc import CLASSES, VOC
from data.registry import DATASETS, MissingSplit
from utils.errors import Interrupted, UserError
from utils.registry import call

RNG = np.random.default_rng(0)
TORCHVISIONS = ("MNIST", "KMNIST", "EMNIST", "CIFAR10", "CIFAR100", "Caltech256", "VOCDetection")


@pytest.fixture(autouse=True)
def downloads(monkeypatch) -> list:
    """What is asked of torchvision's data sets, none of which can be reached: [(name, root, arguments)]."""
    asked = []

    def unreachable(name):
        def download(root, download, **arguments):
            asked.append((name, root, arguments))
            raise OSError("no network")

        return download

    for name in TORCHVISIONS:
        monkeypatch.setattr(torchvision.datasets, name, unreachable(name))
    return asked


def build(name: str, root: Path, split: str, **arguments):
    """As the configuration builds it, which turns a wrong value into one line."""
    return call(DATASETS.get(name, "DATASETS.NAME"), arguments, "DATASETS", root=root, split=split)


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def write_image(path: Path) -> Path:
    return write(path, cv2.imencode(path.suffix, np.full((8, 9, 3), 50, np.uint8))[1].tobytes())


# Where the files are looked for, and what is said when they are nowhere.


@pytest.mark.parametrize(
    ("name", "asked", "files", "folder"),
    [
        ("mnist", ("MNIST", {}), ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], "MNIST/raw"),
        ("kmnist", ("KMNIST", {}), ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], "KMNIST/raw"),
        ("emnist", ("EMNIST", {"split": "balanced"}), ["emnist-balanced-train-images-idx3-ubyte"], "EMNIST/raw"),
        ("cifar10", ("CIFAR10", {}), ["batches.meta", "data_batch_1", "data_batch_5"], "cifar-10-batches-py"),
        ("cifar100", ("CIFAR100", {}), ["meta", "train"], "cifar-100-python"),
        ("caltech256", ("Caltech256", {}), ["256_ObjectCategories"], "caltech256"),
        ("voc", ("VOCDetection", {"year": "2007", "image_set": "train"}), ["VOC2007/ImageSets/Main"], "VOCdevkit"),
    ],
)
def test_files_that_are_nowhere_are_asked_of_torchvision(tmp_path, downloads, name, asked, files, folder):
    with pytest.raises(UserError) as caught:
        build(name, tmp_path, "train")
    message = str(caught.value)
    assert downloads == [(asked[0], str(tmp_path), asked[1])]
    assert "no network" in message and "\n" not in message and f"put them into {tmp_path / folder}" in message
    assert all(file in message for file in files)


def test_what_torchvision_downloads_is_used(tmp_path, monkeypatch):
    def download(root, download):
        write_idx(Path(root) / "KMNIST" / "raw", "train", zipped=False)

    monkeypatch.setattr(torchvision.datasets, "KMNIST", download)
    assert len(KMNIST(tmp_path, "train")) == 6
    monkeypatch.setattr(torchvision.datasets, "KMNIST", None)  # and is found the next time
    assert len(KMNIST(tmp_path, "train")) == 6


@pytest.mark.parametrize("error", [RuntimeError("File not found or corrupted."), IncompleteRead(b"")])
def test_a_download_that_breaks_off(tmp_path, monkeypatch, error):
    def download(root, download):
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", download)
    with pytest.raises(UserError, match="the download failed \\((File not found|IncompleteRead)"):
        CIFAR100(tmp_path, "train")


def test_a_download_that_is_stopped_begins_again(tmp_path, monkeypatch):
    folder = tmp_path / "KMNIST" / "raw"

    def stopped(root, download):
        write_idx(folder, "train")
        half = folder / "train-labels-idx1-ubyte.gz"
        half.write_bytes(half.read_bytes()[:20])
        raise Interrupted(15)

    monkeypatch.setattr(torchvision.datasets, "KMNIST", stopped)
    with pytest.raises(Interrupted):
        KMNIST(tmp_path, "train")
    monkeypatch.setattr(torchvision.datasets, "KMNIST", lambda root, download: write_idx(folder, "train"))
    assert len(KMNIST(tmp_path, "train")) == 6
    monkeypatch.setattr(torchvision.datasets, "KMNIST", None)
    assert len(KMNIST(tmp_path, "train")) == 6


def test_a_download_of_something_else_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "KMNIST", lambda root, download: None)
    with pytest.raises(UserError, match="no t10k-images-idx3-ubyte, .* in .*: put them into"):
        KMNIST(tmp_path, "test")


@pytest.mark.parametrize("name", ["mnist", "kmnist", "emnist", "cifar10", "cifar100", "caltech256", "voc"])
def test_no_validation_set_is_no_mistake(tmp_path, downloads, name):
    with pytest.raises(MissingSplit):
        build(name, tmp_path, "val")
    assert downloads == []


# KMNIST and EMNIST


def write_idx(folder: Path, prefix: str, labels: list[int] | None = None, zipped: bool = True) -> np.ndarray:
    """Images as they are stored, (N, 28, 28), beside their labels."""
    labels = np.arange(6, dtype=np.uint8) if labels is None else np.array(labels, np.uint8)
    images = RNG.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        name = f"{prefix}-{kind}-ubyte"
        write(folder / f"{name}.gz", gzip.compress(data)) if zipped else write(folder / name, data)
    return images


def test_kmnist_is_not_taken_for_mnist(tmp_path):
    write_idx(tmp_path, "t10k")
    images = write_idx(tmp_path / "KMNIST" / "raw", "t10k")
    dataset = KMNIST(tmp_path, "test")
    assert np.array_equal(dataset.images[..., 0], images)
    assert dataset.classes[dataset[3][1]] == "tsu" and dataset.name(3) == "test/00003"
    assert dataset_defaults(load_config(None, ["DATASETS.NAME", "kmnist"]))["size"] == (28, 28)


@pytest.mark.parametrize(
    ("variant", "count"),
    [("byclass", 62), ("bymerge", 47), ("balanced", 47), ("letters", 26), ("digits", 10), ("mnist", 10)],
)
def test_emnist_equals_torchvisions_but_stands_upright(tmp_path, monkeypatch, variant, count):
    monkeypatch.undo()
    first = int(variant == "letters")
    labels = list(range(first, first + count))
    write_idx(tmp_path / "EMNIST" / "raw", f"emnist-{variant}-test", labels, zipped=False)
    theirs = torchvision.datasets.EMNIST(tmp_path, split=variant, train=False)
    ours = build("emnist", tmp_path, "test", variant=variant)
    assert len(ours.classes) == count
    for i in range(count):
        image, target = ours[i]
        assert image.shape == (28, 28, 1) and np.array_equal(image[..., 0].T, theirs.data[i])
        assert ours.classes[target] == theirs.classes[theirs.targets[i]]


def test_emnist_mistakes(tmp_path):
    with pytest.raises(UserError, match="DATASETS: EMNIST: variant: found 'letter', expected one of byclass, bymerge"):
        build("emnist", tmp_path, "train", variant="letter")
    write_idx(tmp_path, "emnist-letters-train", [0, 1])
    with pytest.raises(UserError, match="found 2 images and 2 labels between -1 and 0, expected .* from 0 to 25"):
        EMNIST(tmp_path, "train", "letters")
    write_idx(tmp_path, "emnist-digits-train", [10])
    with pytest.raises(UserError, match="labels between 0 and 10, expected .* from 0 to 9"):
        EMNIST(tmp_path, "train", "digits")


# CIFAR


def pixels(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3072), dtype=np.uint8)


def write_cifar10(folder: Path) -> dict[str, dict]:
    """Writes the files of CIFAR-10 with four images each; name -> content."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files = {"batches.meta": {"label_names": names}}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        files[name] = {"labels": RNG.integers(0, 10, 4).tolist(), "data": pixels(4)}
    for name, content in files.items():
        write(folder / name, pickle.dumps(content))
    return files


def write_cifar100(folder: Path) -> dict[str, dict]:
    files = {"meta": {"fine_label_names": [f"fine{i}" for i in range(100)]}}
    for name in ("train", "test"):
        files[name] = {"data": pixels(3), "fine_labels": [99, 0, 50], "coarse_labels": [19, 0, 3]}
    for name, content in files.items():
        write(folder / name, pickle.dumps(content))
    return files


@pytest.fixture
def known_sums(monkeypatch, downloads):
    """Files of any content have the sums that torchvision expects."""
    monkeypatch.undo()
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "", "elsewhere/named so"])
def test_cifar10_is_read_where_it_is(tmp_path, known_sums, place):
    files = write_cifar10(tmp_path / place)
    root = tmp_path / place if place.startswith("elsewhere") else tmp_path
    for split, names in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test_batch"])):
        dataset = CIFAR10(root, split)
        rows = np.concatenate([files[name]["data"] for name in names])  # a row is all red, then green, then blue
        assert np.array_equal(dataset.images.transpose(0, 3, 1, 2).reshape(len(rows), 3072), rows)
        assert dataset.targets.tolist() == [label for name in names for label in files[name]["labels"]]
        assert dataset.images.dtype == np.uint8 and dataset.targets.dtype == np.int64
        assert dataset.classes[3] == "cat" and dataset[1][0].shape == (32, 32, 3) and isinstance(dataset[1][1], int)


def test_cifar100_has_the_fine_labels(tmp_path, known_sums):
    files = write_cifar100(tmp_path / "cifar-100-python")
    dataset = CIFAR100(tmp_path, "test")
    assert dataset.targets.tolist() == [99, 0, 50] and dataset.classes == [f"fine{i}" for i in range(100)]
    assert np.array_equal(dataset.images[2, :, :, 1].ravel(), files["test"]["data"][2, 1024:2048])


class Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_cifar_of_other_contents_is_refused_and_runs_nothing(tmp_path, monkeypatch, downloads):
    monkeypatch.undo()
    marker = tmp_path / "ran"
    attack = pickle.dumps({"data": Runs(os.mkdir, str(marker)), "labels": []})
    pickle.loads(attack)
    marker.rmdir()  # so it does what it is made for
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(folder)
    for name in ("test_batch", "batches.meta"):
        write(folder / name, attack)
        with pytest.raises(UserError, match=f"^{folder}: its files are not those of CIFAR10 .*; remove them") as caught:
            CIFAR10(tmp_path, "test")
        assert not marker.exists() and "\n" not in str(caught.value)


def test_cifar_labels_fit_images_and_classes(tmp_path, known_sums):
    write_cifar10(tmp_path)
    write(tmp_path / "test_batch", pickle.dumps({"data": pixels(2), "labels": [1]}))
    with pytest.raises(UserError, match="found 2 images and 1 labels"):
        CIFAR10(tmp_path, "test")
    write(tmp_path / "test_batch", pickle.dumps({"data": pixels(2), "labels": [1, 10]}))
    with pytest.raises(UserError, match="labels between 0 and 10, expected as many of both and labels from 0 to 9"):
        CIFAR10(tmp_path, "test")


# Caltech-256


@pytest.fixture
def caltech(tmp_path) -> Path:
    folder = tmp_path / "caltech256" / "256_ObjectCategories"
    for number, name, count in (
        (1, "ak47", 2),
        (2, "american-flag", 1),
        (145, "motorbikes-101", 1),
        (257, "clutter", 3),
    ):
        for i in range(1, count + 1):
            write_image(folder / f"{number:03d}.{name}" / f"{number:03d}_{i:04d}.jpg")
    write(folder / "145.motorbikes-101" / "RENAME2", "the archive has such a file")
    return tmp_path


def test_caltech_equals_torchvisions(caltech, monkeypatch, caplog):
    monkeypatch.undo()
    logging.getLogger("strata").propagate = True
    dataset = Caltech256(caltech, "train")
    theirs = torchvision.datasets.Caltech256(str(caltech))
    assert dataset.targets.tolist() == theirs.y
    assert dataset.classes == [category[4:] for category in theirs.categories]
    assert dataset.name(2) == "002.american-flag/002_0001.jpg"
    assert dataset[2][0].read(3).shape == (8, 9, 3)
    assert "found 4 classes of 257" in caplog.text


def test_caltech_without_clutter_and_in_the_root(caltech):
    dataset = build("caltech256", caltech / "caltech256", "train", clutter=False)
    assert dataset.classes == ["ak47", "american-flag", "motorbikes-101"] and dataset.targets.tolist() == [0, 0, 1, 2]
    with pytest.raises(MissingSplit):
        build("caltech256", caltech, "test")


# Pascal VOC

# What each image shows: (class, difficult).
THINGS = {
    "000005": [("chair", 0), ("chair", 1), ("person", 1)],
    "000007": [("car", 0)],
    "2008_000009": [("horse", 1), ("horse", 0), ("person", 0)],
    "000012": [],
}


def target(name: str) -> list[int]:
    """1 for what is there, -1 for what is there and difficult only, 0 for the rest."""
    easy = {thing for thing, difficult in THINGS[name] if not difficult}
    difficult = {thing for thing, difficult in THINGS[name] if difficult}
    return [1 if c in easy else -1 if c in difficult else 0 for c in CLASSES]


@pytest.fixture
def voc(tmp_path) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    lists = folder / "ImageSets" / "Main"
    for split, names in (("train", ["000007", "000005"]), ("val", ["2008_000009"]), ("test", ["000012"])):
        write(lists / f"{split}.txt", "".join(f"{name}\n" for name in names))
    for name, things in THINGS.items():
        write_image(folder / "JPEGImages" / f"{name}.jpg")
        objects = "".join(
            f"<object><name>{thing}</name><pose>Rear</pose><difficult>{difficult}</difficult><bndbox><xmin>1</xmin>"
            "</bndbox><part><name>head</name></part></object>"
            for thing, difficult in things
        )
        write(folder / "Annotations" / f"{name}.xml", f"<annotation><folder>VOC2007</folder>{objects}</annotation>")
    return tmp_path


def test_voc(voc):
    splits = build_train_and_val(load_config(None, ["DATASETS.NAME", "voc", "DATASETS.ROOT", str(voc)]))
    train, val = splits.train, splits.val
    assert (len(train), len(val)) == (2, 1) and train.classes == CLASSES
    assert train.targets.dtype == np.float32 and train.targets.tolist() == [target("000007"), target("000005")]
    assert val.targets.tolist() == [target("2008_000009")]
    source, row = train[1]
    assert source.read(3).shape == (8, 9, 3) and row.tolist() == target("000005")
    assert train.name(1) == "000005.jpg"
    assert VOC(voc / "VOCdevkit", "test").targets.tolist() == [target("000012")]  # and in `root` itself


def test_voc_splits_that_are_not_there(voc, downloads):
    lists = voc / "VOCdevkit/VOC2007/ImageSets/Main"
    for split in ("train", "val", "test"):
        (lists / f"{split}.txt").unlink()
    with pytest.raises(MissingSplit, match="no VOC2007/ImageSets/Main/val.txt in"):
        VOC(voc, "val")
    with pytest.raises(MissingSplit):
        VOC(voc, "test", year=2012)  # which has not been published
    assert downloads == []
    with pytest.raises(MissingSplit, match="no network"):
        VOC(voc, "test")
    with pytest.raises(UserError, match="train.txt in .* put them into") as caught:
        VOC(voc, "train")
    assert not isinstance(caught.value, MissingSplit)
    assert [arguments["image_set"] for _, _, arguments in downloads] == ["test", "train"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Annotations/000005.xml", "<annotation><object>", "000005.xml: cannot read the annotation .*no element"),
        ("Annotations/000005.xml", None, "000005.xml: cannot read the annotation .*No such file"),
        (
            "Annotations/000005.xml",
            "<annotation><object><name>unicorn</name></object></annotation>",
            "000005.xml: cannot read the annotation \\('unicorn' is not in list\\)",
        ),
    ],
)
def test_damaged_voc_names_the_file(voc, file, text, message):
    folder = voc / "VOCdevkit" / "VOC2007"
    (folder / file).unlink() if text is None else write(folder / file, text)
    with pytest.raises(UserError, match=message):
        build_split(load_config(None, ["DATASETS.NAME", "voc", "DATASETS.ROOT", str(voc)]), "train")
