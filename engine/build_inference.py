"""A checkpoint -> a network that is ready to predict, and what tests it."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

import engine.metrics  # noqa: F401  to be found by name
from config import CfgNode, load_text
from config.changes import check_test_overrides
from engine.checkpoint import load_model_state
from engine.inference import Metrics, Predictor
from engine.registry import METRICS
from modeling.build import build_model, build_normalize, input_spec, is_multilabel
from modeling.weights import NoRandomInit
from utils.errors import UserError
from utils.input_spec import InputSpec

_TAKEN = ("checkpoint", "split", "count", "left_out", "loss")


def checkpoint_config(state: dict[str, Any], source: Path, overrides: Sequence[str] = ()) -> CfgNode:
    """The configuration that a checkpoint was trained with, changed for a test by KEY VALUE `overrides`."""
    cfg = load_text(state["config"], str(source), overrides)
    check_test_overrides(load_text(state["config"], str(source)), cfg)
    return cfg


def checkpoint_spec(cfg: CfgNode) -> InputSpec:
    """The input of a configuration from a checkpoint, in which every value is worked out."""
    return input_spec(cfg, native={})


def build_predictor(cfg: CfgNode, state: dict[str, Any], source: Path, device: torch.device) -> Predictor:
    """The network of a checkpoint with its weights, ready to predict. `source` is its file, for messages."""
    spec = checkpoint_spec(cfg)
    with NoRandomInit():
        model = build_model(cfg, spec, len(state["classes"]))
    load_model_state(model, state.get("ema") or state["model"], str(source), assign=True)
    model.requires_grad_(False)
    to_device(model, device)
    return wrap_predictor(cfg, model, build_normalize(cfg, spec).to(device), device)


def wrap_predictor(cfg: CfgNode, model: nn.Module, normalize: nn.Module, device: torch.device) -> Predictor:
    return Predictor(model, normalize, device, is_multilabel(cfg), cfg.TEST.FLIP)


def to_device(model: nn.Module, device: torch.device) -> None:
    """Onto the device, in channels-last memory where the network's tensors can be."""
    model.to(device)
    with suppress(RuntimeError):  # a network with five-dimensional weights
        model.to(memory_format=torch.channels_last)


def build_metrics(cfg: CfgNode) -> Metrics:
    metrics = Metrics({}, {})
    for name in cfg.TEST.METRICS:
        if name in _TAKEN:
            raise UserError(f"TEST.METRICS {name}: a report calls something else so; rename the metric")
        whole_set = METRICS.info(name, "TEST.METRICS").get("whole_set", False)
        (metrics.whole_set if whole_set else metrics.per_sample)[name] = METRICS.get(name, "TEST.METRICS")
    return metrics


def resolve_device(name: str) -> torch.device:
    """MODEL.DEVICE as a device that is there. Raises UserError for one that is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"MODEL.DEVICE '{name}': there is no such device here; set it to auto or cpu") from error
    return device
