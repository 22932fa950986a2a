"""Predicting from Python."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from config import load_config
from data.datasets.digits import Digits
from engine.build import build_trainer
from engine.classifier import Classifier
from utils.errors import UserError
from utils.run_folder import open_run

ROOT = Path(__file__).resolve().parents[2]
WORDS = "SOLVER.MAX_EPOCHS 3 DATALOADER.NUM_WORKERS 0 MODEL.DEVICE cpu TEST.REPORT false".split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on the digits."""
    run = open_run(tmp_path_factory.mktemp("trained") / "run")
    build_trainer(load_config(None, WORDS), run).train()
    run.unlock()
    return run.path


@pytest.fixture(scope="module")
def classifier(trained) -> Classifier:
    return Classifier.load(trained, device="cpu")


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Six digits as files."""
    digits = Digits(Path(), "test")
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), digits.images[i])
    return [tmp_path / f"{i}.png" for i in range(6)]


def test_paths_bytes_and_arrays_are_the_same_image(classifier, images):
    for path in images:
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        forms = [path, str(path), path.read_bytes(), pixels, pixels[..., None], np.repeat(pixels[..., None], 3, 2)]
        predictions = classifier(forms)
        assert isinstance(predictions, list) and len(predictions) == 6
        for prediction in predictions[:5]:
            assert np.array_equal(prediction.values, predictions[0].values)
        assert predictions[5].label == predictions[0].label  # through RGB, which rounds
        alone = classifier(path)
        assert alone.label == predictions[0].label and alone.source == str(path)
        assert np.allclose(alone.values, predictions[0].values, atol=1e-6)


def test_predictions(classifier, images):
    truth = Digits(Path(), "test").targets
    predictions = classifier(images * 20)  # several batches
    assert [p.source for p in predictions] == [str(path) for path in images] * 20
    assert np.mean([p.label == str(truth[i % 6]) for i, p in enumerate(predictions)]) > 0.8
    first = predictions[0]
    assert first.values.shape == (10,) and first.values.sum() == pytest.approx(1, abs=1e-5)
    assert first.top(3)[0] == (first.label, first.probability) and len(first.top(3)) == 3
    assert first.probability == first.values.max() and first.names == list("0123456789")


def test_an_image_that_cannot_be_read_has_an_error(classifier, images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG bad")
    good, bad, gone = classifier([images[0], tmp_path / "bad.png", tmp_path / "gone.png"])
    assert good.error == "" and bad.values is None and "bad.png: cannot decode" in bad.error
    assert "gone.png: cannot read the image: No such file" in gone.error
    with pytest.raises(ValueError, match="bad.png"):
        bad.label  # noqa: B018
    streamed = dict(classifier.stream([images[0], tmp_path / "bad.png"]))
    assert streamed[0].label == good.label and "cannot decode" in streamed[1].error
    floats, fine = classifier([np.zeros((8, 8)), np.zeros((8, 8), np.uint8)])
    assert "image 0: " in floats.error and "float64" in floats.error and fine.error == ""
    assert len(classifier(path for path in [images[0]])) == 1


def test_what_cannot_be_loaded(trained, tmp_path):
    with pytest.raises(UserError, match="no such run or checkpoint"):
        Classifier.load(tmp_path / "gone")
    with pytest.raises(UserError, match="MODEL.DEVICE 'cuda:99': not available"):
        Classifier.load(trained, device="cuda:99")


def test_a_script_of_four_lines(trained, images):
    code = "from engine.classifier import Classifier\nimport sys\n"
    code += f"classifier = Classifier.load({str(trained)!r}, 'cpu')\nprint(classifier(sys.argv[1]).label)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(images[0])], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"
