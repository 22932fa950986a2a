"""Optimizer parameter groups: per-layer learning rates, weight-decay exclusions."""

import re
from collections import defaultdict
from fnmatch import fnmatch
from typing import Any

from torch import nn

ParamGroup = dict[str, Any]

# Last names of tensors with several dimensions that act like biases: positional embeddings, class, distillation,
# register and mask tokens, tables of relative position biases, scales; weights of nn.Embedding of these names too.
_NO_DECAY = re.compile(
    r"(.*\.)?((\w+_)?pos(ition)?_emb(ed|edding|eddings)?|(cls|class|dist|reg|register|mask)_tokens?"
    r"|relative_position_bias_table|(layer|logit)_scale)(\.weight)?"
)


def learning_rates(
    model: nn.Module, base_lr: float, head: str | None = None, head_mult: float = 1.0, layer_decay: float = 1.0
) -> dict[str, float]:
    """Returns the learning rate of each parameter by name: `head_mult` times `base_lr` in the layer `head`.

    Each layer further from the end gets `layer_decay` times the rate of the next: arXiv:1801.06146.
    """
    layers = _layers(model, sum(p.numel() for p in model.parameters()) / 2)
    rates = {}
    for name, _ in model.named_parameters():
        depth = next(i for i, prefix in enumerate(layers) if name == prefix or name.startswith(f"{prefix}."))
        rates[name] = base_lr * layer_decay ** (len(layers) - 1 - depth)
        if head is not None and name.startswith(f"{head}."):
            rates[name] *= head_mult
    return rates


def parameter_groups(model: nn.Module, rates: dict[str, float], weight_decay: float) -> list[ParamGroup]:
    """Returns the trainable parameters in groups of one learning rate and weight decay each.

    Without decay: norms and biases (one dimension), patterns listed by the network's `no_weight_decay()` as in timm,
    positional embeddings, class tokens and the like by name.
    """
    excluded = sorted(getattr(model, "no_weight_decay", set)())
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_listed = any(fnmatch(name, pattern) for pattern in excluded)
            decays = parameter.ndim > 1 and not is_listed and not _NO_DECAY.fullmatch(name)
            groups[rates[name], decays].append(parameter)
    return [
        {"params": parameters, "lr": lr, "weight_decay": weight_decay if decays else 0.0}
        for (lr, decays), parameters in groups.items()
    ]


def other_groups(module: nn.Module | None, lr: float) -> list[ParamGroup]:
    """Returns trainable parameters beside the network's as one group without weight decay; no group without any."""
    parameters = [p for p in module.parameters() if p.requires_grad] if module is not None else []
    return [{"params": parameters, "lr": lr, "weight_decay": 0.0}] if parameters else []


def _layers(module: nn.Module, half: float, prefix: str = "") -> list[str]:
    """Returns the names of a network's layers in order: its children, with their own children in the place of
    sequences and of a child with more than `half` of all parameters, such as the encoder of a transformer."""
    names = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        size = sum(p.numel() for p in child.parameters())
        is_body = size > half and any(True for _ in child.children())
        if isinstance(child, (nn.Sequential, nn.ModuleList)) or is_body:
            names += _layers(child, half, f"{prefix}{name}.")
        elif size:
            names.append(f"{prefix}{name}")
    return names
