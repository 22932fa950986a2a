"""Schedules against torch's own, step by step; parameter groups; optimizers by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler as theirs

from config import CfgNode, load_config
from config.defaults import default_config
from modeling.build import build_input_spec, build_model
from solver.build import base_lr, build_optimizer, build_schedule
from solver.groups import learning_rates, parameter_groups
from solver.registry import SCHEDULES, Steps
from utils.contracts import Schedule
from utils.errors import UserCodeError, UserError

EPOCHS, STEPS, LR = 10, 7, 0.02  # epochs, steps in an epoch, base learning rate
TOTAL = EPOCHS * STEPS
TWO = Steps(2)

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
    """At every step, whatever was evaluated before."""
    cfg = default_config()
    cfg.SOLVER.SCHEDULER = CfgNode({"NAME": name, "WARMUP_EPOCHS": warmup, **data.draw(VALUES[name])})
    cfg.SOLVER.MAX_EPOCHS = epochs
    factor = build_schedule(cfg, sgd(), steps).factor
    curve = [factor(step) for step in range(epochs * steps)]
    assert all(0 <= value <= 1 + 1e-12 for value in curve)
    again = build_schedule(cfg, sgd(), steps).factor
    assert [again(step) for step in reversed(range(epochs * steps))] == curve[::-1]


def test_every_schedule_is_tested():
    shipped = {name for name in SCHEDULES.names() if not name.startswith("own_")}
    assert shipped == set(VALUES) == set(ORACLES)


def test_the_learning_rate_is_a_function_of_the_step():
    cfg = experiment("one_cycle", {})
    whole = our_curve(cfg)
    for step in (0, 1, 30, TOTAL - 1):
        optimizer = sgd()
        build_schedule(cfg, optimizer, STEPS).set_step(step)
        assert optimizer.param_groups[0]["lr"] == whole[step]


@SCHEDULES.register("own_table")
def table(step: int, total_steps: int) -> float:
    if not 0 <= step < total_steps:
        raise IndexError("no such step")
    return 1.0 + step


@SCHEDULES.register("own_mistake")
def mistake(step: int, total_steps: int) -> float:
    return [1.0][max(step - 5, 0)]


@SCHEDULES.register("own_refusal")
def refusal(step: int, total_steps: int) -> float:
    if step > 5:
        raise ValueError("too late")
    return 1.0


LENGTHS: set[tuple[int, ...]] = set()


@SCHEDULES.register("own_lengths")
def lengths(step: int, total_steps: int, rest: Steps, ends: list[Steps], pause: Steps = TWO) -> float:
    LENGTHS.add((rest, *ends, pause))
    return 1.0


@pytest.mark.parametrize("warmup", ["0", "1"])
def test_a_schedule_is_never_evaluated_outside_its_steps(warmup):
    cfg = experiment("own_table", {}, "SOLVER.SCHEDULER.WARMUP_EPOCHS", warmup)
    optimizer = sgd()
    schedule = build_schedule(cfg, optimizer, STEPS)
    schedule.set_step(TOTAL - 1)
    last = schedule.lr
    assert last == LR * (TOTAL - STEPS * int(warmup))
    for step in (TOTAL, TOTAL + 1, 10 * TOTAL):  # the step after the last one, as after each update
        schedule.set_step(step)
        assert schedule.lr == last == optimizer.param_groups[0]["lr"]
    resumed = build_schedule(cfg, sgd(), STEPS)
    resumed.load_state_dict({"scale": 0.5, "shift": 5})
    resumed.set_step(TOTAL - 2)
    assert resumed.lr == last / 2 and resumed.step == TOTAL - 2


def test_a_bug_in_a_schedule_is_told_apart_from_a_refused_value():
    with pytest.raises(UserCodeError, match="SOLVER.SCHEDULER: step 6: list index out of range"):
        build_schedule(experiment("own_mistake", {}), sgd(), STEPS)
    with pytest.raises(UserError, match="SOLVER.SCHEDULER: step 6: too late") as error:
        build_schedule(experiment("own_refusal", {}), sgd(), STEPS)
    assert not isinstance(error.value, UserCodeError)


def test_lengths_are_epochs_in_the_configuration_and_as_a_default():
    build_schedule(experiment("own_lengths", {"rest": "0.5", "ends": "[1, 3]"}), sgd(), 10)
    assert {(5, 10, 30, 20)} == LENGTHS


def test_scaling_the_learning_rate_survives_a_stop():
    optimizer = sgd()
    schedule = Schedule(optimizer, lambda step: 1 - step / 10, 10)
    schedule.set_step(5)
    schedule.scale_lr(0.1, 0.0)
    assert optimizer.param_groups[0]["lr"] == schedule.lr == pytest.approx(LR * 0.5 * 0.1)
    schedule.scale_lr(0.1, LR * 0.02)
    assert schedule.lr == pytest.approx(LR * 0.02)
    schedule.scale_lr(0.1, LR)  # never upwards
    assert schedule.lr == pytest.approx(LR * 0.02)
    other = Schedule(sgd(), lambda step: 1 - step / 10, 10)
    state = schedule.state_dict()
    assert state.keys() == {"scale", "shift"}
    other.load_state_dict(state)
    other.set_step(5)
    assert other.lr == schedule.lr


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
            r"SOLVER.SCHEDULER: found the factor -0.1999",
        ),
        ("step", {"step_size": "1", "gamma": "-1"}, "found the factor -1 at step 7, expected a number from 0 up"),
        ("cosine", {"min_factor": ".nan"}, "found the factor nan at step 0"),
        ("cosine", {"min_factor": "-1"}, "found the factor -0.0"),
        ("step", {"step_size": "0.5", "gamma": "1e200"}, r"SOLVER.SCHEDULER: step 8: \(34"),
        ("cosine", {"total_steps": "1"}, "SOLVER.SCHEDULER.total_steps: set automatically; remove it"),
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


def not_decayed(name: str) -> set[str]:
    """Returns the parameters of several dimensions that do not decay, of a network built on the meta device."""
    cfg = load_config(None, ["MODEL.NAME", name, "SOLVER.WEIGHT_DECAY", "0.1"])
    with torch.device("meta"):
        model = build_model(cfg, build_input_spec(cfg, {}), 7)
    groups = parameter_groups(model, learning_rates(model, 0.1), 0.1)
    decays = {id(p): group["weight_decay"] > 0 for group in groups for p in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    assert not any(decays[id(p)] for p in model.parameters() if p.ndim == 1)
    return {name for name, p in model.named_parameters() if p.ndim > 1 and not decays[id(p)]}


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "vit_small_patch14_reg4_dinov2", "resnet18"]
)
def test_what_timm_does_not_decay_does_not_decay(name):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from timm.optim import param_groups_weight_decay as create_groups

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
    listed = getattr(model, "no_weight_decay", set)()
    groups = create_groups(model, 0.1, no_weight_decay_list=listed)
    fixed = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    expected = {name for name, p in model.named_parameters() if p.ndim > 1 and id(p) in fixed}
    assert not_decayed(f"timm/{name}") == expected
    assert expected or name == "resnet18"


def test_tokens_and_positions_of_torchvision_do_not_decay():
    assert not_decayed("torchvision/vit_b_16") == {"class_token", "encoder.pos_embedding"}
    tables = not_decayed("torchvision/swin_t")
    assert len(tables) == 12 and all(name.endswith(".attn.relative_position_bias_table") for name in tables)
    assert len(not_decayed("torchvision/maxvit_t")) == 22
    assert {name.rpartition(".")[2] for name in not_decayed("torchvision/convnext_tiny")} == {"layer_scale"}
    assert {name.rpartition(".")[2] for name in not_decayed("torchvision/swin_v2_t")} == {"logit_scale"}
    assert not not_decayed("resnet9") and not not_decayed("torchvision/mobilenet_v2")


class Listing(nn.Module):
    """A network that lists, as patterns, what must not decay."""

    def __init__(self):
        super().__init__()
        self.prototypes = nn.Parameter(torch.ones(3, 2))
        self.position_embedding = nn.Embedding(5, 2)
        self.composition_embed = nn.Linear(2, 2, bias=False)
        self.body = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))

    def no_weight_decay(self) -> set[str]:
        return {"prototypes", "body.1.*"}


def test_a_network_lists_what_must_not_decay():
    model = Listing()
    groups = parameter_groups(model, learning_rates(model, 1.0), 0.1)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        "prototypes": 0.0,
        "position_embedding.weight": 0.0,
        "composition_embed.weight": 0.1,
        "body.0.weight": 0.1,
        "body.1.weight": 0.0,
    }


def test_parameters_of_a_criterion_are_the_last_group():
    criterion = nn.ParameterDict({"centres": nn.Parameter(torch.ones(2, 8)), "fixed": nn.Parameter(torch.ones(2))})
    criterion["fixed"].requires_grad = False
    model, words = network(), ["SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.BASE_LR", "0.2", "SOLVER.LAYER_DECAY", "0.5"]
    plain = build_optimizer(load_config(None, words), model, others=nn.CrossEntropyLoss())
    optimizer = build_optimizer(load_config(None, words), model, others=criterion)
    *groups, last = optimizer.param_groups
    assert [group["params"] for group in groups] == [group["params"] for group in plain.param_groups]
    assert last["params"] == [criterion["centres"]] and last["lr"] == 0.2 and last["weight_decay"] == 0.0
    before = criterion["centres"].detach().clone()
    (criterion["centres"].sum() * 2).backward()
    optimizer.step()
    assert not torch.equal(before, criterion["centres"])


def test_the_groups_are_logged_once_at_the_start(make_trainer, caplog):
    caplog.set_level("INFO", "strata")
    trainer = make_trainer("SOLVER.SCHEDULER.NAME", "cosine", "SOLVER.HEAD_LR_MULT", "2", "SOLVER.BASE_LR", "0.1")
    lines = [line for line in caplog.messages if "learning rate" in line]
    settings = [line.partition(": ")[2] for line in lines]
    assert settings == [f"learning rate {lr}, weight decay {wd}" for lr in ("0.1", "0.2") for wd in ("0.05", "0")]
    counts = [sum(p.numel() for p in group["params"]) for group in trainer.optimizer.param_groups]
    assert [line.split(" with ")[1].split()[0] for line in lines] == [f"{count:,}" for count in counts]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.OPTIMIZER.NAME", "AdamV"], "SOLVER.OPTIMIZER.NAME 'AdamV': no such optimizer.*did you mean 'Adam"),
        (["SOLVER.OPTIMIZER.NAME", "LBFGS"], "LBFGS cannot be used here: it needs several"),
        (["SOLVER.OPTIMIZER.NAME", "Rprop"], "Rprop cannot be used here: it needs the gradient"),
        (["SOLVER.OPTIMIZER.NAME", "SGD"], "SOLVER.BASE_LR: found 0, expected a number above 0 for SGD, such as 0.1"),
        (["SOLVER.OPTIMIZER.beta", "1"], "SOLVER.OPTIMIZER.beta: AdamW takes no such argument"),
        (["SOLVER.OPTIMIZER.betas", "[2, 0]"], "SOLVER.OPTIMIZER: AdamW: Invalid beta"),
        (["SOLVER.OPTIMIZER.eps", "high"], "SOLVER.OPTIMIZER: AdamW: "),
        (["SOLVER.OPTIMIZER.differentiable", "true"], "SOLVER.OPTIMIZER: AdamW: "),
        (["SOLVER.OPTIMIZER.capturable", "true"], "SOLVER.OPTIMIZER: AdamW: "),
    ],
)
def test_mistakes_in_the_optimizer(overrides, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(load_config(None, overrides), network())


@pytest.mark.parametrize(("batch_size", "rate"), [(32, 0.001), (128, 0.002), (8, 0.0005)])
def test_the_default_rate_grows_with_the_root_of_the_batch_size(batch_size, rate):
    words = ["SOLVER.BATCH_SIZE", str(batch_size)]
    optimizer = build_optimizer(load_config(None, words), network())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate] * len(optimizer.param_groups))
    assert base_lr(load_config(None, [*words, "SOLVER.BASE_LR", "0.3"])) == 0.3
