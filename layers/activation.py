"""Activations by the names that papers give them."""

from torch import nn

_ACTIVATIONS = {"relu": nn.ReLU, "hardswish": nn.Hardswish, "silu": nn.SiLU}


def activation(name: str) -> nn.Module:
    """A new activation that works in place: relu, hardswish (arXiv:1905.02244) or silu (arXiv:1606.08415)."""
    return _ACTIVATIONS[name](inplace=True)
