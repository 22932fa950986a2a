"""The curve that is drawn is the one that a training follows."""

import re

import cv2
import pytest


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?:lowest|highest|last) (\S+?),?(?=\s)", text)]


def test_the_curve_of_an_experiment(tool, tmp_path):
    (tmp_path / "x.yml").write_text("SOLVER: {MAX_EPOCHS: 4, BASE_LR: 0.5, SCHEDULER: {NAME: linear}}")
    done = tool("plot_lr", "--config-file", "x.yml", "--steps-per-epoch", "5", "--output", "curve.png")
    assert done.code == 0 and done.out.startswith("curve.png: ")
    assert numbers(done.out) == pytest.approx([0.5 / 20, 0.5, 0.5 / 20])
    picture = cv2.imread(str(tmp_path / "curve.png"))
    assert picture.shape[1] > 800 and len(set(picture.reshape(-1, 3)[:, 0].tolist())) > 10


def test_steps_are_counted_in_the_data_set(tool):
    """The digits have 1,437 images for training, a tenth of them held out."""
    words = "SOLVER.MAX_EPOCHS 1 SOLVER.BASE_LR 1 SOLVER.BATCH_SIZE 100 SOLVER.SCHEDULER.NAME linear".split()
    done = tool("plot_lr", *words)
    assert done.out.startswith("lr.png: ")
    steps = round(1 / numbers(done.out)[0])
    assert steps == 13


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "DATASETS.NAME image_folder",
            "no such folder; expected a folder with one folder for each class; or give --ste",
        ),
        ("--steps-per-epoch 0", "--steps-per-epoch: found 0, expected at least 1"),
        ("--output lr.gif", "--output lr.gif: found '.gif', expected a .png, .pdf or .svg file"),
        ("--output gone/lr.png --steps-per-epoch 2", "gone/lr.png: No such file or directory"),
        ("SOLVER.SCHEDULER.NAME cosin --steps-per-epoch 2", "did you mean 'cosine'"),
    ],
)
def test_mistakes(tool, words, message):
    assert message in tool("plot_lr", *words.split()).error()
