"""The head of a network: the linear layers that give the logits, wherever they are."""

from torch import nn

from utils.errors import UserError


class Head(nn.Sequential):
    """Linear, ReLU, Dropout, Linear in place of a single linear layer."""


def find_head(model: nn.Module) -> str:
    """The name of the head: a Head, or the last layer, which must be linear.

    Raises UserError for a network that ends otherwise, or in several classifiers.
    """
    modules = dict(model.named_modules())
    heads = [name for name, module in modules.items() if isinstance(module, Head)]
    if heads:
        return heads[0]
    name, last = [(n, m) for n, m in modules.items() if list(m.parameters(recurse=False))][-1]
    several = hasattr(model, "get_classifier") and isinstance(model.get_classifier(), tuple)  # timm's distilled ones
    if several or not isinstance(last, nn.Linear):
        found = "several classifiers" if several else f"{type(last).__name__} '{name}', not in a linear layer"
        raise UserError(
            f"MODEL.NAME: {type(model).__name__} ends in {found}: "
            "MODEL.HEAD, SOLVER.FREEZE_EPOCHS and SOLVER.HEAD_LR_MULT cannot be used with it"
        )
    return name


def replace_head(model: nn.Module, hidden: int, dropout: float) -> None:
    """Put `hidden` units and dropout before the logits: Linear, ReLU, Dropout, Linear. 0 leaves either out."""
    name = find_head(model)
    parent, _, child = name.rpartition(".")
    linear = model.get_submodule(name)
    layers: list[nn.Module] = []
    if hidden:
        layers += [nn.Linear(linear.in_features, hidden), nn.ReLU(inplace=True)]
    if dropout:
        layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(hidden or linear.in_features, linear.out_features))
    setattr(model.get_submodule(parent), child, Head(*layers))
