"""The files and commands of docs/extending.md run as they stand, and do what the page promises."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.test_readme import FOLDERS, ROOT, blocks, place_files, run_commands, write_image

# Runs in the copy of the project after the commands of the page, in the same process.
CHECKS = """
import copy, json, traceback
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from torch import nn
from config import load_config
from engine.build import build_trainer
from engine.checkpoint import load_newest
from utils.errors import Interrupted
from utils.run_folder import open_run

def build(folder, overrides="", config="tiny", stop=0):
    calls = [0]
    def poll():
        calls[0] += 1
        if calls[0] == stop:
            raise Interrupted(2)
    run = open_run(Path("runs") / folder)
    checkpoint = load_newest(run) if run.has_weights else None
    return build_trainer(load_config(f"configs/{config}.yml", overrides.split()), run, checkpoint, poll=poll)

SAM = "SOLVER.STEP.NAME sam SOLVER.STEP.rho 0.1 "

def sam_stops_in_the_middle_of_an_epoch():
    options = SAM + "SOLVER.CLIP.NORM 1 SOLVER.MICRO_BATCHES 2 SOLVER.EMA 0.9 LOSS.NAME scaled_cross_entropy"
    build("sam_whole", options).train()
    trainer = build("sam_stopped", options, stop=2)
    try:
        trainer.train()
        raise AssertionError("not stopped")
    except Interrupted:
        assert 0 < trainer.progress.samples_seen < trainer.train_loader.num_samples
    trainer = build("sam_stopped", options)
    assert trainer.step > 0
    trainer.train()

SGD = "SOLVER.OPTIMIZER.NAME SGD SOLVER.BASE_LR 0.1 SOLVER.WEIGHT_DECAY 0 "
PLAIN = SGD + "SOLVER.AMP off SOLVER.SCHEDULER.NAME constant "

def sam_follows_the_paper(scaler=None, micro_batches=1):
    trainer = build(f"sam_step_{micro_batches}_{scaler is None}", f"{PLAIN}{SAM}SOLVER.MICRO_BATCHES {micro_batches}")
    task, batch = trainer.task.train(), next(trainer.train_loader.batches())
    if micro_batches > 1:  # the statistics of batch norm depend on the micro-batches
        task.model.features = nn.Sequential(*(nn.Sequential(block[0], block[2]) for block in task.model.features))
    if scaler:
        trainer.train_step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=scaler)
    expected = copy.deepcopy(task)
    weights = list(expected.model.parameters())
    first = torch.autograd.grad(expected(batch).loss, weights)
    buffers = [buffer.clone() for buffer in expected.model.buffers()]
    norm = torch.cat([g.flatten() for g in first]).norm()
    with torch.no_grad():
        for w, g in zip(weights, first):
            w += 0.1 * g / norm
    second = torch.autograd.grad(expected(batch).loss, weights)
    with torch.no_grad():
        for w, g, h in zip(weights, first, second):
            w -= 0.1 * g / norm + 0.1 * h
    trainer.train_step(batch)
    for a, b in zip(task.model.parameters(), weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(task.model.buffers(), buffers, strict=True):
        torch.testing.assert_close(a, b)

def sam_adds_up_micro_batches():
    sam_follows_the_paper(micro_batches=2)

def sam_unscales():
    sam_follows_the_paper(scaler=2.0**10)

def sam_survives_an_overflow():
    trainer = build("sam_overflow", PLAIN + SAM)
    batch = replace(next(trainer.train_loader.batches()), weights=torch.full((64,), 1e6))
    trainer.train_step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    before = copy.deepcopy(list(trainer.task.model.parameters()))
    result = trainer.train_step(batch)
    assert not result.updated
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.task.model.parameters(), strict=True))
    assert all(torch.isfinite(buffer).all() for buffer in trainer.task.model.buffers())

def masks_move_with_their_images():
    trainer, moved = build("joint", config="segmentation"), 0
    for batch in trainer.train_loader.batches():
        images = batch.images.numpy()
        masks = np.select([images[:, 0] >= 120, images[:, 1] >= 120], [1, 2], 0)  # the colours tell the classes
        assert np.array_equal(masks, batch.targets.numpy())
        own = [trainer.train_loader.dataset[i][1] for i in batch.indices.tolist()]
        moved += sum(not np.array_equal(a, b) for a, b in zip(masks, own, strict=True))
    assert moved > 0.8 * trainer.train_loader.num_samples

results = {}
for check in (sam_stops_in_the_middle_of_an_epoch, sam_follows_the_paper, sam_adds_up_micro_batches, sam_unscales,
              sam_survives_an_overflow, masks_move_with_their_images):
    try:
        check()
    except Exception:
        results[check.__name__] = traceback.format_exc()
Path("checks.json").write_text(json.dumps(results))
"""


def test_the_page_does_what_it_promises(tmp_path):
    """In one process, and one test, because the start of a process takes longer than most of the commands."""
    project = run_page(tmp_path)
    assert json.loads((project / "checks.json").read_text()) == {}
    check_segmentation_beats_chance(project)
    check_sam_resumes_bit_for_bit(project)
    check_the_loss_learns_its_factor(project)
    check_the_hook_writes_a_file_with_the_name_of_the_run(project)
    check_the_script_predicts_paths_bytes_and_arrays(project)


def run_page(folder: Path) -> Path:
    """Makes a copy of the project with the files of the page, and runs its commands and CHECKS there."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_image(folder / "image.jpg")
    page = blocks("docs/extending.md")
    output = run_commands(folder, page, CHECKS)
    (folder / "output.txt").write_text(output, encoding="utf-8")
    return folder


def check_segmentation_beats_chance(project: Path) -> None:
    """Without learning, all pixels are background, with a mean IoU of 0.29."""
    scores = json.loads((project / "runs/segmentation/report/test/metrics.json").read_text())
    assert scores["task"] == "segmentation" and scores["mean_iou"] > 0.7
    history = (project / "runs/segmentation/metrics.jsonl").read_text()
    assert "train_pixel_accuracy" in history and "val_mean_iou" in history


def state_of(checkpoint: Path) -> dict:
    return torch.load(checkpoint, weights_only=True)


def tensors(state: object, path: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by their place in it."""
    if isinstance(state, torch.Tensor):
        return {path: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return {name: tensor for key, value in items for name, tensor in tensors(value, f"{path}/{key}").items()}


def check_sam_resumes_bit_for_bit(project: Path) -> None:
    whole, resumed = (state_of(project / f"runs/{name}/weights/last.pth") for name in ("sam_whole", "sam_stopped"))
    assert whole["progress"] == resumed["progress"] and whole["progress"]["epoch"] == 2
    a, b = tensors(whole), tensors(resumed)
    assert a.keys() == b.keys() and {path.split("/")[1] for path in a} >= {"model", "ema", "task", "optimizer"}
    assert [path for path in a if not torch.equal(a[path], b[path])] == []


def check_the_loss_learns_its_factor(project: Path) -> None:
    factor = state_of(project / "runs/loss/weights/last.pth")["task"]["criterion.log_factor"].exp().item()
    assert factor == pytest.approx(2, rel=0.5) and factor != pytest.approx(2, rel=1e-4)


def check_the_hook_writes_a_file_with_the_name_of_the_run(project: Path) -> None:
    header, *epochs = map(json.loads, (project / "tracked/tracked_run.jsonl").read_text().splitlines())
    assert header == {"run": "tracked_run", "model": "tiny_fcn", "classes": list("0123456789")}
    assert [record["epoch"] for record in epochs] == [1, 2] and all(0 <= record["top1"] <= 1 for record in epochs)


def check_the_script_predicts_paths_bytes_and_arrays(project: Path) -> None:
    top, *two, missing = (project / "output.txt").read_text().splitlines()[-4:]
    assert top.startswith("[('") and len(two) == 2
    assert {line.split()[0] for line in two} == {top[3]} and all(line.endswith("(10,)") for line in two)
    assert missing.startswith("error: ") and "missing.jpg" in missing


def test_the_examples_are_in_the_project_s_style(tmp_path):
    """Lines, names and imports as `make lint` expects them, and each folder uses only those it may."""
    page = blocks("docs/extending.md")
    files = [re.match(r"# (\S+)\n", code)[1] for language, code in page if language == "python"]
    assert len(set(files)) == len(files) == 11
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "configs").mkdir()
    place_files(tmp_path, page)
    for file in files:
        used = set(re.findall(rf"^\s*(?:from|import) ({'|'.join(FOLDERS)})\b", (tmp_path / file).read_text(), re.M))
        assert used <= {file.partition("/")[0], "utils"} or file == "predict.py", f"{file} imports {used}"
    for command in (["check"], ["format", "--check"]):
        options = ["--config", str(ROOT / "pyproject.toml")]
        ruff = [sys.executable, "-m", "ruff", *command, *options, *files]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
