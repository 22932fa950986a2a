"""Schedules against torch's own classes, step by step; optimizers by name."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as theirs

from config import load_config
from solver.build import build_optimizer, build_schedule
from utils.errors import UserError

EPOCHS, STEPS, LR = 10, 7, 0.02  # epochs, steps in an epoch, base learning rate
TOTAL = EPOCHS * STEPS

# Name -> (its arguments, torch's class with the same).
ORACLES = {
    "constant": ({}, lambda o: theirs.ConstantLR(o, factor=1.0)),
    "step": ({"step_size": "3", "gamma": "0.5"}, lambda o: theirs.StepLR(o, 3 * STEPS, 0.5)),
    "multi_step": (
        {"milestones": "[2, 4.5]", "gamma": "0.3"},
        lambda o: theirs.MultiStepLR(o, [2 * STEPS, round(4.5 * STEPS)], 0.3),
    ),
    "cosine": ({"min_factor": "0.01"}, lambda o: theirs.CosineAnnealingLR(o, TOTAL, eta_min=LR * 0.01)),
    "polynomial": ({"power": "2"}, lambda o: theirs.PolynomialLR(o, TOTAL, 2.0)),
    "one_cycle": (
        {"pct_start": "0.2", "div_factor": "10", "final_div_factor": "100"},
        lambda o: theirs.OneCycleLR(
            o, LR, TOTAL, pct_start=0.2, div_factor=10, final_div_factor=100, cycle_momentum=False
        ),
    ),
}


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(network().parameters(), lr=LR)


def experiment(name: str, arguments: dict[str, str], *overrides: str):
    pairs = [word for key, value in arguments.items() for word in (f"SOLVER.SCHEDULER.{key}", value)]
    fixed = f"SOLVER.MAX_EPOCHS {EPOCHS} SOLVER.BASE_LR {LR} SOLVER.SCHEDULER.NAME {name}".split()
    return load_config(None, [*fixed, *pairs, *overrides])


def our_curve(cfg, steps: int = TOTAL) -> list[float]:
    optimizer = sgd()
    schedule = build_schedule(cfg, optimizer, STEPS)
    lrs = []
    for step in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        schedule.set_step(step + 1)
    return lrs


def torch_curve(make, steps: int = TOTAL) -> list[float]:
    optimizer = sgd()
    schedule = make(optimizer)
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return lrs


@pytest.mark.parametrize("name", ORACLES)
def test_schedule_equals_torchs(name):
    arguments, make = ORACLES[name]
    found, expected = our_curve(experiment(name, arguments)), torch_curve(make)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert len(set(expected)) > 1 or name == "constant"


def test_warmup_equals_torchs():
    warmup = 2 * STEPS

    def make(optimizer):
        up = theirs.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        down = theirs.CosineAnnealingLR(optimizer, TOTAL - warmup)
        return theirs.SequentialLR(optimizer, [up, down], [warmup])

    found = our_curve(experiment("cosine", {}, "SOLVER.SCHEDULER.WARMUP_EPOCHS", "2"))
    assert found == pytest.approx(torch_curve(make), rel=1e-9)
    half = our_curve(experiment("constant", {}, "SOLVER.SCHEDULER.WARMUP_EPOCHS", "0.5"))
    assert half[:5] == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, LR, LR])


def test_the_learning_rate_is_a_function_of_the_step():
    cfg = experiment("one_cycle", {})
    whole = our_curve(cfg)
    for step in (0, 1, 30, TOTAL - 1):
        optimizer = sgd()
        build_schedule(cfg, optimizer, STEPS).set_step(step)
        assert optimizer.param_groups[0]["lr"] == whole[step]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cosin", {}, "SOLVER.SCHEDULER.NAME 'cosin': no such schedule; did you mean 'cosine'"),
        ("step", {}, "SOLVER.SCHEDULER: step_decay: missing a required argument: 'step_size'"),
        ("step", {"step_size": "-1"}, r"SOLVER.SCHEDULER.step_size: found -1, expected a length in epochs above 0"),
        (
            "step",
            {"stepsize": "1"},
            "SOLVER.SCHEDULER.stepsize: step_decay takes no such argument; did you mean 'step_size'",
        ),
        ("multi_step", {"milestones": "5"}, "SOLVER.SCHEDULER: multi_step: 'int' object is not iterable"),
        ("step", {"step_size": "1", "gamma": "low"}, "SOLVER.SCHEDULER: step_decay: unsupported operand"),
        ("one_cycle", {"div_factor": "0"}, "SOLVER.SCHEDULER: one_cycle: .*division"),
        ("cosine", {"total_steps": "1"}, "SOLVER.SCHEDULER.total_steps: this argument is set by the program"),
    ],
)
def test_mistakes_in_the_schedule(name, arguments, message):
    with pytest.raises(UserError, match=message):
        build_schedule(experiment(name, arguments), sgd(), STEPS)


@pytest.mark.parametrize(("name", "arguments"), [("SGD", {}), ("AdamW", {"betas": "[0.8, 0.9]"}), ("RMSprop", {})])
def test_optimizers_of_torch_by_name(name, arguments):
    pairs = [word for key, value in arguments.items() for word in (f"SOLVER.OPTIMIZER.{key}", value)]
    optimizer = build_optimizer(load_config(None, ["SOLVER.OPTIMIZER.NAME", name, *pairs]), network())
    assert type(optimizer) is getattr(torch.optim, name)
    if arguments:
        assert optimizer.defaults["betas"] == (0.8, 0.9)


def test_norms_and_biases_do_not_decay():
    model = network()
    model[0].weight.requires_grad = False
    optimizer = build_optimizer(load_config(None, ["SOLVER.WEIGHT_DECAY", "0.1"]), model)
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: decayed.get(id(p)) for name, p in model.named_parameters()}
    assert names == {"0.weight": None, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "3.weight": 0.1, "3.bias": 0.0}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.OPTIMIZER.NAME", "AdamV"], "SOLVER.OPTIMIZER.NAME 'AdamV': no such optimizer.*did you mean 'Adam"),
        (["SOLVER.OPTIMIZER.NAME", "LBFGS"], "LBFGS cannot serve here: it needs"),
        (["SOLVER.OPTIMIZER.NAME", "Rprop"], "Rprop cannot serve here: it needs the gradient"),
        (["SOLVER.OPTIMIZER.beta", "1"], "SOLVER.OPTIMIZER.beta: SGD takes no such argument"),
        (["SOLVER.OPTIMIZER.momentum", "-1"], "SOLVER.OPTIMIZER: SGD: Invalid momentum"),
        (["SOLVER.OPTIMIZER.momentum", "high"], "SOLVER.OPTIMIZER: SGD: "),
    ],
)
def test_mistakes_in_the_optimizer(overrides, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(load_config(None, overrides), network())
