"""Convolution, normalisation and activation: the building block of most convolutional networks."""

from collections.abc import Callable

from torch import nn

Activation = Callable[..., nn.Module]  # a class with the argument `inplace`


def init_convolutions(model: nn.Module) -> None:
    """Initialises all convolutions for ReLU-like activations: K. He et al., 2015, arXiv:1502.01852."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ConvNormAct(nn.Sequential):
    """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride), "same" padding, no bias.

    The children are 0 (convolution), 1 (norm) and 2 (activation, unless `act` is None), as in torchvision.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        act: Activation | None = nn.ReLU,
    ):
        padding = (kernel_size - 1) // 2
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        super().__init__(conv, norm(out_channels), *([act(inplace=True)] if act else []))
