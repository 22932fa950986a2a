"""cfg -> input spec, network, normalisation, criterion."""

from typing import Any

import torch
from torch import nn

from config import CfgNode
from config.node import plain
from layers.normalize import Normalize
from modeling.head import limit_head, replace_head
from modeling.libraries import build_network, network_facts, pretrained_weights
from modeling.losses import ClassWeights
from modeling.registry import LOSSES
from modeling.weights import load_matching, match_head, read_weights
from utils.contracts import InputSpec
from utils.errors import UserError
from utils.registry import call


def build_input_spec(cfg: CfgNode, defaults: dict[str, Any]) -> InputSpec:
    """Returns size, channels, normalisation and transforms of the images, without building anything.

    Each value is the first available of: the key in INPUT; with MODEL.PRETRAINED, that of the weights; that of
    the data set (`defaults`: size, channels, mean, std, train_transforms, test_transforms); that of the network.
    Raises UserError for a size or a number of channels that the network does not accept.
    """
    facts = network_facts(cfg.MODEL.NAME, cfg.MODEL.PRETRAINED)
    found = {"size": facts.size, "mean": facts.mean, "std": facts.std}
    defaults = defaults | found if cfg.MODEL.PRETRAINED else found | defaults
    channels = cfg.INPUT.CHANNELS or defaults.get("channels", 3)
    size = tuple(cfg.INPUT.SIZE or defaults["size"])
    if size[0] < facts.min_size[0] or size[1] < facts.min_size[1]:
        expected = f"{cfg.MODEL.NAME} takes at least {list(facts.min_size)}; set it to that or more"
        raise UserError(f"INPUT.SIZE: found {list(size)}, {expected}")
    if facts.in_channels and channels not in (1, facts.in_channels):
        expected = f"{cfg.MODEL.NAME} takes {facts.in_channels}, or 1, which is repeated"
        hint = "name a network of timm or of modeling/ in MODEL.NAME"
        raise UserError(f"INPUT.CHANNELS: found {channels}, {expected}; {hint}")
    mean, std = (_statistics(cfg, key, channels, defaults[key.lower()]) for key in ("MEAN", "STD"))
    train, test = (_transforms(cfg, key, defaults) for key in ("TRAIN_TRANSFORMS", "TEST_TRANSFORMS"))
    return InputSpec(size, channels, mean, std, train, test)


def build_model(cfg: CfgNode, spec: InputSpec, num_outputs: int) -> nn.Module:
    """Returns the network with fresh weights; its arguments are the lower-case keys beside MODEL.NAME."""
    model = build_network(cfg.MODEL.NAME, cfg.MODEL.arguments(), spec, num_outputs)
    if cfg.MODEL.HEAD.HIDDEN or cfg.MODEL.HEAD.DROPOUT:
        replace_head(model, num_outputs, cfg.MODEL.HEAD.HIDDEN, cfg.MODEL.HEAD.DROPOUT)
    return model


def load_initial_weights(cfg: CfgNode, model: nn.Module, spec: InputSpec, names: list[str]) -> None:
    """Limits the weights of a fresh head, loads those of MODEL.PRETRAINED or MODEL.WEIGHTS, logs which tensors match.

    Of the head only the rows of those outputs that have one of the `names` in the file too, if it has names.
    """
    limit_head(model, len(names))
    if cfg.MODEL.PRETRAINED:
        state, source = pretrained_weights(cfg.MODEL.NAME, spec), f"pretrained {cfg.MODEL.NAME}"
    elif cfg.MODEL.WEIGHTS:
        (state, saved), source = read_weights(cfg.MODEL.WEIGHTS, model.state_dict()), cfg.MODEL.WEIGHTS
        if saved and saved != names:
            match_head(state, _head_tensors(cfg, model, spec, len(names)), saved, names, source)
    else:
        return
    load_matching(model, state, source, cfg.MODEL.WEIGHTS_MIN_MATCH)


def _head_tensors(cfg: CfgNode, model: nn.Module, spec: InputSpec, num_outputs: int) -> dict[str, torch.Tensor]:
    """Returns the tensors with a row for each output: those that would differ in shape with another output."""
    with torch.device("meta"):
        wider = build_model(cfg, spec, num_outputs + 1).state_dict()
    return {name: tensor for name, tensor in model.state_dict().items() if wider[name].shape != tensor.shape}


def build_normalize(cfg: CfgNode, spec: InputSpec) -> Normalize:
    """Returns the normalisation to the channels that the network was built for."""
    return Normalize(spec.mean, spec.std, network_facts(cfg.MODEL.NAME).in_channels or spec.channels)


def loss_task(cfg: CfgNode) -> str | None:
    """Returns the task that LOSS.NAME belongs to; None if LOSS.NAME is empty."""
    return LOSSES.info(cfg.LOSS.NAME, "LOSS.NAME").get("task", "classification") if cfg.LOSS.NAME else None


def build_criterion(
    cfg: CfgNode, name: str, class_weights: ClassWeights = None, teacher: nn.Module | None = None, num_outputs: int = 0
) -> nn.Module:
    """Returns the loss `name`; its arguments are the lower-case keys beside LOSS.NAME.

    `class_weights`, if given, replaces the key (`balanced` in numbers). `teacher` replaces the path in LOSS.teacher;
    only training needs it. Raises UserError for class weights whose number is not `num_outputs`, 0 for any.
    """
    arguments = cfg.LOSS.arguments()
    if "teacher" in arguments:
        arguments["teacher"] = teacher
    if class_weights is not None:
        arguments["class_weights"] = class_weights
    weights = arguments.get("class_weights")
    if isinstance(weights, list | tuple) and num_outputs not in (0, len(weights)):
        raise UserError(f"LOSS.class_weights: found {len(weights)} numbers for {num_outputs} classes; give one each")
    return call(LOSSES.get(name, "LOSS.NAME"), arguments, "LOSS")


def _statistics(cfg: CfgNode, key: str, channels: int, default: tuple[float, ...]) -> tuple[float, ...]:
    average = (sum(default) / len(default),) * channels
    values = tuple(cfg.INPUT[key] or (default if len(default) == channels else average))
    if len(values) != channels:
        raise UserError(f"INPUT.{key}: found {len(values)} numbers for {channels} channels; give one for each")
    return values


def _transforms(cfg: CfgNode, key: str, defaults: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(plain(defaults.get(key.lower(), ()) if cfg.INPUT[key] is None else cfg.INPUT[key]))
