"""Any classifier of torchvision, by the name torchvision/NAME."""

from typing import Any

from torch import nn

from utils.errors import UserError, did_you_mean, one_line


def facts(name: str, key: str) -> dict[str, Any]:
    """Default size and normalisation, from the metadata of the library's own weights."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(f"{key} 'torchvision/{name}': torchvision has no such model; {did_you_mean(name, known)}")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    side = preset.crop_size[0]
    min_size = weights.meta.get("min_size", (1, 1))
    return {"size": (side, side), "mean": preset.mean, "std": preset.std, "min_size": min_size, "channels": 3}


def build(name: str, num_classes: int, size: tuple[int, int], arguments: dict[str, Any], key: str) -> nn.Module:
    """The network with fresh weights, for images of three channels. Auxiliary heads are left out."""
    import torchvision

    given: dict[str, Any] = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        given |= {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        given |= {"image_size": size[0]}
    try:
        return torchvision.models.get_model(name, weights=None, **given | arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key} 'torchvision/{name}': {one_line(error)}") from error
