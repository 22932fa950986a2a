"""Any classifier of torchvision, by the name torchvision/NAME, and the weights of its library."""

import os
from typing import Any

import torch
from torch import nn

from utils.errors import UserError, did_you_mean, one_line
from utils.input_spec import InputSpec

# The weight of the auxiliary heads' losses, as their papers have it (arXiv:1409.4842, arXiv:1512.00567).
_AUXILIARY = {"googlenet": 0.3, "inception_v3": 0.4}


def preset(name: str) -> dict[str, Any]:
    """Size and normalisation that the library's own weights were trained with."""
    transform = _weights(name).transforms()
    return {"size": (transform.crop_size[0],) * 2, "mean": transform.mean, "std": transform.std}


def facts(name: str) -> dict[str, Any]:
    """What is known of a network without building it; see modeling/registry.py."""
    min_size = _weights(name).meta.get("min_size", (1, 1))
    if name.startswith(("vit_", "swin_", "maxvit_")):  # the metadata say what the weights were trained with
        min_size = (32, 32)
    elif name == "inception_v3":  # its auxiliary head, in training
        min_size = (299, 299)
    return preset(name) | {"min_size": min_size, "in_channels": 3, "auxiliary": _AUXILIARY.get(name, 0.0)}


def build(name: str, num_classes: int, spec: InputSpec, arguments: dict[str, Any]) -> nn.Module:
    """The network with fresh weights, for images of three channels."""
    import torchvision

    given: dict[str, Any] = {"num_classes": num_classes}
    if name in _AUXILIARY:
        # Their weights were trained with another normalisation, which they apply themselves.
        given |= {"init_weights": True, "transform_input": True}
    elif name.startswith("vit_"):
        given |= {"image_size": spec.size[0]}
        if spec.size[0] != spec.size[1]:
            raise UserError(f"INPUT.SIZE: found {list(spec.size)}, torchvision/{name} takes squares only")
    elif name.startswith("maxvit"):
        given |= {"input_size": spec.size}
    try:
        return torchvision.models.get_model(name, weights=None, **given | arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"MODEL.NAME torchvision/{name}, INPUT.SIZE {list(spec.size)}: {one_line(error)}") from error


def pretrained(name: str, spec: InputSpec) -> dict[str, torch.Tensor]:
    """The state dict of the library's best ImageNet weights, from torch hub's cache or downloaded into it."""
    import torchvision

    weights = _weights(name)
    file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
    auxiliary = {"aux_logits": True} if name in _AUXILIARY else {}
    try:  # into a network of the library's, which knows the names that its older files have
        state = torchvision.models.get_model(name, weights=weights, **auxiliary).state_dict()
    except Exception as error:  # of the network, of the file system, of a damaged file
        problem = "is damaged" if os.path.exists(file) else "is not there, and the download failed"
        raise UserError(
            f"MODEL.PRETRAINED: the weights of {name}: {file} {problem} ({one_line(error)[:200]}); "
            f"put {weights.url} there"
        ) from error
    if name.startswith("vit_"):
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = interpolate_embeddings(spec.size[0], int(name.rpartition("_")[2]), state)
    return state


def has_weights(name: str) -> bool:
    import torchvision

    return name in torchvision.models.list_models(module=torchvision.models)


def _weights(name: str) -> Any:
    import torchvision

    if not has_weights(name):
        known = torchvision.models.list_models(module=torchvision.models)
        raise UserError(f"MODEL.NAME 'torchvision/{name}': torchvision has no such model; {did_you_mean(name, known)}")
    return torchvision.models.get_model_weights(name).DEFAULT
