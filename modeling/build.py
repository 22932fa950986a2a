"""cfg -> input spec, model, normalisation, criterion."""

from typing import Any

from torch import nn

from config import CfgNode
from layers.normalize import Normalize
from modeling import torchvision_models
from modeling.registry import LOSSES, MODELS
from utils.errors import UserError
from utils.input_spec import InputSpec
from utils.registry import call

_KEY = "MODEL.NAME"
# The usual statistics of photographs: ImageNet's.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def input_spec(cfg: CfgNode, native: dict[str, Any]) -> InputSpec:
    """Size, channels and normalisation of the images, without building anything.

    Each is the first there is of: the key in INPUT, the data set's own (`native`), the
    network's. Raises UserError for a size that the network cannot take.
    """
    facts = _facts(cfg)
    channels = cfg.INPUT.CHANNELS or native.get("channels", 3)
    size = tuple(cfg.INPUT.SIZE or native.get("size") or facts["size"])
    mean = tuple(cfg.INPUT.MEAN or _first_fitting(channels, native.get("mean"), facts.get("mean"), _MEAN))
    std = tuple(cfg.INPUT.STD or _first_fitting(channels, native.get("std"), facts.get("std"), _STD))
    least = facts.get("min_size", (1, 1))
    if size[0] < least[0] or size[1] < least[1]:
        raise UserError(
            f"INPUT.SIZE: found {list(size)}, {cfg.MODEL.NAME} takes at least {list(least)}; set it to that or more"
        )
    for key, values in (("MEAN", mean), ("STD", std)):
        if len(values) != channels:
            raise UserError(f"INPUT.{key}: found {len(values)} numbers for {channels} channels; give one for each")
    return InputSpec(size, channels, mean, std)


def build_model(cfg: CfgNode, spec: InputSpec, num_classes: int) -> nn.Module:
    """The network with fresh weights. Its arguments are the keys in lower case beside MODEL.NAME."""
    library, _, name = cfg.MODEL.NAME.rpartition("/")
    arguments = cfg.MODEL.arguments()
    if library == "torchvision":
        return torchvision_models.build(name, num_classes, spec.size, arguments, _KEY)
    factory = MODELS.get(cfg.MODEL.NAME, _KEY)
    return call(factory, arguments, "MODEL", num_classes=num_classes, in_channels=spec.channels)


def build_normalize(cfg: CfgNode, spec: InputSpec) -> Normalize:
    """Bytes -> what the network takes: with as many channels as it was built for."""
    return Normalize(spec.mean, spec.std, _facts(cfg).get("channels", spec.channels))


def build_criterion(cfg: CfgNode) -> nn.Module:
    return call(LOSSES.get(cfg.LOSS.NAME, "LOSS.NAME"), cfg.LOSS.arguments(), "LOSS")


def _facts(cfg: CfgNode) -> dict[str, Any]:
    library, _, name = cfg.MODEL.NAME.rpartition("/")
    if library == "torchvision":
        return torchvision_models.facts(name, _KEY)
    return {"size": (224, 224)} | MODELS.info(cfg.MODEL.NAME, _KEY)


def _first_fitting(channels: int, *candidates: tuple[float, ...] | None) -> tuple[float, ...]:
    """The first statistics that there are, averaged over colours for gray and repeated for RGB."""
    values = next(c for c in candidates if c is not None)
    if len(values) == channels:
        return values
    return tuple([sum(values) / len(values)] * channels)
