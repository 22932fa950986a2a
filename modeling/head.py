"""The head of a network: the linear layers that give the logits, wherever they are."""

from torch import nn

from utils.errors import UserError


class Head(nn.Sequential):
    """Linear, ReLU, Dropout, Linear in place of a single linear layer."""


def find_head(model: nn.Module, num_classes: int) -> str:
    """The name of the head: a Head, or the last layer, which must be linear and give the logits.

    Raises UserError for a network that ends otherwise, or in several classifiers.
    """
    modules = dict(model.named_modules())
    heads = [name for name, module in modules.items() if isinstance(module, Head)]
    if heads:
        return heads[0]
    name, last = [(n, m) for n, m in modules.items() if list(m.parameters(recurse=False))][-1]
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else last  # timm's networks say it
    if not isinstance(last, nn.Linear):
        found = f"{type(last).__name__} '{name}', not in a linear layer"
    elif classifier is not last or last.out_features != num_classes:
        found = f"'{name}', which alone does not give the logits of {num_classes} classes"
    else:
        return name
    raise UserError(
        f"MODEL.NAME: {type(model).__name__} ends in {found}: "
        "MODEL.HEAD, SOLVER.FREEZE_EPOCHS and SOLVER.HEAD_LR_MULT cannot be used with it"
    )


def replace_head(model: nn.Module, num_classes: int, hidden: int, dropout: float) -> None:
    """Put `hidden` units and dropout before the logits: Linear, ReLU, Dropout, Linear. 0 leaves either out."""
    name = find_head(model, num_classes)
    parent, _, child = name.rpartition(".")
    linear = model.get_submodule(name)
    layers: list[nn.Module] = []
    if hidden:
        layers += [nn.Linear(linear.in_features, hidden), nn.ReLU(inplace=True)]
    if dropout:
        layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(hidden or linear.in_features, linear.out_features))
    setattr(model.get_submodule(parent), child, Head(*layers))
