"""What people get wrong: each ends in one line that says what to do, and exit code 2."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

QUICK = ["SOLVER.MAX_EPOCHS", "1", "MODEL.width", "4", "MODEL.DEVICE", "cpu"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("SOLVER.BASE_LF 0.1", "unknown key SOLVER.BASE_LF; did you mean 'SOLVER.BASE_LR'?"),
        ("SOLVER.BASE_LR fast", "SOLVER.BASE_LR: found 'fast', expected a number"),
        ("SOLVER.BASE_LR", "SOLVER.BASE_LR needs a value"),
        ("--config-file gone.yml", "gone.yml: cannot read the configuration: No such file or directory"),
        ("--config-file bad.yml", "bad.yml:2: not valid YAML"),
        ("--resume gone", "gone/config.yml: cannot read the configuration"),
        ("--frob", "unrecognized arguments: --frob; see train_net.py --help"),
        ("MODEL.NAME resnet9x", "MODEL.NAME 'resnet9x': no such model; did you mean 'resnet9'?"),
        ("MODEL.DEVICE cuda:99", "MODEL.DEVICE 'cuda:99': not available here"),
        ("MODEL.NUM_CLASSES 7", "MODEL.NUM_CLASSES 7: the data set has 10; set it to 0"),
        ("DATASETS.NAME image_folder", "DATASETS.ROOT datasets: no such folder"),
        ("DATASETS.NAME image_folder DATASETS.ROOT bad.yml", "DATASETS.ROOT bad.yml: no such folder"),
        ("OUTPUT_DIR bad.yml", "OUTPUT_DIR"),
        ("INPUT.SIZE [4,4]", "INPUT.SIZE: found [4, 4], resnet9 takes at least [8, 8]"),
        ("INPUT.TRAIN_TRANSFORMS [HFlop]", "INPUT.TRAIN_TRANSFORMS 'HFlop': no such transform; did you mean 'HFlip'"),
        ("SOLVER.OPTIMIZER.momentum 0.9", "SOLVER.OPTIMIZER.momentum: AdamW takes no such argument"),
        ("SOLVER.BASE_LR 1e30 LOG.PERIOD 1", "the training loss is"),
    ],
)
def test_training(tool, tmp_path, words, message):
    (tmp_path / "bad.yml").write_text("SOLVER:\n\tBASE_LR: 1\n")
    assert message in tool("train_net", *words.split()).error()
    assert list(tmp_path.glob("runs/*/*")) == [] or "loss" in message  # a run that never began leaves no folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat", "dog", "owl"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            suffix = "png" if i % 2 else "jpg"
            cv2.imwrite(str(tmp_path / "photos" / name / f"{i}.{suffix}"), np.full((30, 40, 3), 60 * i, np.uint8))
    return tmp_path / "photos"


def test_a_folder_of_ones_own(tool, photos):
    """Three classes, a text file, an empty class: a line for each; a broken image stops the run by name."""
    (photos / "cat" / "notes.txt").write_text("x")
    (photos / "empty").mkdir()
    words = ["DATASETS.NAME", "image_folder", "DATASETS.ROOT", photos, "DATASETS.VAL_RATIO", "0.25", *QUICK]
    done = tool("train_net", *words)
    assert done.code == 0
    assert "ignored 1 folders without images: empty" in done.err
    assert "1 files that are not images, such as cat/notes.txt" in done.err
    assert "image_folder: 9 training images, 3 for validation; classification with 3 outputs" in done.err
    tested = tool("test_net")
    assert tested.code == 0 and "testing the validation set instead" in tested.err
    assert "--split val and train test what the run was" in tool("test_net", "--split", "test").error()
    (photos / "owl" / "9.png").write_bytes(b"\x89PNG broken")
    assert f"{photos}/owl/9.png: cannot decode the image" in tool("train_net", *words, "SEED", "3").error()
    some = tool("infer", photos)
    assert some.code == 2 and "owl/9.png: cannot decode" in some.err and len(some.out.splitlines()) == 12


def test_testing_and_inference(tool, photos, tmp_path):
    assert "runs: no such run or checkpoint; train one first" in tool("test_net").error()
    assert "gone.pth: no such run or checkpoint" in tool("test_net", "gone.pth").error()
    assert tool("train_net", *QUICK).code == 0
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    assert (
        "text.pth: not a checkpoint, or damaged (File is not a zip file; 5 bytes, begins with b'hello')"
        in tool("test_net", "text.pth").error()
    )
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "bare.pth")
    assert "bare.pth: not a checkpoint of this project" in tool("infer", photos, "--weights", "bare.pth").error()
    words = ["DATASETS.NAME", "image_folder", "DATASETS.ROOT", photos, "--output", "out"]
    assert "--split train tests all of it" in tool("test_net", *words).error()
    assert "class 'cat' is not in the training set" in tool("test_net", *words, "--split", "train").error()
    assert "SOLVER.BATCH_SIZE: cannot be overridden at test time" in tool("test_net", "SOLVER.BATCH_SIZE", "3").error()
    assert "notes.txt/x: Not a directory" in tool("infer", photos, "--output", tmp_path / "notes.txt/x").error()
    assert "gone.jpg: no such image or folder" in tool("infer", "gone.jpg").error()
    run = next((tmp_path / "runs").glob("*/*/"))
    assert f"a run, expected images; predict with it by --weights {run}" in tool("infer", run).error()
    for scheme in ("http", "https", "s3"):
        assert (
            f"{scheme}://a.b/c.jpg: URLs are not followed; download" in tool("infer", f"{scheme}://a.b/c.jpg").error()
        )
    (tmp_path / "void").mkdir()
    assert "void: no images in this folder" in tool("infer", "void").error()
    assert "--topk: found 0" in tool("infer", photos, "--topk", "0").error()
    assert "DATASETS.nmae" in tool("test_net", "DATASETS.nmae", "1").error()
    assert "the following arguments are required: IMAGE_OR_FOLDER" in tool("infer").error()
