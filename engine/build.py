"""cfg -> a trainer, by calling the builders of data/, modeling/ and solver/."""

import dataclasses
import os
import zlib
from collections.abc import Callable, Collection

import torch

from config import CfgNode
from config.changes import compare
from config.loader import dump_overrides, load_text
from config.node import plain
from data.build import (
    build_batch_transforms,
    build_eval_loader,
    build_train_and_val,
    build_train_loader,
    dataset_defaults,
)
from data.splits import Splits, sample_names
from engine.build_inference import (
    build_metrics,
    build_task,
    evaluation_task,
    load_teacher,
    override_input,
    resolve_device,
    to_device,
)
from engine.checkpoint import Checkpoint, Resolved, seed_everything
from engine.ema import ModelEma
from engine.hooks.base import Hook
from engine.hooks.checkpoints import Checkpoints
from engine.hooks.evaluation import Evaluation
from engine.hooks.freezing import Freezing, freeze
from engine.hooks.training_log import TrainingLog
from engine.precision import Precision, resolve_amp, set_arithmetic
from engine.registry import HOOKS, STEPS
from engine.resume import check_data, continued_state, log_machine_changes
from engine.steps.standard import StandardStep
from engine.tasks.base import Task, find_task
from engine.tasks.classification import guess_task
from engine.trainer import Trainer
from modeling.build import build_input_spec, load_initial_weights, loss_task
from modeling.dry_run import cpu_bf16_support, dry_run
from modeling.head import find_head
from modeling.losses import balanced_weights
from solver.build import build_optimizer, build_schedule
from utils.contracts import Dataset, output_names, targets_of
from utils.distributed import check_batch_size, check_same, is_main, main_first, rank, world_size
from utils.errors import UserError, did_you_mean
from utils.logger import get_logger
from utils.provenance import write_run_files
from utils.registry import accepts, call, parse_entry
from utils.run_folder import RunFolder

log = get_logger("train")


def build_trainer(
    cfg: CfgNode,
    run: RunFolder,
    checkpoint: Checkpoint | None = None,
    allow_changes: Collection[str] = (),
    poll: Callable[[], None] = lambda: None,
) -> Trainer:
    """Returns a trainer that is ready to train in `run`, from the start or from a checkpoint.

    `cfg` is what was asked for. What it leaves open is worked out once, as `Resolved`; a resumed run takes it from
    its checkpoint.
    """
    seed_everything(cfg.SEED)
    set_arithmetic(cfg.SOLVER.TF32, cfg.SOLVER.DETERMINISTIC)
    # 1. The data, and the settings resolved from it.
    of_run = (checkpoint.splits, checkpoint.classes) if checkpoint else ()
    splits = main_first(lambda: build_train_and_val(cfg, *of_run))
    changes = {} if checkpoint is None else _check_continuation(cfg, checkpoint, splits, allow_changes)
    train_set, val_set = splits.train, splits.val
    resolved = _resolve(cfg, train_set, val_set, checkpoint, changes)
    check_batch_size(cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.MICRO_BATCHES)
    # 2. The task: network, normalisation and loss.
    task, resolved = _build_task(cfg, resolved, is_new=checkpoint is None)
    # 3. The step: optimizer, schedule, precision, moving average.
    device = torch.device(resolved.device)
    train_loader = build_train_loader(cfg, train_set, resolved.input, device, task.spatial_targets)
    step, head = _build_step(cfg, task, resolved, len(train_loader))
    # 4. The hooks, and the trainer that calls them.
    mix = build_batch_transforms(cfg, resolved.num_outputs)
    intervals = cfg.CHECKPOINT.EVERY_STEPS, cfg.CHECKPOINT.KEEP_EVERY_EPOCHS
    hooks = [
        *_build_evaluation(cfg, step, val_set, resolved),
        Freezing(task.model, cfg.SOLVER.FREEZE_EPOCHS, head),
        *_build_hooks(cfg, run, resolved.names, has_validation=val_set is not None),
        # Last, as it saves the state of the others.
        Checkpoints(run, cfg.dump(), output_names(train_set), resolved, splits.record, *intervals),
    ]
    trainer = Trainer(step, train_loader, device, cfg.SOLVER.MAX_EPOCHS, mix, hooks, poll)
    # 5. The state of a checkpoint.
    _set_apart(cfg.SEED, splits, resolved.amp)
    if checkpoint is not None:
        log_machine_changes(resolved, checkpoint)
        trainer.load_state_dict(continued_state(checkpoint, changes, len(train_loader), bool(cfg.SOLVER.EMA)))
    if is_main():
        held_out = sample_names(val_set) if val_set is not None else []
        texts = cfg.dump(), dump_overrides(cfg), resolved.to_yaml()
        write_run_files(run, *texts, resolved.device, splits.record, held_out)
    _log_summary(cfg, trainer, resolved, val_set)
    return trainer


def _set_apart(seed: int, splits: Splits, amp: str) -> None:
    """Gives each process its own stream of dropout. Raises UserError if their data or their precisions differ."""
    check_same(images=len(splits.train), names=zlib.crc32(splits.record.names.tobytes()), precision=amp)
    if not is_main():
        seed_everything(seed + rank())


def _check_continuation(
    cfg: CfgNode, checkpoint: Checkpoint, splits: Splits, allow_changes: Collection[str]
) -> dict[str, str]:
    """Returns and logs the keys that changed since the checkpoint. Raises UserError for other data or a refused key."""
    num_val = None if splits.val is None else len(splits.val)
    check_data(len(splits.train), splits.missing, splits.relabelled, num_val)
    changes = compare(load_text(checkpoint.config, str(checkpoint.source)), cfg, allow_changes)
    for line in changes.values():
        get_logger("resume").info("changed: %s", line)
    return changes


def _resolve(
    cfg: CfgNode, train_set: Dataset, val_set: Dataset | None, checkpoint: Checkpoint | None, changes: Collection[str]
) -> Resolved:
    """Works out what the configuration leaves open; a value of the checkpoint stays unless its key has changed."""
    saved = checkpoint.resolved if checkpoint else None
    task, needed = cfg.TASK.NAME or (saved.task if saved else ""), loss_task(cfg)
    if not task:
        task = "regression" if needed == "regression" else guess_task(train_set)
        source = "LOSS.NAME" if needed == "regression" else "the data set's targets"
        log.info("TASK.NAME: %s, inferred from %s", task, source)
    kind = find_task(task)
    kind.check(train_set, val_set)
    if needed and kind.loss_tasks and needed not in kind.loss_tasks:
        problem = f"a loss for {needed}, the task is {task}; set it to {kind.default_loss}"
        raise UserError(f"LOSS.NAME {cfg.LOSS.NAME}: {problem}")
    if cfg.INPUT.BATCH_TRANSFORMS and not kind.mixes_targets:
        raise UserError(f"INPUT.BATCH_TRANSFORMS: targets of {task} cannot be mixed; remove it")
    num_outputs = kind.num_outputs(train_set)
    if num_outputs < 1:
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: it names no classes or targets; give it some")
    if cfg.MODEL.NUM_CLASSES not in (0, num_outputs):
        raise UserError(f"MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}: the data set has {num_outputs}; set it to 0")
    defaults = dataset_defaults(cfg)
    spec = override_input(cfg, saved.input, changes, defaults) if saved else build_input_spec(cfg, defaults)
    weights, teacher = cfg.LOSS.get("class_weights"), cfg.LOSS.get("teacher", "")
    if saved is not None and not any(key.startswith("LOSS.") for key in changes):
        weights, teacher = saved.class_weights, saved.teacher
    elif weights == "balanced":  # in numbers, a test has the same loss without the training set
        arguments = {"binary": (needed or next(iter(kind.loss_tasks), "")) == "multilabel"}
        weights = call(balanced_weights, arguments, "LOSS.class_weights", targets_of(train_set), num_outputs)
    loss, monitor = cfg.LOSS.NAME or kind.default_loss, cfg.TEST.MONITOR or kind.default_monitor
    teacher = os.path.abspath(os.path.expanduser(str(teacher))) if teacher else ""
    return Resolved(task, loss, monitor, kind.names_of(train_set), num_outputs, spec, weights, teacher)


def _build_task(cfg: CfgNode, resolved: Resolved, is_new: bool) -> tuple[Task, Resolved]:
    """Returns the task on its device, and `resolved` with the device and the precision that suits the network."""
    device = resolve_device(cfg.MODEL.DEVICE)
    task = build_task(cfg, resolved, load_teacher(resolved, device))
    outputs = dry_run(task.model, task.normalize, resolved.input, cfg.MODEL.NAME)
    task.check_outputs(outputs, resolved.num_outputs, resolved.input, f"MODEL.NAME {cfg.MODEL.NAME}")
    on_cpu = device.type == "cpu" and cfg.SOLVER.AMP in ("auto", "bf16")
    bf16 = cpu_bf16_support(task.model, task.normalize, resolved.input) if on_cpu else "good"
    if is_new:
        load_initial_weights(cfg, task.model, resolved.input, resolved.names)
    if cfg.MODEL.SYNC_BN and world_size() > 1:
        if device.type != "cuda":
            raise UserError(f"MODEL.SYNC_BN: supported on GPUs only, the device is {device.type}; set it to false")
        if cfg.SOLVER.MICRO_BATCHES > 1:  # of which the last batch of an epoch may have more in one process
            raise UserError(
                "MODEL.SYNC_BN: cannot be combined with SOLVER.MICRO_BATCHES; set one of them to its default"
            )
        task.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
    to_device(task, device)
    amp = resolve_amp(cfg.SOLVER.AMP, device, bf16)
    return task, dataclasses.replace(resolved, device=str(device), amp=amp)


def _build_step(cfg: CfgNode, task: Task, resolved: Resolved, steps_per_epoch: int) -> tuple[StandardStep, str | None]:
    """Returns the training step, and the name of the network's head where it is needed."""
    needs_head = cfg.SOLVER.FREEZE_EPOCHS or cfg.SOLVER.HEAD_LR_MULT != 1
    head = find_head(task.model, resolved.num_outputs) if needs_head else None
    freeze(task.model, cfg.SOLVER.FREEZE)
    if cfg.MODEL.COMPILE:
        # One program per batch size: a general one, made at the second size, would depend on where a run began.
        task.model.compile(dynamic=False)
    ema = ModelEma(task.model, cfg.SOLVER.EMA) if cfg.SOLVER.EMA else None
    # A fused optimizer hides from fp16's scaler whether an update was skipped.
    optimizer = build_optimizer(cfg, task.model, head, task.with_model(None), fused=resolved.amp != "fp16")
    schedule = build_schedule(cfg, optimizer, steps_per_epoch)
    precision = Precision(resolved.amp, torch.device(resolved.device))
    options = cfg.SOLVER.MICRO_BATCHES, cfg.SOLVER.CLIP.NORM, cfg.SOLVER.CLIP.VALUE
    factory, arguments = STEPS.get(cfg.SOLVER.STEP.NAME, "SOLVER.STEP.NAME"), cfg.SOLVER.STEP.arguments()
    step = call(factory, arguments, "SOLVER.STEP", task, optimizer, schedule, precision, ema, *options)
    _check_own_class(step, StandardStep, f"SOLVER.STEP.NAME {cfg.SOLVER.STEP.NAME}")
    return step, head


def _check_hook(hook: object, key: str) -> None:
    _check_own_class(hook, Hook, key)
    known = [name for name in vars(Hook) if not name.startswith("_")]
    for name in dir(hook):  # a misspelt one would never be called
        if name.startswith(("before_", "after_", "on_")) and name not in known:
            raise UserError(f"{key}: {name} is never called; {did_you_mean(name, known)}")


def _check_own_class(thing: object, kind: type, key: str) -> None:
    if not isinstance(thing, kind):
        raise UserError(f"{key}: {type(thing).__name__} is not derived from {kind.__name__}; derive it")
    save, load = (getattr(type(thing), name) is not getattr(kind, name) for name in ("state_dict", "load_state_dict"))
    if save != load:
        raise UserError(f"{key}: define both state_dict and load_state_dict, or neither")


def _build_evaluation(cfg: CfgNode, step: StandardStep, val_set: Dataset | None, resolved: Resolved) -> list[Hook]:
    metrics = build_metrics(cfg, resolved)
    if val_set is None:
        return []
    task = step.task if step.ema is None else step.task.with_model(step.ema.module)
    loader = build_eval_loader(cfg, val_set, resolved.input, torch.device(resolved.device), task.spatial_targets)
    return [Evaluation(evaluation_task(cfg, task), loader, metrics, resolved.monitor)]


def _build_hooks(cfg: CfgNode, run: RunFolder, names: list[str], has_validation: bool) -> list[Hook]:
    """Returns the training log, the hooks that HOOKS lists, and those that belong to every run."""
    entries = [parse_entry(entry, "HOOKS") for entry in cfg.HOOKS]
    always = {name for name in HOOKS.names() if HOOKS.info(name, "HOOKS").get("always")}
    entries += [(name, {}) for name in sorted(always - {name for name, _ in entries})]
    context = {"run": run, "classes": list(names), "config": plain(cfg)}
    hooks: list[Hook] = [TrainingLog(run, cfg.LOG.PERIOD)]
    for name, arguments in entries:
        factory = HOOKS.get(name, "HOOKS")
        given = {key: value for key, value in context.items() if accepts(factory, key)}
        hooks.append(call(factory, arguments, "HOOKS", **given))
        _check_hook(hooks[-1], f"HOOKS {name}")
        if hooks[-1].needs_validation and not has_validation:
            raise UserError(f"HOOKS: {name} needs a validation set: set DATASETS.VAL_RATIO above 0")
    return hooks


def _log_summary(cfg: CfgNode, trainer: Trainer, resolved: Resolved, val_set: Dataset | None) -> None:
    held_out = f"{len(val_set)} for validation" if val_set is not None else "no validation"
    images = f"{len(trainer.train_loader.dataset)} training images, {held_out}"
    log.info("%s: %s; %s with %d outputs", cfg.DATASETS.NAME, images, resolved.task, resolved.num_outputs)
    parameters = f"{sum(p.numel() for p in trainer.task.model.parameters()):,} parameters"
    if cfg.LOSS.get("class_weights") == "balanced" and cfg.DATASETS.SAMPLER != "shuffle":
        found = f"LOSS.class_weights balanced and DATASETS.SAMPLER {cfg.DATASETS.SAMPLER}"
        log.warning("%s: the two corrections multiply, and rare classes may count too much; set one", found)
    size = "x".join(map(str, (resolved.input.channels, *resolved.input.size)))
    log.info("%s: %s, input %s, on %s, AMP %s", cfg.MODEL.NAME, parameters, size, resolved.device, resolved.amp)
    for group, rate in zip(trainer.optimizer.param_groups, trainer.schedule.base_lrs, strict=True):
        tensors, count = len(group["params"]), sum(p.numel() for p in group["params"])
        found = f"{tensors} tensors with {count:,} parameters"
        log.info("%s: learning rate %.4g, weight decay %.4g", found, rate, group["weight_decay"])
