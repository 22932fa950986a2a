"""Classifiers of torchvision, named torchvision/NAME, and the library's weights."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from modeling.registry import NetworkFacts
from utils.contracts import InputSpec
from utils.errors import UserError, did_you_mean, one_line

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# Networks with auxiliary heads, which are left out: their losses helped before there was batch norm.
_AUXILIARY = ("googlenet", "inception_v3")


def facts(name: str) -> NetworkFacts:
    """Returns size and normalisation of the library's weights, and the limits of the network."""
    weights = _weights(name)
    transform = weights.transforms()
    # The metadata of transformers give the size that the weights were trained with.
    min_size = (32, 32) if name.startswith(("vit_", "swin_", "maxvit_")) else weights.meta.get("min_size", (1, 1))
    size, mean, std = (transform.crop_size[0],) * 2, tuple(transform.mean), tuple(transform.std)
    return NetworkFacts(size, mean, std, min_size, in_channels=3)


def build(name: str, num_outputs: int, spec: InputSpec, arguments: Mapping[str, object]) -> nn.Module:
    """Returns the network with fresh weights, for images of three channels."""
    import torchvision

    given: dict[str, object] = {}
    if name in _AUXILIARY:
        # Their weights were trained with another normalisation, which they apply themselves.
        given = {"aux_logits": False, "init_weights": True, "transform_input": True}
    elif name.startswith("vit_"):
        given = {"image_size": spec.size[0]}
        if spec.size[0] != spec.size[1]:
            problem = f"found {list(spec.size)}, torchvision/{name} takes square images"
            raise UserError(f"INPUT.SIZE: {problem}; set two equal numbers")
    elif name.startswith("maxvit"):
        given = {"input_size": spec.size}
    try:
        return torchvision.models.get_model(name, weights=None, num_classes=num_outputs, **{**given, **arguments})
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"MODEL.NAME torchvision/{name}, INPUT.SIZE {list(spec.size)}: {one_line(error)}") from error


def pretrained(name: str, spec: InputSpec) -> dict[str, torch.Tensor]:
    """Returns the state dict of the library's best ImageNet weights, from torch hub's cache or downloaded into it.

    Raises UserError for a file that is missing and cannot be downloaded, or that is corrupt.
    """
    import torchvision

    weights = _weights(name)
    file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
    auxiliary = {"aux_logits": False} if name in _AUXILIARY else {}
    try:  # through the library's own network, which translates the names in its older files
        state = torchvision.models.get_model(name, weights=weights, **auxiliary).state_dict()
    except Exception as error:  # from the connection, the file system or a corrupt file
        problem = "is corrupt" if os.path.exists(file) else "does not exist, and the download failed"
        found = f"the weights of {name}: {file} {problem} ({one_line(error)[:200]})"
        raise UserError(f"MODEL.PRETRAINED: {found}; put {weights.url} there") from error
    if name.startswith("vit_"):
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = interpolate_embeddings(spec.size[0], int(name.rpartition("_")[2]), state)
    return state


def names() -> list[str]:
    """Returns the names of torchvision's classifiers, all of which have weights."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _weights(name: str) -> "WeightsEnum":
    import torchvision

    if name not in (known := names()):
        raise UserError(f"MODEL.NAME 'torchvision/{name}': torchvision has no such model; {did_you_mean(name, known)}")
    return torchvision.models.get_model_weights(name).DEFAULT
