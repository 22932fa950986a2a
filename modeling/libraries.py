"""Networks by name, from this folder, torchvision or timm: their facts, construction and pretrained weights.

The libraries' are named torchvision/NAME and timm/NAME; a library is imported only when one of its networks is named.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from modeling.registry import MODELS, NetworkFacts
from utils.contracts import InputSpec
from utils.errors import UserError, did_you_mean, one_line
from utils.registry import call

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# Arguments of library networks that follow from the data and from other keys.
_SET_AUTOMATICALLY = set("num_classes in_chans img_size image_size pretrained weights features_only aux_logits".split())
# Networks of torchvision with auxiliary heads, which are left out: their losses helped before there was batch norm.
_AUXILIARY = ("googlenet", "inception_v3")


def network_facts(name: str, pretrained: bool = False) -> NetworkFacts:
    """Returns what is known about a network; with `pretrained`, size, mean and std are those of the weights.

    Raises UserError for an unknown name, or for weights that do not exist.
    """
    library, library_name = _split(name)
    if library == "timm":
        preset = _timm_preset(library_name)
        return NetworkFacts(preset.input_size[1:], tuple(preset.mean), tuple(preset.std))
    if library == "torchvision":
        return _torchvision_facts(library_name)
    if name not in MODELS.names() and name in torchvision_names():
        raise UserError(f"MODEL.NAME '{name}': no such model here; name torchvision/{name}")
    facts = NetworkFacts(**MODELS.info(name, "MODEL.NAME"))
    if not pretrained:
        return facts
    if name not in torchvision_names():
        hint = "name a network of torchvision or timm, or set it to false"
        raise UserError(f"MODEL.PRETRAINED: no pretrained weights exist for {name}; {hint}")
    of_weights = _torchvision_facts(name)
    return replace(facts, size=of_weights.size, mean=of_weights.mean, std=of_weights.std)


def build_network(name: str, arguments: Mapping[str, object], spec: InputSpec, num_outputs: int) -> nn.Module:
    """Returns a network with fresh weights. Raises UserError for an unknown name or invalid arguments."""
    library, library_name = _split(name)
    if not library:
        factory = MODELS.get(name, "MODEL.NAME")
        return call(factory, arguments, "MODEL", num_classes=num_outputs, in_channels=spec.channels)
    if reserved := sorted(arguments.keys() & _SET_AUTOMATICALLY):
        raise UserError(f"MODEL.{reserved[0]}: set automatically; remove it")
    key = f"MODEL.NAME {name}, INPUT.SIZE {list(spec.size)}"
    if library == "timm":
        import timm

        arguments = {**_timm_input(library_name, spec), **arguments}
        return call(timm.create_model, arguments, key, library_name, num_classes=num_outputs)
    import torchvision

    arguments = {**_torchvision_input(library_name, spec), **arguments}
    return call(torchvision.models.get_model, arguments, key, library_name, weights=None, num_classes=num_outputs)


def pretrained_weights(name: str, spec: InputSpec) -> dict[str, torch.Tensor]:
    """Returns the state dict of a network's ImageNet weights, from the library's cache or downloaded into it.

    Networks of this folder share torchvision's weights. Raises UserError for weights that cannot be had.
    """
    library, name = _split(name)
    return _timm_weights(name, spec) if library == "timm" else _torchvision_weights(name, spec)


def torchvision_names() -> list[str]:
    """Returns the names of torchvision's classifiers, all of which have weights."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _split(name: str) -> tuple[str, str]:
    """Returns the library and the name there; "" and the name for networks of this folder."""
    library, _, rest = name.partition("/")
    return (library, rest) if library in ("torchvision", "timm") and rest else ("", name)


# torchvision ---------------------------------------------------------------------------------------------------------


def _torchvision_facts(name: str) -> NetworkFacts:
    """Returns size and normalisation of the library's weights, and the limits of the network."""
    weights = _torchvision_preset(name)
    transform = weights.transforms()
    # The metadata of transformers give the size that the weights were trained with.
    min_size = (32, 32) if name.startswith(("vit_", "swin_", "maxvit_")) else weights.meta.get("min_size", (1, 1))
    size, mean, std = (transform.crop_size[0],) * 2, tuple(transform.mean), tuple(transform.std)
    return NetworkFacts(size, mean, std, min_size, in_channels=3)


def _torchvision_input(name: str, spec: InputSpec) -> dict[str, Any]:
    if name in _AUXILIARY:
        # Their weights were trained with another normalisation, which they apply themselves.
        return {"aux_logits": False, "init_weights": True, "transform_input": True}
    if name.startswith("vit_") and spec.size[0] != spec.size[1]:
        problem = f"found {list(spec.size)}, torchvision/{name} takes square images"
        raise UserError(f"INPUT.SIZE: {problem}; set two equal numbers")
    if name.startswith("vit_"):
        return {"image_size": spec.size[0]}
    return {"input_size": spec.size} if name.startswith("maxvit") else {}


def _torchvision_weights(name: str, spec: InputSpec) -> dict[str, torch.Tensor]:
    import torchvision

    weights = _torchvision_preset(name)
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


def _torchvision_preset(name: str) -> "WeightsEnum":
    import torchvision

    if name not in (known := torchvision_names()):
        raise UserError(f"MODEL.NAME 'torchvision/{name}': torchvision has no such model; {did_you_mean(name, known)}")
    return torchvision.models.get_model_weights(name).DEFAULT


# timm ----------------------------------------------------------------------------------------------------------------


def _timm_input(name: str, spec: InputSpec) -> dict[str, Any]:
    return {"in_chans": spec.channels} | ({"img_size": spec.size} if _timm_preset(name).fixed_input_size else {})


def _timm_weights(name: str, spec: InputSpec) -> dict[str, torch.Tensor]:
    """Returns the state dict of the named weights, which timm adapts to the size and the channels of the images."""
    import timm

    preset = _timm_preset(name)
    if not preset.has_weights:
        raise UserError(f"MODEL.PRETRAINED: no pretrained weights exist for timm/{name}; set it to false")
    try:
        return timm.create_model(name, pretrained=True, **_timm_input(name, spec)).state_dict()
    except Exception as error:  # the hub's client raises many kinds
        problem = f"cannot get the weights of timm/{name} ({one_line(error)[:200]})"
        hint = f"put {preset.hf_hub_id or preset.url} into the hub's cache, or name a file in MODEL.WEIGHTS"
        raise UserError(f"MODEL.PRETRAINED: {problem}: {hint}") from error


def _timm_preset(name: str) -> Any:  # timm.models.PretrainedCfg
    import timm

    base = name.partition(".")[0]
    is_model = timm.is_model(base)
    with suppress(RuntimeError):  # the model exists, the weights do not
        if is_model and (preset := timm.get_pretrained_cfg(name)):
            return preset
    known = timm.list_models(f"{base}*" if is_model else "", pretrained=is_model)
    raise UserError(f"MODEL.NAME 'timm/{name}': timm has no such model; {did_you_mean(name, known)}")
