"""Networks by name, from this folder, torchvision or timm: their facts, construction and pretrained weights."""

from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType

import torch
from torch import nn

from modeling import timm_models, torchvision_models
from modeling.registry import MODELS, NetworkFacts
from utils.contracts import InputSpec
from utils.errors import UserError
from utils.registry import call

_LIBRARIES: dict[str, ModuleType] = {"torchvision": torchvision_models, "timm": timm_models}
# Arguments of library networks that follow from the data and from other keys.
_SET_AUTOMATICALLY = set("num_classes in_chans img_size image_size pretrained weights features_only aux_logits".split())


def network_facts(name: str, pretrained: bool = False) -> NetworkFacts:
    """Returns what is known about a network; with `pretrained`, size, mean and std are those of the weights.

    Raises UserError for an unknown name, or for weights that do not exist.
    """
    library, library_name = _split(name)
    if library:
        return library.facts(library_name)
    facts = NetworkFacts(**MODELS.info(name, "MODEL.NAME"))
    if not pretrained:
        return facts
    if name not in torchvision_models.names():
        hint = "name a network of torchvision or timm, or set it to false"
        raise UserError(f"MODEL.PRETRAINED: no pretrained weights exist for {name}; {hint}")
    of_weights = torchvision_models.facts(name)
    return replace(facts, size=of_weights.size, mean=of_weights.mean, std=of_weights.std)


def build_network(name: str, arguments: Mapping[str, object], spec: InputSpec, num_outputs: int) -> nn.Module:
    """Returns a network with fresh weights. Raises UserError for an unknown name or invalid arguments."""
    library, library_name = _split(name)
    if not library:
        given = {"num_classes": num_outputs, "in_channels": spec.channels}
        return call(MODELS.get(name, "MODEL.NAME"), arguments, "MODEL", **given)
    if reserved := sorted(arguments.keys() & _SET_AUTOMATICALLY):
        raise UserError(f"MODEL.{reserved[0]}: set automatically; remove it")
    return library.build(library_name, num_outputs, spec, arguments)


def pretrained_weights(name: str, spec: InputSpec) -> dict[str, torch.Tensor]:
    """Returns the state dict of a network's ImageNet weights, from the library's cache or downloaded into it.

    Networks of this folder share torchvision's weights. Raises UserError for weights that cannot be had.
    """
    library, library_name = _split(name)
    return (library or torchvision_models).pretrained(library_name, spec)


def _split(name: str) -> tuple[ModuleType | None, str]:
    """Returns the module for the library and the name there; None for networks of this folder."""
    prefix, _, rest = name.partition("/")
    return (_LIBRARIES[prefix], rest) if prefix in _LIBRARIES and rest else (None, name)
