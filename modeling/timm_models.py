"""Any classifier of timm, by the name timm/NAME; timm is imported only when one is named."""

from typing import Any

import torch
from torch import nn

from utils.errors import UserError, did_you_mean, one_line
from utils.input_spec import InputSpec


def facts(name: str, key: str) -> dict[str, Any]:
    """Default size and normalisation, from the metadata of the library's own weights."""
    preset = _preset(name, key)
    _, *size = preset.input_size
    return {"size": tuple(size), "mean": preset.mean, "std": preset.std}


def build(name: str, num_classes: int, spec: InputSpec, arguments: dict[str, Any], key: str) -> nn.Module:
    """The network with fresh weights, for as many channels as the images have."""
    import timm

    given: dict[str, Any] = {"num_classes": num_classes, "in_chans": spec.channels}
    if _preset(name, key).fixed_input_size:
        given |= {"img_size": spec.size}
    try:
        return timm.create_model(name, pretrained=False, **given | arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"{key} 'timm/{name}': {one_line(error)}") from error


def pretrained(name: str, key: str) -> dict[str, torch.Tensor]:
    """The state dict of the weights that the name stands for, from the hub's cache or downloaded into it."""
    import timm

    preset = _preset(name, key)
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises many kinds
        raise UserError(
            f"MODEL.PRETRAINED: cannot get the weights of timm/{name} ({one_line(error)[:200]}): download "
            f"{preset.hf_hub_id or preset.url} and name the file in MODEL.WEIGHTS"
        ) from error


def _preset(name: str, key: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"{key} 'timm/{name}': timm is not installed; pip install timm") from error
    base = name.partition(".")[0]
    try:
        preset = timm.get_pretrained_cfg(name) if timm.is_model(base) else None
    except RuntimeError:  # no such weights of a model that there is
        preset = None
    if preset is None:
        known = timm.list_models(f"{base}*" if timm.is_model(base) else "", pretrained=timm.is_model(base))
        raise UserError(f"{key} 'timm/{name}': timm has no such model; {did_you_mean(name, known)}")
    return preset
