"""cfg -> a trainer, by calling the builders of data/, modeling/ and solver/."""

import math
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import engine.hooks  # noqa: F401  to be found by name
from config import CfgNode, load_text
from config.changes import compare
from config.grammar import flow
from config.loader import dump_overrides
from data.build import (
    build_batch_transforms,
    build_eval_loader,
    build_train_and_val,
    build_train_loader,
    native_input,
)
from data.targets import is_soft, targets_of
from engine.build_inference import (
    build_metrics,
    build_predictor,
    checkpoint_config,
    resolve_device,
    to_device,
    wrap_predictor,
)
from engine.checkpoint import load_checkpoint
from engine.ema import MovingAverage
from engine.hooks.base import Hook
from engine.hooks.checkpoints import Checkpoints
from engine.hooks.evaluation import Evaluation
from engine.hooks.freezing import Freezing, freeze
from engine.hooks.progress_bar import ProgressBar
from engine.hooks.tensorboard import TensorBoard
from engine.hooks.training_log import TrainingLog
from engine.inference import Predictor
from engine.precision import Precision, resolve_amp, set_arithmetic
from engine.registry import HOOKS
from engine.rng import seed_everything
from engine.trainer import Trainer
from modeling.build import (
    build_criterion,
    build_model,
    build_normalize,
    input_spec,
    is_multilabel,
    load_initial_weights,
)
from modeling.head import find_head
from modeling.losses import balanced_weights
from modeling.trial import try_network
from solver.build import build_optimizer, build_schedule
from solver.groups import describe_groups
from utils.atomic_file import atomic_write
from utils.errors import UserError
from utils.input_spec import InputSpec
from utils.logger import get_logger
from utils.provenance import write_code, write_environment
from utils.registry import call, parse_entry
from utils.run_folder import RunFolder

# A change of these changes which parameters an optimizer has, or in which groups.
_GROUPS = ("MODEL.NAME", "SOLVER.FREEZE", "SOLVER.HEAD_LR_MULT", "SOLVER.LAYER_DECAY")


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
    set_arithmetic(cfg.SOLVER.TF32, cfg.SOLVER.DETERMINISTIC)
    device = resolve_device(cfg.MODEL.DEVICE)
    native = native_input(cfg)
    spec = input_spec(cfg, native)
    train_set, val_set = build_train_and_val(cfg)
    _check_labels(cfg, train_set)
    model, normalize = build_model(cfg, spec, len(train_set.classes)), build_normalize(cfg, spec)
    bf16_on_cpu = try_network(model, normalize, spec, len(train_set.classes), cfg.MODEL.NAME)
    user_cfg, cfg = cfg, _resolve(cfg, spec, native, train_set, resolve_amp(cfg.SOLVER.AMP, device, bf16_on_cpu))
    if state is None:
        load_initial_weights(cfg, model, spec)
    else:
        state = _check_continuation(state, cfg, train_set, allow_changes)
    to_device(model, device)
    normalize.to(device)
    trainer = _assemble(cfg, run, spec, model, normalize, train_set, val_set, device, poll, show_bar)
    if state is not None:
        trainer.load_state_dict(state)
    _write_down(user_cfg, cfg, run, device)
    _log_summary(cfg, trainer, train_set, val_set)
    return trainer


def _assemble(
    cfg: CfgNode,
    run: RunFolder,
    spec: InputSpec,
    model: nn.Module,
    normalize: nn.Module,
    train_set: Any,
    val_set: Any,
    device: torch.device,
    poll: Callable[[], None],
    show_bar: bool,
) -> Trainer:
    """A trainer of a network that is on its device, at the start of its training."""
    needs_head = cfg.SOLVER.FREEZE_EPOCHS or cfg.SOLVER.HEAD_LR_MULT != 1
    head = find_head(model, cfg.MODEL.NUM_CLASSES) if needs_head else None
    freeze(model, cfg.SOLVER.FREEZE)
    if cfg.MODEL.COMPILE:
        # One program for each size of batch: a general one, made at the second size, would depend on where a run began.
        model.compile(dynamic=False)
    ema = MovingAverage(model, cfg.SOLVER.EMA) if cfg.SOLVER.EMA else None
    predictor = wrap_predictor(cfg, ema.module if ema else model, normalize, device)
    train_loader = build_train_loader(cfg, train_set, spec, pin_memory=device.type == "cuda")
    optimizer = build_optimizer(cfg, model, head)
    return Trainer(
        model=model,
        normalize=normalize,
        criterion=build_criterion(cfg, _load_teacher(cfg, spec, train_set.classes, device)).to(device),
        optimizer=optimizer,
        schedule=build_schedule(cfg, optimizer, len(train_loader)),
        train_loader=train_loader,
        precision=Precision(cfg.SOLVER.AMP, device),
        device=device,
        max_epochs=cfg.SOLVER.MAX_EPOCHS,
        batch_transform=build_batch_transforms(cfg, cfg.MODEL.NUM_CLASSES),
        accumulate=cfg.SOLVER.ACCUMULATE,
        clip_norm=cfg.SOLVER.CLIP.NORM,
        clip_value=cfg.SOLVER.CLIP.VALUE,
        ema=ema,
        hooks=[
            *_build_evaluation(cfg, val_set, spec, predictor),
            Freezing(model, cfg.SOLVER.FREEZE_EPOCHS, head),
            *_build_hooks(cfg, has_validation=val_set is not None),
            *_build_records(cfg, run, spec, train_set.classes, show_bar),
        ],
        poll=poll,
    )


def _resolve(cfg: CfgNode, spec: InputSpec, native: dict[str, Any], train_set: Any, amp: str) -> CfgNode:
    """The configuration with every value that was left to be worked out."""
    classes = train_set.classes
    if cfg.MODEL.NUM_CLASSES not in (0, len(classes)):
        raise UserError(
            f"MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}: the data set has {len(classes)} classes; set it to 0"
        )
    cfg = cfg.clone()
    cfg.MODEL.NUM_CLASSES = len(classes)
    cfg.SOLVER.AMP = amp
    if "teacher" in cfg.LOSS:
        cfg.LOSS.teacher = os.path.abspath(os.path.expanduser(str(cfg.LOSS.teacher)))
    cfg.INPUT.update({key.upper(): value for key, value in spec.state_dict().items()})
    for key in ("TRAIN_TRANSFORMS", "TEST_TRANSFORMS"):
        if cfg.INPUT[key] is None:
            cfg.INPUT[key] = native[key.lower()]
    if cfg.LOSS.get("class_weights") == "balanced":  # in numbers, a test has the same loss without the training set
        cfg.LOSS.class_weights = call(balanced_weights, {}, "LOSS.class_weights", targets_of(train_set), len(classes))
    cfg.freeze()
    return cfg


def _check_labels(cfg: CfgNode, train_set: Any) -> None:
    """Raise UserError where images have several labels and the loss takes one."""
    targets = targets_of(train_set)
    if targets.ndim > 1 and not is_soft(targets) and not is_multilabel(cfg):
        raise UserError(
            f"LOSS.NAME {cfg.LOSS.NAME}: takes one label, the images of {cfg.DATASETS.NAME} have several; set it to bce"
        )


def _load_teacher(cfg: CfgNode, spec: InputSpec, classes: Sequence[str], device: torch.device) -> nn.Module | None:
    """The network of LOSS.teacher behind its own normalisation. Raises UserError for other classes or images."""
    if "teacher" not in cfg.LOSS:
        return None
    path = Path(cfg.LOSS.teacher)
    if RunFolder(path).has_weights:
        path = RunFolder(path).best_weights
    try:
        state = load_checkpoint(path)
    except UserError as error:
        raise UserError(f"LOSS.teacher: {error}; name a run or a checkpoint of this project") from error
    for name, found, expected in (
        ("classes", state["classes"], list(classes)),
        ("size", state["input"]["size"], list(spec.size)),
        ("channels", state["input"]["channels"], spec.channels),
    ):
        if found != expected:
            raise UserError(
                f"LOSS.teacher {path}: found {name} {flow(found)}, expected {flow(expected)} as in this training; "
                "name a teacher of the same classes and images"
            )
    teacher_cfg = checkpoint_config(state, path)
    if is_multilabel(teacher_cfg):
        raise UserError(f"LOSS.teacher {path}: gives several labels an image; name a teacher that gives one")
    predictor = build_predictor(teacher_cfg, state, path, device)
    return nn.Sequential(predictor.normalize, predictor.model)


def _check_continuation(
    state: dict[str, Any], cfg: CfgNode, train_set: Any, allow_changes: Collection[str]
) -> dict[str, Any]:
    """The state to continue from. Refuses other data or another experiment; logs what changed."""
    if list(train_set.classes) != state["classes"]:
        raise UserError(f"the training set's classes are not those of the checkpoint: {', '.join(state['classes'])}")
    size = state["counters"]["dataset_size"]
    if len(train_set) != size:
        raise UserError(
            f"the training set has {len(train_set)} images, the checkpoint's had {size}: the order would be another; "
            "put the data back as they were, or start anew without --resume"
        )
    saved = load_text(state["config"], "the checkpoint's configuration")
    changed = compare(saved, cfg, allow_changes)
    for line in changed.values():
        get_logger("resume").info("changed: %s", line)
    state = {**state, "counters": dict(state["counters"]), "schedule": dict(state["schedule"])}
    if any(key in _GROUPS or key.startswith("SOLVER.OPTIMIZER.") for key in changed):
        state["optimizer"] = None  # what another optimizer remembers, or of other weights, is of no use
    if any(key == "TEST.MONITOR" or key.startswith("LOSS.") for key in changed):
        state["counters"] |= {"best": None, "epochs_since_best": 0}  # of another measure
    if "SOLVER.BATCH_SIZE" in changed:
        counters = state["counters"]
        epochs = counters["epoch"] + counters["position"] / size
        # The schedule goes on where it was in epochs, though these have another number of steps now.
        state["schedule"]["shift"] = round(epochs * math.ceil(size / cfg.SOLVER.BATCH_SIZE)) - counters["step"]
    return state


def _build_evaluation(cfg: CfgNode, val_set: Any, spec: InputSpec, predictor: Predictor) -> list[Hook]:
    if val_set is None:
        return []
    loader = build_eval_loader(cfg, val_set, spec, pin_memory=predictor.device.type == "cuda")
    mode, monitor = cfg.TEST.MONITOR.split(" ", 1)
    return [Evaluation(predictor, loader, build_metrics(cfg), monitor, mode)]


def _build_hooks(cfg: CfgNode, has_validation: bool) -> list[Hook]:
    """What HOOKS lists."""
    entries = [parse_entry(entry, "HOOKS") for entry in cfg.HOOKS]
    names = [name for name, _ in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"HOOKS: {name} is listed twice; remove one")
    hooks = [call(HOOKS.get(name, "HOOKS"), arguments, "HOOKS") for name, arguments in entries]
    for name, hook in zip(names, hooks, strict=True):
        if hook.needs_validation and not has_validation:
            raise UserError(f"HOOKS: {name} needs a validation set: set DATASETS.VAL_RATIO above 0")
    return hooks


def _build_records(cfg: CfgNode, run: RunFolder, spec: InputSpec, classes: Sequence[str], show_bar: bool) -> list[Hook]:
    """What every run writes; saving comes last, when all other hooks have moved."""
    header = {"config": cfg.dump(), "classes": list(classes), "input": spec.state_dict()}
    monitor = cfg.TEST.MONITOR.split(" ", 1)[1]
    checkpoints = Checkpoints(run, header, monitor, cfg.CHECKPOINT.EVERY_STEPS, cfg.CHECKPOINT.KEEP_EVERY)
    bar = [ProgressBar()] if show_bar else []
    return [TrainingLog(run, cfg.LOG.PERIOD), TensorBoard(run, classes), *bar, checkpoints]


def _write_down(user_cfg: CfgNode, cfg: CfgNode, run: RunFolder, device: torch.device) -> None:
    """Put what is being run into its folder: the configuration each time, the rest when it is new."""
    with atomic_write(run.config) as file:
        file.write(cfg.dump())
    if not run.code.exists():
        run.overrides.write_text(dump_overrides(user_cfg), encoding="utf-8")
        write_environment(run.environment, str(device))
        write_code(run.code)


def _log_summary(cfg: CfgNode, trainer: Trainer, train_set: Any, val_set: Any) -> None:
    log = get_logger("train")
    held_out = f"{len(val_set)} for validation" if val_set is not None else "no validation"
    log.info("%s: %d images in %d classes, %s", cfg.DATASETS.NAME, len(train_set), len(train_set.classes), held_out)
    parameters = f"{sum(p.numel() for p in trainer.model.parameters()):,}"
    size = "x".join(map(str, (cfg.INPUT.CHANNELS, *cfg.INPUT.SIZE)))
    log.info(
        "%s: %s parameters, input %s, on %s, AMP %s", cfg.MODEL.NAME, parameters, size, trainer.device, cfg.SOLVER.AMP
    )
    for line in describe_groups(trainer.optimizer.param_groups, trainer.schedule.base_lrs):
        log.info("%s", line)
