"""Registries behind MODEL.NAME and LOSS.NAME; every module of this folder is searched for entries."""

from dataclasses import dataclass

from torch import nn

from utils.registry import Registry

# A model is a factory called as `factory(num_classes=..., in_channels=..., **arguments)`: the width of the
# output, the channels of the images, and the lower-case keys beside MODEL.NAME. It returns an nn.Module that maps
# normalised images float32 (N, in_channels, H, W) to outputs (N, num_classes), or to whatever else the task
# expects, such as (N, num_classes, H, W). In training a network with auxiliary heads returns (outputs, auxiliary
# outputs, ...). An optional method `no_weight_decay()` returns names, or patterns, of parameters without decay.
# Keyword arguments of `register` are the fields of `NetworkFacts`.
MODELS = Registry[nn.Module]("model", "modeling")

# A loss is a factory called as `factory(**arguments)` with the lower-case keys beside LOSS.NAME. It returns an
# nn.Module called as `criterion(outputs, batch)` with the outputs of the network and a utils.contracts.Batch that
# is on the device: `images` (N, C, H, W) in 0..255 after augmentation and mixing, `targets` (class indices int64
# (N,), vectors float32 (N, outputs), or masks int64 (N, H, W)), `indices` int64 (N,), and `weights` float32 (N,) or
# None. It returns the mean over the batch, a scalar with a gradient. Subclasses of modeling.losses.MeanLoss
# write `losses(outputs, batch) -> (N,)` and get the mean and the weights. Parameters of a loss are optimised
# without weight decay, and saved.
# Two arguments are prepared by the program: `teacher`, a run or checkpoint in the configuration, becomes a
# callable (images in 0..255 -> logits), or None outside training; `class_weights: balanced` becomes a list of numbers.
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
    auxiliary: float = 0.0  # weight of the losses of auxiliary heads
