"""One forward pass before the training, so that what cannot work is found at once."""

import torch
from torch import nn

from utils.errors import UserError, one_line
from utils.input_spec import InputSpec


def try_network(model: nn.Module, normalize: nn.Module, spec: InputSpec, num_classes: int, name: str) -> str:
    """What a CPU's bf16 does with the network: right, slow or wrong.

    `name` is that of MODEL.NAME. Raises UserError for a network that does not give (N, classes);
    an error inside a network of one's own comes through as it is.
    """
    narrow: list[nn.Module] = []

    def look(module: nn.Conv2d, inputs: tuple[torch.Tensor, ...]) -> None:
        # In torch (2.15 at least) the bf16 gradient of such a convolution's weights is garbage on a CPU.
        if inputs[0].shape[-1] == 1 and module.stride[-1] > 1:
            narrow.append(module)

    handles = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, nn.Conv2d)]
    images = torch.zeros(2, spec.channels, *spec.size, dtype=torch.uint8)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            outputs = model.eval()(normalize(images))
    except (RuntimeError, ValueError, ArithmeticError) as error:
        if "/" not in name:
            raise
        raise UserError(
            f"MODEL.NAME {name} cannot take images of INPUT.SIZE {list(spec.size)}: {one_line(error)[:200]}; "
            "set a larger size, or the network's own"
        ) from error
    finally:
        model.train()
        for handle in handles:
            handle.remove()
    found = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if found != [2, num_classes]:
        raise UserError(
            f"MODEL.NAME {name}: gave {found} for two images and {num_classes} classes, expected {[2, num_classes]}"
        )
    return "wrong" if narrow else "slow" if any(map(_is_depthwise, model.modules())) else "right"


def _is_depthwise(module: nn.Module) -> bool:
    """Such convolutions are slower in bf16 than in float32 on a CPU, measured on MobileNetV3."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
