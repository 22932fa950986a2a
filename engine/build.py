"""cfg -> a trainer or a predictor, by calling the builders of data/, modeling/ and solver/."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import engine.hooks
import engine.metrics  # noqa: F401  both are imported to be found by name
from config import CfgNode, load_text, merge_dict
from config.changes import compare
from config.loader import dump_overrides
from data.build import build_eval_loader, build_train_and_val, build_train_loader, native_input
from engine.checkpoint import load_model_state
from engine.hooks.base import Hook
from engine.hooks.checkpoints import Checkpoints
from engine.hooks.evaluation import Evaluation
from engine.hooks.progress_bar import ProgressBar
from engine.hooks.training_log import TrainingLog
from engine.inference import MetricFunction, Predictor
from engine.precision import Precision, resolve_amp
from engine.registry import HOOKS, METRICS
from engine.rng import seed_everything
from engine.trainer import Trainer
from modeling.build import build_criterion, build_model, build_normalize, input_spec
from solver.build import build_optimizer, build_schedule
from utils.atomic_file import atomic_write
from utils.errors import UserError
from utils.input_spec import InputSpec
from utils.logger import get_logger
from utils.provenance import write_code, write_environment
from utils.registry import call, parse_entry
from utils.run_folder import RunFolder


def build_trainer(
    cfg: CfgNode,
    run: RunFolder,
    state: dict[str, Any] | None = None,
    allow_changes: Collection[str] = (),
    poll: Callable[[], None] = lambda: None,
    show_bar: bool = False,
) -> Trainer:
    """A trainer ready to train in `run`, from the start or from the checkpoint `state`."""
    seed_everything(cfg.SEED)
    device = resolve_device(cfg.MODEL.DEVICE)
    spec = input_spec(cfg, native_input(cfg))
    train_set, val_set = build_train_and_val(cfg)
    resolved = _resolve(cfg, spec, train_set.classes, device)
    if state is not None:
        _check_continuation(state, resolved, train_set, allow_changes)

    model = build_model(resolved, spec, resolved.MODEL.NUM_CLASSES).to(device, memory_format=torch.channels_last)
    normalize = build_normalize(resolved, spec).to(device)
    pin_memory = device.type == "cuda"
    train_loader = build_train_loader(resolved, train_set, spec, pin_memory)
    optimizer = build_optimizer(resolved, model)
    facts = {"config": resolved.dump(), "classes": list(train_set.classes), "input": spec.state_dict()}
    hooks: list[Hook] = []
    if val_set is not None:
        val_loader = build_eval_loader(resolved, val_set, spec, pin_memory)
        mode, monitor = resolved.TEST.MONITOR.split(" ", 1)
        predictor = Predictor(model, normalize, device)
        hooks.append(Evaluation(predictor, val_loader, build_metrics(resolved), monitor, mode, poll))
    hooks += [
        *_build_user_hooks(resolved),
        TrainingLog(run, resolved.LOG.PERIOD),
        *([ProgressBar()] if show_bar else []),
    ]
    hooks.append(_build_checkpoints(resolved, run, facts))

    trainer = Trainer(
        model=model,
        normalize=normalize,
        criterion=build_criterion(resolved).to(device),
        optimizer=optimizer,
        schedule=build_schedule(resolved, optimizer, len(train_loader)),
        train_loader=train_loader,
        precision=Precision(resolved.SOLVER.AMP, device),
        device=device,
        max_epochs=resolved.SOLVER.MAX_EPOCHS,
        hooks=hooks,
        poll=poll,
    )
    if state is not None:
        trainer.load_state_dict(state)
    _describe(cfg, resolved, run, model, device, train_set, val_set)
    return trainer


def build_predictor(cfg: CfgNode, state: dict[str, Any], source: Path, device: torch.device) -> Predictor:
    """The network of a checkpoint with its weights, ready to predict. `source` is its file, for messages."""
    spec = checkpoint_spec(cfg)
    model = build_model(cfg, spec, len(state["classes"]))
    load_model_state(model, state["model"], str(source))
    model.to(device, memory_format=torch.channels_last)
    return Predictor(model, build_normalize(cfg, spec).to(device), device)


def checkpoint_config(state: dict[str, Any], source: Path, overrides: Sequence[str] = ()) -> CfgNode:
    """The configuration that a checkpoint was trained with, changed by KEY VALUE `overrides`."""
    return load_text(state["config"], str(source), overrides)


def checkpoint_spec(cfg: CfgNode) -> InputSpec:
    """The input of a configuration from a checkpoint, in which every value is worked out."""
    return input_spec(cfg, native={})


def build_metrics(cfg: CfgNode) -> dict[str, MetricFunction]:
    return {name: METRICS.get(name, "TEST.METRICS") for name in cfg.TEST.METRICS}


def resolve_device(name: str) -> torch.device:
    """MODEL.DEVICE as a device that is there. Raises UserError for one that is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"MODEL.DEVICE '{name}': there is no such device here; set it to auto or cpu") from error
    return device


def _resolve(cfg: CfgNode, spec: InputSpec, classes: list[str], device: torch.device) -> CfgNode:
    """The configuration with every value that was left to be worked out."""
    num_classes = cfg.MODEL.NUM_CLASSES or len(classes)
    if num_classes != len(classes):
        raise UserError(f"MODEL.NUM_CLASSES {num_classes}: the data set has {len(classes)} classes; set it to 0")
    native = native_input(cfg)
    values = spec.state_dict()
    transforms = {
        key: native[key.lower()] if cfg.INPUT[key] is None else cfg.INPUT[key]
        for key in ("TRAIN_TRANSFORMS", "TEST_TRANSFORMS")
    }
    return merge_dict(
        cfg,
        {
            "MODEL": {"NUM_CLASSES": num_classes},
            "INPUT": {key.upper(): value for key, value in values.items()} | transforms,
            "SOLVER": {"AMP": resolve_amp(cfg.SOLVER.AMP, device)},
        },
    )


def _check_continuation(state: dict[str, Any], cfg: CfgNode, train_set: Any, allow_changes: Collection[str]) -> None:
    """Refuse to continue with other data or another experiment; log what changed."""
    if list(train_set.classes) != state["classes"]:
        raise UserError(f"the training set's classes are not those of the checkpoint: {', '.join(state['classes'])}")
    size = state["counters"]["dataset_size"]
    if len(train_set) != size:
        raise UserError(
            f"the training set has {len(train_set)} images, the checkpoint's had {size}: the order would be another; "
            "put the data back as they were, or start anew without --resume"
        )
    for line in compare(load_text(state["config"], "the checkpoint's configuration"), cfg, allow_changes):
        get_logger("resume").info("changed: %s", line)


def _build_user_hooks(cfg: CfgNode) -> list[Hook]:
    entries = [parse_entry(entry, "HOOKS") for entry in cfg.HOOKS]
    names = [name for name, _ in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"HOOKS: {name} is listed twice; remove one")
    return [call(HOOKS.get(name, "HOOKS"), arguments, f"HOOKS: {name}") for name, arguments in entries]


def _build_checkpoints(cfg: CfgNode, run: RunFolder, facts: dict[str, Any]) -> Checkpoints:
    monitor = cfg.TEST.MONITOR.split(" ", 1)[1]
    return Checkpoints(run, facts, monitor, cfg.CHECKPOINT.EVERY_STEPS, cfg.CHECKPOINT.KEEP_EVERY)


def _describe(
    cfg: CfgNode,
    resolved: CfgNode,
    run: RunFolder,
    model: nn.Module,
    device: torch.device,
    train_set: Any,
    val_set: Any,
) -> None:
    """Write down what is being run, in the run folder and in the log."""
    for path, text in ((run.config, resolved.dump()), (run.overrides, dump_overrides(cfg))):
        with atomic_write(path) as file:
            file.write(text)
    write_environment(run.path / "environment.txt", str(device))
    write_code(run.path / "code")
    log = get_logger("train")
    parameters = sum(p.numel() for p in model.parameters())
    spec = "x".join(map(str, (resolved.INPUT.CHANNELS, *resolved.INPUT.SIZE)))
    held_out = f"{len(val_set)} for validation" if val_set is not None else "no validation"
    log.info("%s: %s images in %d classes, %s", cfg.DATASETS.NAME, len(train_set), len(train_set.classes), held_out)
    log.info(
        "%s: %s parameters, input %s, on %s, AMP %s",
        cfg.MODEL.NAME,
        f"{parameters:,}",
        spec,
        device,
        resolved.SOLVER.AMP,
    )
