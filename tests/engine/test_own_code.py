"""A user's own task, step, loss, hook and metric: their state survives a stop, and a mistake is one line."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from data.executors import Threads
from data.registry import DATASETS
from engine.build_inference import build_trained_task, prepare_checkpoint, task_metrics
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.classifier import Classifier
from engine.hooks.base import Hook
from engine.registry import HOOKS, METRICS, STEPS, TASKS
from engine.steps.standard import StandardStep
from engine.tasks.base import Evaluator, task_family
from engine.tasks.classification import Classification
from modeling.losses import MeanLoss
from utils.errors import Interrupted, UserCodeError, UserError
from utils.run_folder import open_run


@TASKS.register("scaled")
class Scaled(Classification):
    """Has a learned scale and a counter of its own."""

    def __init__(self, *built):
        super().__init__(*built)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, batch):
        if self.training:
            self.seen += len(batch)
        result = super().forward(batch)
        return replace(result, loss=result.loss * self.scale.exp())


@STEPS.register("remembering")
class Remembering(StandardStep):
    """Scales the gradients by a number that depends on all steps before."""

    momentum = 1.0

    def __call__(self, batch):
        result = super().__call__(batch)
        self.momentum = 0.9 * self.momentum + 0.1 * result.loss.item()
        return result

    def backward(self, batch):
        result = super().backward(batch)
        for p in self.parameters_with_gradients():
            p.grad *= self.momentum
        return result

    def state_dict(self):
        return {"momentum": np.float64(self.momentum)}  # as NumPy's functions return it

    def load_state_dict(self, state):
        self.momentum = state["momentum"]


OWN = ["TASK.NAME", "scaled", "SOLVER.STEP.NAME", "remembering", "SOLVER.MAX_EPOCHS", "2"]


def test_the_state_of_a_task_and_of_a_step_is_saved_resumed_and_tested_with(make_trainer, tmp_path):
    make_trainer(*OWN, run="whole").train()
    whole = load_checkpoint(tmp_path / "whole/weights/last.pth")
    stopped = make_trainer(*OWN, run="stopped")
    calls = iter(range(100))

    def poll():
        if next(calls) == 2:
            raise Interrupted(2)

    stopped.poll = poll
    with pytest.raises(Interrupted):
        stopped.train()
    checkpoint = load_checkpoint(tmp_path / "stopped/weights/last.pth")
    make_trainer(*OWN, run="stopped", checkpoint=checkpoint).train()
    resumed = load_checkpoint(tmp_path / "stopped/weights/last.pth").state
    assert whole.state["task"]["scale"] != 1 and whole.state["task"]["seen"] == 2 * len(stopped.train_loader.dataset)
    assert whole.state["step"] == resumed["step"] and type(resumed["step"]["momentum"]) is float
    for part in ("model", "task"):
        assert all(torch.equal(value, resumed[part][name]) for name, value in whole.state[part].items())
    tested = build_trained_task(*prepare_checkpoint(whole), torch.device("cpu"))
    assert torch.equal(tested.scale, whole.state["task"]["scale"])


@pytest.mark.parametrize("value", [{1, 2}, np.zeros(2), np.float32(0.1), np.uint8(3), object(), open_run])
def test_a_state_that_could_not_be_loaded_is_not_saved(make_trainer, tmp_path, value):
    make_trainer("SOLVER.MAX_EPOCHS", "1").train()
    path = tmp_path / "run/weights/last.pth"
    checkpoint, before = load_checkpoint(path), path.read_bytes()
    state = {**checkpoint.state, "hooks": {"NBest": {"kept": [1, value]}}}
    with pytest.raises(UserError, match="the checkpoint's hooks/NBest/kept/1: found .*, expected a tensor, number"):
        save_checkpoint(path, replace(checkpoint, state=state))
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [np.float64(0.5), np.int64(3), np.bool_(True), None, (1, b"x"), {"a": [2.0]}])
def test_a_state_of_plain_values_and_numpy_numbers_is_loaded_as_it_was(make_trainer, tmp_path, value):
    make_trainer("SOLVER.MAX_EPOCHS", "1").train()
    path = tmp_path / "run/weights/last.pth"
    checkpoint = load_checkpoint(path)
    save_checkpoint(path, replace(checkpoint, state={**checkpoint.state, "hooks": {"value": value}}))
    found = load_checkpoint(path).state["hooks"]["value"]
    assert found == value and not isinstance(found, np.generic)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda outputs, targets: outputs[:, 0] - targets[:, None], r"expected \[\d+\]: a loss for each sample"),
        (lambda outputs, targets: outputs.mean(), r"losses returned \[\] for outputs \[\d+, 3\]"),
        (lambda outputs, targets: outputs[:5, 0], r"losses returned \[5\] for outputs \[\d+, 3\]"),
    ],
)
def test_the_losses_of_samples_have_their_shape(make_trainer, losses, message):
    class Own(MeanLoss):
        def losses(self, outputs, batch):
            return losses(outputs, batch.targets.float())

    trainer = make_trainer()
    trainer.task.criterion = Own()
    with pytest.raises(UserError, match=message):
        trainer.train()


def test_a_criterion_that_returns_no_tensor(make_trainer):
    class Own(nn.Module):
        def forward(self, outputs, batch):
            return 1.5

    trainer = make_trainer()
    trainer.task.criterion = Own()
    with pytest.raises(UserError, match="LOSS.NAME: Own returned float, expected a scalar"):
        trainer.train()


class Sum(Evaluator):
    result_value: object = None

    def result(self):
        return {**super().result(), "sum": self.result_value}


@pytest.mark.parametrize(("value", "number"), [(torch.tensor(2), 2.0), (np.float32(0.5), 0.5), (True, 1.0)])
def test_scores_are_numbers_whoever_computes_them(make_trainer, monkeypatch, value, number):
    trainer = make_trainer("SOLVER.MAX_EPOCHS", "1")
    monkeypatch.setattr(Sum, "result_value", value)
    monkeypatch.setattr(trainer.task.__class__, "evaluator", lambda self, m: Sum(self.predictions_type, self.names, m))
    trainer.train()
    assert trainer.metrics["sum"] == number and type(trainer.metrics["sum"]) is float


@pytest.mark.parametrize("value", [None, "high", np.zeros(2), torch.zeros(3)])
def test_a_metric_that_is_no_number(make_trainer, value):
    name = f"own_{type(value).__name__}"
    METRICS.register(name)(lambda predictions: value)
    trainer = make_trainer("TEST.METRICS", f"[{name}]")
    with pytest.raises(UserError, match=f"TEST.METRICS {name}: returned {type(value).__name__}, expected a number"):
        trainer.train()


@HOOKS.register("Misspelt")
class Misspelt(Hook):
    def after_epochs(self, trainer):
        pass


@HOOKS.register("Forgetful")
class Forgetful(Hook):
    def state_dict(self):
        return {"count": 1}


STEPS.register("forgetful")(type("ForgetfulStep", (StandardStep,), {"load_state_dict": lambda self, state: None}))
HOOKS.register("NoHook")(type("NoHook", (), {}))
STEPS.register("no_step")(lambda *built: print)
DATASETS.register("nameless", size=(6, 6), channels=1)(
    type("Nameless", (), {"__init__": lambda self, root, split: None, "__len__": lambda self: 3, "classes": ["a"]})
)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["HOOKS", "[Misspelt]"], "HOOKS Misspelt: after_epochs is never called; did you mean 'after_epoch'"),
        (["HOOKS", "[Forgetful]"], "HOOKS Forgetful: define both state_dict and load_state_dict, or neither"),
        (["SOLVER.STEP.NAME", "forgetful"], "define both state_dict and load_state_dict"),
        (["HOOKS", "[NoHook]"], "HOOKS NoHook: NoHook is not derived from Hook; derive it"),
        (["SOLVER.STEP.NAME", "no_step"], "no_step: builtin_function_or_method is not derived from StandardStep"),
        (["DATASETS.NAME", "nameless"], "DATASETS.NAME nameless: Nameless has no __getitem__; add it"),
    ],
)
def test_what_does_not_fit_is_a_line(make_trainer, keys, message):
    with pytest.raises(UserError, match=message):
        make_trainer(*keys)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException])
def test_a_thread_that_reads_never_dies_in_silence(make_trainer, error):
    def fail(image, rng):
        raise error("stop")

    trainer = make_trainer()
    trainer.train_loader.executor = Threads(1, 2, 8)
    trainer.train_loader.reader.transforms = [fail]
    with pytest.raises(UserCodeError, match="stop"):
        trainer.train()


def test_an_error_before_the_first_sample_is_reported(make_trainer):
    trainer = make_trainer()
    trainer.train_loader.executor = Threads(1, 2, 8)
    trainer.train_loader.reader.size = (1 << 30, 1 << 20)
    with pytest.raises(UserError, match="cannot allocate 4 batches of 8 images"):
        trainer.train()


def test_a_task_checks_both_sets(make_trainer, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Classification, "check", classmethod(lambda cls, train, val: seen.append((len(train), len(val))))
    )
    make_trainer()
    assert seen == [(36, 9)]


def test_a_training_metric_is_a_number_per_sample(make_trainer, monkeypatch):
    monkeypatch.setattr(Classification, "train_metrics", lambda self, result: {"mean": result.loss})
    with pytest.raises(UserError, match="train_metrics mean: found .., expected a number per sample"):
        make_trainer().train()


def test_a_task_has_the_metrics_of_the_one_it_is_derived_from(make_trainer):
    trainer = make_trainer("TASK.NAME", "scaled", "SOLVER.MAX_EPOCHS", "1")
    trainer.train()
    assert {"top1", "top5"} <= trainer.metrics.keys()
    assert task_family("scaled") == {"scaled", "classification"} and "f1_macro" in task_metrics("scaled")
    with pytest.raises(UserError, match="TEST.METRICS mae: not a metric of scaled"):
        make_trainer("TASK.NAME", "scaled", "TEST.METRICS", "[mae]", run="other")


def test_whatever_is_not_an_image_is_an_error_of_its_own(make_trainer, tmp_path):
    import cv2

    make_trainer("SOLVER.MAX_EPOCHS", "1").train()
    classifier = Classifier.load(tmp_path / "run", "cpu")
    content = cv2.imencode(".png", np.zeros((6, 6), np.uint8))[1].tobytes()
    same = [content, bytearray(content), memoryview(content), io.BytesIO(content)]
    assert len({prediction.label for prediction in classifier(same)}) == 1
    assert classifier(io.BytesIO(content)).values.shape == (3,)
    for thing in (None, 3, torch.zeros(3), {"a": 1}, io.StringIO("x")):
        assert "expected a path, the bytes of an image file" in classifier(thing).error
    assert [bool(p.error) for p in classifier((content, None, content))] == [False, True, False]


def test_numbers_have_no_label(make_trainer, tmp_path, spots):
    keys = ["DATASETS.NAME", "csv", "DATASETS.targets", "[x, y]", "DATASETS.ROOT", str(spots)]
    keys += ["INPUT.TRAIN_TRANSFORMS", "[Resize]", "INPUT.TEST_TRANSFORMS", "[Resize]", "INPUT.SIZE", "[6, 6]"]
    make_trainer(*keys, "SOLVER.MAX_EPOCHS", "1", "SOLVER.BASE_LR", "0.0001").train()
    prediction = Classifier.load(tmp_path / "run", "cpu")(np.zeros((6, 6), np.uint8))
    assert prediction.values.shape == (2,)
    with pytest.raises(ValueError, match="no labels; use `values`"):
        prediction.label  # noqa: B018
