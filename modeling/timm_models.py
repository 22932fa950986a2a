"""Any classifier of timm, by the name timm/NAME; timm is imported only when one is named."""

from typing import Any

import torch
from torch import nn

from utils.errors import UserError, did_you_mean, one_line
from utils.input_spec import InputSpec


def facts(name: str) -> dict[str, Any]:
    """Default size and normalisation, from the metadata of the library's own weights."""
    preset = _preset(name)
    _, *size = preset.input_size
    return {"size": tuple(size), "mean": preset.mean, "std": preset.std}


def build(name: str, num_classes: int, spec: InputSpec, arguments: dict[str, Any]) -> nn.Module:
    """The network with fresh weights, for as many channels as the images have."""
    import timm

    try:
        return timm.create_model(name, **_shape(name, spec) | {"num_classes": num_classes} | arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"MODEL.NAME 'timm/{name}': {one_line(error)}") from error


def pretrained(name: str, spec: InputSpec) -> dict[str, torch.Tensor]:
    """The state dict of the weights that the name stands for, from the hub's cache or downloaded into it.

    timm fits them to the size and the channels of the images.
    """
    import timm

    preset = _preset(name)
    if not preset.has_weights:
        raise UserError(f"MODEL.PRETRAINED: there are no pretrained weights for timm/{name}; set it to false")
    try:
        return timm.create_model(name, pretrained=True, **_shape(name, spec)).state_dict()
    except Exception as error:  # the hub's client raises many kinds
        raise UserError(
            f"MODEL.PRETRAINED: cannot get the weights of timm/{name} ({one_line(error)[:200]}): put "
            f"{preset.hf_hub_id or preset.url} into the hub's cache, or name a file in MODEL.WEIGHTS"
        ) from error


def _shape(name: str, spec: InputSpec) -> dict[str, Any]:
    size = {"img_size": spec.size} if _preset(name).fixed_input_size else {}
    return {"in_chans": spec.channels} | size


def _preset(name: str) -> Any:
    import timm

    base = name.partition(".")[0]
    try:
        preset = timm.get_pretrained_cfg(name) if timm.is_model(base) else None
    except RuntimeError:  # no such weights of a model that there is
        preset = None
    if preset is None:
        known = timm.list_models(f"{base}*" if timm.is_model(base) else "", pretrained=timm.is_model(base))
        raise UserError(f"MODEL.NAME 'timm/{name}': timm has no such model; {did_you_mean(name, known)}")
    return preset
