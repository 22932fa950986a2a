"""What can be done in a step beside the update: parts, clipping, averages, a lower rate; each against an oracle."""

import copy

import pytest
import torch
from torch import nn

from engine.build_inference import build_trained_task, prepare_checkpoint
from engine.checkpoint import load_checkpoint
from engine.ema import ModelEma
from engine.hooks.evaluation import Evaluation
from engine.hooks.no_improvement import ReduceLROnPlateau
from engine.inference import FlipAverage
from engine.precision import set_arithmetic
from utils.contracts import Batch
from utils.errors import UserError

PLAIN = ("SOLVER.OPTIMIZER.NAME", "SGD", "SOLVER.WEIGHT_DECAY", "0", "MODEL.dropout", "0", "SOLVER.SCHEDULER.NAME")
PLAIN = (*PLAIN, "constant", "SOLVER.AMP", "off")


def in_double(trainer):
    """Without batch norm, whose statistics depend on the parts, and in float64."""
    trainer.task.model.bn = nn.Identity()
    trainer.task.model.double()
    trainer.task.normalize.register_forward_hook(lambda module, inputs, pixels: pixels.double())
    return trainer


@pytest.mark.parametrize("parts", [2, 3, 4, 8])
@pytest.mark.parametrize("size", [8, 7, 3, 2])
def test_parts_are_one_batch(make_trainer, parts, size):
    whole = in_double(make_trainer(*PLAIN, run="whole"))
    batch = next(whole.train_loader.batches(0))
    batch = Batch(batch.images[:size], batch.targets[:size], batch.indices[:size], torch.rand(size))
    in_parts = in_double(make_trainer(*PLAIN, "SOLVER.MICRO_BATCHES", str(parts), run="parts"))
    in_parts.task.model.load_state_dict(whole.task.model.state_dict())
    for trainer in (whole, in_parts):
        trainer.run_step(batch)
        assert (trainer.step, len(trainer.result.outputs)) == (1, size)
    assert in_parts.result.loss.item() == pytest.approx(whole.result.loss.item(), abs=1e-7)  # losses are float32
    for a, b in zip(whole.task.model.parameters(), in_parts.task.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_a_batch_is_split_into_parts_of_two_and_more():
    for size in range(1, 12):
        batch = Batch(torch.zeros(size, 1, 2, 2), torch.arange(size), torch.arange(size))
        for parts in range(1, 14):
            split = batch.split(parts)
            assert torch.cat([part.indices for part in split]).tolist() == list(range(size))
            sizes = [len(part) for part in split]
            assert max(sizes) - min(sizes) <= 1 and len(split) <= parts and (min(sizes) >= 2 or size < 2)


def gradients_of_a_step(trainer, batch) -> list[torch.Tensor]:
    """What the optimizer got: with SGD of rate 1 the change of the weights."""
    before = [p.detach().clone() for p in trainer.task.model.parameters()]
    trainer.run_step(batch)
    return [a - b.detach() for a, b in zip(before, trainer.task.model.parameters(), strict=True)]


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_gradients_are_clipped_after_they_are_unscaled(make_trainer, scale):
    keys = (*PLAIN, "SOLVER.BASE_LR", "1", "SOLVER.OPTIMIZER.NAME", "SGD")
    free = make_trainer(*keys, run="free")
    batch = next(free.train_loader.batches(0))
    wanted = gradients_of_a_step(free, batch)
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in wanted]).double())
    for key, limit in (("SOLVER.CLIP.NORM", norm.item() / 3), ("SOLVER.CLIP.VALUE", 0.01)):
        clipped = make_trainer(*keys, key, str(limit), run=key)
        if scale > 1:
            clipped.train_step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        found = gradients_of_a_step(clipped, batch)
        for a, b in zip(found, wanted, strict=True):
            expected = b / 3 if key.endswith("NORM") else b.clamp(-0.01, 0.01)
            torch.testing.assert_close(a, expected, rtol=1e-3, atol=1e-6)


def test_the_average_is_the_formula():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    ema = ModelEma(model, 0.7)
    expected = None
    for step in range(1, 9):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape, dtype=torch.float64) * 9)
        decay = min(0.7, (1 + step) / (10 + step))
        now = copy.deepcopy(model.state_dict())
        if expected is None:
            expected = now
        else:
            for name, value in now.items():
                old = expected[name]
                expected[name] = decay * old + (1 - decay) * value if value.is_floating_point() else value
        ema.update(model, step)
        for name, value in ema.module.state_dict().items():
            torch.testing.assert_close(value, expected[name])


def test_the_average_is_evaluated_saved_and_predicted_with(make_trainer, tmp_path):
    trainer = make_trainer("SOLVER.EMA", "0.99", "SOLVER.MAX_EPOCHS", "2")
    trainer.train()
    path = tmp_path / "run/weights/last.pth"
    checkpoint = load_checkpoint(path)
    state = checkpoint.state
    assert not torch.equal(state["model"]["fc.weight"], state["ema"]["fc.weight"])
    task = build_trained_task(*prepare_checkpoint(checkpoint), torch.device("cpu"))
    assert torch.equal(task.model.fc.weight, state["ema"]["fc.weight"])
    (evaluation,) = [hook for hook in trainer.hooks if isinstance(hook, Evaluation)]
    assert torch.equal(evaluation.task.model.fc.weight, state["ema"]["fc.weight"])
    assert torch.equal(trainer.task.model.fc.weight, state["model"]["fc.weight"])


def test_flips_are_averaged():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images = torch.rand(5, 1, 3, 4)
    torch.testing.assert_close(FlipAverage(model)(images), (model(images) + model(images.flip(3))) / 2)
    dense = nn.Conv2d(1, 2, 3, padding=1)
    torch.testing.assert_close(FlipAverage(dense)(images), (dense(images) + dense(images.flip(3)).flip(3)) / 2)


@pytest.mark.parametrize(("patience", "min_lr"), [(0, 0.0), (2, 0.0), (1, 0.02)])
def test_a_plateau_is_torchs(make_trainer, patience, min_lr):
    keys = (*PLAIN, "HOOKS", f"[{{ReduceLROnPlateau: {{factor: 0.5, patience: {patience}, min_lr: {min_lr}}}}}]")
    trainer = make_trainer(*keys)
    hook = next(hook for hook in trainer.hooks if isinstance(hook, ReduceLROnPlateau))
    oracle = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        oracle, "max", factor=0.5, patience=patience, threshold=0, min_lr=min_lr
    )
    best = None
    for value in (0.1, 0.2, 0.2, 0.1, 0.3, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2, 0.1, 0.1, 0.4, 0.1, 0.1):
        is_best = best is None or value > best
        trainer.progress.epochs_since_best = 0 if is_best else trainer.progress.epochs_since_best + 1
        best = value if is_best else best
        hook.after_epoch(trainer)
        theirs.step(value)
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(oracle.param_groups[0]["lr"])
        trainer.schedule.set_step(trainer.schedule.step + 1)  # the rate stays lower
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(oracle.param_groups[0]["lr"])


@pytest.mark.parametrize("hook", ["EarlyStopping", "ReduceLROnPlateau"])
def test_what_watches_validation_needs_it(make_trainer, hook):
    with pytest.raises(UserError, match=f"HOOKS: {hook} needs a validation set: set DATASETS.VAL_RATIO above 0"):
        make_trainer("HOOKS", f"[{hook}]", "DATASETS.VAL_RATIO", "0")


def test_switches_are_set_and_set_back():
    try:
        set_arithmetic(tf32=True, deterministic=True)
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        set_arithmetic(tf32=False, deterministic=False)
    assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    assert not torch.are_deterministic_algorithms_enabled()


def test_mixing_ends_where_it_is_told(make_trainer):
    trainer = make_trainer("INPUT.BATCH_TRANSFORMS", "[MixUp]", "INPUT.MIXUP_OFF_EPOCH", "1")
    batch = next(trainer.train_loader.batches(0))
    trainer.run_step(batch)
    assert trainer.result.targets.is_floating_point()
    trainer.progress.epoch = 1
    trainer.run_step(batch)
    assert torch.equal(trainer.result.targets, batch.targets)
