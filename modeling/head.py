"""The head of a network: the linear layers that compute the outputs."""

from contextlib import suppress

import torch
from torch import nn

from utils.errors import UserError


class Head(nn.Sequential):
    """Linear, ReLU, Dropout, Linear in place of a single linear layer."""


def find_head(model: nn.Module, num_outputs: int) -> str:
    """Returns the name of the head: a Head, or the last layer, which must be linear with `num_outputs` outputs.

    Raises UserError for a network that ends in another layer, or in several classifiers.
    """
    modules = dict(model.named_modules())
    heads = [name for name, module in modules.items() if isinstance(module, Head)]
    if heads:
        return heads[0]
    name, last = [(n, m) for n, m in modules.items() if list(m.parameters(recurse=False))][-1]
    classifier = getattr(model, "get_classifier", lambda: last)()  # a method of timm's networks
    if not isinstance(last, nn.Linear):
        found = f"{type(last).__name__} '{name}', not in a linear layer"
    elif classifier is not last or last.out_features != num_outputs:
        found = f"'{name}', which does not compute all {num_outputs} outputs"
    else:
        return name
    refused = "MODEL.HEAD, SOLVER.FREEZE_EPOCHS and SOLVER.HEAD_LR_MULT cannot be used with it"
    raise UserError(f"MODEL.NAME: {type(model).__name__} ends in {found}: {refused}")


def replace_head(model: nn.Module, num_outputs: int, hidden: int, dropout: float) -> None:
    """Replaces the head, in place, by a Head, of which 0 leaves out `hidden` or `dropout`. Raises as `find_head`."""
    name = find_head(model, num_outputs)
    parent, _, child = name.rpartition(".")
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    layers: list[nn.Module] = [nn.Linear(linear.in_features, hidden), nn.ReLU(inplace=True)] if hidden else []
    layers += [nn.Dropout(dropout)] if dropout else []
    setattr(model.get_submodule(parent), child, Head(*layers, nn.Linear(hidden or linear.in_features, num_outputs)))


@torch.no_grad()
def limit_head(model: nn.Module, num_outputs: int) -> None:
    """Scales fresh weights of the head down to the deviation of torch's own Linear, if theirs is far larger.

    EfficientNet's initial head weights grow as the number of classes shrinks; with ten classes the first loss would be
    three times ln(10).
    """
    with suppress(UserError):  # a network without such a head
        head = model.get_submodule(find_head(model, num_outputs))
        if isinstance(head, nn.Linear):
            usual, found = (3 * head.in_features) ** -0.5, float(head.weight.std())
            if found > 1.5 * usual:
                head.weight *= usual / found
