"""Regression on the command line: from a table of numbers to a report and predictions."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

WORDS = [
    *("DATASETS.NAME", "csv", "DATASETS.targets", "[x, y]", "INPUT.SIZE", "[16, 16]", "INPUT.CHANNELS", "1"),
    *("MODEL.NAME", "resnet9", "MODEL.width", "4", "SOLVER.BATCH_SIZE", "16", "SOLVER.MAX_EPOCHS", "12"),
    *("INPUT.TRAIN_TRANSFORMS", "[Resize]", "INPUT.TEST_TRANSFORMS", "[Resize]", "SOLVER.BASE_LR", "0.01"),
    *("SOLVER.OPTIMIZER.NAME", "AdamW", "SOLVER.AMP", "off"),
]


def test_regression_from_a_table_to_a_report(tool, spots):
    words = [*WORDS, "DATASETS.ROOT", spots, "SOLVER.AMP", "off", "--run-dir", "run"]
    trained = tool("train_net", *words)
    assert trained.code == 0, trained.err
    assert "TASK.NAME: regression, inferred from the data set's targets" in trained.err
    tested = tool("test_net", "run")
    report = Path("run/report/test")
    scores = json.loads((report / "metrics.json").read_text())
    assert tested.code == 0 and scores["r2"] > 0.8 and scores["mae"] < 1.5  # the mean guess has an error of 2.8
    rows = list(csv.DictReader((report / "predictions.csv").open()))
    error = np.mean([abs(float(r[f"target {c}"]) - float(r[f"predicted {c}"])) for r in rows for c in "xy"])
    assert error == pytest.approx(scores["mae"], rel=1e-5)
    page = (report / "index.html").read_text()
    assert all(f'alt="{name}: predicted against true"' in page for name in "xy")
    predicted = tool("infer", spots / "0.png", "--json", "--weights", "run")
    line = json.loads(predicted.out)
    assert [float(rows[0][f"predicted {c}"]) for c in "xy"] == pytest.approx([line["x"], line["y"]], rel=1e-5)
