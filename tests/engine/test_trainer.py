"""The loop, the step, and the hooks."""

import json
import math
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from engine.build_inference import resolve_device
from engine.checkpoint import load_checkpoint
from engine.hooks import checkpoints
from engine.hooks.base import Hook
from engine.hooks.evaluation import Evaluation
from engine.hooks.no_improvement import EarlyStopping
from engine.inference import evaluate
from engine.metrics.labels import top1, top5
from engine.precision import Precision, resolve_amp
from engine.registry import HOOKS
from engine.tasks.base import StepResult
from engine.tasks.classification import Classification
from engine.trainer import Progress
from utils.errors import Interrupted, UserError
from utils.interrupt import InterruptHandler, StopNow
from utils.run_folder import RunFolder


class Spy(Hook):
    """Writes down which methods are called, and where the counters stand."""

    def __init__(self):
        self.calls = []

    def before_train(self, trainer):
        self.calls.append(("before_train", trainer.step))

    def before_epoch(self, trainer):
        self.calls.append(("before_epoch", trainer.epoch))

    def after_backward(self, trainer):
        assert all(p.grad is not None for p in trainer.train_step.parameters_with_gradients())
        self.calls.append(("after_backward", trainer.step))

    def after_step(self, trainer):
        assert math.isfinite(trainer.result.loss.item()) and trainer.result.outputs.shape == (len(trainer.result), 3)
        self.calls.append(("after_step", trainer.step))

    def evaluate(self, trainer):
        assert trainer.progress.samples_seen >= trainer.train_loader.num_samples
        self.calls.append(("evaluate", trainer.epoch))

    def after_epoch(self, trainer):
        assert trainer.progress.samples_seen == 0
        self.calls.append(("after_epoch", trainer.epoch))

    def on_failure(self, trainer, error):
        self.calls.append(("on_failure", type(error)))

    def after_train(self, trainer):
        self.calls.append(("after_train", trainer.step))


def test_the_order_of_hooks(make_trainer):
    trainer, spy = make_trainer("SOLVER.MAX_EPOCHS", "2"), Spy()
    trainer.hooks.append(spy)
    trainer.train()
    steps = [
        [call for n in five for call in (("after_backward", n), ("after_step", n + 1))]
        for five in (range(5), range(5, 10))
    ]
    first = [("before_epoch", 0), *steps[0], ("evaluate", 0), ("after_epoch", 1)]
    second = [("before_epoch", 1), *steps[1], ("evaluate", 1), ("after_epoch", 2)]
    assert spy.calls == [("before_train", 0), *first, *second, ("after_train", 10)]


def test_the_bar_shows_progress_on_a_terminal_only(make_trainer, capsys, monkeypatch):
    make_trainer(run="quiet").train()
    assert "img/s" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    make_trainer().train()
    shown = capsys.readouterr().err
    for part in ("epoch 3/3", "108/108", "img/s", "loss=", "top1=", "lr="):
        assert part in shown, part


def test_training_learns(make_trainer):
    trainer = make_trainer("SOLVER.MAX_EPOCHS", "20", "INPUT.TRAIN_TRANSFORMS", "[]", "SOLVER.BASE_LR", "0.05")
    trainer.train()
    assert trainer.metrics["top1"] > 0.8


def test_the_step_is_the_formula(make_trainer):
    """One step of SGD, by hand in float64."""
    plain = ("SOLVER.OPTIMIZER.NAME", "SGD", "SOLVER.WEIGHT_DECAY", "0", "MODEL.dropout", "0")
    trainer = make_trainer(*plain, "SOLVER.SCHEDULER.NAME", "constant")
    batch = next(trainer.train_loader.batches(0))
    model = type(trainer.task.model)(3, 1, 0.0).double()
    model.load_state_dict(trainer.task.model.state_dict())
    loss = torch.nn.functional.cross_entropy(model(trainer.task.normalize(batch.images).double()), batch.targets)
    loss.backward()
    expected = [(p - 0.1 * p.grad).detach() for p in model.parameters()]
    trainer.run_step(batch)
    assert trainer.result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for found, wanted in zip(trainer.task.model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=1e-5)


def test_metrics_equal_scikit_learns_however_they_are_batched():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(101, 7, generator=generator), torch.randint(0, 7, (101,), generator=generator)
    probabilities = logits.double().softmax(1).numpy()
    expected = {
        "loss": log_loss(targets, probabilities, labels=range(7)),
        "top1": accuracy_score(targets, logits.argmax(1)),
        "top5": top_k_accuracy_score(targets, probabilities, k=5, labels=range(7)),
    }
    for size in (1, 10, 101):
        evaluator = Classification(None, None, None, "abcdefg").evaluator({"top1": top1, "top5": top5})
        for part in torch.arange(101).split(size):
            loss = torch.nn.functional.cross_entropy(logits[part], targets[part])
            evaluator.add(StepResult(loss, logits[part], targets[part], part))
        assert evaluator.count == 101
        assert evaluator.result() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["TEST.METRICS", "[top1, top2]"], "TEST.METRICS 'top2': no such metric; did you mean 'top[15]' or 'top[15]'"),
        (["TEST.MONITOR", "max top2"], "TEST.MONITOR 'top2': no such metric"),
        (["TEST.METRICS", "[mae]"], "TEST.METRICS mae: not a metric of classification"),
        (["TEST.METRICS", "[loss]"], "TEST.METRICS loss: reserved name; rename the metric"),
        (
            ["TEST.MONITOR", "max recal.left"],
            "TEST.MONITOR recal.left: no such score of a class; did you mean 'recall'",
        ),
        (
            ["TEST.METRICS", "[mae.left]"],
            "TEST.METRICS mae.left: no such score of a class; known: average_precision, f1",
        ),
        (["TEST.METRICS", "[f1.lefd]"], "TEST.METRICS f1.lefd: no class 'lefd'; did you mean 'left'"),
        (["TEST.METRICS", "[f1.]"], "TEST.METRICS f1.: no class ''; known: left, middle, right"),
        (["TEST.METRICS", "[recall]"], "TEST.METRICS 'recall': no such metric; did you mean 'recall_macro'"),
    ],
)
def test_metrics_that_cannot_be_computed(make_trainer, keys, message):
    with pytest.raises(UserError, match=message):
        make_trainer(*keys)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "expected_calibration_error", "recall.left", "roc_auc.right"])
def test_whatever_a_report_shows_can_be_monitored_and_stopped_on(make_trainer, metric):
    keys = ("TEST.MONITOR", f"max {metric}", "HOOKS", "[{EarlyStopping: {patience: 1}}]", "SOLVER.MAX_EPOCHS", "9")
    trainer = make_trainer(*keys, "TEST.METRICS", f"[top1, f1.middle, {metric}]")
    trainer.train()
    assert trainer.metrics.keys() == {"loss", "top1", "f1.middle", metric}
    assert trainer.epoch < 9 and trainer.progress.best >= trainer.metrics[metric]


def play_epochs(
    hooks: list[Hook], values: list[float], losses: list[float] | None = None, progress: Progress | None = None
) -> list[bool]:
    """Plays epochs with these values of the metric and of the loss; whether each was the best so far."""
    progress = progress or Progress()
    trainer = SimpleNamespace(progress=progress, stop=lambda reason: setattr(progress, "stop_reason", reason))
    best = []
    for value, loss in zip(values, losses or [1.0] * len(values), strict=True):
        trainer.metrics = {"m": value, "loss": loss}
        for hook in hooks:
            hook.after_epoch(trainer)
        best.append(progress.epochs_since_best == 0)
        if progress.stop_reason:
            break
    return best


def evaluation_of(monitor: str) -> Evaluation:
    return Evaluation(None, None, {}, monitor)


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.1, 0.3, 0.2, 0.3, 0.4], [True, True, False, False, True]),
        ("min", [3.0, 4.0, 2.0], [True, False, True]),
        ("max", [math.nan, 0.1, math.inf, 0.2], [False, True, False, True]),
    ],
)
def test_best(mode, values, best):
    assert play_epochs([evaluation_of(f"{mode} m")], values) == best


def test_a_metric_that_is_no_number_is_named(caplog):
    play_epochs([evaluation_of("max m")], [0.5, math.nan])
    assert caplog.messages == ["TEST.MONITOR m is nan with loss 1.0: not finite, so never the best"]


def test_an_epoch_whose_loss_is_no_number_is_not_the_best():
    """Of outputs that are no numbers argmax takes the first, which may be right."""
    assert play_epochs([evaluation_of("max m")], [0.2, 0.9, 0.3], [1.0, math.nan, 1.0]) == [True, False, True]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_tie_goes_to_the_lower_loss(mode):
    values, losses = [1, 2, 2, 2, 2, 3, 3], [0.1, 0.9, 0.5, 0.5, math.nan, 0.8, 0.7]
    values = values if mode == "max" else [-value for value in values]
    best = [True, True, True, False, False, True, True]
    assert play_epochs([evaluation_of(f"{mode} m")], values, losses) == best


def test_a_checkpoint_without_the_loss_of_its_best_epoch():
    progress = Progress()
    progress.load_state_dict({"epoch": 3, "best": 0.5, "epochs_since_best": 2})
    assert play_epochs([evaluation_of("max m")], [0.4, 0.5, 0.5], [1.0, 2.0, 3.0], progress) == [False, True, False]


def test_early_stopping_counts_epochs_in_a_row():
    assert len(play_epochs([evaluation_of("max m"), EarlyStopping(2)], [1, 0, 2, 1, 1, 5])) == 5
    hooks = [evaluation_of("max m"), EarlyStopping(2)]
    assert len(play_epochs(hooks, [1, 1, 1, 1, 1, 1, 1], [0.5, 0.6, 0.4, 0.4, 0.5, 0.3, 0.3])) == 5


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("[EarlyStoping]", "HOOKS 'EarlyStoping': no such hook; did you mean 'EarlyStopping'"),
        ("[{EarlyStopping: {patience: 0}}]", "HOOKS: EarlyStopping: patience: found 0"),
    ],
)
def test_mistakes_in_hooks(make_trainer, entry, message):
    with pytest.raises(UserError, match=message):
        make_trainer("HOOKS", entry)


def test_checkpoints_that_are_kept(make_trainer, tmp_path):
    make_trainer("CHECKPOINT.KEEP_EVERY_EPOCHS", "2", "SOLVER.MAX_EPOCHS", "5").train()
    weights = RunFolder(tmp_path / "run").weights
    names = sorted(path.name for path in weights.iterdir())
    assert [name for name in names if name.startswith("epoch_")] == [
        f"epoch_{n:03d}_{load_metric(tmp_path / 'run', n):.4f}.pth" for n in (2, 4)
    ]
    assert {"last.pth", "best.pth", "previous.pth"} <= set(names) and len(names) == 5
    assert load_checkpoint(weights / "previous.pth").epoch == 4


def load_metric(run, epoch: int) -> float:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return next(line["val_top1"] for line in lines if line["kind"] == "epoch" and line["epoch"] == epoch)


def test_saving_within_an_epoch(make_trainer, tmp_path):
    steps = []

    class Look(Hook):
        def after_step(self, trainer):
            steps.append(load_checkpoint(tmp_path / "run/weights/last.pth").step)

    trainer = make_trainer("CHECKPOINT.EVERY_STEPS", "2", "SOLVER.MAX_EPOCHS", "1")
    trainer.hooks.append(Look())
    trainer.train()
    assert steps == [0, 2, 2, 4, 4]


def test_without_validation_best_is_last(make_trainer, tmp_path):
    make_trainer("DATASETS.VAL_RATIO", "0").train()
    run = RunFolder(tmp_path / "run")
    assert run.best.samefile(run.last)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(make_trainer, tmp_path):
    trainer = make_trainer("SOLVER.BASE_LR", "1e30", "SOLVER.SCHEDULER.NAME", "constant")
    with pytest.raises(UserError, match=r"the training loss is (nan|inf) at step .* lower SOLVER.BASE_LR"):
        trainer.train()
    run = RunFolder(tmp_path / "run")
    for path in (run.last, run.previous):
        assert load_checkpoint(path).step == 0
    assert not run.best.exists()


def test_weights_that_are_not_finite_are_not_saved(make_trainer, tmp_path):
    class Poison(Hook):
        def after_step(self, trainer):
            if trainer.step == 7:
                trainer.task.model.fc.weight.data[0] = math.nan

    trainer = make_trainer("CHECKPOINT.EVERY_STEPS", "1", "LOG.PERIOD", "1000")
    trainer.hooks.insert(0, Poison())
    with pytest.raises(UserError, match=r"the weights are NaN or Inf \(fc.weight\) at epoch 1.44, step 7"):
        trainer.train()
    assert load_checkpoint(tmp_path / "run/weights/last.pth").step == 6


def test_an_error_within_a_step_leaves_the_exact_file_alone(make_trainer, tmp_path, caplog):
    class Fail(Hook):
        def after_step(self, trainer):
            if trainer.step == 8:
                raise ZeroDivisionError

    trainer = make_trainer()
    trainer.hooks.append(Fail())
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert load_checkpoint(tmp_path / "run/weights/last.pth").step == 5
    assert "failed within step 8; a resume repeats 3 steps" in caplog.text


def test_a_full_disk_in_the_middle_is_a_warning_and_at_the_end_an_error(make_trainer, monkeypatch, tmp_path, caplog):
    real, fail_at = checkpoints.save_checkpoint, {1}

    def save(path, checkpoint):
        if checkpoint.epoch in fail_at:
            raise OSError(28, "No space left on device")
        real(path, checkpoint)

    monkeypatch.setattr(checkpoints, "save_checkpoint", save)
    make_trainer("SOLVER.MAX_EPOCHS", "2", run="a").train()
    assert load_checkpoint(tmp_path / "a/weights/last.pth").epoch == 2
    values = [load_metric(tmp_path / "a", epoch) for epoch in (1, 2)]
    assert load_checkpoint(tmp_path / "a/weights/best.pth").state["progress"]["best"] == values[1]  # of those saved
    fail_at.add(2)
    with pytest.raises(UserError, match=r"last.pth: cannot save: .*No space left on device; make room"):
        make_trainer("SOLVER.MAX_EPOCHS", "2", run="b").train()
    assert load_checkpoint(tmp_path / "b/weights/last.pth").step == 0


def test_half_precision_skips_steps_that_overflow(make_trainer):
    """The scaler is torch's; an update that it leaves out does not count as a step."""
    trainer = make_trainer()
    trainer.train_step.precision = Precision("off", torch.device("cpu"))
    trainer.train_step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=1000)
    batches = list(trainer.train_loader.batches(0))
    before = [p.clone() for p in trainer.task.model.parameters()]
    trainer.task.criterion.register_forward_hook(lambda module, inputs, loss: loss * factor)
    factor = 1e30
    trainer.run_step(batches[0])
    assert (trainer.step, trainer.progress.samples_seen, trainer.result.updated) == (0, 8, False)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.task.model.parameters(), strict=True))
    factor = 1.0
    trainer.run_step(batches[1])
    assert (trainer.step, trainer.progress.samples_seen, trainer.result.updated) == (1, 16, True)
    assert trainer.train_step.precision.scaler.get_scale() == 2.0**119


def test_the_scale_is_asked_for_only_where_a_line_is_written(make_trainer, monkeypatch):
    """Asking for it waits for a GPU."""
    trainer, asked = make_trainer("LOG.PERIOD", "4", "SOLVER.MAX_EPOCHS", "1"), []
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    real = scaler.get_scale
    monkeypatch.setattr(scaler, "get_scale", lambda: asked.append(trainer.step + 1) or real())
    trainer.train_step.precision.scaler = scaler
    trainer.train()
    assert set(asked) == {1, 4, 6}  # and where a checkpoint is saved, before the first step and after the last


def test_precision_is_resolved_or_refused(monkeypatch):
    cpu = torch.device("cpu")
    for native, resolved in ((True, "bf16"), (False, "off")):
        monkeypatch.setattr("engine.precision.has_native_bf16", lambda device, native=native: native)
        assert resolve_amp("auto", cpu) == resolved and resolve_amp("off", cpu) == "off"
        assert resolve_amp("auto", cpu, "slow") == resolve_amp("auto", cpu, "broken") == "off"
        if native:
            assert resolve_amp("bf16", cpu, "slow") == "bf16"
            with pytest.raises(UserError, match="torch's bf16 gradients on a CPU are incorrect"):
                resolve_amp("bf16", cpu, "broken")
    with pytest.raises(UserError, match="this cpu device does not compute bf16 natively"):
        resolve_amp("bf16", cpu)
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        resolve_amp("fp16", cpu)


@pytest.mark.parametrize("name", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=f"MODEL.DEVICE '{name}': not available here"):
        resolve_device(name)


def test_bf16_trains_and_evaluation_is_in_float32(make_trainer):
    trainer = make_trainer("SOLVER.MAX_EPOCHS", "1")
    trainer.train_step.precision = Precision("bf16", torch.device("cpu"))
    trainer.train()
    assert trainer.result.outputs.dtype == torch.bfloat16
    seen = []
    trainer.task.model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.dtype))
    evaluate(trainer.task, "train", trainer.train_loader, {})
    assert set(seen) == {torch.float32}


def test_signals_wait_for_a_safe_place():
    with InterruptHandler() as handler, pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    with InterruptHandler() as handler, pytest.raises(Interrupted), handler.deferred():
        handler.poll()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted) as caught:
            handler.poll()
        assert caught.value.signum == signal.SIGINT
        with pytest.raises(StopNow):
            signal.raise_signal(signal.SIGINT)
    with InterruptHandler() as handler, pytest.raises(Interrupted), handler.deferred():
        signal.raise_signal(signal.SIGINT)  # after the last `poll` of a training


def test_a_second_signal_saves_nothing(make_trainer, tmp_path):
    class Impatient(Hook):
        def after_step(self, trainer):
            if trainer.step == 3:
                raise StopNow(2)

    trainer = make_trainer()
    trainer.hooks.append(Impatient())
    with pytest.raises(StopNow):
        trainer.train()
    assert load_checkpoint(tmp_path / "run/weights/last.pth").step == 0


def test_training_twice_does_nothing_more(make_trainer):
    trainer = make_trainer("SOLVER.MAX_EPOCHS", "1")
    trainer.train()
    weights = {name: tensor.clone() for name, tensor in trainer.task.model.state_dict().items()}
    trainer.train()
    assert trainer.step == 5 and all(torch.equal(weights[k], v) for k, v in trainer.task.model.state_dict().items())


def test_hooks_are_closed_when_a_later_one_fails_to_open(make_trainer):
    class Refuses(Spy):
        def before_train(self, trainer):
            raise ZeroDivisionError

    trainer, opened, never = make_trainer(), Spy(), Spy()
    trainer.hooks = [opened, Refuses(), never]
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert [name for name, _ in opened.calls] == ["before_train", "on_failure", "after_train"] and never.calls == []


def test_two_hooks_of_a_kind_have_states_of_their_own(make_trainer, tmp_path):
    class Remembers(Hook):
        def __init__(self, value=None):
            self.value = value

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    trainer = make_trainer("SOLVER.MAX_EPOCHS", "1")
    trainer.hooks[:0] = [Remembers("a"), Remembers("b")]
    trainer.train()
    again = make_trainer("SOLVER.MAX_EPOCHS", "2", run="other")
    again.hooks[:0] = [Remembers(), Remembers()]
    again.load_state_dict(load_checkpoint(tmp_path / "run/weights/last.pth").state)
    assert [hook.value for hook in again.hooks[:2]] == ["a", "b"]


def test_a_hook_gets_what_its_constructor_names(make_trainer, tmp_path):
    @HOOKS.register("Curious")
    class Curious(Hook):
        def __init__(self, classes, run, config, extra: int = 0):
            self.got = classes, run.path, config["SOLVER"]["MAX_EPOCHS"], extra

    trainer = make_trainer("HOOKS", "[{Curious: {extra: 3}}]")
    (hook,) = [hook for hook in trainer.hooks if isinstance(hook, Curious)]
    assert hook.got == (["left", "middle", "right"], tmp_path / "run", 3, 3)
    with pytest.raises(UserError, match="HOOKS.run: set automatically; remove it"):
        make_trainer("HOOKS", "[{Curious: {run: x}}]")


def test_a_loss_that_is_not_a_scalar_is_named(make_trainer):
    trainer = make_trainer()
    trainer.task.criterion.register_forward_hook(lambda module, inputs, loss: loss * torch.ones(3))
    with pytest.raises(UserError, match=r"LOSS.NAME: CrossEntropy returned \[3\], expected a scalar"):
        trainer.train()
