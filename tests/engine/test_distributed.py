"""Trainings in several processes, against the same training in one."""

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from config import load_config
from data.build import build_eval_loader, build_train_and_val, build_train_loader
from data.registry import DATASETS, MissingSplit
from data.samplers import Keys
from engine.build import build_trainer
from engine.checkpoint import load_checkpoint
from engine.hooks.base import Hook
from engine.registry import HOOKS
from modeling.build import build_input_spec
from modeling.registry import MODELS
from tests import processes
from tests.conftest import TOY, Toy
from utils import distributed
from utils.run_folder import open_run

PLAIN = [*TOY, "MODEL.NAME", "linear", "SOLVER.MAX_EPOCHS", "7", "SOLVER.BATCH_SIZE", "12"]  # 36 images: 21 steps
TASKS = {
    "classification": (),
    "mixed": ("INPUT.BATCH_TRANSFORMS", "[MixUp, CutMix]"),
    "weighted": ("LOSS.NAME", "cross_entropy", "LOSS.class_weights", "[1, 2, 0.5]", "SOLVER.CLIP.NORM", "0.5"),
    "ragged": ("SOLVER.BATCH_SIZE", "16", "SOLVER.MICRO_BATCHES", "2", "SOLVER.EMA", "0.9"),  # and a batch of 4
    "multilabel": ("TASK.NAME", "multilabel", "LOSS.NAME", "bce"),
    "regression": ("DATASETS.NAME", "toy_numbers", "SOLVER.BASE_LR", "0.01"),
}


@DATASETS.register("toy_numbers", size=(6, 6), channels=1, train_transforms=["HFlip"])
class Numbers(Toy):
    """The toy's images with a number each."""

    classes = ()
    target_names = ("brightness",)

    def __init__(self, root, split):
        if split == "val":
            raise MissingSplit("no validation set")
        super().__init__(root, split)
        self.targets = (self.images.mean(axis=(1, 2)) / 255).astype(np.float32)

    def __getitem__(self, i):
        return self.images[i], self.targets[i]


@MODELS.register("linear")
class Linear(nn.Module):
    """Neither batch norm nor dropout."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.hidden, self.fc = nn.Linear(36 * in_channels, 16), nn.Linear(16, num_classes)

    def forward(self, x):
        return self.fc(torch.tanh(self.hidden(x.flatten(1))))


def make(folder, *words, checkpoint=None, poll=lambda: None):
    cfg = load_config(None, words)
    run = distributed.from_main(lambda: open_run(Path(folder)))
    return build_trainer(cfg, run, checkpoint and load_checkpoint(Path(checkpoint)), poll=poll)


def train(folder, *words, checkpoint=None):
    """Returns the weights, the scores of the newest evaluation and the newest record of the log."""
    trainer = make(folder, *words, checkpoint=checkpoint)
    trainer.train()
    weights = {name: value.numpy().copy() for name, value in trainer.checkpointables.state_dict()["model"].items()}
    return weights, trainer.metrics, trainer.last_record


def difference(first, second):
    assert first.keys() == second.keys()
    return max(np.abs(first[name].astype(float) - second[name]).max() for name in first)


@pytest.mark.parametrize("task", TASKS)
def test_a_training_is_that_of_one_process(tmp_path, task):
    words = [*PLAIN, *TASKS[task]]
    weights, scores, record = train(tmp_path / "one", *words)
    found = processes.run(2, train, tmp_path / "two", *words)
    assert difference(found[0][0], found[1][0]) == 0
    assert difference(found[0][0], weights) < 1e-5
    assert found[0][1] == pytest.approx(scores, abs=1e-5) and found[1][1] == found[0][1]
    logged = {name: value for name, value in record.items() if name.startswith(("train_", "val_"))}
    assert {name: found[0][2][name] for name in logged} == pytest.approx(logged, abs=1e-5)


def score(sizes):
    results = []
    for size in sizes:
        words = [*TOY, "MODEL.NAME", "linear", "DATASETS.size", str(size), "TEST.BATCH_SIZE", "3"]
        cfg = load_config(None, words)
        results.append(_score(cfg))
    return results


def _score(cfg):
    from data.build import build_split, dataset_defaults
    from engine.build_inference import build_metrics, build_task
    from engine.checkpoint import Resolved
    from engine.inference import evaluate

    torch.manual_seed(0)
    spec = build_input_spec(cfg, dataset_defaults(cfg))
    loader = build_eval_loader(cfg, build_split(cfg, "test"), spec)
    resolved = Resolved("classification", "cross_entropy", "max top1", ["a", "b", "c"], 3, spec)
    found = evaluate(build_task(cfg, resolved), "test", loader, build_metrics(cfg, resolved))
    outputs = found.predictions.outputs.tobytes() if found.predictions else b""
    return found.scores, found.num_samples, outputs


@pytest.mark.parametrize("count", [2, 3, 4])
def test_an_evaluation_counts_each_sample_once(count):
    expected, found = score(range(1, 18)), processes.run(count, score, range(1, 18))
    for number, (scores, samples, outputs) in enumerate(expected):
        assert found[0][number][1:] == (samples, outputs) and samples == number + 1
        for rank in range(count):
            assert found[rank][number][0] == pytest.approx(scores, rel=1e-12)


@given(count=st.integers(2, 70), world_size=st.integers(1, 9))
def test_parts_of_a_batch(count, world_size):
    whole = Keys(np.arange(100, 100 + count), epoch=3, position=20)
    parts = [whole.part(rank, world_size) for rank in range(world_size)]
    own = [part for part in parts if part.share]
    assert np.array_equal(np.concatenate([part.indices for part in own]), whole.indices)
    assert sum(part.share for part in parts) == pytest.approx(world_size)
    for part in parts:
        assert len(part.indices) >= 2 and part.epoch == 3 and part.position == 20 + part.indices[0] - 100
        assert part.share == (len(part.indices) * world_size / count if part.share else 0)
        assert part.position % 2 == 0
    if count % (2 * world_size) == 0:
        assert {part.share for part in parts} == {1}


@pytest.mark.parametrize("batch_size", [6, 8])
@pytest.mark.parametrize("world_size", [2, 3])
def test_order_and_pixels_are_those_of_one_process(monkeypatch, batch_size, world_size):
    cfg = load_config(None, [*TOY, "SOLVER.BATCH_SIZE", str(batch_size)])
    from data.build import dataset_defaults

    spec, splits = build_input_spec(cfg, dataset_defaults(cfg)), build_train_and_val(cfg)

    def images(kind, rank, count):
        loader = kind(cfg, splits.train, spec)
        loader.rank, loader.world_size = rank, count
        return [(b.images.numpy().copy(), b.indices.numpy().copy(), b.share) for b in loader.batches(2, 0)]

    whole = images(build_train_loader, 0, 1)
    parts = zip(*(images(build_train_loader, rank, world_size) for rank in range(world_size)), strict=True)
    for (pixels, indices, _), shares in zip(whole, parts, strict=True):
        counted = [share for share in shares if share[2]]
        assert np.array_equal(np.concatenate([share[0] for share in counted]), pixels)
        assert np.array_equal(np.concatenate([share[1] for share in counted]), indices)


def stop(folder, after, *words):
    """Trains until process 1 is asked to stop at step `after`."""
    seen = []

    def poll():
        seen.append(None)
        if distributed.rank() == 1 and len(seen) > after:
            from utils.errors import Interrupted

            raise Interrupted(signal.SIGTERM)

    trainer = make(folder, *words, poll=poll)
    try:
        trainer.train()
    except BaseException as error:
        return type(error).__name__, trainer.step
    return "none", trainer.step


@pytest.mark.parametrize("after", [2, 6, 9])
def test_a_signal_to_one_stops_all_at_the_same_step_and_the_resume_is_exact(tmp_path, after):
    words = [*TOY, "SOLVER.EMA", "0.9"]  # batch norm and dropout
    whole = processes.run(2, train, tmp_path / "whole", *words)
    stopped = processes.run(2, stop, tmp_path / "run", after, *words)
    assert stopped[0] == stopped[1] and stopped[0][0] == "Interrupted"
    resumed = processes.run(2, _resume, tmp_path / "run", *words)
    for before, now in zip(whole, resumed, strict=True):
        assert difference(before[0], now[0]) == 0 and before[1] == now[1]


def _resume(folder, *words):
    return train(folder, *words, checkpoint=Path(folder) / "weights" / "last.pth")


@pytest.mark.parametrize("counts", [(1, 2, 1), (2, 3)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, counts):
    words = [*PLAIN, "SOLVER.MAX_EPOCHS", str(len(counts))]
    weights, *_ = train(tmp_path / "one", *words)
    for epochs, count in enumerate(counts, start=1):
        checkpoint = tmp_path / "run" / "weights" / "last.pth" if epochs > 1 else None
        arguments = tmp_path / "run", epochs, checkpoint, words
        found = processes.run(count, _train_until, *arguments) if count > 1 else [_train_until(*arguments)]
    assert difference(found[0][0], weights) < 1e-5


@HOOKS.register("until")
class Until(Hook):
    def __init__(self, epoch):
        self.epoch = epoch

    def after_epoch(self, trainer):
        if trainer.epoch == self.epoch:
            trainer.stop("so far")


def _train_until(folder, epoch, checkpoint, words):
    return train(folder, *words, "HOOKS", f"[{{until: {{epoch: {epoch}}}}}]", checkpoint=checkpoint)


class Nan(nn.Module):
    def forward(self, outputs, batch):
        return outputs.mean() * math.nan


def spoil(folder, *words):
    trainer = make(folder, *words)
    if distributed.rank() == 1:
        trainer.task.criterion = Nan()
    trainer.train()


def test_a_loss_that_is_nan_in_one_process_ends_all(tmp_path):
    for text in processes.run(2, spoil, tmp_path / "run", *PLAIN):
        assert text.startswith("UserError: the training loss is nan at step")


def die(folder, *words):
    trainer = make(folder, *words)
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    trainer.train()


def test_a_process_that_is_killed_ends_the_others(tmp_path):
    ended, died = processes.run(2, die, tmp_path / "run", *PLAIN)
    assert died == "died" and ended.startswith("UserError: another process of this job exited or does not respond")


def fill(folder, *words):
    import engine.hooks.checkpoints as module

    trainer, calls = make(folder, *words, "CHECKPOINT.EVERY_STEPS", "2"), []

    def full(path, checkpoint):
        calls.append(path)
        raise OSError(28, "No space left on device")

    trainer.hooks[-1].before_train(trainer)
    module.save_checkpoint = full
    trainer.train()
    return len(calls)


def test_a_full_disk_is_told_to_all(tmp_path):
    for text in processes.run(2, fill, tmp_path / "run", *PLAIN):
        assert "cannot save: No space left on device; make room, then resume" in text


@pytest.mark.parametrize(("size", "parts", "ok"), [(12, 3, True), (12, 2, False), (6, 1, False)])
def test_batches_that_cannot_be_shared_are_refused(tmp_path, size, parts, ok):
    words = [*PLAIN, "SOLVER.BATCH_SIZE", str(size), "SOLVER.MICRO_BATCHES", str(parts), "SOLVER.MAX_EPOCHS", "1"]
    for found in processes.run(2, train, tmp_path / "run", *words):
        expected = f"UserError: SOLVER.BATCH_SIZE {size}: must be a multiple of {4 * parts} (2 x 2 processes x MICRO"
        assert (not isinstance(found, str)) if ok else found.startswith(expected)
