"""Which parameters learn how fast, and which decay."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import nn


def learning_rates(
    model: nn.Module, base_lr: float, head: str | None = None, head_mult: float = 1.0, layer_decay: float = 1.0
) -> dict[str, float]:
    """Parameter name -> its learning rate.

    The parameters of the layer `head` learn `head_mult` times as fast; each layer further from
    the end learns `layer_decay` times as fast as the next (J. Howard and S. Ruder, 2018, arXiv:1801.06146).
    """
    layers = _layers(model, sum(p.numel() for p in model.parameters()) / 2)
    rates = {}
    for name, _ in model.named_parameters():
        depth = next(i for i, prefix in enumerate(layers) if name == prefix or name.startswith(f"{prefix}."))
        rates[name] = base_lr * layer_decay ** (len(layers) - 1 - depth)
        if head is not None and name.startswith(f"{head}."):
            rates[name] *= head_mult
    return rates


def parameter_groups(model: nn.Module, rates: dict[str, float], weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in groups of one learning rate each; norms and biases (one dimension) do not decay."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[rates[name], parameter.ndim > 1].append(parameter)
    return [
        {"params": parameters, "lr": lr, "weight_decay": weight_decay if decays else 0.0}
        for (lr, decays), parameters in groups.items()
    ]


def describe_groups(groups: Sequence[dict[str, Any]], rates: Sequence[float]) -> list[str]:
    """A table with a line for each group of parameters and its learning rate of `rates`."""
    rows = [("learning rate", "weight decay", "tensors", "parameters")]
    for group, rate in zip(groups, rates, strict=True):
        count = sum(p.numel() for p in group["params"])
        rows.append((f"{rate:.4g}", f"{group['weight_decay']:.4g}", f"{len(group['params'])}", f"{count:,}"))
    return ["  ".join(f"{cell:>{len(title)}}" for cell, title in zip(row, rows[0], strict=True)) for row in rows]


def _layers(module: nn.Module, half: float, prefix: str = "") -> list[str]:
    """The names of a network's layers in order: its members, and those of its sequences.

    So are those of a member that holds more than `half` of all parameters, such as the encoder of a transformer.
    """
    names = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        size = sum(p.numel() for p in child.parameters())
        is_body = size > half and any(True for _ in child.children())
        if isinstance(child, (nn.Sequential, nn.ModuleList)) or is_body:
            names += _layers(child, half, f"{prefix}{name}.")
        elif size:
            names.append(f"{prefix}{name}")
    return names
