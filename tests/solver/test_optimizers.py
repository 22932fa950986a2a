"""Every optimizer that is accepted trains and resumes bit for bit; Lookahead against its formula."""

import io

import pytest
import torch
from torch import nn

from config import load_config
from engine.checkpoint import OptimizerState
from solver.build import build_optimizer
from solver.optimizers import add_lookahead, make_optimizer
from utils.contracts import Schedule
from utils.errors import UserError

TORCHS = ["ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD"]
LR, DECAY = 0.02, 0.01


TARGETS = torch.arange(24) % 3
IMAGES = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(1)) + TARGETS[:, None, None, None]


def groups_of(model: nn.Module) -> list[dict]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return [
        {"params": matrices, "lr": LR, "weight_decay": DECAY},
        {"params": vectors, "lr": LR / 2, "weight_decay": 0.0},
    ]


class Training:
    """A small network that learns to tell three brightnesses apart, its optimizer and its schedule."""

    def __init__(self, name: str, seed: int = 0):
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        self.model = nn.Sequential(*layers)
        groups = groups_of(self.model)
        self.optimizer = make_optimizer(name, groups, {}, lr=LR, weight_decay=DECAY)
        self.schedule = Schedule(self.optimizer, lambda step: 1 - step / 100, 100)

    def run(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            self.model[0].requires_grad_(self.schedule.step >= 2)  # as if it were frozen for a while
            loss = nn.functional.cross_entropy(self.model(IMAGES), TARGETS)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.set_step(self.schedule.step + 1)
            losses.append(loss.item())
        return losses

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.schedule.step}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        OptimizerState(self.optimizer).load_state_dict(state["optimizer"])
        self.schedule.set_step(state["step"])


def defect_of(name: str) -> str:
    """Returns "" if the optimizer `name` trains, and continues from a checkpoint as if it had not stopped."""
    training = Training(name)
    losses = training.run(10)
    file = io.BytesIO()
    torch.save(training.state_dict(), file)
    losses += training.run(3)
    resumed = Training(name, seed=5)
    resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    found, expected = resumed.run(3), training.model.state_dict()
    if not losses[-1] < losses[0]:
        return f"the loss went from {losses[0]} to {losses[-1]}"
    same = all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())
    return "" if same and found == losses[-3:] else "resuming made a difference"


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def timms() -> list[str]:
    from timm.optim import list_optimizers

    unfit = ("bnb", "fused", "kron", "adahessian")
    return [name for name in map(str, list_optimizers()) if not name.startswith(unfit)]


@pytest.mark.parametrize("name", TORCHS)
def test_optimizers_of_torch(name):
    model = nn.Linear(3, 2)
    found = make_optimizer(name, groups_of(model), {}, lr=LR, weight_decay=DECAY)
    expected = getattr(torch.optim, name)(groups_of(model), lr=LR, weight_decay=DECAY)
    assert type(found) is type(expected) and settings_of(found) == settings_of(expected)
    assert defect_of(name) == ""


def test_every_other_optimizer_of_torch_is_refused_or_trains():
    """Whatever classes a version of torch has: none fails in any other way than by its one line."""
    others = {
        name for name, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)
    }
    assert {*TORCHS, "LBFGS", "SparseAdam", "Rprop"} < others
    for name in others - {*TORCHS, "Optimizer"}:
        try:
            Training(name)
        except UserError as error:
            assert str(error).startswith("SOLVER.OPTIMIZER") and "\n" not in str(error)
        else:
            assert defect_of(name) == ""
    for name in ("LBFGS", "SparseAdam", "Rprop", "Optimizer"):
        with pytest.raises(UserError, match="SOLVER.OPTIMIZER.NAME"):
            Training(name)


def test_optimizers_of_timm_are_as_its_factory_makes_them():
    optim = pytest.importorskip("timm.optim", reason="timm is not installed")
    model = nn.Linear(3, 2)
    for name in timms():
        found = make_optimizer(f"timm/{name}", groups_of(model), {}, lr=LR, weight_decay=DECAY)
        expected = optim.create_optimizer_v2(groups_of(model), name, lr=LR, weight_decay=DECAY)
        assert type(found) is type(expected) and settings_of(found) == settings_of(expected), name


def test_optimizers_of_timm():
    pytest.importorskip("timm", reason="timm is not installed")
    names = [*timms(), *(f"lookahead_{name}" for name in ("radam", "adamw", "lion", "lamb", "sgd"))]
    defects = {name: defect_of(f"timm/{name}") for name in names}
    assert {name: defect for name, defect in defects.items() if defect} == {}
    assert len(defects) > 50


def test_lookahead_is_its_formula():
    """The second weight has no gradient in the first three steps, so that its slow weights begin with step 3."""
    weights = [nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2)]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    add_lookahead(optimizer, alpha=0.3, k=4)
    fast = [weight.detach().clone() for weight in weights]
    slow = [weight.clone() for weight in fast]
    for step in range(25):
        for i, weight in enumerate(weights):
            age = step - 3 * i
            weight.grad = weight.detach() ** 3 if age >= 0 else None
            if age >= 0:
                fast[i] -= 0.1 * fast[i] ** 3
            if age >= 0 and age % 4 == 3:
                slow[i] = slow[i] + 0.3 * (fast[i] - slow[i])
                fast[i] = slow[i].clone()
        optimizer.step()
        for weight, expected in zip(weights, fast, strict=True):
            torch.testing.assert_close(weight.detach(), expected, rtol=1e-14, atol=0)


def test_arguments_and_groups_of_timm():
    pytest.importorskip("timm", reason="timm is not installed")
    words = "SOLVER.OPTIMIZER.NAME timm/sgdp SOLVER.OPTIMIZER.momentum 0.5 SOLVER.HEAD_LR_MULT 3".split()
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(3, 2))
    optimizer = build_optimizer(load_config(None, [*words, "SOLVER.BASE_LR", "0.1"]), model, head="1")
    assert type(optimizer).__name__ == "SGDP" and optimizer.defaults["momentum"] == 0.5
    found = [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    assert found == [(0.1, 0.05, 1), (0.1, 0.0, 1), (0.1 * 3, 0.05, 1), (0.1 * 3, 0.0, 1)]


class OnGpu(nn.Parameter):
    """A parameter that claims to be on a GPU."""

    is_cuda = True


@pytest.mark.parametrize(
    ("name", "arguments", "fused"),
    [
        ("AdamW", {}, True),
        ("SGD", {"momentum": 0.9}, True),
        ("timm/adam", {}, True),
        ("AdamW", {"foreach": True}, None),
        ("AdamW", {"fused": False}, False),
        ("timm/lookahead_adam", {}, None),
        ("RAdam", {}, "absent"),
        ("timm/lion", {}, "absent"),
    ],
)
def test_fused_on_a_gpu(name, arguments, fused):
    def made(kind: type) -> dict:
        groups = [{"params": [kind(torch.ones(2, 2))], "lr": LR, "weight_decay": DECAY}]
        optimizer = make_optimizer(name, groups, arguments, lr=LR, weight_decay=DECAY)
        return settings_of(optimizer)[0]

    assert made(OnGpu).get("fused", "absent") == fused
    assert made(nn.Parameter).get("fused") in (None, False)


def test_fused_optimizers_can_be_refused():
    groups = [{"params": [OnGpu(torch.ones(2, 2))], "lr": LR, "weight_decay": DECAY}]
    optimizer = make_optimizer("AdamW", groups, {}, lr=LR, weight_decay=DECAY, fused=False)
    assert settings_of(optimizer)[0]["fused"] is None


def test_a_state_is_loaded_under_the_settings_of_the_optimizer_that_loads_it():
    """A fused optimizer keeps its count of steps as float32 beside the weights; on the CPU the type shows it."""
    saved, resumed = Training("Adam"), Training("Adam")
    saved.run(3)
    state = saved.state_dict()
    for entry in state["optimizer"]["state"].values():
        entry["step"] = entry["step"].double()
    for group in resumed.optimizer.param_groups:
        group["fused"] = True
    resumed.load_state_dict(state)
    assert all(entry["step"].dtype == torch.float32 for entry in resumed.optimizer.state.values())
    assert all(group["fused"] for group in resumed.optimizer.param_groups)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("Lion", "SOLVER.OPTIMIZER.NAME 'Lion': no such optimizer in torch.optim (those of timm are timm/NAME); "),
        ("timm/lionn", "SOLVER.OPTIMIZER.NAME 'timm/lionn': no such optimizer in timm; did you mean 'timm/lion'?"),
        ("timm/lookahead_radamm", "no such optimizer in timm; did you mean 'timm/radam"),
        ("timm/adahessian", "timm/adahessian cannot be used here: it needs second derivatives; use SGD or AdamW"),
        ("timm/lookahead_adahessian", "timm/adahessian cannot be used here: it needs second derivatives"),
        ("timm/kronw", "timm/kronw cannot be used here: it needs a C++ compiler"),
        ("timm/bnblion8bit", "SOLVER.OPTIMIZER.NAME 'timm/bnblion8bit': no such optimizer in timm; "),
        ("Muon", "SOLVER.OPTIMIZER: Muon: Muon only supports 2D parameters"),
        ("timm/lion SOLVER.OPTIMIZER.beta 1", "SOLVER.OPTIMIZER.beta: Lion takes no such argument; did you mean 'bet"),
        ("timm/lion SOLVER.OPTIMIZER.betas [2,0]", "SOLVER.OPTIMIZER: Lion: Invalid beta"),
    ],
)
def test_mistakes(words, message):
    if words.startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    cfg = load_config(None, ["SOLVER.BASE_LR", "0.1", "SOLVER.OPTIMIZER.NAME", *words.split()])
    with pytest.raises(UserError) as error:
        build_optimizer(cfg, nn.Linear(2, 2))
    assert message in str(error.value) and "\n" not in str(error.value)
