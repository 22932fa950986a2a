"""Registries behind MODEL.NAME and LOSS.NAME; every module of this folder is searched for entries."""

from dataclasses import dataclass

from torch import nn

from utils.registry import Registry

# A model is a factory called as `factory(num_classes=..., in_channels=..., **arguments)`: the width of the output, the
# channels of the images, the lower-case keys beside MODEL.NAME. It returns an nn.Module that maps normalised images
# float32 (N, in_channels, H, W) to outputs (N, num_classes), or to whatever else the task expects, such as
# (N, num_classes, H, W). In training it may return (outputs, auxiliary outputs, ...) to a loss that takes them. An
# optional method `no_weight_decay()` returns names, or patterns, of parameters without decay. Keyword arguments of
# `register` are the fields of `NetworkFacts`.
MODELS = Registry[nn.Module]("model", "modeling")

# A loss is a factory called as `factory(**arguments)` with the lower-case keys beside LOSS.NAME, returning an nn.Module
# called as `criterion(outputs, batch)` with the network's outputs and a utils.contracts.Batch on the device, after
# augmentation and mixing: targets are class indices int64 (N,), vectors float32 (N, outputs), or masks int64 (N, H, W).
# It returns the mean over the batch, a scalar with a gradient; a subclass of modeling.losses.MeanLoss writes
# `losses(outputs, batch) -> (N,)` and gets the mean and the weights. Parameters of a loss are optimised without weight
# decay, and saved. Two arguments are prepared by the program: `teacher`, a run or checkpoint in the configuration,
# becomes a callable (images in 0..255 -> logits), or None outside training; `class_weights: balanced` becomes numbers.
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
