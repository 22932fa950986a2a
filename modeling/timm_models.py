"""Classifiers of timm, named timm/NAME; timm is imported only when one is named."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from modeling.registry import NetworkFacts
from utils.contracts import InputSpec
from utils.errors import UserError, did_you_mean, one_line


def facts(name: str) -> NetworkFacts:
    """Returns default size and normalisation from the metadata of the library's weights."""
    preset = _preset(name)
    return NetworkFacts(preset.input_size[1:], tuple(preset.mean), tuple(preset.std))


def build(name: str, num_outputs: int, spec: InputSpec, arguments: Mapping[str, Any]) -> nn.Module:
    """Returns the network with fresh weights, for any number of channels. Raises UserError for refused arguments."""
    import timm

    try:
        return timm.create_model(name, **_shape(name, spec), **{"num_classes": num_outputs, **arguments})
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"MODEL.NAME 'timm/{name}': {one_line(error)}") from error


def pretrained(name: str, spec: InputSpec) -> dict[str, torch.Tensor]:
    """Returns the state dict of the named weights, from the hub's cache or downloaded into it.

    timm adapts them to the size and the channels of the images. Raises UserError for weights that cannot be had.
    """
    import timm

    preset = _preset(name)
    if not preset.has_weights:
        raise UserError(f"MODEL.PRETRAINED: no pretrained weights exist for timm/{name}; set it to false")
    try:
        return timm.create_model(name, pretrained=True, **_shape(name, spec)).state_dict()
    except Exception as error:  # the hub's client raises many kinds
        problem = f"cannot get the weights of timm/{name} ({one_line(error)[:200]})"
        hint = f"put {preset.hf_hub_id or preset.url} into the hub's cache, or name a file in MODEL.WEIGHTS"
        raise UserError(f"MODEL.PRETRAINED: {problem}: {hint}") from error


def _shape(name: str, spec: InputSpec) -> dict[str, Any]:
    return {"in_chans": spec.channels} | ({"img_size": spec.size} if _preset(name).fixed_input_size else {})


def _preset(name: str) -> Any:  # timm.models.PretrainedCfg
    import timm

    base = name.partition(".")[0]
    is_model = timm.is_model(base)
    with suppress(RuntimeError):  # the model exists, the weights do not
        if is_model and (preset := timm.get_pretrained_cfg(name)):
            return preset
    known = timm.list_models(f"{base}*" if is_model else "", pretrained=is_model)
    raise UserError(f"MODEL.NAME 'timm/{name}': timm has no such model; {did_you_mean(name, known)}")
