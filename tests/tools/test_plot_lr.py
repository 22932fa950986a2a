"""The curve that is drawn is the one that a training follows."""

import re

import cv2
import pytest


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?:lowest|highest|last) (\S+?),?(?=\s)", text)]


def test_the_curve_of_an_experiment(tool, tmp_path):
    (tmp_path / "x.yml").write_text("SOLVER: {MAX_EPOCHS: 4, BASE_LR: 0.5, SCHEDULER: {NAME: linear}}")
    done = tool("plot_lr", "--config-file", "x.yml", "--output", "curve.png")
    assert done.code == 0 and done.out.startswith("curve.png: ")
    assert numbers(done.out) == pytest.approx([0.5 / 400, 0.5, 0.5 / 400])  # 100 steps per epoch
    picture = cv2.imread(str(tmp_path / "curve.png"))
    assert picture.shape[1] > 800 and len(set(picture.reshape(-1, 3)[:, 0].tolist())) > 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output lr.gif", "--output lr.gif: found '.gif', expected a .png, .pdf or .svg file"),
        ("--output gone/lr.png", "gone/lr.png: No such file or directory"),
        ("SOLVER.SCHEDULER.NAME cosin", "did you mean 'cosine'"),
    ],
)
def test_mistakes(tool, words, message):
    assert message in tool("plot_lr", *words.split()).error()
