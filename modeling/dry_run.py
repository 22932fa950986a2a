"""A forward pass before training, which finds networks that cannot work."""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from utils.contracts import InputSpec
from utils.errors import UserCodeError, UserError, one_line
from utils.registry import is_library


def dry_run(model: nn.Module, normalize: nn.Module, spec: InputSpec, name: str) -> Any:
    """Returns the outputs, such as (2, outputs), in evaluation mode for two black images, of `spec`, on the CPU.

    Random state, modes and weights stay as they were. Raises UserError about MODEL.NAME `name` if a library's network
    fails, else UserCodeError.
    """
    modes = [(module, module.training) for module in model.modules()]
    images = torch.zeros(2, spec.channels, *spec.size, dtype=torch.uint8)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return model.eval()(normalize(images))
    except UserError:
        raise
    except Exception as error:
        kind = UserError if is_library(model) else UserCodeError
        problem = f"MODEL.NAME {name} cannot take images of INPUT.SIZE {list(spec.size)}: {one_line(error)[:200]}"
        raise kind(f"{problem}; set a larger size, or the network's own") from error
    finally:
        for module, training in modes:
            module.training = training


def cpu_bf16_support(model: nn.Module, normalize: nn.Module, spec: InputSpec) -> Literal["good", "slow", "broken"]:
    """Returns how well a CPU trains a network in bf16, for images of `spec`.

    broken: up to torch 2.15 at least, the bf16 gradient of a convolution with a stride is garbage where its input
    is one pixel wide. slow: depthwise convolutions are slower than in float32, measured on MobileNetV3.
    """
    narrow: list[nn.Module] = []

    def note_if_narrow(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.stride[-1] > 1 and inputs[0].shape[-1] == 1:
            narrow.append(module)

    with register_module_forward_pre_hook(note_if_narrow):
        dry_run(model, normalize, spec, type(model).__name__)
    if narrow:
        return "broken"
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return "slow" if any(conv.groups == conv.in_channels > 1 for conv in convolutions) else "good"
