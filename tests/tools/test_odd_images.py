"""A messy folder from somewhere, from training to inference."""

import csv
import json
import re
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.registry import DATASETS, MissingSplit
from tests.data.odd_images import ODD_NAMES, encoded, odd_images, picture

ODD = list(odd_images())
GOOD = [odd for odd in ODD if odd.pixels is not None]
BROKEN = [odd for odd in ODD if odd.pixels is None]
QUICK = (
    "MODEL.NAME",
    "tiny",
    "SOLVER.MAX_EPOCHS",
    "1",
    "SOLVER.BATCH_SIZE",
    "16",
    "INPUT.SIZE",
    "[16, 16]",
    "TEST.REPORT",
    "false",
)


@pytest.fixture
def folder(tmp_path):
    """Readable odd images in two classes, for training and testing."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for odd in GOOD:
                (tmp_path / "images" / split / label / odd.name).write_bytes(odd.data)
    return tmp_path / "images"


def rows_of(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, whose names of files need not be valid text."""
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_every_kind_is_trained_on_tested_and_predicted(tool, folder, tmp_path):
    assert tool("train_net", *QUICK, "DATASETS.NAME", "image_folder", "DATASETS.ROOT", folder).code == 0
    test = tool("test_net")
    assert test.code == 0 and re.search(rf"^num_samples +{2 * len(GOOD)}$", test.out, re.M)
    for odd in BROKEN:
        (folder / odd.name).write_bytes(odd.data)
    infer = tool("infer", folder / "test" / "a", *(folder / odd.name for odd in BROKEN))
    assert infer.code == 2 and f"{len(GOOD)} of {len(ODD)} images predicted" in infer.err
    for odd in BROKEN:
        lines = [line for line in infer.err.splitlines() if re.search(rf"skipped: .*/{re.escape(odd.name)}: ", line)]
        assert len(lines) == 1 and lines[0].endswith("replace or remove the file")
    (run,) = (tmp_path / "runs" / "default").iterdir()
    rows = rows_of(run / "report/test/predictions.csv")
    tested = {str(folder / row["file"]): row["probability"] for row in rows}
    predicted = rows_of(tmp_path / "predictions/predictions.csv")
    assert len(predicted) == len(GOOD)
    for row in predicted:  # the same pixels in testing and inference
        assert float(row["probability"]) == pytest.approx(float(tested[row["file"]]), abs=2e-6)


def test_names_are_exact_in_files_and_escaped_in_terminals(tool, tmp_path):
    names = sorted(ODD_NAMES[-8:])
    for number, label in enumerate("ab"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i, name in enumerate(names):
            image = Image.fromarray(np.random.default_rng((number, i % 7)).integers(0, 256, (16, 16, 3), np.uint8))
            (tmp_path / "images" / label / name).write_bytes(encoded(image, "PNG"))
    files = [f"{label}/{name}" for label in "ab" for name in names]
    words = ["DATASETS.NAME", "image_folder", "DATASETS.ROOT", "images", "DATASETS.VAL_RATIO", "0", *QUICK]
    shown = [tool("train_net", *words, "DATALOADER.NUM_WORKERS", "0"), tool("test_net", "--split", "train")]
    shown += [tool("infer", "images"), tool("check_data", *words[:6], "--output", ".")]
    printed = tool("infer", "images", "--json").out.split("\n")[:-1]
    (run,) = (tmp_path / "runs" / "default").iterdir()
    for table in (run / "report/train/predictions.csv", tmp_path / "images.csv"):
        assert [row["file"] for row in rows_of(table)] == files
    assert sorted(np.load(run / "report/train/outputs.npz")["samples"]) == sorted(files)
    inferred = [row["file"] for row in rows_of(tmp_path / "predictions/predictions.csv")]
    assert inferred == [f"images/{file}" for file in files] == [json.loads(line)["file"] for line in printed]
    assert all((tmp_path / file).exists() for file in inferred)
    pages = "".join(path.read_text(encoding="utf-8") for path in (run / "report").rglob("*.html"))  # valid text
    assert r"new\nline.png" in pages and r"caf\xe9.png" in pages
    for result in shown:
        assert result.code == 0 and not {"\u202f", "\xa0", "\u200d", "\udce9"} & set(result.out + result.err)


def test_broken_files_stop_a_test_with_their_names_or_are_replaced(tool, folder):
    assert tool("train_net", *QUICK, "DATASETS.NAME", "image_folder", "DATASETS.ROOT", folder).code == 0
    (folder / "test" / "a" / "half.jpg").write_bytes(BROKEN[4].data)
    assert re.search(r"test/a/half\.jpg: cannot decode the image: ", tool("test_net").error())
    skipped = tool("test_net", "DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "0.1")
    assert (
        skipped.code == 0
        and "skipped: " in skipped.err
        and re.search(r"^num_skipped +1$", skipped.out, re.M)
        and re.search(rf"^num_samples +{2 * len(GOOD)}$", skipped.out, re.M)
    )
    assert (
        "more than DATASETS.MAX_SKIPPED 0.0 of them"
        in tool("test_net", "DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "0").error()
    )


def test_an_unsorted_download(tool, tmp_path):
    """PNG and JPEG with alpha and palette, nested folders, stray text and audio: no key but name and root."""
    root = tmp_path / "my download"
    alpha = Image.fromarray(np.dstack([picture(), np.full((40, 60), 90, np.uint8)]))
    images = {
        ".jpg": encoded(Image.fromarray(picture()), "JPEG"),
        ".png": encoded(alpha, "PNG"),
        " (1).png": encoded(Image.fromarray(picture()).convert("P"), "PNG"),
        ".JPEG": encoded(Image.fromarray(picture()).convert("L"), "JPEG"),
    }
    for label in ("Cats & dogs", "猫", "other"):
        for part in ("", "2019", "2019/summer"):
            folder = root / label / part
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in images.items():
                (folder / f"IMG_1{name}").write_bytes(data)
    (root / "readme.txt").write_text("from the web")
    (root / "other" / "notes.txt").write_text("?")
    (root / "__MACOSX" / "other").mkdir(parents=True)
    (root / "__MACOSX" / "other" / "._IMG_1.jpg").write_bytes(b"\0")
    (root / "other" / ".DS_Store").write_bytes(b"\0")
    with wave.open(str(root / "猫" / "meow.wav"), "wb") as audio:
        audio.setnchannels(1), audio.setsampwidth(2), audio.setframerate(8000)
        audio.writeframes(b"\0" * 100)
    result = tool("train_net", "DATASETS.NAME", "image_folder", "DATASETS.ROOT", root, *QUICK)
    assert result.code == 0, result.err
    assert "33 training images, 3 for validation; classification with 3 outputs" in result.err
    assert "2 files that are not images, such as other/notes.txt" in result.err
    assert tool("test_net").code == 0
    assert tool("infer", root / "猫").code == 0


@DATASETS.register("corners", size=(8, 8), channels=1)
class SeveralLabels:
    """Noise with up to three bright corners; each has a label, and a few do not count."""

    classes = ("upper left", "upper right", "lower left")

    def __init__(self, root, split):
        if split == "val":
            raise MissingSplit("none")
        rng = np.random.default_rng(split == "test")
        self.targets = rng.integers(0, 2, (240, 3)).astype(np.float32)
        self.images = rng.integers(0, 100, (240, 8, 8, 1), dtype=np.uint8)
        for image, (a, b, c) in zip(self.images, self.targets, strict=True):
            image[:4, :4] += np.uint8(150 * a)
            image[:4, 4:] += np.uint8(150 * b)
            image[4:, :4] += np.uint8(150 * c)
        self.targets[rng.random((240, 3)) < 0.1] = -1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.targets[i]

    def name(self, i):
        return f"several/{i}"


def test_several_labels_an_image(tool, tmp_path):
    words = ["MODEL.NAME", "tiny", "DATASETS.NAME", "corners", "LOSS.NAME", "bce", "SOLVER.MAX_EPOCHS", "8"]
    words += ["TEST.METRICS", "[mean_average_precision]", "TEST.MONITOR", "max mean_average_precision"]
    words += ["INPUT.TRAIN_TRANSFORMS", "[]", "INPUT.TEST_TRANSFORMS", "[]", "SOLVER.BATCH_SIZE", "16"]
    result = tool("train_net", *words)
    assert result.code == 0, result.err
    test = tool("test_net")
    found = float(re.search(r"mean_average_precision\s*([\d.]+)", test.out)[1])
    assert found > 0.9  # chance is 0.5
    (run,) = (tmp_path / "runs" / "default").iterdir()
    rows = rows_of(run / "report/test/predictions.csv")
    truth = SeveralLabels(None, "test")
    for i, row in enumerate(rows):
        assert row["target"] == "|".join(n for n, v in zip(truth.classes, truth.targets[i], strict=True) if v > 0)
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), truth.images[i])
    inferred = tool("infer", *[f"{i:03d}.png" for i in range(len(rows))], "--json")
    lines = [json.loads(line) for line in inferred.out.splitlines()]
    table = list(csv.DictReader((tmp_path / "predictions/predictions.csv").open()))
    assert {len(line["labels"]) for line in lines} >= {0, 1, 2}
    for row, line, predicted in zip(rows, lines, table, strict=True):
        assert row["prediction"] == line["label"] == predicted["label"] == "|".join(line["labels"])
    by_count = {len(line["labels"]): line for line in lines}
    shown = tool("infer", by_count[0]["file"], by_count[2]["file"]).out.splitlines()
    assert shown[0].startswith(f"{by_count[0]['file']}: no label: ")
    assert shown[1].startswith(f"{by_count[2]['file']}: {by_count[2]['label']}: ")


def test_an_error_in_a_worker_ends_the_process(start, folder):
    """The workers ignore signals for the process group, and must not be waited for in vain."""
    (folder / "train" / "a" / "x.png").write_bytes(b"bad")
    words = (
        "--config-file",
        "x.yml",
        "DATALOADER.NUM_WORKERS",
        "2",
        "DATASETS.ROOT",
        str(folder),
        "SOLVER.BATCH_SIZE",
        "512",
        "DATASETS.VAL_RATIO",
        "0",
    )
    (folder.parent / "x.yml").write_text("DATASETS: {NAME: image_folder}\nINPUT: {SIZE: [16, 16]}\n")
    process = start("show_batch", *words)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "x.png: cannot decode the image" in err


def test_files_of_ones_own_stay(tool, tmp_path):
    assert tool("train_net", "SOLVER.MAX_EPOCHS", "1", "MODEL.NAME", "tiny", "TEST.REPORT", "false").code == 0
    (tmp_path / "images").mkdir()
    mine = tmp_path / "images" / "00001_mine.png"
    mine.write_bytes(GOOD[0].data)
    for _ in range(2):
        assert tool("infer", ".", "--output", ".").code == 0
        rows = rows_of(tmp_path / "predictions.csv")
        assert [row["file"] for row in rows] == ["images/00001_mine.png"] and mine.exists()


def test_the_task_is_inferred_from_the_labels_unless_it_is_set(tool):
    words = ["MODEL.NAME", "tiny", "DATASETS.NAME", "corners", "SOLVER.MAX_EPOCHS", "1", "TEST.REPORT", "false"]
    assert "TASK.NAME: multilabel, inferred from the data set's targets" in tool("train_net", *words).err
    single = tool("train_net", *words, "TASK.NAME", "classification")
    assert "TASK.NAME classification: the images have several labels each; set TASK.NAME to" in single.error()
    one_label = tool("train_net", *words, "LOSS.NAME", "cross_entropy")
    assert (
        "LOSS.NAME cross_entropy: a loss for classification, the task is multilabel; set it to bce" in one_label.error()
    )
