"""What a training writes down of itself: each value against an oracle, and read back as TensorBoard does."""

import copy
import json
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch import nn

from config import load_config
from data.build import build_train_and_val
from engine.checkpoint import load_checkpoint
from engine.hooks.base import Hook
from engine.hooks.training_log import peak_memory
from utils.errors import Interrupted
from utils.logger import setup_logging

# Files of one second are read in the order of their names, in which a process counts them: 10 would precede 9.
event_file_writer._global_uid = event_file_writer.AtomicCounter(10**6)
PLAIN = ("SOLVER.OPTIMIZER.NAME", "SGD", "MODEL.dropout", "0", "LOG.PERIOD", "1", "SOLVER.MAX_EPOCHS", "1")


def records(run: Path, kind: str = "step") -> list[dict]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def events(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return found.Reload()


def decode(event) -> np.ndarray:
    """A picture of TensorBoard, RGB."""
    picture = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert picture.shape[:2] == (event.height, event.width)
    return picture


def test_losses_and_accuracies_are_averages_over_samples(make_trainer, tmp_path):
    class Oracle(Hook):
        steps = []

        def after_step(self, trainer):
            right = (trainer.result.outputs.argmax(dim=1) == trainer.result.targets).double().sum().item()
            self.steps.append((trainer.result.loss.item() * len(trainer.result), right, len(trainer.result)))

    trainer = make_trainer("SOLVER.MAX_EPOCHS", "2")
    trainer.hooks.append(Oracle())
    trainer.train()
    steps = np.array(Oracle.steps)
    assert steps[:, 2].tolist() == [8, 8, 8, 8, 4] * 2
    of_lines = [steps[a:b] for a, b in ((0, 2), (2, 4), (5, 6), (6, 8), (8, 10))]  # none begins before its epoch
    for kind, parts in (("step", of_lines), ("epoch", [steps[:5], steps[5:]])):
        found = [(record["train_loss"], record["train_top1"]) for record in records(tmp_path / "run", kind)]
        sums = [part.sum(axis=0) for part in parts]
        assert np.allclose(found, [total[:2] / total[2] for total in sums], rtol=1e-12)


def test_metrics_of_mixed_images_have_names_of_their_own(make_trainer, tmp_path):
    """Also where mixing ends in a run that is resumed within an epoch: nothing is averaged with unmixed images."""
    keys = ("INPUT.BATCH_TRANSFORMS", "[MixUp]", "SOLVER.MAX_EPOCHS", "3", "LOG.PERIOD", "1")
    polls = iter(range(100))

    def stop_within_the_second_epoch():
        if next(polls) == 13:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        make_trainer(*keys, "INPUT.MIXUP_OFF_EPOCH", "2", poll=stop_within_the_second_epoch).train()
    checkpoint = load_checkpoint(tmp_path / "run/weights/last.pth")
    assert checkpoint.epoch == 1 and checkpoint.state["progress"]["samples_seen"] == 16
    keys += ("INPUT.MIXUP_OFF_EPOCH", "1")
    make_trainer(*keys, checkpoint=checkpoint, allow_changes=["INPUT.MIXUP_OFF_EPOCH"]).train()
    first, second, third = records(tmp_path / "run", "epoch")
    assert "train_top1_mixed" in first and "train_top1" not in first
    assert {"train_top1", "val_top1"} <= second.keys() & third.keys() and "train_top1_mixed" not in second
    steps = [record for record in records(tmp_path / "run") if 1 < record["epoch"] <= 2]
    assert ["train_top1" in record for record in steps] == [False, False, True, True, True]
    values = [record["train_top1"] for record in steps[2:]]
    assert second["train_top1"] == pytest.approx(np.average(values, weights=[8, 8, 4]))


class Norms(Hook):
    """The norm of each step's gradients, by hand in float64 from the weights that the step began with."""

    def __init__(self):
        self.norms = []
        self.pixels = []

    def before_train(self, trainer):
        trainer.task.model.bn = nn.Identity()  # its statistics depend on the parts of a batch
        self.before = copy.deepcopy(trainer.task.model)
        trainer.task.normalize.register_forward_hook(lambda module, inputs, pixels: self.pixels.append(pixels.clone()))

    def after_step(self, trainer):
        model = self.before.double()
        images, targets = torch.cat(self.pixels).double(), trainer.result.targets
        self.pixels.clear()
        loss = nn.functional.cross_entropy(model(images), targets)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        if trainer.result.updated:
            self.norms.append(sum(g.square().sum() for g in gradients).sqrt().item())
        self.before = copy.deepcopy(trainer.task.model)


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
@pytest.mark.parametrize(
    "keys",
    [(), ("SOLVER.MICRO_BATCHES", "3"), ("SOLVER.CLIP.NORM", "0.01"), ("SOLVER.CLIP.VALUE", "0.001")],
    ids=["whole", "parts", "clip norm", "clip value"],
)
def test_grad_norm_is_that_of_the_whole_batch_before_clipping(make_trainer, tmp_path, keys, scale):
    trainer, oracle = make_trainer(*PLAIN, *keys), Norms()
    if scale > 1:
        trainer.train_step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer.hooks.append(oracle)
    trainer.train()
    assert [record["grad_norm"] for record in records(tmp_path / "run")] == pytest.approx(oracle.norms, rel=1e-5)
    assert len(oracle.norms) == 5


def test_a_step_that_overflows_is_not_written(make_trainer, tmp_path):
    trainer, oracle = make_trainer(*PLAIN, "SOLVER.MICRO_BATCHES", "2"), Norms()
    trainer.train_step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    factors = iter([1, 1, 1, 1e30])
    trainer.task.criterion.register_forward_hook(lambda module, inputs, loss: loss * next(factors, 1))
    trainer.hooks.append(oracle)
    trainer.train()
    found = records(tmp_path / "run")
    assert [record["step"] for record in found] == [1, 2, 3, 4]
    assert [record["grad_norm"] for record in found] == pytest.approx(oracle.norms, rel=1e-5)
    assert [event.step for event in events(tmp_path / "run").Scalars("train/grad_norm")] == [1, 2, 3, 4]


def test_the_norm_is_computed_where_it_is_written_and_nowhere_else(make_trainer, monkeypatch):
    real, calls = nn.utils.get_total_norm, []
    monkeypatch.setattr(nn.utils, "get_total_norm", lambda *a: calls.append(trainer.step + 1) or real(*a))
    trainer = make_trainer("LOG.PERIOD", "4")
    trainer.train()
    assert calls == [4, 8, 12]


def test_data_wait_is_the_share_of_the_time_that_batches_took(make_trainer, tmp_path, monkeypatch):
    """By a clock that stands still but for a second for each batch and three for each step."""
    trainer, now = make_trainer("SOLVER.MAX_EPOCHS", "2"), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Work(Hook):
        def after_backward(self, trainer):
            now[0] += 3

        def evaluate(self, trainer):
            now[0] += 50  # is no training

    def slow(*where, batches=trainer.train_loader.batches):
        for batch in batches(*where):
            now[0] += 1
            yield batch

    trainer.train_loader.batches = slow
    trainer.hooks.append(Work())
    trainer.train()
    found = records(tmp_path / "run")
    assert len(found) == 5 and {record["data_wait"] for record in found} == {0.25}
    assert found[0]["images_per_second"] == 2  # 8 in 4 seconds
    assert [record["data_wait"] for record in records(tmp_path / "run", "epoch")] == [0.25, 0.25]


def test_waiting_for_data_is_told_each_epoch_and_a_hint_once_a_process(make_trainer, tmp_path, monkeypatch, capsys):
    """Epochs but the first wait 10 seconds of 25 for their first batch; the run is stopped, and resumed twice."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    setup_logging()

    class Work(Hook):
        def after_backward(self, trainer):
            now[0] += 3

    def train(checkpoint=None, stop_at=None):
        def poll():
            if (trainer.epoch, trainer.progress.samples_seen) == stop_at:
                raise Interrupted(15)

        trainer = make_trainer("SOLVER.MAX_EPOCHS", "4", checkpoint=checkpoint, poll=poll)

        def slow(epoch, start, poll, batches=trainer.train_loader.batches):
            now[0] += 10 * (epoch > 0 and start == 0)
            yield from batches(epoch, start, poll)

        trainer.train_loader.batches = slow
        trainer.hooks.append(Work())
        with suppress(Interrupted):
            trainer.train()
        return load_checkpoint(tmp_path / "run/weights/last.pth")

    told = []
    checkpoint = None
    for stop_at in ((2, 8), (2, 36), None):  # after the first step of an epoch, and after its last
        checkpoint = train(checkpoint, stop_at)
        told.append([line for line in capsys.readouterr().err.splitlines() if "for data" in line])
    hint = f"--config-file {tmp_path}/run/config.yml"
    assert [len(lines) for lines in told] == [3, 0, 2], told
    assert "  waited for data 0 %" in told[0][0] and "  waited for data 40 %" in told[0][1]
    assert "pack the data set, or set more DATALOADER.NUM_WORKERS" in told[0][2] and told[0][2].endswith(hint)
    found = [record.get("data_wait") for record in records(tmp_path / "run", "epoch")]
    assert found == [0, 0.4, None, 0.4]  # this process saw no step of the third epoch


def test_memory_is_the_peak_of_the_process_in_mib(monkeypatch):
    cpu = torch.device("cpu")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    kib = 1 if sys.platform != "darwin" else 1024
    assert peak_memory(cpu) == pytest.approx(usage.ru_maxrss / kib / 1024, rel=0.01)
    monkeypatch.setattr(resource, "getrusage", lambda who: type("Usage", (), {"ru_maxrss": 3 * 2**20}))
    for platform, mib in (("linux", 3 * 2**10), ("darwin", 3)):
        monkeypatch.setattr(sys, "platform", platform)
        assert peak_memory(cpu) == mib


def test_each_rate_has_one_curve(make_trainer, tmp_path):
    keys = ("SOLVER.MAX_EPOCHS", "1", "SOLVER.OPTIMIZER.NAME", "AdamW")
    make_trainer(*keys, "SOLVER.HEAD_LR_MULT", "3", run="several").train()
    make_trainer(*keys, run="one").train()
    assert not [tag for tag in events(tmp_path / "one").Tags()["scalars"] if "lr_group" in tag]
    for record in records(tmp_path / "several"):
        groups = {name: value for name, value in record.items() if name.startswith("lr_group")}
        assert groups == pytest.approx({"lr_group0": record["lr"], "lr_group1": 3 * record["lr"]})
    curves = events(tmp_path / "several")
    rates = [[event.value for event in curves.Scalars(f"train/lr{end}")] for end in ("", "_group0", "_group1")]
    assert rates[0] == rates[1] and rates[2] == pytest.approx([3 * rate for rate in rates[0]])


def test_tensorboard_has_every_value_of_the_log(make_trainer, tmp_path):
    make_trainer("TEST.METRICS", "[top1, top5]").train()
    curves = events(tmp_path / "run")
    found = {(tag, e.step): e.value for tag in curves.Tags()["scalars"] for e in curves.Scalars(tag)}
    expected = {}
    for kind, train in (("step", "train"), ("epoch", "train_epoch")):
        for record in records(tmp_path / "run", kind):
            for name, value in record.items():
                if name not in ("kind", "epoch", "step", "seconds"):
                    tag = name.replace("train_", f"{train}/", 1).replace("val_", "val/", 1)
                    expected[tag if "/" in tag else f"{train}/{tag}", record["step"]] = value
    assert found == pytest.approx(expected, rel=1e-6)
    tags = {tag for tag, _ in found}
    assert {"train/loss", "train/grad_norm", "train_epoch/top1", "val/top5", "val/loss", "train/memory_mib"} <= tags


def test_figures_of_an_evaluation_at_the_end(make_trainer, tmp_path):
    """Within a minute there is one of each, of the last evaluation."""
    make_trainer("TEST.BATCH_SIZE", "4").train()
    curves = events(tmp_path / "run")
    assert set(curves.Tags()["images"]) == {"val/samples", "val/confusion_matrix"}
    (matrix,), (samples,) = (curves.Images(f"val/{name}") for name in ("confusion_matrix", "samples"))
    assert matrix.step == samples.step == 15 and decode(matrix).std() > 10
    assert decode(samples).shape == (30 + 2 * (50 + 100), 8 * 132, 3)
    first = build_train_and_val(load_config(tmp_path / "run/config.yml")).val[0][0]
    shown = decode(samples)[80 + 2 : 80 + 98, 2:130, 0]
    assert np.array_equal(shown[:, 16:112], first[..., 0].repeat(16, 0).repeat(16, 1))


def test_figures_once_a_minute(make_trainer, tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Clock(Hook):
        def before_epoch(self, trainer):
            now[0] += 25  # seconds an epoch

    trainer = make_trainer("SOLVER.MAX_EPOCHS", "8")
    trainer.hooks.append(Clock())
    trainer.train()
    assert [event.step for event in events(tmp_path / "run").Images("val/samples")] == [15, 30, 40]


def test_histograms_of_weights_if_asked_for(make_trainer, tmp_path):
    make_trainer("HOOKS", "[{TensorBoard: {histograms: true}}]", "SOLVER.MAX_EPOCHS", "2").train()
    found = EventAccumulator(str(tmp_path / "run/tensorboard"), size_guidance={"histograms": 0}).Reload()
    assert set(found.Tags()["histograms"]) >= {"weights/conv.weight", "weights/fc.bias"}
    assert [event.step for event in found.Histograms("weights/fc.weight")] == [5, 10]
    make_trainer(run="without").train()
    assert not EventAccumulator(str(tmp_path / "without/tensorboard")).Reload().Tags()["histograms"]


@pytest.mark.parametrize("keys", [("TASK.NAME", "multilabel"), ("DATASETS.VAL_RATIO", "0")])
def test_figures_of_other_tasks_and_without_validation(make_trainer, tmp_path, keys):
    make_trainer("SOLVER.MAX_EPOCHS", "1", *keys).train()
    expected = ["val/samples"] if keys[0] == "TASK.NAME" else []
    assert events(tmp_path / "run").Tags()["images"] == expected


def test_a_stop_in_an_evaluation_leaves_no_step_twice(make_trainer, tmp_path):
    box, polls = [], []

    def poll():
        if box[0].epoch == 1 and box[0].progress.samples_seen >= box[0].train_loader.num_samples:
            polls.append(1)
            if len(polls) == 3:  # after the last step, and before the first and the second batch of the evaluation
                raise Interrupted(2)

    keys = ("TEST.BATCH_SIZE", "2", "LOG.PERIOD", "1")
    box.append(make_trainer(*keys, poll=poll))
    with pytest.raises(Interrupted):
        box[0].train()
    state = load_checkpoint(tmp_path / "run/weights/last.pth")
    for _ in range(2):  # the second one as if a kill had come after the evaluation and before its checkpoint
        make_trainer(*keys, checkpoint=state).train()
        check_steps(tmp_path / "run")


def test_a_kill_leaves_no_step_twice(make_trainer, tmp_path):
    """The events are there, the checkpoint of the same epoch is not."""
    first = make_trainer("SOLVER.MAX_EPOCHS", "2")
    first.train()
    for name in ("last.pth", "best.pth"):
        (tmp_path / "run/weights" / name).unlink()
    (tmp_path / "run/weights/previous.pth").rename(tmp_path / "run/weights/last.pth")
    state = load_checkpoint(tmp_path / "run/weights/last.pth")
    assert state.epoch == 1
    make_trainer(checkpoint=state).train()
    check_steps(tmp_path / "run")


def check_steps(run: Path) -> None:
    curves = events(run)
    for tag in curves.Tags()["scalars"]:
        steps = [event.step for event in curves.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
    for tag in ("val/samples", "val/confusion_matrix"):
        steps = [event.step for event in curves.Images(tag)]
        assert steps == sorted(set(steps)) and steps[-1] == 15, tag
