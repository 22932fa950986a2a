"""What people type: train, stop, resume, test, predict."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.build import build_eval_loader, build_split
from data.datasets.digits import Digits
from engine.build_inference import prepare_checkpoint
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.classifier import Classifier
from utils.run_folder import RunFolder

# The bundled digits with a network that trains in a second.
QUICK = [
    "SOLVER.MAX_EPOCHS",
    "2",
    "MODEL.width",
    "4",
    "MODEL.DEVICE",
    "cpu",
    "SOLVER.AMP",
    "off",
    "LOG.PERIOD",
    "5",
    "TEST.REPORT",
    "false",
]


def only_run(folder: Path, experiment: str = "default") -> RunFolder:
    (path,) = (folder / "runs" / experiment).iterdir()
    return RunFolder(path)


def wait_for(process: subprocess.Popen, text: str) -> str:
    """Read the process's log until a line has `text`."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came:\n{''.join(seen)}")


def weights(path: Path) -> dict:
    return load_checkpoint(path).state["model"]


def test_train_test_and_predict(tool, tmp_path):
    assert tool("train_net", *QUICK).code == 0
    run = only_run(tmp_path)
    files = "config.yml overrides.yml resolved.yml log.txt metrics.jsonl environment.txt code/commit.txt"
    for name in files.split():
        assert (run.path / name).stat().st_size > 0, name
    assert (run.path / "code/engine/trainer.py").exists() and list(run.tensorboard.iterdir())
    assert "AMP: 'off'" in run.overrides.read_text() and "num_outputs: 10" in run.resolved.read_text()

    tested = tool("test_net")
    metrics = json.loads((run.report / "test/metrics.json").read_text())
    assert metrics["num_samples"] == 360 and metrics["split"] == "test" and metrics["checkpoint"].endswith("best.pth")
    assert re.search(rf"^top1 +{metrics['top1']:.4f}$", tested.out, re.M)
    rows = list(csv.DictReader((run.report / "test/predictions.csv").open()))
    assert len(rows) == 360
    assert np.mean([row["target"] == row["prediction"] for row in rows]) == pytest.approx(metrics["top1"])

    truth = Digits(Path(), "test")
    for i in range(20):
        cv2.imwrite(str(tmp_path / f"{i:02d}.png"), truth.images[i])
    predicted = tool("infer", *[f"{i:02d}.png" for i in range(20)], "--output", "out", "--topk", "2", "--json")
    assert predicted.code == 0
    lines = [json.loads(line) for line in predicted.out.splitlines()]
    for line, row in zip(lines, rows, strict=False):
        assert line["label"] == row["prediction"] and len(line["top_k"]) == 2
        assert line["probability"] == pytest.approx(float(row["probability"]), abs=1e-6)
    table = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    assert [row["label"] for row in table] == [line["label"] for line in lines]
    assert all(cv2.imread(str(path)) is not None for path in (tmp_path / "out/images").iterdir())
    assert len(list((tmp_path / "out/images").iterdir())) == 20


def test_inference_sees_what_testing_sees(tool, tmp_path):
    """The same files as a data set and as single images: the same input tensors, bit for bit."""
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(40, 60, 3), (33, 20, 3), (64, 64, 3), (90, 31, 3)]):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.{'jpg' if i % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, shape, dtype=np.uint8))
    words = "DATASETS.NAME image_folder DATASETS.ROOT photos DATASETS.VAL_RATIO 0 INPUT.SIZE [24,32]".split()
    assert tool("train_net", *words, *QUICK).code == 0
    checkpoint, cfg = prepare_checkpoint(load_checkpoint(only_run(tmp_path).best), ["TEST.BATCH_SIZE", "3"])
    dataset = build_split(cfg, "train")
    spec = checkpoint.resolved.input
    as_test = torch.cat([batch.images.clone() for batch in build_eval_loader(cfg, dataset, spec).batches()])
    files = [Path("photos") / dataset.name(i) for i in range(len(dataset))]
    files = [file if file.exists() else Path(dataset.name(i)) for i, file in enumerate(files)]
    classifier = Classifier.load(checkpoint.source)
    as_infer = [prediction.image for prediction in classifier.predict(files)]
    assert torch.equal(as_test, torch.stack(as_infer))
    streamed = sorted(classifier.stream(files), key=lambda pair: pair[0])
    assert torch.equal(as_test, torch.stack([prediction.image for _, prediction in streamed]))
    assert "beside 'train'; testing" not in tool("infer", "photos").err


def test_a_prediction_that_is_stopped_keeps_its_rows(start, tool, tmp_path):
    """Of 600 images, more than a pipe that nobody reads can hold."""
    assert tool("train_net", *QUICK, "SOLVER.MAX_EPOCHS", "1", "TEST.BATCH_SIZE", "16").code == 0
    (tmp_path / "images").mkdir()
    for i in range(600):
        cv2.imwrite(str(tmp_path / f"images/{i:03d}.png"), np.full((8, 8), i % 256, np.uint8))
    stopped = start("infer", "images", "--json", "--topk", "10")
    lines = [stopped.stdout.readline()]
    stopped.terminate()
    lines += stopped.stdout
    assert stopped.wait() == 128 + signal.SIGTERM and "Traceback" not in stopped.stderr.read()
    printed = [json.loads(line)["file"] for line in lines]
    rows = [row["file"] for row in csv.DictReader((tmp_path / "predictions/predictions.csv").open())]
    assert 0 < len(printed) <= len(rows) < 600 and printed == rows[: len(printed)]
    assert rows == [f"images/{i:03d}.png" for i in range(len(rows))]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stop_and_resume_with_the_printed_command(start, tool, tmp_path, signum, code):
    """A real signal, to the whole process group with workers in it, in the middle of an epoch."""
    words = [*QUICK, "DATALOADER.NUM_WORKERS", "2" if signum == signal.SIGTERM else "0", "LOG.PERIOD", "1"]
    stopped = start("train_net", *words)
    wait_for(stopped, "step 3 ")
    os.killpg(stopped.pid, signum)
    rest = stopped.stderr.read()
    assert stopped.wait() == code, rest
    assert "Traceback" not in rest
    run = only_run(tmp_path)
    progress = load_checkpoint(run.last).state["progress"]
    assert 3 <= progress["step"] < 42 and progress["samples_seen"] > 0
    command = shlex.split(re.search(r"to resume: (.*)", rest)[1])
    assert command[0] == "python" and command[2:] == ["--resume", str(run.path.relative_to(tmp_path))]
    assert tool("train_net", *command[2:]).code == 0
    assert tool("train_net", *words, "EXPERIMENT.NAME", "whole").code == 0
    one, other = load_checkpoint(only_run(tmp_path, "whole").last).state, load_checkpoint(run.last).state
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert one["progress"] == other["progress"]
    with pytest.raises(ProcessLookupError):
        os.killpg(stopped.pid, 0)  # no worker is left


def test_bare_resume_is_the_command_for_a_queue(tool, tmp_path):
    assert "starting a new run" in tool("train_net", "--resume", *QUICK, "SOLVER.MAX_EPOCHS", "1").err
    run = only_run(tmp_path)
    checkpoint = load_checkpoint(run.last)
    assert "is complete: nothing to train" in tool("train_net", "--resume", run.path).err
    assert "starting a new run" in tool("train_net", "--resume", *QUICK, "SOLVER.MAX_EPOCHS", "1").err
    checkpoint.state["progress"] |= {"epoch": 0, "samples_seen": 64, "step": 1}
    save_checkpoint(run.last, checkpoint)
    again = tool("train_net", "--resume", *QUICK, "SOLVER.MAX_EPOCHS", "1")
    assert f"resuming {run.path.relative_to(tmp_path)} from epoch 0, step 1" in again.err and again.code == 0


def test_a_run_that_is_held_is_left_alone(start, tool, tmp_path):
    running = start("train_net", *QUICK, "SOLVER.MAX_EPOCHS", "1000", "CHECKPOINT.EVERY_STEPS", "1")
    wait_for(running, "step 5 ")
    run = only_run(tmp_path)
    assert "another process is training this run" in tool("train_net", "--resume", run.path).error()
    assert "starting a new run" in tool("train_net", "--resume", *QUICK, "SOLVER.MAX_EPOCHS", "1").err


def test_run_dir(tool, tmp_path):
    assert tool("train_net", "--run-dir", "here", *QUICK, "SOLVER.MAX_EPOCHS", "1").code == 0
    assert (tmp_path / "here/weights/best.pth").exists() and not (tmp_path / "runs").exists()
    assert "not an empty folder" in tool("train_net", "--run-dir", "here", *QUICK).error()
    longer = tool("train_net", "--run-dir", "here", "--resume", *QUICK)
    assert "resuming here from epoch 1" in longer.err and longer.code == 0
    assert tool("test_net", "here").code == 0 and tool("test_net", "here/weights/last.pth", "--split", "val").code == 0
    assert (tmp_path / "here/report/val-last/metrics.json").exists()


def test_a_run_can_be_made_longer_or_changed_on_demand(tool, tmp_path):
    stops_soon = ["HOOKS", "[{EarlyStopping: {patience: 1}}]", "SOLVER.BASE_LR", "1e-9"]
    assert "stopped early" in tool("train_net", "--run-dir", "a", *QUICK, *stops_soon, "SOLVER.MAX_EPOCHS", "9").err
    again = tool("train_net", "--resume", "a")
    assert again.code == 0 and "stopped early" in again.err and "epoch 3/9" not in again.err
    longer = tool("train_net", "--resume", "a", "HOOKS", "[]", "SOLVER.MAX_EPOCHS", "4")
    assert "epoch 4/4" in longer.err and "changed: SOLVER.MAX_EPOCHS: 9 -> 4 (applied from here on)" in longer.err
    changes = ["SOLVER.MAX_EPOCHS", "5", "SOLVER.BATCH_SIZE", "32", "SOLVER.OPTIMIZER.NAME", "AdamW"]
    assert "--allow-change SOLVER.BATCH_SIZE" in tool("train_net", "--resume", "a", *changes).error()
    insisting = ["--allow-change", "SOLVER.BATCH_SIZE", *changes, "--allow-change", "SOLVER.OPTIMIZER"]
    assert "epoch 5/5" in tool("train_net", "--resume", "a", *insisting).err
    assert (
        "unknown key" in tool("train_net", "--resume", "a", *changes[:1], "6", "--allow-change", "SOLVER.BATCH").error()
    )


def test_a_run_that_failed_is_not_the_newest_to_test(tool, tmp_path):
    assert tool("train_net", *QUICK, "--run-dir", "runs/good").code == 0
    assert tool("train_net", *QUICK, "--run-dir", "runs/bad", "SOLVER.BASE_LR", "1e30").code == 2
    assert "testing runs/good/weights/best.pth" in tool("test_net").err


def test_odd_images_are_predicted(tool, tmp_path):
    assert tool("train_net", *QUICK).code == 0
    (tmp_path / "odd").mkdir()
    for name, shape in (("tall", (3000, 1)), ("wide", (1, 3000)), ("dot", (1, 1)), ("图片 #1", (20, 30))):
        (tmp_path / f"odd/{name}.png").write_bytes(cv2.imencode(".png", np.zeros(shape, np.uint8))[1].tobytes())
    for _ in range(2):
        assert tool("infer", "odd", "odd/dot.png", "--draw").code == 0
        assert len(list((tmp_path / "predictions/images").iterdir())) == 5


def test_print_config_and_help(start):
    began = time.monotonic()
    printed, helped = start("train_net", "--print-config", "SOLVER.BASE_LR", "3"), start("train_net", "--help")
    out, err = printed.communicate()
    assert "  BASE_LR: 3.0  # default: 0.0" in out.splitlines() and err == ""
    assert "KEY VALUE" in helped.communicate()[0]
    assert time.monotonic() - began < 30  # no training


@pytest.mark.parametrize(
    "words", [["--help"], ["--print-config"], ["SOLVER.BASE_LF", "1"], ["SOLVER.MAX_EPOCHS", "-1"]]
)
def test_quick_answers_import_nothing_heavy(words):
    """What keeps --help and the errors of a configuration fast."""
    code = f"import sys, runpy; sys.argv = ['train_net.py', *{words!r}]\n"
    code += "try: runpy.run_path('tools/train_net.py', run_name='__main__')\n"
    code += "finally: print(sorted({'torch', 'cv2', 'numpy', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "[]" or "[]\n" in done.stderr, done.stderr


def test_inference_imports_only_what_it_needs(tool, tmp_path):
    assert tool("train_net", *QUICK, "SOLVER.MAX_EPOCHS", "1").code == 0
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8, 3), np.uint8))
    tools = Path(__file__).resolve().parents[2] / "tools"
    code = f"import sys, runpy; sys.path[:0] = {[str(tools), str(tools.parent)]!r}; sys.argv = ['infer.py', 'x.png']\n"
    code += "from utils import cli; cli._leave = sys.exit\n"
    code += f"try: runpy.run_path({str(tools / 'infer.py')!r}, run_name='__main__')\n"
    code += "finally: print({'torchvision', 'tensorboard', 'matplotlib.pyplot'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "set()", done
