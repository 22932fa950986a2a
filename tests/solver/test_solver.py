"""Schedules against torch's own classes, step by step; optimizers by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler as theirs

from config import CfgNode, load_config
from config.defaults import default_config
from solver.build import build_optimizer, build_schedule, schedule_factor
from solver.groups import describe_groups
from solver.registry import SCHEDULES
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
    "linear": ({"end_factor": "0.1"}, lambda o: theirs.LinearLR(o, 1.0, 0.1, TOTAL)),
    # torch's own epoch is a step here.
    "exponential": ({"gamma": "0.7"}, lambda o: theirs.ExponentialLR(o, 0.7 ** (1 / STEPS))),
    "cosine_restarts": (
        {"period": "1.5", "factor": "2", "min_factor": "0.01"},
        lambda o: theirs.CosineAnnealingWarmRestarts(o, round(1.5 * STEPS), 2, eta_min=LR * 0.01),
    ),
    "warmup_stable_decay": (
        {"decay_share": "0.3", "shape": "linear"},
        lambda o: theirs.SequentialLR(
            o, [theirs.ConstantLR(o, 1.0), theirs.LinearLR(o, 1.0, 0.0, 3 * STEPS)], [7 * STEPS]
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
    assert found == pytest.approx(expected, rel=1e-12, abs=0)
    assert len(set(expected)) > 1 or name == "constant"


def test_warmup_equals_torchs():
    warmup = 2 * STEPS

    def make(optimizer):
        up = theirs.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        down = theirs.CosineAnnealingLR(optimizer, TOTAL - warmup)
        return theirs.SequentialLR(optimizer, [up, down], [warmup])

    found = our_curve(experiment("cosine", {}, "SOLVER.SCHEDULER.WARMUP_EPOCHS", "2"))
    assert found == pytest.approx(torch_curve(make), rel=1e-12)
    half = our_curve(experiment("constant", {}, "SOLVER.SCHEDULER.WARMUP_EPOCHS", "0.5"))
    assert half[:5] == pytest.approx([LR / 4, LR / 2, LR * 3 / 4, LR, LR])


def test_stable_then_one_minus_the_square_root():
    cfg = experiment("warmup_stable_decay", {}, "SOLVER.SCHEDULER.WARMUP_EPOCHS", "1")
    length = 9 * STEPS  # after the warm-up; its last fifth is the decay
    expected = [LR * (1 - max(step / length - 0.8, 0) ** 0.5 / 0.2**0.5) for step in range(length)]
    assert our_curve(cfg)[STEPS:] == pytest.approx(expected, rel=1e-12)


def test_restarts_longer_by_any_factor():
    curve = our_curve(experiment("cosine_restarts", {"period": "2", "factor": "1.5"}))
    assert [step for step, lr in enumerate(curve) if lr == LR] == [0, 14, 35]  # 14, 21 and 31.5 steps; the next at 66.5
    assert [step for step in range(1, TOTAL) if curve[step] > curve[step - 1]] == [14, 35, 67]


# Name -> its arguments as a strategy.
VALUES = {
    "constant": st.just({}),
    "step": st.fixed_dictionaries({"step_size": st.floats(0.1, 20), "gamma": st.floats(0, 1)}),
    "multi_step": st.fixed_dictionaries({"milestones": st.lists(st.floats(0.1, 20)), "gamma": st.floats(0, 1)}),
    "exponential": st.fixed_dictionaries({"gamma": st.floats(1e-9, 1), "epoch": st.floats(0.1, 20)}),
    "linear": st.fixed_dictionaries({"end_factor": st.floats(0, 1)}),
    "polynomial": st.fixed_dictionaries({"power": st.floats(0.01, 10)}),
    "cosine": st.fixed_dictionaries({"min_factor": st.floats(0, 1)}),
    "cosine_restarts": st.fixed_dictionaries(
        {"period": st.floats(0.01, 20), "factor": st.floats(1, 9), "min_factor": st.floats(0, 1)}
    ),
    "one_cycle": st.fixed_dictionaries({"pct_start": st.floats(0, 1), "div_factor": st.floats(1, 1e3)}),
    "warmup_stable_decay": st.fixed_dictionaries(
        {"decay_share": st.floats(1e-9, 1), "shape": st.sampled_from(["linear", "1-sqrt"])}
    ),
}


@settings(max_examples=60, derandomize=True)
@given(st.data(), st.sampled_from(sorted(VALUES)), st.integers(1, 40), st.integers(1, 9), st.floats(0, 0.99))
def test_any_schedule_stays_between_0_and_1(data, name, steps, epochs, warmup):
    """Of the learning rate, at every step and at the one after the last, whatever was asked for before."""
    cfg = default_config()
    cfg.SOLVER.SCHEDULER = CfgNode({"NAME": name, "WARMUP_EPOCHS": warmup, **data.draw(VALUES[name])})
    cfg.SOLVER.MAX_EPOCHS = epochs
    factor = schedule_factor(cfg, steps)
    curve = [factor(step) for step in range(epochs * steps + 1)]
    assert all(0 <= value <= 1 + 1e-12 for value in curve)
    again = schedule_factor(cfg, steps)
    assert [again(step) for step in reversed(range(epochs * steps + 1))] == curve[::-1]


def test_every_schedule_is_tested():
    assert set(SCHEDULES.names()) == set(VALUES) == set(ORACLES)


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
        (
            "cosine_restarts",
            {"period": "1", "factor": "0.5"},
            "cosine_restarts: factor: found 0.5, expected a number of",
        ),
        ("cosine_restarts", {"period": "0"}, "SOLVER.SCHEDULER.period: found 0, expected a length in epochs above 0"),
        ("exponential", {}, "SOLVER.SCHEDULER: exponential: missing a required argument: 'gamma'"),
        ("exponential", {"gamma": "-0.5"}, "exponential: gamma: found -0.5, expected a number above 0, at most 1"),
        ("linear", {"end_factor": "-1"}, "linear: end_factor: found -1, expected a number of at least 0"),
        ("polynomial", {"power": "0"}, "polynomial: power: found 0, expected a number above 0"),
        ("warmup_stable_decay", {"decay_share": "0"}, "decay_share: found 0, expected a share above 0, at most 1"),
        ("warmup_stable_decay", {"shape": "sqrt"}, "shape: found sqrt, expected 1-sqrt or linear"),
        (
            "one_cycle",
            {"div_factor": "-5"},
            r"SOLVER.SCHEDULER: the factor is -0.1999",
        ),
        ("step", {"step_size": "1", "gamma": "-1"}, "the factor is -1 at step 7, expected a number from 0 up"),
        ("cosine", {"min_factor": ".nan"}, "the factor is nan at step 0"),
        ("cosine", {"min_factor": "-1"}, "the factor is -0.0"),
        ("step", {"step_size": "0.5", "gamma": "1e200"}, r"SOLVER.SCHEDULER: step 8: \(34"),
        ("cosine", {"total_steps": "1"}, "SOLVER.SCHEDULER.total_steps: this argument is set by the program"),
    ],
)
def test_mistakes_in_the_schedule(name, arguments, message):
    with pytest.raises(UserError, match=message):
        build_schedule(experiment(name, arguments), sgd(), STEPS)


def test_an_optimizer_by_name_with_arguments():
    words = ["SOLVER.OPTIMIZER.NAME", "AdamW", "SOLVER.OPTIMIZER.betas", "[0.8, 0.9]"]
    optimizer = build_optimizer(load_config(None, words), network())
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["betas"] == (0.8, 0.9)


def test_norms_and_biases_do_not_decay():
    model = network()
    model[0].weight.requires_grad = False
    optimizer = build_optimizer(load_config(None, ["SOLVER.WEIGHT_DECAY", "0.1"]), model)
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: decayed.get(id(p)) for name, p in model.named_parameters()}
    assert names == {"0.weight": None, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "3.weight": 0.1, "3.bias": 0.0}


def test_the_groups_in_a_table():
    words = ["SOLVER.WEIGHT_DECAY", "0.05", "SOLVER.BASE_LR", "0.1", "SOLVER.HEAD_LR_MULT", "10"]
    optimizer = build_optimizer(load_config(None, words), network(), head="3")
    rates = build_schedule(load_config(None, words), optimizer, STEPS).base_lrs
    lines = describe_groups(optimizer.param_groups, rates)
    assert [line.split() for line in lines[1:]] == [
        ["0.1", "0.05", "1", "108"],
        ["0.1", "0", "3", "12"],  # bias, and weight and bias of the norm
        ["1", "0.05", "1", "32"],
        ["1", "0", "1", "2"],
    ]
    assert len({len(line) for line in lines}) == 1 and lines[0].split("  ")[0] == "learning rate"


def test_the_groups_are_logged_once_at_the_start(make_trainer, caplog):
    caplog.set_level("INFO", "strata")
    make_trainer("SOLVER.SCHEDULER.NAME", "cosine", "SOLVER.HEAD_LR_MULT", "2")
    lines = [record.getMessage() for record in caplog.records]
    start = next(i for i, line in enumerate(lines) if line.startswith("learning rate"))
    assert [line.split()[0] for line in lines[start + 1 : start + 5]] == ["0.1", "0.1", "0.2", "0.2"]
    assert sum(line.startswith("learning rate") for line in lines) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.OPTIMIZER.NAME", "AdamV"], "SOLVER.OPTIMIZER.NAME 'AdamV': no such optimizer.*did you mean 'Adam"),
        (["SOLVER.OPTIMIZER.NAME", "LBFGS"], "LBFGS cannot serve here: it needs"),
        (["SOLVER.OPTIMIZER.NAME", "Rprop"], "Rprop cannot serve here: it needs the gradient"),
        (["SOLVER.OPTIMIZER.beta", "1"], "SOLVER.OPTIMIZER.beta: SGD takes no such argument"),
        (["SOLVER.OPTIMIZER.momentum", "-1"], "SOLVER.OPTIMIZER: SGD: Invalid momentum"),
        (["SOLVER.OPTIMIZER.momentum", "high"], "SOLVER.OPTIMIZER: SGD: "),
        (["SOLVER.OPTIMIZER.differentiable", "true"], "SOLVER.OPTIMIZER: SGD: "),
        (["SOLVER.OPTIMIZER.NAME", "Adam", "SOLVER.OPTIMIZER.capturable", "true"], "SOLVER.OPTIMIZER: Adam: "),
    ],
)
def test_mistakes_in_the_optimizer(overrides, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(load_config(None, overrides), network())
