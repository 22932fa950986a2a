"""The loop, the step, and the hooks."""

import json
import math
import signal

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from engine.build_inference import build_metrics, resolve_device
from engine.checkpoint import load_checkpoint
from engine.hooks import checkpoints
from engine.hooks.base import Hook
from engine.hooks.early_stopping import EarlyStopping
from engine.hooks.evaluation import Evaluation
from engine.inference import Averages, Metrics, Predictor
from engine.interrupt import InterruptHandler, StopNow
from engine.precision import Precision, resolve_amp
from engine.registry import METRICS
from modeling.losses import CrossEntropy
from utils.errors import Interrupted, UserError
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
        assert all(p.grad is not None for p in trainer.parameters_with_gradients())
        self.calls.append(("after_backward", trainer.step))

    def after_step(self, trainer):
        assert math.isfinite(trainer.loss.item()) and trainer.logits.shape == (len(trainer.batch), 3)
        self.calls.append(("after_step", trainer.step))

    def evaluate(self, trainer):
        assert trainer.is_epoch_consumed
        self.calls.append(("evaluate", trainer.epoch))

    def after_epoch(self, trainer):
        assert trainer.position == 0
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


def test_the_bar_shows_how_it_goes(make_trainer, capsys):
    make_trainer(show_bar=True).train()
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
    model = type(trainer.model)(3, 1, 0.0).double()
    model.load_state_dict(trainer.model.state_dict())
    loss = torch.nn.functional.cross_entropy(model(trainer.normalize(batch.images).double()), batch.targets)
    loss.backward()
    expected = [(p - 0.1 * p.grad).detach() for p in model.parameters()]
    trainer.run_step(batch)
    assert trainer.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for found, wanted in zip(trainer.model.parameters(), expected, strict=True):
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
        averages = Averages(CrossEntropy(), Metrics({name: METRICS.get(name, "") for name in ("top1", "top5")}, {}))
        for start in range(0, 101, size):
            part = slice(start, start + size)
            batch = type(
                "Batch", (), {"targets": targets[part], "weights": None, "__len__": lambda self: len(self.targets)}
            )()
            averages.add(batch, logits[part])
        assert averages.count == 101
        assert averages.result() == pytest.approx(expected, rel=1e-6)


def test_an_unknown_metric_is_named(toy_cfg):
    with pytest.raises(UserError, match="TEST.METRICS 'top2': no such metric; did you mean 'top[15]' or 'top[15]'"):
        build_metrics(toy_cfg("TEST.METRICS", "[top1, top2]"))


def fake_epochs(hooks: list[Hook], values: list[float], losses: list[float] | None = None) -> list[bool]:
    """Play epochs with these values of the metric, and of the loss; which ones were the best so far."""
    trainer = type(
        "T",
        (),
        {
            "epochs_since_best": 0,
            "best": None,
            "stop_reason": "",
            "stop": lambda self, r: setattr(self, "stop_reason", r),
        },
    )()
    best = []
    for value, loss in zip(values, losses or [1.0] * len(values), strict=True):
        trainer.metrics = {"m": value, "loss": loss}
        for hook in hooks:
            hook.after_epoch(trainer)
        best.append(trainer.epochs_since_best == 0)
        if trainer.stop_reason:
            break
    return best


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.1, 0.3, 0.2, 0.3, 0.4], [True, True, False, False, True]),
        ("min", [3.0, 4.0, 2.0], [True, False, True]),
        ("max", [math.nan, 0.1, math.inf, 0.2], [False, True, False, True]),
    ],
)
def test_best(mode, values, best):
    assert fake_epochs([Evaluation(None, None, {}, "m", mode)], values) == best


def test_an_epoch_whose_loss_is_no_number_is_not_the_best():
    """Of outputs that are no numbers argmax takes the first, which may be right."""
    evaluation = Evaluation(None, None, {}, "m", "max")
    assert fake_epochs([evaluation], [0.2, 0.9, 0.3], [1.0, math.nan, 1.0]) == [True, False, True]


def test_early_stopping_counts_epochs_in_a_row():
    evaluation = Evaluation(None, None, {}, "m", "max")
    assert len(fake_epochs([evaluation, EarlyStopping(2)], [1, 0, 2, 1, 1, 5])) == 5


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("[EarlyStoping]", "HOOKS 'EarlyStoping': no such hook; did you mean 'EarlyStopping'"),
        ("[EarlyStopping, EarlyStopping]", "EarlyStopping is listed twice"),
        ("[{EarlyStopping: {patience: 0}}]", "HOOKS: EarlyStopping: patience: found 0"),
    ],
)
def test_mistakes_in_hooks(make_trainer, entry, message):
    with pytest.raises(UserError, match=message):
        make_trainer("HOOKS", entry)


def test_checkpoints_that_are_kept(make_trainer, tmp_path):
    make_trainer("CHECKPOINT.KEEP_EVERY", "2", "SOLVER.MAX_EPOCHS", "5").train()
    weights = RunFolder(tmp_path / "run").weights
    names = sorted(path.name for path in weights.iterdir())
    assert [name for name in names if name.startswith("epoch_")] == [
        f"epoch_{n:03d}_{load_metric(tmp_path / 'run', n):.4f}.pth" for n in (2, 4)
    ]
    assert {"last.pth", "best.pth", "previous.pth"} <= set(names) and len(names) == 5
    assert load_checkpoint(weights / "previous.pth")["counters"]["epoch"] == 4


def load_metric(run, epoch: int) -> float:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return next(line["val_top1"] for line in lines if line["kind"] == "epoch" and line["epoch"] == epoch)


def test_saving_within_an_epoch(make_trainer, tmp_path):
    steps = []

    class Look(Hook):
        def after_step(self, trainer):
            steps.append(load_checkpoint(tmp_path / "run/weights/last.pth")["counters"]["step"])

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
        assert load_checkpoint(path)["counters"]["step"] == 0
    assert not run.best.exists()
    assert not (run.weights / "crash.pth").exists()


def test_weights_that_are_not_finite_are_not_saved(make_trainer, tmp_path):
    class Poison(Hook):
        def after_step(self, trainer):
            if trainer.step == 7:
                trainer.model.fc.weight.data[0] = math.nan

    trainer = make_trainer("CHECKPOINT.EVERY_STEPS", "1", "LOG.PERIOD", "1000")
    trainer.hooks.insert(0, Poison())
    with pytest.raises(UserError, match=r"the weights are no longer finite \(fc.weight\) at epoch 1.44, step 7"):
        trainer.train()
    assert load_checkpoint(tmp_path / "run/weights/last.pth")["counters"]["step"] == 6


def test_an_error_within_a_step_leaves_the_exact_file_alone(make_trainer, tmp_path, caplog):
    class Fail(Hook):
        def after_step(self, trainer):
            if trainer.step == 8:
                raise ZeroDivisionError

    trainer = make_trainer()
    trainer.hooks.append(Fail())
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    run = RunFolder(tmp_path / "run")
    assert load_checkpoint(run.last)["counters"]["step"] == 5
    assert load_checkpoint(run.weights / "crash.pth")["exact"] is False


def test_a_full_disk_in_the_middle_is_a_warning_and_at_the_end_an_error(make_trainer, monkeypatch, tmp_path, caplog):
    real, fail_at = checkpoints.save_checkpoint, {1}

    def save(path, state):
        if state["counters"]["epoch"] in fail_at:
            raise OSError(28, "No space left on device")
        real(path, state)

    monkeypatch.setattr(checkpoints, "save_checkpoint", save)
    make_trainer("SOLVER.MAX_EPOCHS", "2", run="a").train()
    assert load_checkpoint(tmp_path / "a/weights/last.pth")["counters"]["epoch"] == 2
    values = [load_metric(tmp_path / "a", epoch) for epoch in (1, 2)]
    assert load_checkpoint(tmp_path / "a/weights/best.pth")["counters"]["best"] == values[1]  # the best that was saved
    fail_at.add(2)
    with pytest.raises(UserError, match=r"last.pth: cannot save: .*No space left on device; make room"):
        make_trainer("SOLVER.MAX_EPOCHS", "2", run="b").train()
    assert load_checkpoint(tmp_path / "b/weights/last.pth")["counters"]["step"] == 0


def test_half_precision_skips_steps_that_overflow(make_trainer):
    """The scaler is torch's; an update that it leaves out does not count as a step."""
    trainer = make_trainer()
    trainer.precision = Precision("off", torch.device("cpu"))
    trainer.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=1000)
    batches = list(trainer.train_loader.batches(0))
    before = [p.clone() for p in trainer.model.parameters()]

    def overflowing(batch):
        loss, logits = type(trainer).forward(trainer, batch)
        return loss * 1e30, logits

    trainer.forward = overflowing
    trainer.run_step(batches[0])
    assert (trainer.step, trainer.position) == (0, 8)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    del trainer.forward
    trainer.run_step(batches[1])
    assert (trainer.step, trainer.position) == (1, 16)
    assert trainer.precision.scaler.get_scale() == 2.0**119


def test_precision_is_resolved_or_refused(monkeypatch):
    cpu = torch.device("cpu")
    for native, resolved in ((True, "bf16"), (False, "off")):
        monkeypatch.setattr("engine.precision._native_bf16", lambda device, native=native: native)
        assert resolve_amp("auto", cpu) == resolved and resolve_amp("off", cpu) == "off"
        assert resolve_amp("auto", cpu, "slow") == resolve_amp("auto", cpu, "wrong") == "off"
        if native:
            assert resolve_amp("bf16", cpu, "slow") == "bf16"
            with pytest.raises(UserError, match="torch's bf16 gradients are wrong for images this narrow"):
                resolve_amp("bf16", cpu, "wrong")
    with pytest.raises(UserError, match="this cpu device does not compute bf16 natively"):
        resolve_amp("bf16", cpu)
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        resolve_amp("fp16", cpu)


@pytest.mark.parametrize("name", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=f"MODEL.DEVICE '{name}': there is no such device here"):
        resolve_device(name)


def test_bf16_trains_and_evaluation_is_in_float32(make_trainer):
    trainer = make_trainer("SOLVER.MAX_EPOCHS", "1")
    trainer.precision = Precision("bf16", torch.device("cpu"))
    trainer.train()
    assert trainer.logits.dtype == torch.bfloat16
    predictor = Predictor(trainer.model, trainer.normalize, trainer.device)
    ((_, outputs),) = predictor.predict(iter([trainer.batch]))
    assert outputs.dtype == torch.float32


def test_signals_wait_for_a_safe_place():
    with InterruptHandler() as handler, pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    with InterruptHandler() as handler, handler.deferred():
        handler.poll()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted) as caught:
            handler.poll()
        assert caught.value.signum == signal.SIGINT
        with pytest.raises(StopNow):
            signal.raise_signal(signal.SIGINT)


def test_a_second_signal_saves_nothing(make_trainer, tmp_path):
    class Impatient(Hook):
        def after_step(self, trainer):
            if trainer.step == 3:
                raise StopNow(2)

    trainer = make_trainer()
    trainer.hooks.append(Impatient())
    with pytest.raises(StopNow):
        trainer.train()
    assert load_checkpoint(tmp_path / "run/weights/last.pth")["counters"]["step"] == 0
