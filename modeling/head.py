"""The head of a network: the linear layer that gives the logits, wherever it is."""

from torch import nn

from utils.errors import UserError


def find_head(model: nn.Module) -> str:
    """The name of the last layer, which must be linear. Raises UserError for a network that ends otherwise."""
    leaves = [(name, module) for name, module in model.named_modules() if list(module.parameters(recurse=False))]
    name, last = leaves[-1]
    if not isinstance(last, nn.Linear):
        raise UserError(
            f"MODEL.NAME: {type(model).__name__} ends in {type(last).__name__} '{name}', not in a linear layer: "
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
    setattr(model.get_submodule(parent), child, nn.Sequential(*layers))
