"""Data sets in common formats."""

import gzip
import logging
import os
from pathlib import Path
from unicodedata import normalize

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from config import load_config
from data.build import build_split, build_train_and_val, dataset_defaults
from data.datasets.digits import Digits
from data.datasets.idx import FashionMNIST, read_idx
from data.datasets.image_folder import ImageFolder
from data.image_datasets import FileDataset
from data.image_io import BrokenImage, EncodedImage, to_pixels
from data.registry import DATASETS, MissingSplit
from tests.data.odd_images import ODD_NAMES
from utils.errors import UserError, printable


def write_image(path: Path, value: int = 128, shape: tuple = (12, 10, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.full(shape, value, np.uint8))[1].tobytes())
    return path


def test_digits_are_scikit_learns():
    truth = load_digits()
    train, test = Digits(Path(), "train"), Digits(Path(), "test")
    assert (len(train), len(test)) == (1437, 360)
    assert np.array_equal(test.images[:, :, :, 0], np.rint(truth.images[::5] * 255 / 16))
    assert np.array_equal(test.targets, truth.target[::5])
    assert train.images.dtype == np.uint8 and train.name(0) == "digits/0001"
    facts = dataset_defaults(load_config())
    assert facts["mean"][0] == pytest.approx(train.images.mean() / 255, abs=1e-3)
    assert facts["std"][0] == pytest.approx(train.images.std() / 255, abs=1e-3)


def idx(array: np.ndarray) -> bytes:
    shape = np.array(array.shape, ">u4").tobytes()
    return bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, split: str = "t10k", count: int = 5, zipped: bool = True) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28))
    labels = np.arange(count) % 10
    for name, array in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return images, labels


@pytest.mark.parametrize("folder", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_are_found_and_read(tmp_path, folder, zipped):
    images, labels = write_idx(tmp_path / folder, zipped=zipped)
    dataset = FashionMNIST(tmp_path, "test")
    assert np.array_equal(dataset.images[..., 0], images) and np.array_equal(dataset.targets, labels)
    image, target = dataset[3]
    assert image.shape == (28, 28, 1) and target == 3


@pytest.mark.parametrize("damage", ["cut", "magic", "gzip"])
def test_damaged_idx_files_say_so(tmp_path, damage):
    write_idx(tmp_path, zipped=damage == "gzip")
    path = next(tmp_path.glob("*images*"))
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-1], "magic": b"\x01" + data[1:], "gzip": data[:50]}[damage])
    with pytest.raises(UserError, match="images-idx3-ubyte"):
        read_idx(path, 3)


def test_more_labels_than_images_is_an_error(tmp_path):
    write_idx(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(4)))
    with pytest.raises(UserError, match="found 5 images and 4 labels"):
        FashionMNIST(tmp_path, "test")


def test_missing_idx_files_name_all_ways_to_get_them(tmp_path, monkeypatch):
    import torchvision

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", no_network)
    monkeypatch.setattr(FashionMNIST, "system_folder", tmp_path / "usr")
    with pytest.raises(UserError) as caught:
        FashionMNIST(tmp_path, "train")
    for way in (str(tmp_path), str(tmp_path / "usr"), "download"):
        assert way in str(caught.value)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat/1.png", "cat/deep/er/2.JPG", "dog/ü 图片 #1.jpeg", "dog/3.bmp", "bird/4.webp"):
        write_image(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / ".hidden.png").write_text("not an image")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    return tmp_path


def test_what_cannot_be_opened_is_not_left_out(photos):
    os.mkfifo(photos / "dog/pipe.png")
    (photos / "dog/gone.png").symlink_to("nowhere.png")
    dataset = ImageFolder(photos, "train")
    assert len(dataset) == 7
    for i, problem in ((4, "gone.png: cannot read the image: No such file"), (5, "pipe.png: a named pipe")):
        with pytest.raises(BrokenImage, match=problem):
            dataset[i]


def test_image_folder(photos, caplog):
    logging.getLogger("strata").propagate = True
    with caplog.at_level(logging.WARNING):
        dataset = ImageFolder(photos, "train")
    assert dataset.classes == ["bird", "cat", "dog"]
    assert dataset.targets.tolist() == [0, 1, 1, 2, 2]
    assert dataset.name(2) == "cat/deep/er/2.JPG"
    assert dataset[3][0].read(3).shape == (12, 10, 3)
    messages = [record.getMessage() for record in caplog.records]
    assert any("ignored 1 folders without images: empty" in message for message in messages)
    assert any("ignored 1 files that are not images, such as cat/notes.txt" in message for message in messages)
    with pytest.raises(MissingSplit):
        ImageFolder(photos, "test")


def test_image_folder_with_splits(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("split")
    photos.rename(root / "train")
    write_image(root / "Valid" / "dog" / "9.png")
    train = ImageFolder(root, "train")
    val = ImageFolder(root, "val", train.classes)
    assert val.classes == train.classes and val.targets.tolist() == [2]  # not renumbered
    write_image(root / "test" / "dogs" / "9.png")
    with pytest.raises(UserError, match="class 'dogs' is not in the training set; did you mean 'dog'"):
        ImageFolder(root, "test", train.classes)


@pytest.mark.parametrize("suffix", ".HEIC .heif .jxl .svg .psd .CR2 .nef .dng .dcm".split())
def test_images_that_cannot_be_read_are_said_to_be_images(photos, caplog, suffix):
    for i in range(20):
        (photos / "dog" / f"IMG_{i:02d}{suffix}").write_bytes(b"x")
    assert len(ImageFolder(photos, "train")) == 5
    install = "pip install pillow-heif, or " if suffix in (".HEIC", ".heif") else ""
    found = f"ignored 20 images in formats that cannot be read, such as dog/IMG_00{suffix}; {install}convert them to"
    assert found in caplog.text and "ignored 1 files that are not images, such as cat/notes.txt" in caplog.text


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_classes_are_compared_in_unicode(tmp_path, caplog, form):
    """Composed in one split, decomposed in another, both in a third, a file of names, and a table."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    one, two = (normalize(each, "café") for each in (form, other))
    for path in (f"train/{one}", "train/cafz", f"val/{two}", f"test/{one}", f"test/{two}"):
        write_image(tmp_path / path / "1.png")
    train = ImageFolder(tmp_path, "train")
    assert train.classes == ["cafz", one] and train.targets.tolist() == [0, 1]
    val, test = (ImageFolder(tmp_path, split, train.classes) for split in ("val", "test"))
    assert val.classes == train.classes and val.targets.tolist() == [1] and val.name(0) == f"val/{two}/1.png"
    assert test.targets.tolist() == [1, 1] and "2 folders of 1 classes; those with the same name" in caplog.text
    (tmp_path / "words.txt").write_text(f"{two} coffee\n", encoding="utf-8")
    assert ImageFolder(tmp_path, "train", names="words.txt").classes == ["cafz", f"{two} coffee"]
    rows = [f"train/{one}/1.png,{one},train", "train/cafz/1.png,cafz,train", f"val/{two}/1.png,{two},val"]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    cfg = load_config(None, ["DATASETS.NAME", "csv", "DATASETS.ROOT", str(tmp_path)])
    splits = build_train_and_val(cfg)
    train, val = splits.train, splits.val
    assert train.classes == ["cafz", one] and val.targets.tolist() == [1]
    assert build_split(cfg, "val", ["cafz", two]).targets.tolist() == [1]  # the classes of a checkpoint


def test_names_of_the_classes(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("named")
    photos.rename(root / "train")
    write_image(root / "val" / "dog" / "9.png")
    (root / "words.txt").write_text("dog a friend, and  more\n\ncat\tlikes fish\nowl a bird\n", encoding="utf-8-sig")
    train = ImageFolder(root, "train", names="words.txt")
    assert train.classes == ["bird", "cat likes fish", "dog a friend, and more"]  # in the order of the folders
    assert train.name(0) == "train/bird/4.webp" and train.targets.tolist() == [0, 1, 1, 2, 2]
    val = ImageFolder(root, "val", train.classes, names="words.txt")
    assert val.targets.tolist() == [2]
    write_image(root / "val" / "owl" / "9.png")
    with pytest.raises(UserError, match="val/owl: class 'owl a bird' is not in the training set"):
        ImageFolder(root, "val", train.classes, names="words.txt")
    words = ["DATASETS.NAME", "image_folder", "DATASETS.ROOT", str(root), "DATASETS.names", "word.txt"]
    with pytest.raises(UserError, match="word.txt: cannot read the names of the classes: .*No such file"):
        build_split(load_config(None, words), "train")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "no class folders"),
        (lambda root: (root / "cat").mkdir(), "no images in its class folders"),
        (lambda root: root.rmdir(), "no such folder"),
    ],
)
def test_image_folder_without_images(tmp_path, prepare, message):
    root = tmp_path / "root"
    root.mkdir()
    prepare(root)
    with pytest.raises(UserError, match=message):
        ImageFolder(root, "train")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n broken", None])
def test_a_broken_image_names_itself(tmp_path, content):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.png: cannot"):
        EncodedImage.open(path).read(3)


def test_pixels_have_the_channels_that_are_asked_for(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)  # RGB
    path = tmp_path / "x.png"
    path.write_bytes(cv2.imencode(".png", colours[..., ::-1])[1].tobytes())
    assert np.array_equal(EncodedImage.open(path).read(3), colours)
    gray = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[..., None]
    assert np.array_equal(to_pixels(colours, 1), gray)
    assert np.array_equal(to_pixels(gray, 3), np.repeat(gray, 3, axis=2))
    assert np.array_equal(to_pixels(gray[..., 0], 1), gray)
    for faulty in (np.zeros((2, 2, 3)), np.zeros((2, 2, 3, 1), np.uint8), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(UserError, match="found an array .*, expected uint8 .H, W. or .H, W, C."):
            to_pixels(faulty, 3)
    five = np.arange(20, dtype=np.uint8).reshape(2, 2, 5)
    assert np.array_equal(to_pixels(five, 5), five)
    for channels in (1, 3, 4):
        with pytest.raises(UserError, match=f"of 5 channels, INPUT.CHANNELS is {channels}; .*set it to 5"):
            to_pixels(five, channels)
    with pytest.raises(UserError, match="found an image of 3 channels, INPUT.CHANNELS is 5"):
        EncodedImage.open(path).read(5)


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=8)


@given(st.lists(NAMES))
def test_paths_of_files_are_kept(names):
    files = FileDataset(Path("/root"), names, np.arange(len(names)))
    assert [files.path(i) for i in range(len(files))] == [Path("/root", name) for name in names]


def test_paths_take_little_memory():
    paths = [f"class_{i % 100:03d}/image_{i:08d}.jpeg" for i in range(100_000)]
    files = FileDataset(Path("/root"), paths, np.zeros(len(paths), np.int64))
    arrays = [value for value in vars(files).values() if isinstance(value, np.ndarray) and value is not files.targets]
    assert sum(array.nbytes for array in arrays) <= 45 * len(files)
    assert not any(isinstance(value, (list, tuple, dict)) for value in vars(files).values())


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_name_of_a_sample_is_its_path_in_the_root(tmp_path, name):
    """Exact in any folder and split, however the path is written; absolute only for a file elsewhere."""
    for path in ("cat", "cat/deep", "train/cat", "train/dog", "test/cat"):
        write_image(tmp_path / path / name, 7)
    assert [ImageFolder(tmp_path, "train").name(i) for i in range(2)] == [f"train/cat/{name}", f"train/dog/{name}"]
    written = [f"./cat//{name}", f"cat/deep/../{name}", str(tmp_path / "cat" / name), f"../x/{name}", f"/x/{name}"]
    files = FileDataset(tmp_path, written, np.zeros(5, np.int64))
    assert [files.name(i) for i in range(5)] == [*[f"cat/{name}"] * 3, f"../x/{name}", f"/x/{name}"]
    assert files[0][0].read(1)[0, 0, 0] == 7 and files.path(0).exists()
    with pytest.raises(UserError) as error:
        files[3]
    assert str(error.value).startswith(f"{printable(tmp_path)}/../x/{printable(name)}: cannot read")


def test_validation_is_split_off_the_training_set_alike_every_time():
    splits = build_train_and_val(load_config())
    train, val = splits.train, splits.val
    again = build_train_and_val(load_config()).val
    other = build_train_and_val(load_config(None, ["DATASETS.SPLIT_SEED", "1"])).val
    same = build_train_and_val(load_config(None, ["SEED", "1"])).val
    assert len(train) + len(val) == 1437
    assert np.array_equal(val.indices, again.indices) and not np.array_equal(val.indices, other.indices)
    assert np.array_equal(val.indices, same.indices)  # runs that differ in SEED alone are compared on the same images
    assert val[0][1] == val.targets[0] and val.name(0) == val.dataset.name(val.indices[0])
    assert build_train_and_val(load_config(None, ["DATASETS.VAL_RATIO", "0"])).val is None


def test_data_set_mistakes():
    with pytest.raises(UserError, match="DATASETS.NAME 'digit': no such data set; did you mean 'digits'"):
        build_split(load_config(None, ["DATASETS.NAME", "digit"]), "train")
    with pytest.raises(UserError, match=r"DATASETS.fold: Digits takes no such argument"):
        build_split(load_config(None, ["DATASETS.fold", "1"]), "train")
    with pytest.raises(UserError, match="its test split has 10 classes"):
        build_split(load_config(), "test", ["cat", "dog"])


def test_a_class_called_train(tmp_path):
    for label in ("bus", "car", "train"):
        (tmp_path / label).mkdir()
        cv2.imwrite(str(tmp_path / label / "a.png"), np.zeros((4, 4, 3), np.uint8))
    assert ImageFolder(tmp_path, "train").classes == ["bus", "car", "train"]


def layout(root: Path, files: str) -> Path:
    """Writes images, which end in no suffix in `files`, and empty files, which do; `{a,b}` stands for several."""
    for pattern in files.split():
        head, _, tail = pattern.partition("{")
        names, _, rest = tail.partition("}")
        for name in names.split(",") if tail else [""]:
            path = root / f"{head}{name}{rest}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if path.suffix else write_image(path.with_suffix(".png"))
    return root


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        ("training_set/{cats,dogs}/1 test_set/{cats,dogs}/1 valid_set/cats/1", ["cats", "dogs"]),
        ("{bus,car,train}/1 train/.ipynb_checkpoints/x train/__MACOSX/x", ["bus", "car", "train"]),
        ("train/{cat,dog}/1 test/{cat,dog}/1 .cache/x/1 __MACOSX/x/1", ["cat", "dog"]),
        ("{cat,dog}/a/1 {cat,dog}/b/1 cat/2", ["cat", "dog"]),
        ("{cat,dog}/images/1 {cat,dog}/boxes.txt", ["cat", "dog"]),
        ("{cat,dog}/2019/1 cat/2020/1", ["cat", "dog"]),
        ("train/{cat,dog}/1 notes/readme.txt", ["cat", "dog"]),
        ("{boots,trainers}/2019/1", ["boots", "trainers"]),
    ],
)
def test_layouts(tmp_path, files, classes):
    assert ImageFolder(layout(tmp_path, files), "train").classes == classes


def test_splits_without_a_training_set_are_found_beside_junk(tmp_path):
    test = ImageFolder(layout(tmp_path, "test/{cat,dog}/1 .cache/x/1 __MACOSX/x/1"), "test", ["cat", "dog"])
    assert test.targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            "data/train/{cat,dog}/1 data/test/{cat,dog}/1",
            "found data as classes, with the folders test, train and no",
        ),
        ("photos/{cat,dog}/1 docs/readme.txt", r"no image of their own; set DATASETS.ROOT to {root}/photos, or below"),
        ("nest/data/{train,val}/{cat,dog}/1", r"found nest as classes, with the folders data and no image"),
        ("my-train/{cat,dog}/1 my_test2/cat/1", "found my-train, my_test2 as classes, with the folders cat, dog"),
        (
            "my_train/{cat,dog}/1 holdout/{cat,dog}/1",
            "found holdout, my_train as classes, with the folders cat, dog",
        ),
        ("cat/{train,test}/1 dog/{train,test}/1", "expected the folders train, val and test, each with one folder for"),
        (
            "{bus,car}/1 train/{cam1,cam2}/1",
            "found images in bus, car beside the folder 'train' of class folders; move",
        ),
    ],
)
def test_layouts_that_cannot_be_meant(tmp_path, files, message):
    with pytest.raises(UserError, match=message.format(root=tmp_path)):
        ImageFolder(layout(tmp_path, files), "train")


@pytest.mark.parametrize(
    ("files", "names", "message"),
    [
        (
            "{amazon,dslr}/bike/1 {amazon,dslr}/chair/1",
            "",
            "found amazon, dslr as classes, with the folders bike, chair",
        ),
        ("train/{cat,dog}/1 test/cat/1 extra/x/1", "", "extra beside the folder"),
        (
            "{cat,dog,owl}/1 names.txt",
            "names.txt",
            "names.txt: no line for 3 of 3 folders, such as cat; they keep their",
        ),
        ("{cat,dog}/1 3 4 .5", "", "ignored 2 images and broken links outside the class folders, such as 3"),
        ("{cat,dog}/1 a/x.txt b/x.txt", "", "ignored 2 folders without images: a, b"),
    ],
)
def test_what_is_ignored_or_guessed_is_said(tmp_path, caplog, files, names, message):
    logging.getLogger("strata").propagate = True
    ImageFolder(layout(tmp_path, files), "train", names=names)
    assert [line for line in caplog.messages if message in line], caplog.messages


def test_links_whose_target_is_gone_are_unreadable_files(tmp_path, caplog):
    logging.getLogger("strata").propagate = True
    layout(tmp_path / "store", "{cat,dog}/1 {cat,dog}/2")
    for path in sorted((tmp_path / "store").rglob("*.png")):
        link = tmp_path / "links" / path.relative_to(tmp_path / "store")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    (tmp_path / "links/dog/self.png").symlink_to("self.png")
    (tmp_path / "links/owl").symlink_to("gone")
    (tmp_path / "store/cat/1.png").unlink()
    dataset = ImageFolder(tmp_path / "links", "train")
    assert dataset.targets.tolist() == [0, 0, 1, 1, 1]
    for i in (0, 4):
        with pytest.raises(BrokenImage, match="(1|self).png: cannot read the image"):
            dataset[i]
    assert "ignored 1 images and broken links outside the class folders, such as owl" in caplog.text


@pytest.mark.parametrize(
    ("files", "split", "said"),
    [
        ("cat/1 cat/2", "train", "its train split has only one class, cat"),
        ("train/{cat,dog,owl}/1 val/dog/1", "val", "its val split has no sample of 2 of 3 classes, such as cat"),
        ("train/{cat,dog}/1 test/{cat,dog}/1", "test", None),
    ],
)
def test_classes_that_are_missing_are_said(tmp_path, caplog, files, split, said):
    logging.getLogger("strata").propagate = True
    cfg = load_config(None, ["DATASETS.NAME", "image_folder", "DATASETS.ROOT", str(layout(tmp_path, files))])
    classes = build_split(cfg, "train").classes
    build_split(cfg, split, classes)
    assert {line.partition(": ")[2] for line in caplog.messages if "split has" in line} == ({said} if said else set())


def test_a_link_to_a_folder_above_brings_no_images_of_other_classes(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label / "deep").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / label / "deep" / "1.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "a" / "loop").symlink_to("..")
    (tmp_path / "a" / "deep" / "far").symlink_to(tmp_path.parent)
    assert ImageFolder(tmp_path, "train").targets.tolist() == [0, 1]


def test_classes_are_strings():
    members = {name: lambda self, *_: None for name in ("__len__", "__getitem__", "name")}
    members["__init__"] = lambda self, root, split: None
    DATASETS.register("numbered")(type("Numbered", (), {"classes": [1, 2], **members}))
    with pytest.raises(UserError, match=r"DATASETS.NAME numbered: found the classes \(1, 2\), expected strings"):
        build_split(load_config(None, ["DATASETS.NAME", "numbered"]), "train")


def test_a_class_that_was_added_is_ignored_by_a_run(tmp_path, caplog):
    root = layout(tmp_path, "{cat,dog,owl}/1 {cat,dog,owl}/2")
    with caplog.at_level("WARNING", "strata"):
        train = ImageFolder(root, "train", ["cat", "dog"])
    assert train.classes == ["cat", "dog"] and len(train) == 4 and "ignored 1 new classes: owl" in caplog.text
