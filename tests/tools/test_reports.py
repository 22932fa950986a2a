"""The reports on trainings and tests, and the images of predictions."""

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import nn

from engine.registry import METRICS
from modeling.registry import MODELS

TOY = [
    "DATASETS.NAME",
    "toy",
    "MODEL.NAME",
    "tiny",
    "SOLVER.MAX_EPOCHS",
    "2",
    "SOLVER.BATCH_SIZE",
    "8",
    "LOG.PERIOD",
    "2",
]
TRAINING = ["Learning curves; the chosen epoch is dotted"]
RESULTS = ["Confusion matrix", "Reliability diagram: accuracy by confidence", "Precision-recall curves"]


def figures(report: Path) -> list[str]:
    page = (report / "index.html").read_text(encoding="utf-8")
    return re.findall('alt="(.*?)"', page.partition('<div class="images">')[2].partition("</div>")[0])


def test_a_training_and_a_test_have_a_report_each(tool, tmp_path):
    trained = tool("train_net", *TOY, "--run-dir", "run")
    report = tmp_path / "run/report"
    assert trained.code == 0 and "report: run/report/index.html" in trained.err
    assert figures(report) == TRAINING and figures(report / "val") == RESULTS
    validated = json.loads((report / "val/metrics.json").read_text())
    assert validated["split"] == "val" and validated["num_samples"] == 6
    epochs = [r for r in map(json.loads, (tmp_path / "run/metrics.jsonl").open()) if r["kind"] == "epoch"]
    best = max(epochs, key=lambda record: (record["val_top1"], -record["val_loss"]))
    for name in ("loss", "top1", "top5"):  # what the training measured is what is reported
        assert best[f"val_{name}"] == pytest.approx(validated[name], abs=1e-6)
    page = (report / "val/index.html").read_text(encoding="utf-8")
    assert f"run/weights/best.pth, saved after epoch {best['epoch']}" in page and "6 images of the val split" in page

    tested = tool("test_net", "run")
    metrics = json.loads((report / "test/metrics.json").read_text())
    assert metrics["split"] == "test" and metrics["num_samples"] == 45
    for name, value in metrics.items():
        if isinstance(value, float):
            assert re.search(rf"^{name} +{value:.4f}$", tested.out, re.M), name
    assert "right" in tested.out and figures(report / "test") == RESULTS and figures(report) == TRAINING
    assert json.loads((report / "val/metrics.json").read_text()) == validated
    rows = list(csv.DictReader((report / "test/predictions.csv").open()))
    assert [row["file"] for row in rows] == [f"toy/{i}" for i in range(45)]
    for row in rows:
        assert row["top_k"].startswith(f"{row['prediction']} {row['probability']}; ") and row["top_k"].count(";") == 2
    assert np.mean([row["target"] == row["prediction"] for row in rows]) == pytest.approx(metrics["top1"])
    table = {row["class"]: row for row in csv.DictReader((report / "test/per_class.csv").open())}
    for name, row in table.items():
        of_class = [r["prediction"] == name for r in rows if r["target"] == name]
        assert int(row["support"]) == 15 and float(row["recall"]) == pytest.approx(np.mean(of_class), abs=1e-6)
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "tiny on toy" in page and "MAX_EPOCHS: 2" in page
    assert 'href="test/index.html"' in page and 'href="val/index.html"' in page


def test_every_split_and_checkpoint_has_its_own_folder(tool, tmp_path):
    words = ["TEST.REPORT", "false", "TEST.MONITOR", "max loss", "SEED", "2"]  # the first epoch is the best
    assert tool("train_net", *TOY, "--run-dir", "run", *words).code == 0
    for words in ([], ["--split", "val"], ["--split", "train"]):
        assert tool("test_net", "run", *words).code == 0
        assert tool("test_net", "run/weights/last.pth", *words).code == 0
    folders = {path.parent.name for path in (tmp_path / "run/report").glob("*/metrics.json")}
    assert folders == {"test", "val", "train", "test-last", "val-last", "train-last"}
    index = (tmp_path / "run/report/index.html").read_text(encoding="utf-8")
    assert re.search(r"best epoch</t[hd]>\s*<td>1<", index), "the last test was of another checkpoint"
    for words in (["TEST.TTA_FLIP", "true"], ["TEST.TTA_FLIP", "false"], ["DATASETS.ROOT", "elsewhere"]):
        assert "--output: needed for a test of other data" in tool("test_net", "run", *words).error()
        assert tool("test_net", "run", *words, "--output", "other").code == 0
        assert (tmp_path / "other/metrics.json").exists()


def test_a_training_that_averages_flips_is_tested_so(tool, tmp_path):
    assert tool("train_net", *TOY, "--run-dir", "run", "TEST.TTA_FLIP", "true").code == 0
    assert tool("test_net", "run").code == 0 and (tmp_path / "run/report/test/metrics.json").exists()


def test_one_class_each_for_a_loss_of_several_labels(tool, tmp_path):
    assert tool("train_net", *TOY, "LOSS.NAME", "bce", "--run-dir", "run").code == 0
    assert figures(tmp_path / "run/report/val") == RESULTS


def test_no_best_epoch(tool, tmp_path):
    """Where the metric that chooses is never a number, the last weights are reported."""
    METRICS.register("never")(lambda predictions: float("nan"))
    words = ["TEST.METRICS", "[never, top1]", "TEST.MONITOR", "max never"]
    trained = tool("train_net", *TOY, *words, "--run-dir", "run")
    assert trained.code == 0 and not (tmp_path / "run/weights/best.pth").exists()
    assert "done: run/weights/last.pth" in trained.err and (tmp_path / "run/report/index.html").exists()
    assert (
        json.loads((tmp_path / "run/report/val-last/metrics.json").read_text())["never"] is None
    )  # JSON has no other word


def test_a_metric_that_returns_something_else(tool):
    METRICS.register("wide")(lambda predictions: predictions.outputs)
    found = tool("train_net", *TOY, "TEST.METRICS", "[top1, wide]").error()
    assert "TEST.METRICS wide: returned" in found and "expected a number" in found


def test_a_metric_cannot_have_a_reserved_name(tool):
    METRICS.register("num_samples")(lambda predictions: 0.0)
    assert "TEST.METRICS num_samples: reserved name" in tool("train_net", *TOY, "TEST.METRICS", "[num_samples]").error()


def test_a_folder_without_splits_and_one_without_its_training_set(tool, tmp_path, photos):
    for folder in ("both/train", "both/test", "plain"):
        for i in range(6 if folder != "both/test" else 4):
            (tmp_path / folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "ab"[i % 2] / f"{i}.png").write_bytes((photos / f"{i % 2}.png").read_bytes())
    words = "DATASETS.NAME image_folder DATASETS.ROOT both DATASETS.VAL_RATIO 0 INPUT.SIZE [6,6] TEST.REPORT false"
    assert tool("train_net", *TOY, *words.split(), "--run-dir", "run").code == 0
    (tmp_path / "both/train").rename(tmp_path / "elsewhere")
    assert "on the test split of image_folder (4 images)" in tool("test_net", "run").err
    whole = tool("test_net", "run", "DATASETS.ROOT", "plain", "--split", "train", "--output", "out")
    assert whole.code == 0 and json.loads((tmp_path / "out/metrics.json").read_text())["num_samples"] == 6
    held_out = tool("test_net", "run", "DATASETS.ROOT", "plain", "--split", "val", "DATASETS.VAL_RATIO", "0.5")
    assert "DATASETS.VAL_RATIO: cannot be overridden at test time" in held_out.error()


def test_numbers_are_shown_before_they_are_written(tool, tmp_path):
    assert tool("train_net", *TOY, "TEST.REPORT", "false", "--run-dir", "run").code == 0
    (tmp_path / "run/report").write_text("in the way")
    tested = tool("test_net", "run")
    assert "run/report" in tested.error() and re.search(r"^top1 +\d", tested.out, re.M)


def test_data_that_moved_while_a_run_was_stopped(tool, tmp_path, photos):
    for i in range(12):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "ab"[i % 2] / f"{i}.png").write_bytes((photos / f"{i % 2}.png").read_bytes())
    words = "DATASETS.NAME image_folder DATASETS.ROOT data DATASETS.VAL_RATIO 0.3 INPUT.SIZE [6,6]"
    assert tool("train_net", *TOY, *words.split(), "TEST.REPORT", "false", "--run-dir", "run").code == 0
    (tmp_path / "data").rename(tmp_path / "moved")
    changes = ["DATASETS.ROOT", "moved", "TEST.REPORT", "true", "TEST.METRICS", "[top1]", "SOLVER.MAX_EPOCHS", "3"]
    assert tool("train_net", "--resume", "run", *changes, "SOLVER.BASE_LR", "1e-9").code == 0
    metrics = json.loads((tmp_path / "run/report/val/metrics.json").read_text())
    assert metrics["split"] == "val" and metrics["num_samples"] == 4


def test_nothing_that_could_be_read(tool, tmp_path, photos):
    for split, count in (("train", 6), ("test", 2)):
        for i in range(count):
            path = tmp_path / "data" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((photos / "0.png").read_bytes() if split == "train" else b"\x89PNG")
    words = "DATASETS.NAME image_folder DATASETS.ROOT data DATASETS.VAL_RATIO 0 INPUT.SIZE [6,6] TEST.REPORT false"
    assert tool("train_net", *TOY, *words.split()).code == 0
    skipped = tool("test_net", "DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "1")
    assert skipped.code == 2 and skipped.err.splitlines()[-1].startswith("error: no image of the split could be read")


def test_without_a_validation_set_there_are_the_curves(tool, tmp_path):
    assert tool("train_net", *TOY, "DATASETS.VAL_RATIO", "0", "--run-dir", "run").code == 0
    assert figures(tmp_path / "run/report") == TRAINING
    assert not (tmp_path / "run/report/val").exists()


def test_a_report_can_be_left_out_and_made_later(tool, tmp_path):
    assert tool("train_net", *TOY, "TEST.REPORT", "false", "--run-dir", "run").code == 0
    assert not (tmp_path / "run/report").exists()
    assert tool("train_net", "--resume", "run").code == 0 and not (tmp_path / "run/report").exists()
    again = tool("train_net", "--resume", "run", "TEST.REPORT", "true")  # as if it had been stopped before it
    assert again.code == 0 and figures(tmp_path / "run/report") == TRAINING
    assert "report: " not in tool("train_net", "--resume", "run", "TEST.REPORT", "true").err


def test_a_checkpoint_of_no_run_and_other_data(tool, tmp_path):
    assert tool("train_net", *TOY, "TEST.REPORT", "false", "--run-dir", "run").code == 0
    (tmp_path / "lone.pth").write_bytes((tmp_path / "run/weights/best.pth").read_bytes())
    (tmp_path / "other/weights").mkdir(parents=True)
    (tmp_path / "other/weights/best.pth").write_bytes((tmp_path / "run/weights/best.pth").read_bytes())
    assert tool("test_net", "other").code == 0 and figures(tmp_path / "other/report/test") == RESULTS
    assert "--output: needed for a test of other data" in tool("test_net", "run", "DATASETS.size", "30").error()
    (tmp_path.parent / "metrics.jsonl").write_text("{}\n")  # somebody else's
    tested = tool("test_net", "lone.pth", "DATASETS.size", "30")
    assert tested.code == 0 and figures(tmp_path / "lone_report/test") == RESULTS
    assert json.loads((tmp_path / "lone_report/test/metrics.json").read_text())["num_samples"] == 30


@MODELS.register("flat")
class Flat(nn.Sequential):
    """Nothing but a linear layer."""

    def __init__(self, num_classes: int, in_channels: int):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * 36, num_classes))


@pytest.fixture
def photos(tmp_path):
    """Three gray images that the toy network knows, in a folder."""
    (tmp_path / "photos").mkdir()
    for place in range(3):
        image = np.full((6, 6), 40, np.uint8)
        image[:, 2 * place : 2 * place + 2] = 200
        cv2.imwrite(str(tmp_path / f"photos/{place}.png"), image)
    return tmp_path / "photos"


def test_pictures_of_a_prediction(tool, photos, tmp_path):
    assert tool("train_net", *TOY, "TEST.REPORT", "false").code == 0

    def drawn(*words: str) -> list[str]:
        assert tool("infer", *words).code == 0
        return sorted(path.name for path in tmp_path.glob("predictions/images/*"))

    assert drawn("photos") == []  # a folder may hold thousands
    assert drawn("photos", "photos/1.png") == ["00001_1_predicted.png", "00003_1_predicted.png"]
    assert drawn("photos", "--draw") == [f"0000{i}_{i}_predicted.png" for i in range(3)]
    assert drawn("photos/2.png", "--cam", "--topk", "2") == ["00000_2_cam.png", "00000_2_predicted.png"]
    seen = cv2.imread(str(tmp_path / "predictions/images/00000_2_cam.png"))
    assert seen.shape == (2 * 30 + 114 + 4, 3 * (114 + 4), 3) and len(np.unique(seen.reshape(-1, 3), axis=0)) > 50
    assert drawn("photos/2.png") == ["00000_2_predicted.png"]


def test_flips_are_averaged(tool, photos):
    """left and right change places in a mirror, so that they get the same probability from both images."""
    assert tool("train_net", *TOY, "TEST.REPORT", "false", "MODEL.dropout", "0").code == 0
    plain = [json.loads(line) for line in tool("infer", "photos", "--json").out.splitlines()]
    both = [json.loads(line) for line in tool("infer", "photos", "--json", "--tta").out.splitlines()]
    tested = tool("test_net", "TEST.TTA_FLIP", "true", "--output", "out").code
    assert tested == 0 and dict(plain[0]["top_k"]) != pytest.approx(dict(plain[2]["top_k"]), abs=1e-4)
    assert dict(both[0]["top_k"]) == pytest.approx(dict(both[2]["top_k"]), abs=1e-6)


def test_a_network_without_feature_maps_cannot_be_explained(tool, photos):
    assert tool("train_net", *TOY, "MODEL.NAME", "flat", "TEST.REPORT", "false").code == 0
    assert "--cam: Flat has no feature map" in tool("infer", "photos", "--cam").error()
