"""What a training writes down of itself: each value against an oracle, and read back as TensorBoard does."""

import copy
import json
import resource
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from data.loaders import Batch
from engine.checkpoint import load_checkpoint
from engine.hooks.base import Hook
from engine.hooks.tensorboard import TensorBoard
from engine.hooks.training_log import peak_memory
from engine.inference import Evidence
from utils.annotate import grid
from utils.errors import Interrupted
from utils.labels import label_text
from utils.run_folder import RunFolder

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
            right = (trainer.logits.argmax(dim=1) == trainer.batch.targets).double().sum().item()
            self.steps.append((trainer.loss.item() * len(trainer.batch), right, len(trainer.batch)))

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


class Norms(Hook):
    """The norm of each step's gradients, by hand in float64 from the weights that the step began with."""

    def __init__(self):
        self.norms = []

    def before_train(self, trainer):
        trainer.model.bn = nn.Identity()  # its statistics depend on the parts of a batch
        self.before = copy.deepcopy(trainer.model)

    def after_step(self, trainer):
        model = self.before.double()
        images, targets = trainer.normalize(trainer.batch.images).double(), trainer.batch.targets
        loss = nn.functional.cross_entropy(model(images), targets)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        if trainer.updated:
            self.norms.append(sum(g.square().sum() for g in gradients).sqrt().item())
        self.before = copy.deepcopy(trainer.model)


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
@pytest.mark.parametrize(
    "keys",
    [(), ("SOLVER.ACCUMULATE", "3"), ("SOLVER.CLIP.NORM", "0.01"), ("SOLVER.CLIP.VALUE", "0.001")],
    ids=["whole", "parts", "clip norm", "clip value"],
)
def test_grad_norm_is_that_of_the_whole_batch_before_clipping(make_trainer, tmp_path, keys, scale):
    trainer, oracle = make_trainer(*PLAIN, *keys), Norms()
    if scale > 1:
        trainer.precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer.hooks.append(oracle)
    trainer.train()
    assert [record["grad_norm"] for record in records(tmp_path / "run")] == pytest.approx(oracle.norms, rel=1e-5)
    assert len(oracle.norms) == 5


def test_a_step_that_overflows_is_not_written(make_trainer, tmp_path):
    trainer, oracle = make_trainer(*PLAIN, "SOLVER.ACCUMULATE", "2"), Norms()
    trainer.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    forward, factors = trainer.forward, iter([1, 1, 1, 1e30])

    def overflowing(batch):
        loss, logits = forward(batch)
        return loss * next(factors, 1), logits

    trainer.forward = overflowing
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


def test_memory_is_the_peak_of_the_process_in_mib(monkeypatch):
    cpu = torch.device("cpu")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    kib = 1 if sys.platform != "darwin" else 1024
    assert peak_memory(cpu)["memory_mib"] == pytest.approx(usage.ru_maxrss / kib / 1024, rel=0.01)
    monkeypatch.setattr(resource, "getrusage", lambda who: type("Usage", (), {"ru_maxrss": 3 * 2**20}))
    for platform, mib in (("linux", 3 * 2**10), ("darwin", 3)):
        monkeypatch.setattr(sys, "platform", platform)
        assert peak_memory(cpu) == {"memory_mib": mib}
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(cpu) == {}


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
                    expected[tag if "/" in tag else f"train/{tag}", record["step"]] = value
    assert found == pytest.approx(expected, rel=1e-6)
    tags = {tag for tag, _ in found}
    assert {"train/loss", "train/grad_norm", "train_epoch/top1", "val/top5", "val/loss", "train/memory_mib"} <= tags


def evidence_of(logits: torch.Tensor, targets: torch.Tensor, size: int, multilabel: bool = False, channels: int = 1):
    """What an evaluation in batches of `size` leaves, and its images."""
    images = torch.randint(0, 256, (len(logits), channels, 9, 5), dtype=torch.uint8)
    evidence = Evidence(multilabel)
    for part in torch.arange(len(logits)).split(size):
        evidence.add(Batch(images[part], targets[part], part), logits[part])
    return evidence, images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", [1, 5, 101])
def test_confusion_is_scikit_learns(size):
    logits, targets = torch.randn(101, 7), torch.randint(0, 6, (101,))
    evidence, images = evidence_of(logits, targets, size)
    predictions = logits.argmax(dim=1)
    assert np.array_equal(evidence.confusion(), confusion_matrix(targets, predictions, labels=range(7)))
    for found, expected in zip(evidence.samples(), (images, targets.numpy(), predictions.numpy()), strict=True):
        assert np.array_equal(found, expected[:16])
    soft = nn.functional.one_hot(targets, 7) * 0.8 + 0.1
    assert np.array_equal(evidence_of(logits, soft, size)[0].confusion(), evidence.confusion())


def test_there_is_no_confusion_of_several_labels_or_of_too_many_classes():
    targets = torch.randint(0, 2, (20, 3)).float()
    logits = torch.randn(20, 3)
    evidence, _ = evidence_of(logits, targets, 6, multilabel=True)
    assert evidence.confusion() is None
    assert np.array_equal(evidence.samples()[2], logits[:16].sigmoid() > 0.5)
    for classes, is_kept in ((1000, True), (1001, False)):
        evidence, _ = evidence_of(torch.randn(4, classes), torch.arange(4), 4)
        assert (evidence.confusion() is not None) == is_kept


def test_pictures_show_what_was_evaluated(make_trainer, tmp_path):
    trainer = make_trainer("SOLVER.MAX_EPOCHS", "1", "TEST.BATCH_SIZE", "4")
    predictor, pairs = trainer.hooks[0].predictor, []
    predict = predictor.predict
    predictor.predict = lambda batches: (pairs.append(pair) or pair for pair in predict(batches))
    trainer.train()
    targets = np.concatenate([batch.targets for batch, _ in pairs])
    predictions = np.concatenate([outputs.argmax(dim=1) for _, outputs in pairs])
    curves = events(tmp_path / "run")
    (matrix,), (samples,) = (curves.Images(f"val/{name}") for name in ("confusion_matrix", "samples"))
    assert matrix.step == samples.step == 5
    counts = confusion_matrix(targets, predictions, labels=range(3))
    cells = decode(matrix)[-3 * 32 :: 32, -3 * 32 :: 32, 0]
    assert np.abs(cells - 255 * (1 - counts / counts.sum(axis=1, keepdims=True))).max() <= 1
    picture = decode(samples)
    assert picture.shape == (30 + 2 * (50 + 68), 8 * 68, 3)
    first = pairs[0][0].images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(picture[80 + 4 : 80 + 64, 4:64], first.repeat(10, 0).repeat(10, 1).repeat(3, 2))
    assert (picture[-64:, 2 * 68 :] == 255).all()  # there are nine of them


@pytest.mark.parametrize("multilabel", [False, True])
def test_colours_and_words_of_samples(tmp_path, multilabel):
    hook = TensorBoard(RunFolder(tmp_path), ["cat", "dog"])
    targets = torch.tensor([[1.0, 1.0]] * 3) if multilabel else torch.ones(3, dtype=torch.long)
    logits = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.2, -3.0]])
    evidence, images = evidence_of(logits, targets, 2, multilabel, channels=3)
    state = {"epoch": 1, "step": 7, "is_epoch_consumed": False, "evidence": evidence}
    trainer = type("T", (), {**state, "latest": {"kind": "epoch", "epoch": 1, "step": 7, "val_top1": 0.5}})()
    hook.before_train(trainer)
    hook.after_epoch(trainer)
    hook.after_train(trainer)
    curves = events(tmp_path)
    assert curves.Tags()["images"] == ["val/samples", *([] if multilabel else ["val/confusion_matrix"])]
    (event,) = curves.Images("val/samples")
    names = ["cat|dog" if multilabel else "dog"] * 3
    words = evidence.samples()[2]
    answers = [label_text(word, ["cat", "dog"]) for word in words]
    labels = list(zip(names, answers, strict=True))
    title = "each with its target, then its prediction"
    expected = grid(images, 8, (64, 64), title, labels)
    assert answers != names and np.array_equal(decode(event), expected[..., ::-1])
    enlarged = images[0].repeat(7, axis=0).repeat(7, axis=1)
    top, left = 30 + 50 + 2, 2 + (64 - 5 * 7) // 2
    assert np.array_equal(decode(event)[top : top + 63, left : left + 35], enlarged)


def test_a_stop_in_an_evaluation_leaves_no_step_twice(make_trainer, tmp_path):
    box, polls = [], []

    def poll():
        if box[0].epoch == 1 and box[0].is_epoch_consumed:
            polls.append(1)
            if len(polls) == 3:  # after the last step, and before the first and the second batch of the evaluation
                raise Interrupted(2)

    keys = ("TEST.BATCH_SIZE", "2", "LOG.PERIOD", "1")
    box.append(make_trainer(*keys, poll=poll))
    with pytest.raises(Interrupted):
        box[0].train()
    state = load_checkpoint(tmp_path / "run/weights/last.pth")
    for _ in range(2):  # the second one as if a kill had come after the evaluation and before its checkpoint
        make_trainer(*keys, state=state).train()
        check_steps(tmp_path / "run")


def test_a_kill_leaves_no_step_twice(make_trainer, tmp_path):
    """The events are there, the checkpoint of the same epoch is not."""
    first = make_trainer("SOLVER.MAX_EPOCHS", "2")
    first.train()
    for name in ("last.pth", "best.pth"):
        (tmp_path / "run/weights" / name).unlink()
    (tmp_path / "run/weights/previous.pth").rename(tmp_path / "run/weights/last.pth")
    state = load_checkpoint(tmp_path / "run/weights/last.pth")
    assert state["counters"]["epoch"] == 1
    make_trainer(state=state).train()
    check_steps(tmp_path / "run")


def check_steps(run: Path) -> None:
    curves = events(run)
    for tag in curves.Tags()["scalars"]:
        steps = [event.step for event in curves.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
    for tag in ("val/samples", "val/confusion_matrix"):
        assert [event.step for event in curves.Images(tag)] == [5, 10, 15], tag
