"""Registries behind MODEL.NAME and LOSS.NAME; every module of this folder is searched for entries.

docs/extending.md tells what a model and a loss are called with and return, with an example of each.
"""

from dataclasses import dataclass

from torch import nn

from utils.registry import Registry

# Keyword arguments of `register` are the fields of `NetworkFacts`.
MODELS = Registry[nn.Module]("model", "modeling")

# Fact given to `register`: task = "classification" (default), "multilabel", "regression", or another task's name.
LOSSES = Registry[nn.Module]("loss", "modeling")


@dataclass(frozen=True)
class NetworkFacts:
    """Properties of a network that are known without building it; `mean` and `std` are for pixels in 0..1."""

    size: tuple[int, int] = (224, 224)  # default (height, width) of the images
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    min_size: tuple[int, int] = (1, 1)  # smallest (height, width) accepted
    in_channels: int = 0  # the only number of channels accepted; 0: any
