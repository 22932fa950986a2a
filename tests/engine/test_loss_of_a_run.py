"""What a loss takes from outside: the training set's counts, and a teacher."""

import contextlib
import shutil

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from data.build import build_train_and_val
from data.registry import DATASETS
from engine.build_inference import build_trained_task, prepare_checkpoint
from engine.build_report import score_checkpoint
from engine.checkpoint import load_checkpoint
from engine.hooks.base import Hook
from engine.resume import resume_run
from utils.contracts import targets_of
from utils.errors import Interrupted, UserError

CPU = torch.device("cpu")


@DATASETS.register("lopsided", size=(6, 6), channels=1)
class Lopsided:
    """30, 10 and 5 images of noise."""

    classes = ("left", "middle", "right")

    def __init__(self, root, split):
        self.targets = np.repeat([0, 1, 2], [30, 10, 5])
        self.images = np.random.default_rng(0).integers(0, 256, (45, 6, 6, 1), dtype=np.uint8)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return self.images[i], int(self.targets[i])

    def name(self, i):
        return f"lopsided/{i}"


PLAIN = ("INPUT.TRAIN_TRANSFORMS", "[]", "INPUT.TEST_TRANSFORMS", "[]", "SOLVER.MAX_EPOCHS", "2")
BALANCED = ("DATASETS.NAME", "lopsided", "DATASETS.FOLD", "[1, 3]", "LOSS.class_weights", "balanced", *PLAIN)


def stop_after(calls):
    left = iter(range(1, calls))

    def poll():
        if next(left, None) is None:
            raise Interrupted(2)

    return poll


def stop_and_resume(make_trainer, tmp_path, overrides, calls):
    """The weights of a run that is stopped at a poll and resumed from its file."""
    with contextlib.suppress(Interrupted):
        make_trainer(*overrides, run="stopped", poll=stop_after(calls)).train()
    run, checkpoint = resume_run(tmp_path / "stopped")
    run.unlock()
    trainer = make_trainer(*overrides, run="stopped", checkpoint=checkpoint)
    assert trainer.step > 0 and not trainer.is_complete
    trainer.train()
    return trainer.task.model.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def loss_in_a_test(path):
    """The loss on the validation set, as a test of the checkpoint takes it, in batches of another size."""
    checkpoint, cfg = prepare_checkpoint(load_checkpoint(path), ("TEST.BATCH_SIZE", "4"))
    return score_checkpoint(checkpoint, cfg, "val", build_train_and_val(cfg).val).scores["loss"]


def test_balanced_class_weights(make_trainer, tmp_path):
    trainer = make_trainer(*BALANCED)
    targets = targets_of(trainer.train_loader.dataset)
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert trainer.task.criterion.class_weights.numpy() == pytest.approx(wanted, rel=1e-6)
    trainer.train()
    checkpoint = load_checkpoint(tmp_path / "run/weights/last.pth")
    assert checkpoint.resolved.class_weights == pytest.approx(wanted, rel=1e-12)
    assert prepare_checkpoint(checkpoint)[1].LOSS.class_weights == "balanced"
    assert "class_weights: balanced" in (tmp_path / "run/overrides.yml").read_text()
    assert loss_in_a_test(tmp_path / "run/weights/last.pth") == pytest.approx(trainer.metrics["loss"], rel=1e-6)
    assert same(trainer.task.model.state_dict(), stop_and_resume(make_trainer, tmp_path, BALANCED, 3))


def test_a_class_that_does_not_occur(make_trainer, monkeypatch):
    monkeypatch.setattr(Lopsided, "classes", ("left", "middle", "right", "never"))
    with pytest.raises(UserError, match=r"LOSS.class_weights: .*class 3 does not occur in training; give a list"):
        make_trainer(*BALANCED)


def test_weights_of_labels(make_trainer):
    """One class an image, as labels; whether LOSS.NAME is given or comes from the task."""
    for keys in (("LOSS.NAME", "bce"), ("TASK.NAME", "multilabel"), ("TASK.NAME", "multilabel", "LOSS.NAME", "bce")):
        trainer = make_trainer(*BALANCED, *keys, run="-".join(keys))
        counts = np.bincount(targets_of(trainer.train_loader.dataset))
        wanted = (counts.sum() - counts) / counts
        assert trainer.task.criterion.class_weights.numpy() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "is_said"),
    [
        (("DATASETS.SAMPLER", "shuffle", *BALANCED), False),
        (("DATASETS.SAMPLER", "balanced"), False),
        (("DATASETS.SAMPLER", "balanced", *BALANCED), True),
    ],
)
def test_a_correction_made_twice_is_said(make_trainer, caplog, keys, is_said):
    make_trainer(*keys)
    line = "LOSS.class_weights balanced and DATASETS.SAMPLER balanced: the two corrections multiply"
    assert (line in caplog.text) == is_said


@pytest.fixture
def teacher(make_trainer, tmp_path):
    """The folder of a trained run with a normalisation of its own."""
    make_trainer("SOLVER.MAX_EPOCHS", "1", "INPUT.MEAN", "[0.1]", "INPUT.STD", "[0.7]", run="teacher").train()
    return tmp_path / "teacher"


def distilled(teacher, *overrides):
    return ("LOSS.NAME", "distillation", "LOSS.teacher", str(teacher), "LOSS.temperature", "2", *overrides)


class Record(Hook):
    """Keeps what each step's loss was computed from."""

    def __init__(self):
        self.steps = []

    def before_train(self, trainer):
        trainer.task.normalize.register_forward_pre_hook(self.look)

    def look(self, module, inputs):
        self.images = inputs[0].clone()

    def after_step(self, trainer):
        self.steps.append((trainer.result, self.images))


def test_the_teacher_sees_what_the_student_sees(make_trainer, teacher, tmp_path):
    trainer = make_trainer(*distilled(teacher, "INPUT.BATCH_TRANSFORMS", "[MixUp]", "SOLVER.MAX_EPOCHS", "1"))
    trainer.hooks.append(record := Record())
    trainer.train()
    checkpoint = load_checkpoint(teacher / "weights/best.pth")
    task = build_trained_task(*prepare_checkpoint(checkpoint), CPU)
    assert len(record.steps) == 5
    for result, images in record.steps:
        assert images.is_floating_point() and result.targets.ndim == 2  # mixed
        logits, answers = result.outputs, task.model(task.normalize(images))
        log_p, log_q = logits.double().log_softmax(1), answers.double().log_softmax(1)
        soft_p, soft_q = (logits.double() / 2).log_softmax(1), (answers.double() / 2).log_softmax(1)
        wanted = -0.1 * (result.targets * log_p).sum(1) + 0.9 * 4 * (soft_q.exp() * (soft_q - soft_p)).sum(1)
        assert result.loss.item() == pytest.approx(wanted.mean().item(), rel=1e-5)
        assert (log_p - log_q).abs().max() > 0.01
    # It has learned nothing: no gradients were taken, neither weights nor running statistics moved, and it is no part
    # of what is trained, moved or saved.
    network = trainer.task.criterion.teacher[1]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert same(network.state_dict(), checkpoint.state["model"])
    assert {id(p) for p in network.parameters()}.isdisjoint(id(p) for p in trainer.task.parameters())
    saved = load_checkpoint(tmp_path / "run/weights/last.pth").state
    assert saved["model"].keys() == checkpoint.state["model"].keys() and saved["task"] == {}
    assert saved.keys() == checkpoint.state.keys()


def test_a_distilled_run_resumes_and_is_tested_without_its_teacher(make_trainer, teacher, tmp_path):
    overrides = distilled(teacher, "SOLVER.MAX_EPOCHS", "2")
    trainer = make_trainer(*overrides)
    trainer.train()
    assert same(trainer.task.model.state_dict(), stop_and_resume(make_trainer, tmp_path, overrides, 3))
    plain = make_trainer(*overrides, "LOSS.weight", "0", run="plain")
    plain.train()
    assert not same(trainer.task.model.state_dict(), plain.task.model.state_dict())
    shutil.rmtree(teacher)
    assert loss_in_a_test(tmp_path / "run/weights/last.pth") == pytest.approx(trainer.metrics["loss"], rel=1e-6)


def test_teachers_that_do_not_fit(make_trainer, teacher):
    for overrides, message in (
        (("LOSS.teacher", "nowhere"), "LOSS.teacher: .*/nowhere: no such checkpoint; name a run or a checkpoint"),
        (("LOSS.teacher", "."), r"LOSS.teacher: /.*: cannot read the checkpoint: Is a directory; name a run"),
        (("INPUT.SIZE", "[7, 6]"), r"found size \[6, 6\], expected \[7, 6\] as in this training; name a teacher"),
        (("INPUT.CHANNELS", "3"), "found channels 1, expected 3"),
        (("DATASETS.NAME", "digits"), r"found classes \['left', 'middle', 'right'\], expected \['0'"),
        (("LOSS.NAME", "bce"), "LOSS.teacher: BinaryCrossEntropy takes no such argument"),
    ):
        words = {"LOSS.NAME": "distillation", "LOSS.teacher": str(teacher)}
        words |= {"INPUT.TRAIN_TRANSFORMS": "[Resize]"} | dict([overrides])
        with pytest.raises(UserError, match=message) as error:
            make_trainer(*[word for pair in words.items() for word in pair])
        assert "\n" not in str(error.value)
