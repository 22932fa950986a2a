"""Training a part of a network, or parts at their own pace."""

import pytest
import torch
from torch import nn

from engine.hooks.base import Hook
from engine.hooks.freezing import freeze
from solver.groups import learning_rates, parameter_groups
from utils.errors import UserError


class Snapshots(Hook):
    """The whole state of the model after each epoch."""

    def __init__(self):
        self.states = []

    def before_epoch(self, trainer):
        if not self.states:
            self.after_epoch(trainer)

    def after_epoch(self, trainer):
        self.states.append({name: tensor.clone() for name, tensor in trainer.task.model.state_dict().items()})


def changed(one: dict, other: dict) -> set[str]:
    return {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}


def test_the_head_alone_then_everything(make_trainer):
    words = "SOLVER.FREEZE_EPOCHS 2 SOLVER.MAX_EPOCHS 3 SOLVER.OPTIMIZER.momentum 0.9".split()
    trainer, snapshots = make_trainer(*words), Snapshots()
    trainer.hooks.append(snapshots)
    states = []

    class Look(Hook):
        def after_step(self, trainer):
            states.append(len(trainer.optimizer.state))

    trainer.hooks.append(Look())
    trainer.train()
    zero, one, two, three = snapshots.states
    assert changed(zero, one) == changed(one, two) == {"fc"}  # batch norm's statistics too stayed
    assert changed(two, three) == {"conv", "bn", "fc"}
    assert states == [2] * 10 + [6] * 5  # no state of parameters that were never trained


def test_frozen_for_good(make_trainer):
    trainer, snapshots = make_trainer("SOLVER.FREEZE", "[conv.*, bn.*]", "SOLVER.MAX_EPOCHS", "1"), Snapshots()
    trainer.hooks.append(snapshots)
    trainer.train()
    assert changed(*snapshots.states) == {"fc"}
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == 2


@pytest.mark.parametrize(
    ("patterns", "message"),
    [(["con.*"], "'con.\\*' matches no parameter; known: 0.\\*, 1.\\*"), (["*"], "every parameter is frozen")],
)
def test_mistakes_in_freezing(patterns, message):
    with pytest.raises(UserError, match=message):
        freeze(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(1, 1)), patterns)


def test_a_hidden_layer_of_the_head_belongs_to_the_head(make_trainer):
    head = ["MODEL.HEAD.HIDDEN", "5", "SOLVER.FREEZE_EPOCHS", "1", "SOLVER.MAX_EPOCHS", "1"]
    trainer, snapshots = make_trainer(*head), Snapshots()
    trainer.hooks.append(snapshots)
    trainer.train()
    before, after = snapshots.states
    new = {name for name in before if not torch.equal(before[name], after[name])}
    assert new == {"fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias"}


def test_freezing_everything_is_refused(make_trainer):
    with pytest.raises(UserError, match="SOLVER.FREEZE freezes the head too, nothing is left to train"):
        make_trainer("SOLVER.FREEZE", "[fc.*]", "SOLVER.FREEZE_EPOCHS", "1")


def test_a_network_may_freeze_parts_of_itself(make_trainer):
    from modeling.registry import MODELS

    class HalfFrozen(MODELS.get("tiny", "")):
        def __init__(self, num_classes, in_channels):
            super().__init__(num_classes, in_channels)
            self.conv.requires_grad_(False)

    MODELS.register("half_frozen")(HalfFrozen)
    snapshots = Snapshots()
    for keys in ([], ["SOLVER.FREEZE_EPOCHS", "1"]):
        trainer, snapshots = make_trainer("MODEL.NAME", "half_frozen", *keys), Snapshots()
        trainer.hooks.append(snapshots)
        trainer.train()
        assert "conv" not in changed(snapshots.states[0], snapshots.states[-1])
        assert "bn" in changed(snapshots.states[0], snapshots.states[-1])


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)), nn.Linear(4, 2))


def test_learning_rates_of_head_and_layers():
    rates = learning_rates(network(), 1.0, "2", head_mult=10, layer_decay=0.5)
    assert rates == {
        "0.weight": 0.125,
        "0.bias": 0.125,
        "1.0.weight": 0.25,
        "1.0.bias": 0.25,
        "1.1.weight": 0.5,
        "1.1.bias": 0.5,
        "2.weight": 10.0,
        "2.bias": 10.0,
    }
    groups = parameter_groups(network(), rates, 0.1)
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (0.125, 0.1, 1),
        (0.125, 0.0, 1),
        (0.25, 0.0, 2),
        (0.5, 0.1, 1),
        (0.5, 0.0, 1),
        (10.0, 0.1, 1),
        (10.0, 0.0, 1),
    ]


def test_the_blocks_of_a_transformer_are_layers():
    import torchvision

    with torch.device("meta"):
        rates = learning_rates(torchvision.models.vit_b_16(), 1.0, layer_decay=0.5)
    blocks = [rates[f"encoder.layers.encoder_layer_{i}.mlp.0.weight"] for i in range(12)]
    assert blocks == [blocks[0] * 2**i for i in range(12)] and rates["heads.head.weight"] == 1.0


def test_the_logged_rate_is_the_base_rate(make_trainer):
    trainer = make_trainer("SOLVER.LAYER_DECAY", "0.5", "SOLVER.SCHEDULER.NAME", "constant", "SOLVER.MAX_EPOCHS", "1")
    trainer.train()
    assert trainer.result.lr == 0.1 and min(group["lr"] for group in trainer.optimizer.param_groups) < 0.1


def test_the_schedule_scales_every_group(make_trainer):
    trainer = make_trainer("SOLVER.HEAD_LR_MULT", "3", "SOLVER.SCHEDULER.NAME", "cosine")
    trainer.schedule.set_step(7)
    lrs = {group["lr"] for group in trainer.optimizer.param_groups}
    assert sorted(lrs) == pytest.approx([0.1 * trainer.schedule.factor(7), 0.3 * trainer.schedule.factor(7)])
