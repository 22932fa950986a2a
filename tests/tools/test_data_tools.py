"""Inspecting and exporting data sets."""

import csv
import shlex
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from config import load_config
from data.build import build_train_and_val, build_train_loader, dataset_defaults
from data.datasets.digits import Digits
from data.datasets.image_folder import ImageFolder
from data.image_io import to_pixels
from data.registry import DATASETS, MissingSplit
from modeling.build import build_input_spec


@DATASETS.register("several_labels", size=(6, 6), channels=1, train_transforms=[])
class SeveralLabels:
    """20 images with 0 to 3 labels each."""

    classes = ["red", "green", "blue"]

    def __init__(self, root: Path, split: str):
        if split != "train":
            raise MissingSplit("there is no other")
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (20, 6, 6, 1), dtype=np.uint8)
        self.targets = rng.integers(-1, 2, (20, 3)).astype(np.float32)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int):
        return self.images[i], self.targets[i]

    def name(self, i: int) -> str:
        return f"{i}"


@DATASETS.register("strange_names", size=(6, 6), channels=3)
class StrangeNames:
    """Classes and samples whose names are not valid file names."""

    classes = ["T-shirt/top", "T-shirt:top", "t-SHIRT_top", "..", "图片 #1", ".hidden"]

    def __init__(self, root: Path, split: str):
        if split != "train":
            raise MissingSplit("there is no other")
        self.images = np.random.default_rng(0).integers(0, 256, (24, 5, 7, 3), dtype=np.uint8)
        self.targets = np.arange(24) % 6

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int):
        return self.images[i], int(self.targets[i])

    def name(self, i: int) -> str:
        return f"folder/{'ab?'[i % 3]}.jpg"  # as in a class folder with folders in it


@DATASETS.register("values", size=(6, 6), channels=5)
class Values:
    """Images of five channels with two numbers each."""

    target_names = ["age", "height"]

    def __init__(self, root: Path, split: str):
        if split != "train":
            raise MissingSplit("there is no other")
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (20, 6, 6, 5), dtype=np.uint8)
        self.targets = rng.normal(size=(20, 2)).astype(np.float32)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int):
        return self.images[i], self.targets[i]

    def name(self, i: int) -> str:
        return f"train/{i}"


@DATASETS.register("masks", size=(6, 6), channels=3, train_transforms=["HFlip"])
class Masks(Values):
    """Images with a class for each pixel."""

    classes = ["sky", "sea"]

    def __init__(self, root: Path, split: str):
        super().__init__(root, split)
        self.images = self.images[..., :3]
        self.targets = (self.images[..., 0] > 128).astype(np.uint8)


@DATASETS.register("masks_of_many_sizes", size=(8, 8), channels=3, train_transforms=["Resize", "CenterCrop"])
class MasksOfManySizes(Masks):
    def __getitem__(self, i):
        image, mask = super().__getitem__(i)
        return image[: 4 + i % 3], mask[: 4 + i % 3]


def test_masks_of_many_sizes_are_shown(tool, tmp_path):
    assert tool("show_batch", "DATASETS.NAME", "masks_of_many_sizes", "--output", "x.png").code == 0
    assert cv2.imread(str(tmp_path / "x.png")) is not None


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(12):
                path = tmp_path / "photos" / split / name / f"{i:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return tmp_path / "photos"


def rows_of(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


FOLDER = ["DATASETS.NAME", "image_folder", "DATASETS.ROOT"]


def test_good_data(tool, tmp_path):
    done = tool("check_data")
    assert done.code == 0 and done.err == ""
    assert "10 classes  train  test\n1             154    28  ####" in done.out
    images = Digits(Path(), "train").images
    assert f'INPUT.MEAN "[{images.mean() / 255:.4f}]" INPUT.STD "[{images.std() / 255:.4f}]"' in done.out
    rows = rows_of(tmp_path / "data_check/images.csv")
    assert len(rows) == 1797 and {row["status"] for row in rows} == {"ok"}


def test_bad_data(tool, photos, tmp_path):
    shutil.copy(photos / "train/cat/00.png", photos / "train/dog/x.png")
    shutil.copy(photos / "train/cat/01.png", photos / "train/cat/x.png")
    shutil.copy(photos / "train/cat/02.png", photos / "test/cat/leak.png")
    for i in range(7):
        (photos / f"test/dog/page{i}.png").write_text("<html>")
    done = tool("check_data", *FOLDER, photos, "--output", "report")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0].split()[:8] == "split images corrupt conflicting labels leaked duplicate unusual".split()
    assert lines[1].split()[:7] == ["train", "26", "0", "2", "1", "1", "0"]
    assert lines[2].split()[:7] == ["test", "32", "7", "0", "1", "0", "0"]
    assert lines[1].endswith("30 to 30, median 30  40 to 40, median 40")
    assert "corrupt: test: test/dog/page0.png: cannot decode the image: not an image" in done.out
    assert "page5" not in done.out and "corrupt: 2 more in images.csv" in lines
    assert "leaked: test: test/cat/leak.png: same pixels as train/cat/02.png (train: cat)" in lines
    rows = {row["file"]: row for row in rows_of(tmp_path / "report/images.csv")}
    assert len(rows) == 58
    assert [rows[f"train/{name}.png"]["status"] for name in ("dog/x", "cat/x", "cat/02", "cat/03")] == [
        *("conflicting labels", "duplicate", "leaked", "ok"),
    ]
    assert [rows["train/dog/05.png"][key] for key in ("class", "height", "width", "channels")] == "dog 30 40 3".split()


@pytest.mark.parametrize(("fault", "code"), [("duplicate", 0), ("unusual", 0), ("corrupt", 1), ("leaked", 1)])
def test_warnings_are_no_failure(tool, photos, fault, code):
    targets = {"duplicate": "train/cat/x.png", "unusual": "train/cat/00.jpg", "leaked": "test/cat/x.png"}
    if fault == "corrupt":
        (photos / "train/cat/x.png").write_bytes(b"")
    elif fault == "unusual":
        (photos / "train/cat/00.png").rename(photos / targets[fault])
    else:
        shutil.copy(photos / "train/cat/00.png", photos / targets[fault])
    done = tool("check_data", *FOLDER, photos)
    assert done.code == code and f"\n{fault}: " in done.out


def test_nothing_but_corrupt_images(tool, photos):
    for path in (photos / "train").rglob("*.png"):
        path.write_bytes(b"")
    done = tool("check_data", *FOLDER, photos)
    assert done.code == 1 and "INPUT.MEAN" not in done.out and "have fewer than 10 images" in done.out


def test_several_labels_are_checked_but_not_exported(tool, tmp_path):
    name = ["DATASETS.NAME", "several_labels"]
    targets = SeveralLabels(Path(), "train").targets
    done = tool("check_data", *name)
    assert done.code == 0
    for label, count in zip(SeveralLabels.classes, (targets == 1).sum(axis=0), strict=True):
        assert f"\n{label:<9}  {count:>5}  #" in done.out
    assert [row["class"] for row in rows_of(tmp_path / "data_check/images.csv")] == [
        "|".join(np.array(SeveralLabels.classes)[target == 1]) for target in targets
    ]
    assert "expected one class per image" in tool("export_images", *name).error()
    assert not (tmp_path / "exported").exists()


def test_many_classes_are_shown_in_part(tool, tmp_path):
    rng = np.random.default_rng(0)
    for label in range(40):
        for i in range(label + 1):
            path = tmp_path / f"many/{label:02d}/{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    out = tool("check_data", *FOLDER, "many").out
    table = out[out.index("40 classes") :].split("\n\n")[0].splitlines()[1:]
    assert [int(line.split()[0]) for line in table] == [*range(39, 24, -1), *range(14, -1, -1)]


def test_the_first_batch_is_drawn(tool, tmp_path, toy_cfg):
    cfg = toy_cfg("SOLVER.BATCH_SIZE", "16")
    splits = build_train_and_val(cfg)
    dataset = splits.train
    batch = next(build_train_loader(cfg, dataset, build_input_spec(cfg, dataset_defaults(cfg))).batches())
    words = "DATASETS.NAME toy DATASETS.VAL_RATIO 0.2 SOLVER.BATCH_SIZE 16 MODEL.NAME tiny".split()
    done = tool("show_batch", *words, "--output", "new/x.png")
    assert done.code == 0 and done.out.startswith("new/x.png: the first batch")
    picture = cv2.imread(str(tmp_path / "new/x.png"), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (30 + 2 * 148 + 30 + 2 * 118, 8 * 118)

    def cell(top: int, column: int) -> np.ndarray:
        return picture[top + 2 : top + 116 : 19, 118 * column + 2 : 118 * column + 116 : 19]

    for i in range(16):
        assert np.array_equal(cell(60 + 148 * (i // 8), i % 8), batch.images[i, 0].numpy())
    below = [cell(30 + 2 * 148 + 30 + 118 * (i // 8), i % 8) for i in range(16)]
    assert np.array_equal(below[0], batch.images[0, 0].numpy())
    assert len({draw.tobytes() for draw in below}) > 8


def test_an_export_holds_the_same_pixels(tool, tmp_path):
    done = tool("export_images", "--output", "a b")
    assert done.code == 0 and "a b/train: 1,437 images\na b/test: 360 images\n" in done.out
    for split in ("train", "test"):
        truth, copy = Digits(Path(), split), ImageFolder(tmp_path / "a b", split)
        assert copy.classes == truth.classes and np.array_equal(np.sort(truth.targets), copy.targets)
        for i in range(len(copy)):
            source, target = copy[i]
            pixels, label = truth[int(Path(copy.name(i)).stem)]
            assert np.array_equal(to_pixels(source, 1), pixels) and target == label
    assert "--output a b: not an empty folder" in tool("export_images", "--output", "a b").error()
    command = shlex.split(done.out.splitlines()[-1].removeprefix("to train on them: "))
    cfg = load_config(None, command[2:])
    spec = build_input_spec(cfg, dataset_defaults(cfg))
    batch = next(build_train_loader(cfg, build_train_and_val(cfg).train, spec).batches())
    assert batch.images.shape == (64, 1, 16, 16) and len(batch.targets.unique()) == 10


def test_an_export_of_a_data_set_that_is_not_thread_safe_takes_one_thread(tool, monkeypatch):
    threads, read = set(), Digits.__getitem__
    monkeypatch.setattr(Digits, "thread_safe", False)
    monkeypatch.setattr(Digits, "__getitem__", lambda self, i: threads.add(threading.get_ident()) or read(self, i))
    monkeypatch.setattr("data.workers.usable_cpus", lambda: 4)
    assert tool("export_images").code == 0
    assert len(threads - {threading.get_ident()}) <= 2  # one for each split


def test_names_that_are_no_names_of_files(tool, tmp_path):
    assert tool("export_images", "DATASETS.NAME", "strange_names").code == 0
    folders = {path.name for path in (tmp_path / "exported/train").iterdir()}
    assert folders == {"T-shirt_top", "T-shirt_top_2", "t-SHIRT_top_3", "_", "图片 #1", "hidden"}
    copy, truth = ImageFolder(tmp_path / "exported", "train"), StrangeNames(Path(), "train")
    assert np.bincount(copy.targets).tolist() == [4] * 6
    found = sorted(to_pixels(copy[i][0], 3).tobytes() for i in range(24))
    assert found == sorted(image.tobytes() for image in truth.images)


def test_images_of_five_channels_with_numbers_are_checked_and_drawn_but_not_exported(tool, tmp_path):
    name = ["DATASETS.NAME", "values"]
    checked = tool("check_data", *name)
    assert checked.code == 0 and "classes" not in checked.out
    images = Values(Path(), "train").images / 255
    means = ", ".join(f"{mean:.4f}" for mean in images.mean(axis=(0, 1, 2)))
    assert f'INPUT.MEAN "[{means}]"' in checked.out
    rows = rows_of(tmp_path / "data_check/images.csv")
    assert len(rows) == 20 and {(row["channels"], row["status"]) for row in rows} == {("5", "ok")}
    words = ["MODEL.NAME", "tiny", "INPUT.TRAIN_TRANSFORMS", "[HFlip]", "SOLVER.BATCH_SIZE", "8"]
    shown = tool("show_batch", *name, *words)
    assert shown.code == 0
    assert cv2.imread(str(tmp_path / "batch.png")).shape == (30 + 148 + 30 + 2 * 118, 8 * 118, 3)
    assert "expected one class per image" in tool("export_images", *name).error()


def test_images_with_masks_are_checked_and_drawn(tool, tmp_path):
    checked = tool("check_data", "DATASETS.NAME", "masks")
    assert checked.code == 0 and "sky" not in checked.out and "train      20" in checked.out
    assert {row["class"] for row in rows_of(tmp_path / "data_check/images.csv")} == {""}
    shown = tool("show_batch", "DATASETS.NAME", "masks", "MODEL.NAME", "tiny")
    assert shown.code == 0 and "the first batch" in shown.out


def test_only_gray_and_colours_are_exported(tool):
    words = ["DATASETS.NAME", "strange_names", "INPUT.CHANNELS", "4"]
    assert "INPUT.CHANNELS: found 4, expected 1 or 3" in tool("export_images", *words).error()


def test_images_of_too_many_pixels_are_not_decoded(tool, photos):
    words = [*FOLDER, photos, "DATASETS.MAX_PIXELS", "1199"]
    checked = tool("check_data", *words)
    assert checked.code == 1 and "40 x 30 pixels are more than DATASETS.MAX_PIXELS 1199" in checked.out
    assert "more than DATASETS.MAX_PIXELS 1199" in tool("export_images", *words).error()
    assert tool("check_data", *FOLDER, photos, "DATASETS.MAX_PIXELS", "1200").code == 0


def test_an_export_stops_at_a_broken_image(tool, photos):
    (photos / "train/dog/03.png").write_bytes(b"\x89PNG")
    assert "train/dog/03.png: cannot decode the image" in tool("export_images", *FOLDER, photos).error()


def test_a_file_is_no_place_for_an_export(tool, tmp_path):
    (tmp_path / "taken").write_text("x")
    assert "--output taken: not an empty folder" in tool("export_images", "--output", "taken").error()
