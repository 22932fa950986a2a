"""The statistics of batch norm that a validation uses."""

import pytest
import torch

from engine.checkpoint import load_checkpoint
from engine.hooks.base import Hook
from engine.hooks.batch_norm import PreciseBatchNorm
from utils.errors import Interrupted, UserError


class Expected(Hook):
    """The statistics over the last full batches of each epoch in double precision."""

    def __init__(self, batches: int, size: int):
        self.batches, self.size, self.means, self.variances = batches, size, [], []

    def before_evaluate(self, trainer):
        model = trainer.task.model if trainer.train_step.ema is None else trainer.train_step.ema.module
        full = [b for b in trainer.train_loader.batches(trainer.epoch) if len(b) == self.size][-self.batches :]
        with torch.no_grad():
            maps = [model.conv(trainer.task.normalize(batch.images)).double() for batch in full]
        maps = [m.transpose(0, 1).flatten(1) for m in maps]  # (channels, pixels)
        self.means.append(torch.stack([m.mean(1) for m in maps]).mean(0))
        self.variances.append(torch.stack([m.var(1) for m in maps]).mean(0))


@pytest.mark.parametrize(
    ("images", "size", "batches", "keys"),
    [
        (512, 8, 4, []),  # 36 training images: four full batches, and one of 4
        (16, 8, 2, []),
        (5, 8, 1, []),
        (512, 50, 1, []),  # no full batch
        (24, 8, 3, ["SOLVER.EMA", "0.9"]),
    ],
)
def test_the_statistics_are_those_of_the_weights_that_are_validated(make_trainer, images, size, batches, keys):
    hooks = f"[{{PreciseBatchNorm: {{images: {images}}}}}]"
    trainer = make_trainer("HOOKS", hooks, "SOLVER.BATCH_SIZE", str(size), "SOLVER.BASE_LR", "0.1", *keys)
    expected = Expected(batches, min(size, 36))
    seen = []

    class Look(Hook):
        def evaluate(self, trainer):
            ema = trainer.train_step.ema
            norm = (trainer.task.model if ema is None else ema.module).bn
            assert norm.momentum == 0.1
            seen.append((norm.running_mean.double(), norm.running_var.double()))

    trainer.hooks += [expected, Look()]
    trainer.train()
    for (mean, variance), wanted_mean, wanted_variance in zip(seen, expected.means, expected.variances, strict=True):
        assert torch.allclose(mean, wanted_mean, atol=1e-6) and torch.allclose(variance, wanted_variance, rtol=1e-5)


def test_training_does_not_depend_on_them(make_trainer):
    """The network has dropout, which must not be drawn more often."""
    weights, statistics = [], []
    for images in (0, 16):
        trainer = make_trainer("HOOKS", f"[{{PreciseBatchNorm: {{images: {images}}}}}]", run=f"run{images}")
        trainer.train()
        weights.append([p.clone() for p in trainer.task.model.parameters()])
        statistics.append(trainer.task.model.bn.running_mean.clone())
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    assert not torch.equal(*statistics)


def test_a_network_without_batch_norm_reads_nothing(make_trainer, monkeypatch):
    trainer = make_trainer("MODEL.NAME", "torchvision/alexnet", "INPUT.SIZE", "[64,64]")
    monkeypatch.setattr(trainer.train_loader, "batches", lambda *_: pytest.fail("read"), raising=False)
    PreciseBatchNorm().before_evaluate(trainer)


def test_a_negative_number_of_images(make_trainer):
    with pytest.raises(UserError, match="HOOKS.*images: found -1, expected 1 or more"):
        make_trainer("HOOKS", "[{PreciseBatchNorm: {images: -1}}]")


def test_a_stop_in_between_leaves_the_running_averages(make_trainer, tmp_path):
    """The checkpoint that is saved then may be the only one to predict with."""
    polls = []

    def stop_in_the_statistics():
        polls.append(0)
        if len(polls) == 7:  # after five steps, and within the statistics
            raise Interrupted(15)

    trainer, seen = make_trainer(poll=stop_in_the_statistics), []

    class Look(Hook):
        def before_evaluate(self, trainer):
            seen.append(trainer.task.model.bn.running_mean.clone())

    trainer.hooks.insert(0, Look())
    with pytest.raises(Interrupted):
        trainer.train()
    assert torch.equal(load_checkpoint(tmp_path / "run/weights/last.pth").state["model"]["bn.running_mean"], seen[0])


@pytest.mark.parametrize(
    "ratio", ["0.2", "0.1"]
)  # 36 and 40 training images in batches of 8: with a smaller one, and not
def test_the_buffers_of_an_epoch_are_kept(make_trainer, ratio):
    trainer = make_trainer("DATASETS.VAL_RATIO", ratio, "DATALOADER.RESIDENT_MIB", "0", "SOLVER.MAX_EPOCHS", "2")
    kept = []
    run = trainer.train_loader.executor.run

    def watched(*args):
        kept.append(len(trainer.train_loader.executor._buffers))
        return run(*args)

    trainer.train_loader.executor.run = watched
    trainer.train()
    assert len(kept) == 4 and kept[0] == 0 and all(kept[1:])  # of training and of the statistics, in turn
