"""cfg -> input spec, model, normalisation, criterion."""

from typing import Any

from torch import nn

from config import CfgNode
from layers.normalize import Normalize
from modeling import timm_models, torchvision_models
from modeling.head import replace_head
from modeling.losses import WithAuxiliaryHeads
from modeling.registry import LOSSES, MODELS
from modeling.weights import load_matching, read_weights
from utils.errors import UserError
from utils.input_spec import InputSpec
from utils.registry import call

_LIBRARIES = {"torchvision": torchvision_models, "timm": timm_models}
# Arguments of the libraries' networks that follow from the data and from other keys.
_SET_BY_PROGRAM = {"num_classes", "in_chans", "img_size", "image_size", "pretrained", "weights", "features_only"}
# The usual statistics of photographs: ImageNet's.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def input_spec(cfg: CfgNode, native: dict[str, Any]) -> InputSpec:
    """Size, channels and normalisation of the images, without building anything.

    Each is the first there is of: the key in INPUT, the pretrained weights' own, the data
    set's own (`native`), the network's. Raises UserError for a size that the network cannot take.
    """
    facts = _facts(cfg)
    native = native | facts if cfg.MODEL.PRETRAINED else native
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
    library, name = _library(cfg)
    arguments = cfg.MODEL.arguments()
    if library:
        for argument in arguments.keys() & _SET_BY_PROGRAM:
            raise UserError(f"MODEL.{argument}: this argument is set by the program; remove it")
        model = library.build(name, num_classes, spec, arguments)
    else:
        factory = MODELS.get(name, "MODEL.NAME")
        model = call(factory, arguments, "MODEL", num_classes=num_classes, in_channels=spec.channels)
    if cfg.MODEL.HEAD.HIDDEN or cfg.MODEL.HEAD.DROPOUT:
        replace_head(model, num_classes, cfg.MODEL.HEAD.HIDDEN, cfg.MODEL.HEAD.DROPOUT)
    return model


def load_initial_weights(cfg: CfgNode, model: nn.Module, spec: InputSpec) -> None:
    """Put the weights of MODEL.PRETRAINED or MODEL.WEIGHTS into a network, and log what of them fitted.

    Our own networks have the names of torchvision's, and so its weights.
    """
    library, name = _library(cfg)
    if cfg.MODEL.PRETRAINED:
        state = (library or torchvision_models).pretrained(name, spec)
        load_matching(model, state, f"pretrained {cfg.MODEL.NAME}", cfg.MODEL.WEIGHTS_MIN_MATCH)
    elif cfg.MODEL.WEIGHTS:
        load_matching(model, read_weights(cfg.MODEL.WEIGHTS), cfg.MODEL.WEIGHTS, cfg.MODEL.WEIGHTS_MIN_MATCH)


def build_normalize(cfg: CfgNode, spec: InputSpec) -> Normalize:
    """Bytes -> what the network takes: with as many channels as it was built for."""
    return Normalize(spec.mean, spec.std, _facts(cfg).get("in_channels", spec.channels))


def build_criterion(cfg: CfgNode, teacher: nn.Module | None = None) -> nn.Module:
    """The loss. In training `teacher` is the network of LOSS.teacher; testing needs none."""
    arguments = cfg.LOSS.arguments()
    if "teacher" in arguments:
        arguments["teacher"] = teacher
    weights = arguments.get("class_weights")
    if isinstance(weights, (list, tuple)) and cfg.MODEL.NUM_CLASSES not in (0, len(weights)):
        raise UserError(
            f"LOSS.class_weights: found {len(weights)} numbers for {cfg.MODEL.NUM_CLASSES} classes; give one for each"
        )
    criterion = call(LOSSES.get(cfg.LOSS.NAME, "LOSS.NAME"), arguments, "LOSS")
    auxiliary = _facts(cfg).get("auxiliary", 0.0)
    return WithAuxiliaryHeads(criterion, auxiliary) if auxiliary else criterion


def is_multilabel(cfg: CfgNode) -> bool:
    """Whether an image may have several labels, each with a probability of its own."""
    return LOSSES.info(cfg.LOSS.NAME, "LOSS.NAME").get("multilabel", False)


def _facts(cfg: CfgNode) -> dict[str, Any]:
    library, name = _library(cfg)
    if library:
        return library.facts(name)
    facts = {"size": (224, 224)} | MODELS.info(name, "MODEL.NAME")
    if not cfg.MODEL.PRETRAINED:
        return facts
    if not torchvision_models.has_weights(name):
        raise UserError(
            f"MODEL.PRETRAINED: there are no pretrained weights for {name}; name a network of torchvision or timm, "
            "or set it to false"
        )
    return facts | torchvision_models.preset(name)


def _library(cfg: CfgNode) -> tuple[Any, str]:
    """(the module that knows the library, or None for our own networks, the name there)."""
    library, _, name = cfg.MODEL.NAME.partition("/")
    return (_LIBRARIES[library], name) if library in _LIBRARIES and name else (None, cfg.MODEL.NAME)


def _first_fitting(channels: int, *candidates: tuple[float, ...] | None) -> tuple[float, ...]:
    """The first statistics that there are, averaged over colours for gray and repeated for RGB."""
    values = next(c for c in candidates if c is not None)
    if len(values) == channels:
        return values
    return tuple([sum(values) / len(values)] * channels)
