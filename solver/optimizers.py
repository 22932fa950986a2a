"""Optimizers by name: the classes of torch.optim, and timm/NAME for timm's, imported only when one is named."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch.optim import Optimizer

from solver.groups import ParamGroup
from utils.errors import UserError, did_you_mean
from utils.registry import call, translate

_KEY = "SOLVER.OPTIMIZER"
_LOOKAHEAD = "timm/lookahead_"
Factory = Callable[..., Optimizer]

_UNSUITABLE = {
    "Optimizer": "it is the base class of the others",
    "LBFGS": "it needs several evaluations of the loss per step",
    "SparseAdam": "it takes sparse gradients only",
    "Rprop": "it needs the gradient of the whole training set",
    "timm/adahessian": "it needs second derivatives",
    **dict.fromkeys(("timm/kron", "timm/kronc", "timm/kronw"), "it needs a C++ compiler"),
}


def make_optimizer(
    name: str,
    groups: list[ParamGroup],
    arguments: Mapping[str, object],
    lr: float,
    weight_decay: float,
    fused: bool = True,
) -> Optimizer:
    """Returns the optimizer `name` for parameter groups, each with its learning rate and weight decay.

    timm/lookahead_NAME is timm/NAME with `add_lookahead`. `fused` allows a fused kernel if all parameters are on a GPU.
    Raises UserError for a name that is unknown or unsuitable, and for `arguments` that the class does not accept.
    """
    factory = find_optimizer(name)
    has_lookahead = name.startswith(_LOOKAHEAD)
    given: dict[str, object] = {"lr": lr, "weight_decay": weight_decay}
    free = inspect.signature(factory).parameters.keys() - arguments.keys()
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    # Lookahead would count the steps that a fused optimizer skips by itself when fp16 overflows.
    if fused and on_gpu and free >= {"fused", "foreach", "differentiable"} and not has_lookahead:
        given["fused"] = True
    optimizer = call(factory, arguments, _KEY, groups, **given)
    # One step with a throw-away parameter, because some values fail only then.
    probe = torch.nn.Parameter(torch.ones(4, 4, device=groups[0]["params"][0].device))
    probe.grad = torch.ones_like(probe)
    try:
        call(factory, arguments, _KEY, [probe], **given).step()
    except Exception as error:  # the classes are a library's: the argument is at fault
        translate(error, f"{_KEY}: {type(optimizer).__name__}", is_refusal=True)
    if has_lookahead:
        add_lookahead(optimizer)
    return optimizer


def find_optimizer(name: str) -> Factory:
    """Returns the class of that name, without Lookahead, with the defaults of its library. Raises UserError."""
    name = name.replace(_LOOKAHEAD, "timm/", 1)
    if name in _UNSUITABLE:
        raise UserError(f"{_KEY}.NAME: {name} cannot be used here: {_UNSUITABLE[name]}; use SGD or AdamW")
    is_timm = name.startswith("timm/")
    torchs = {n: c for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, Optimizer)}
    classes = _timm_classes() if is_timm else torchs
    if name not in classes:
        library = "timm" if is_timm else "torch.optim (those of timm are timm/NAME)"
        nearest = did_you_mean(name, classes.keys() - _UNSUITABLE.keys())
        raise UserError(f"{_KEY}.NAME '{name}': no such optimizer in {library}; {nearest}")
    return classes[name]


def _timm_classes() -> dict[str, Factory]:
    """Returns timm's optimizers by name, with the defaults of its own factory; none that need another package."""
    from timm.optim import get_optimizer_info, list_optimizers

    found: dict[str, Factory] = {}
    for name in map(str, list_optimizers()):
        info = get_optimizer_info(name)
        if not isinstance(info.opt_class, str):
            factory: Factory = info.opt_class
            momentum = {"momentum": 0.9} if info.has_momentum else {}
            found[f"timm/{name}"] = partial(factory, **momentum, **(info.defaults or {}))
    return found


def add_lookahead(optimizer: Optimizer, alpha: float = 0.5, k: int = 6) -> None:
    """Moves slow weights by `alpha` towards the optimizer's at every `k`-th step, and resets the latter to them.

    M. Zhang et al., arXiv:1907.08610. timm's implementation counts steps in the settings of the groups, which a
    resumed run sets again. Here all is in the optimizer's state of each parameter, so that a frozen one starts later.
    """
    first: dict[torch.Tensor, torch.Tensor] = {}

    def moving() -> list[torch.Tensor]:
        return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]

    def before_step(*_: object) -> None:
        first.update((p, p.detach().clone()) for p in moving() if "slow" not in optimizer.state.get(p, {}))

    @torch.no_grad()
    def after_step(*_: object) -> None:
        for p in moving():
            state = optimizer.state[p]
            if p in first:  # only now, because optimizers recognise their first step by an empty state
                state["slow"], state["slow_steps"] = first.pop(p), 0
            state["slow_steps"] += 1
            if state["slow_steps"] % k == 0:
                p.copy_(state["slow"].lerp_(p, alpha))

    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(after_step)
