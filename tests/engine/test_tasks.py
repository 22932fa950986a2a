"""Tasks beside single-label classification, and what every task has: a criterion with parameters, any channels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from data.build import build_split
from data.registry import DATASETS, MissingSplit
from engine.build_inference import build_trained_task, prepare_checkpoint
from engine.build_report import score_checkpoint
from engine.checkpoint import load_checkpoint
from engine.predictions import SingleLabel
from engine.report.tables import prediction_table
from engine.resume import newest_unfinished
from engine.tasks.base import find_task
from engine.tasks.classification import guess_task, top1
from modeling.losses import MeanLoss
from modeling.registry import LOSSES, MODELS
from utils.errors import UserCodeError, UserError
from utils.run_folder import open_run

CPU = torch.device("cpu")
REGRESSION = [
    *("DATASETS.NAME", "csv", "DATASETS.targets", "[x, y]", "INPUT.SIZE", "[16, 16]", "INPUT.CHANNELS", "1"),
    *("MODEL.NAME", "resnet9", "MODEL.width", "4", "SOLVER.BATCH_SIZE", "16", "SOLVER.MAX_EPOCHS", "12"),
    *("INPUT.TRAIN_TRANSFORMS", "[Resize]", "INPUT.TEST_TRANSFORMS", "[Resize]", "SOLVER.BASE_LR", "0.01"),
    *("SOLVER.OPTIMIZER.NAME", "AdamW", "SOLVER.AMP", "off"),
]


def test_the_best_epoch_of_a_task_is_chosen_by_a_metric_that_does_not_saturate():
    monitors = {name: find_task(name).default_monitor for name in ("classification", "multilabel", "regression")}
    assert monitors == {
        "classification": "max top1",
        "multilabel": "max mean_average_precision",
        "regression": "min mae",
    }


def test_the_losses_of_regression(make_trainer, spots):
    for loss in ("mse", "l1", "smooth_l1"):
        keys = [*REGRESSION, "DATASETS.ROOT", str(spots), "LOSS.NAME", loss, "SOLVER.MAX_EPOCHS", "1"]
        trainer = make_trainer(*keys, "TEST.MONITOR", "max r2", run=loss)
        trainer.train()
        assert trainer.progress.best == trainer.metrics["r2"] and trainer.metrics.keys() == {
            "loss",
            "mae",
            "rmse",
            "r2",
        }
    with pytest.raises(UserError, match="LOSS.NAME cross_entropy: a loss for classification, the task is regression"):
        make_trainer(*keys[:-4], "LOSS.NAME", "cross_entropy")


@DATASETS.register("five_channels")
class FiveChannels:
    """Noise in `.npy` files of five channels; in one of them a bright third tells the class."""

    classes = ("left", "middle", "right")

    def __init__(self, root, split):
        if split == "val":
            raise MissingSplit("none")
        rng = np.random.default_rng(split == "test")
        self.targets = np.arange(45) % 3
        self.files = [root / f"{split}{i}.npy" for i in range(45)]
        for file, target in zip(self.files, self.targets, strict=True):
            image = rng.integers(0, 100, (6, 6, 5), dtype=np.uint8)
            image[:, 2 * target : 2 * target + 2, 3] += 150
            np.save(file, image)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return np.load(self.files[i]), int(self.targets[i])

    def name(self, i):
        return self.files[i].name


def test_any_number_of_channels(make_trainer, tmp_path):
    keys = ["DATASETS.NAME", "five_channels", "DATASETS.ROOT", str(tmp_path), "INPUT.CHANNELS", "5"]
    keys += ["INPUT.SIZE", "[6, 6]", "INPUT.TRAIN_TRANSFORMS", "[{RandomCrop: {padding: 1}}, HFlip]"]
    keys += ["INPUT.TEST_TRANSFORMS", "[]", "MODEL.dropout", "0", "SOLVER.MAX_EPOCHS", "1"]
    trainer = make_trainer(*keys)
    trainer.train()
    assert trainer.task.model.conv.in_channels == 5
    checkpoint, cfg = prepare_checkpoint(load_checkpoint(tmp_path / "run/weights/last.pth"))
    assert score_checkpoint(checkpoint, cfg, "val", trainer.evaluation.dataset).scores["loss"] == pytest.approx(
        trainer.metrics["loss"], rel=1e-6
    )


@LOSSES.register("tempered")
class Tempered(MeanLoss):
    """Cross entropy with a learned temperature."""

    def __init__(self):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(1))

    def losses(self, outputs, batch):
        return nn.functional.cross_entropy(outputs * self.log_temperature.exp(), batch.targets, reduction="none")


def test_parameters_of_a_loss_are_optimised_without_decay_and_saved(make_trainer, tmp_path):
    trainer = make_trainer("LOSS.NAME", "tempered", "SOLVER.WEIGHT_DECAY", "0.5")
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert decays[id(trainer.task.criterion.log_temperature)] == 0
    trainer.train()
    learned = trainer.task.criterion.log_temperature.detach().clone()
    checkpoint = load_checkpoint(tmp_path / "run/weights/last.pth")
    assert learned != 0 and torch.equal(checkpoint.state["task"]["criterion.log_temperature"], learned)
    assert not [name for name in checkpoint.state["model"] if "temperature" in name]
    tested = build_trained_task(*prepare_checkpoint(checkpoint), CPU)
    assert torch.equal(tested.criterion.log_temperature, learned)
    longer = make_trainer("LOSS.NAME", "tempered", "SOLVER.WEIGHT_DECAY", "0.5", checkpoint=checkpoint)
    assert torch.equal(longer.task.criterion.log_temperature, learned)


def test_top1_of_mixed_targets():
    outputs = torch.eye(3)
    assert top1(outputs, torch.tensor([0, 1, 0])).tolist() == [True, True, False]
    mixed = torch.tensor([[0.7, 0.3, 0], [0.5, 0.5, 0], [0.2, 0.7, 0.1]])
    assert top1(outputs, mixed).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("targets", "names", "task"),
    [
        (np.array([0, 2, 1]), ["a", "b", "c"], "classification"),
        (np.array([[0.7, 0.3], [0.5, 0.5]]), ["a", "b"], "classification"),
        (np.array([[1, 1], [0, 1.0]]), ["a", "b"], "multilabel"),
        (np.array([[1, 0], [-1, 1.0]]), ["a", "b"], "multilabel"),
        (np.array([1.5, 2.5]), [], "regression"),
        (np.array([[1.5, 2.5]]), [], "regression"),
        (np.zeros((3, 4, 4), int), ["a", "b"], None),
        (np.array([0, 1]), [], None),
    ],
)
def test_the_task_that_targets_are_meant_for(targets, names, task):
    class Labelled:
        classes = names

        def __len__(self):
            return len(targets)

    Labelled.targets = targets
    if task:
        assert guess_task(Labelled()) == task
    else:
        with pytest.raises(UserError, match="TASK.NAME: cannot be inferred"):
            guess_task(Labelled())


def test_a_network_of_another_width_is_refused_before_the_training(make_trainer):
    @MODELS.register("too_wide")
    class TooWide(nn.Module):
        def __init__(self, num_classes, in_channels):
            super().__init__()
            self.fc = nn.Linear(36, num_classes + 1)

        def forward(self, x):
            return self.fc(x.flatten(1))

    message = r"MODEL.NAME too_wide: returned \[2, 4\] for two images and 3 outputs, expected \[2, 3\]"
    with pytest.raises(UserError, match=message):
        make_trainer("MODEL.NAME", "too_wide")


def test_arithmetic_is_set_for_tests_too(make_trainer, tmp_path):
    make_trainer("SOLVER.MAX_EPOCHS", "1", "SOLVER.TF32", "true").train()
    try:
        torch.set_float32_matmul_precision("highest")
        checkpoint = load_checkpoint(tmp_path / "run/weights/last.pth")
        build_trained_task(*prepare_checkpoint(checkpoint), CPU)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False


def test_what_was_resolved_stays_and_the_machine_is_resolved_anew(make_trainer, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("engine.precision.has_native_bf16", lambda device: True)
    make_trainer("SOLVER.AMP", "auto", "SOLVER.MAX_EPOCHS", "1").train()
    checkpoint = load_checkpoint(tmp_path / "run/weights/last.pth")
    assert checkpoint.resolved.amp == "bf16" and "AMP: auto" in checkpoint.config
    assert "amp: bf16" in (tmp_path / "run/resolved.yml").read_text()
    monkeypatch.setattr("engine.precision.has_native_bf16", lambda device: False)
    caplog.set_level("INFO", "strata")
    monkeypatch.setitem(DATASETS.info("toy", ""), "mean", (0.9,))  # a newer version may have other defaults
    trainer = make_trainer("SOLVER.AMP", "auto", "SOLVER.MAX_EPOCHS", "2", checkpoint=checkpoint)
    assert "changed: SOLVER.AMP: now resolved to off, before bf16" in caplog.text
    assert trainer.train_step.precision.dtype is None
    trainer.train()
    again = load_checkpoint(tmp_path / "run/weights/last.pth")
    assert again.resolved.input == checkpoint.resolved.input and again.resolved.amp == "off"


def test_a_run_that_is_passed_over_is_free(make_trainer, tmp_path):
    run = open_run(tmp_path / "runs/one")
    make_trainer(run=run).train()
    run.unlock()
    for path in (run.last, run.previous):
        path.unlink()
        path.write_bytes(b"damaged")
    assert newest_unfinished(tmp_path / "runs", 9) is None
    code = f"from pathlib import Path; from utils.run_folder import open_run; open_run(Path({str(run.path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@DATASETS.register("brightness", size=(6, 6), channels=1)
class Brightness:
    """Gray images and their brightness; the numbers have no name."""

    def __init__(self, root, split):
        if split == "val":
            raise MissingSplit("none")
        self.targets = np.linspace(0, 1, 40, dtype=np.float32)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return np.full((6, 6, 1), 255 * self.targets[i], np.uint8), self.targets[i]

    def name(self, i):
        return f"brightness/{i}"


def test_numbers_without_a_name(make_trainer, tmp_path):
    keys = ("DATASETS.NAME", "brightness", "INPUT.TRAIN_TRANSFORMS", "[]", "INPUT.TEST_TRANSFORMS", "[]")
    trainer = make_trainer(*keys, "SOLVER.MAX_EPOCHS", "1")
    trainer.train()
    checkpoint, cfg = prepare_checkpoint(load_checkpoint(tmp_path / "run/weights/last.pth"))
    test_set = build_split(cfg, "test", checkpoint.classes or None)
    result = score_checkpoint(checkpoint, cfg, "test", test_set)
    assert result.names == ["value"] and result.num_samples == 40
    header, *rows = prediction_table(result)
    assert list(header) == ["file", "target value", "predicted value"] and len(rows) == 40
    again = make_trainer(*keys, "SOLVER.MAX_EPOCHS", "2", checkpoint=checkpoint)
    again.train()


def test_targets_that_cannot_be_mixed(make_trainer):
    with pytest.raises(UserError, match="INPUT.BATCH_TRANSFORMS: targets of regression cannot be mixed; remove it"):
        make_trainer("DATASETS.NAME", "brightness", "INPUT.BATCH_TRANSFORMS", "[MixUp]")


def test_an_error_in_a_loss_is_a_line_with_its_frames(make_trainer):
    class Buggy(MeanLoss):
        def losses(self, outputs, batch):
            return outputs[:, batch.nothing]

    trainer = make_trainer()
    trainer.task.criterion = Buggy()
    with pytest.raises(UserCodeError, match="LOSS.NAME: Buggy: 'Batch' object has no attribute 'nothing'"):
        trainer.train()

    class Misshapen(MeanLoss):
        def losses(self, outputs, batch):
            return outputs @ outputs

    trainer = make_trainer(run="other")
    trainer.task.criterion = Misshapen()
    with pytest.raises(UserCodeError, match="LOSS.NAME: Misshapen: mat1 and mat2 shapes cannot be multiplied"):
        trainer.train()


def test_samples_of_several_labels_are_not_scored_as_one():
    outputs = np.eye(2, dtype=np.float32)
    soft = SingleLabel(np.arange(2), np.array([[0.3, 0.7], [0, 1]]), outputs, ["a", "b"])
    assert soft.correct.tolist() == [False, True]
    with pytest.raises(UserError, match="images have several labels, the network predicts one; set TASK.NAME to multi"):
        _ = SingleLabel(np.arange(2), np.array([[1, 1], [1, 0.0]]), outputs, ["a", "b"]).correct
