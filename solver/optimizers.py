"""Optimizers by name: the classes of torch.optim, and timm/NAME for those of timm, imported only when one is named."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

from utils.errors import UserError, did_you_mean, one_line
from utils.registry import WRONG_VALUE, call

_UNFIT = {
    "LBFGS": "it needs to evaluate the loss several times a step",
    "SparseAdam": "it takes sparse gradients only",
    "Rprop": "it needs the gradient of the whole training set",
    "Muon": "it takes matrices only, and convolutions are not; timm/muon takes both",
    "timm/adahessian": "it needs second derivatives",
    **dict.fromkeys(("timm/kron", "timm/kronc", "timm/kronw"), "it needs a C++ compiler"),
}


def make_optimizer(
    name: str, groups: list[dict[str, Any]], arguments: Mapping[str, Any], key: str, lr: float, weight_decay: float
) -> Optimizer:
    """The optimizer `name` of `groups` of parameters, each with its learning rate and weight decay.

    timm/lookahead_NAME is timm/NAME with `add_lookahead`. Raises UserError, about the key `key`, for a name that
    is unknown or cannot serve, and for `arguments` that the class does not take.
    """
    base = name.replace("timm/lookahead_", "timm/", 1)
    factory = _find(base, f"{key}.NAME")
    given = {"lr": lr, "weight_decay": weight_decay}
    takes = inspect.signature(factory).parameters.keys() - arguments.keys()
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    # Lookahead would count the steps that a fused optimizer leaves out by itself when fp16 overflows.
    if on_gpu and takes >= {"fused", "foreach", "differentiable"} and name == base:
        given["fused"] = True
    optimizer = call(factory, arguments, key, groups, **given)
    _try_step(call(factory, arguments, key, [_probe(groups)], **given), key)
    if name != base:
        add_lookahead(optimizer)
    return optimizer


def _probe(groups: list[dict[str, Any]]) -> torch.nn.Parameter:
    probe = torch.nn.Parameter(torch.ones(4, 4, device=groups[0]["params"][0].device))
    probe.grad = torch.ones_like(probe)
    return probe


def _try_step(optimizer: Optimizer, key: str) -> None:
    """One step of a parameter that nobody needs, for values that an optimizer stumbles over only then."""
    try:
        optimizer.step()
    except WRONG_VALUE as error:
        raise UserError(f"{key}: {type(optimizer).__name__}: {one_line(error)}") from error


def _find(name: str, key: str) -> Callable[..., Optimizer]:
    """The class of that name, under its library's own defaults."""
    library = "timm" if name.startswith("timm/") else "torch.optim"
    classes = _timm_classes() if library == "timm" else _torch_classes()
    packages = {n: f"it needs the package {c.split('.')[0]}" for n, c in classes.items() if isinstance(c, str)}
    unfit = _UNFIT | packages
    if name in classes.keys() & unfit.keys():
        raise UserError(f"{key}: {name} cannot serve here: {unfit[name]}; use SGD or AdamW")
    if name not in classes:
        others = "" if library == "timm" else " (those of timm are timm/NAME)"
        nearest = did_you_mean(name, classes.keys() - unfit.keys())
        raise UserError(f"{key} '{name}': no such optimizer in {library}{others}; {nearest}")
    if library == "torch.optim":
        return classes[name]
    from timm.optim import get_optimizer_info

    info = get_optimizer_info(name.removeprefix("timm/"))
    momentum = {"momentum": 0.9} if info.has_momentum else {}  # as timm's own factory has it
    return partial(info.opt_class, **momentum, **(info.defaults or {}))


def _torch_classes() -> dict[str, type]:
    classes = {name: c for name, c in vars(torch.optim).items() if inspect.isclass(c) and issubclass(c, Optimizer)}
    return {name: c for name, c in classes.items() if c is not Optimizer}


def _timm_classes() -> dict[str, type | str]:
    """Those of other packages are strings."""
    from timm.optim import get_optimizer_info, list_optimizers

    return {f"timm/{name}": get_optimizer_info(name).opt_class for name in list_optimizers()}


def add_lookahead(optimizer: Optimizer, alpha: float = 0.5, k: int = 6) -> None:
    """At every `k`-th step, move slow weights by `alpha` towards the optimizer's, and put these back to them.

    M. Zhang et al., arXiv:1907.08610; over RAdam it is known as Ranger. timm's own counts in the settings of the
    groups, which a resumed run sets anew. Here all is in the optimizer's state of each parameter, which its
    state_dict has, so that a parameter that is frozen for a while starts later.
    """
    first: dict[torch.Tensor, torch.Tensor] = {}

    def moving() -> list[torch.Tensor]:
        return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]

    def before_step(*_: Any) -> None:
        first.update((p, p.detach().clone()) for p in moving() if "slow" not in optimizer.state.get(p, {}))

    @torch.no_grad()
    def after_step(*_: Any) -> None:
        for p in moving():
            state = optimizer.state[p]
            if p in first:  # only now, because an optimizer takes an empty state for its first step
                state["slow"], state["slow_steps"] = first.pop(p), 0
            state["slow_steps"] += 1
            if state["slow_steps"] % k == 0:
                p.copy_(state["slow"].lerp_(p, alpha))

    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(after_step)
