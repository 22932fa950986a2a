"""A checkpoint -> a task that is ready to predict, and the metrics that judge it."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from config import CfgNode, load_text
from config.changes import check_test_overrides
from config.node import differences
from engine.checkpoint import Checkpoint, Resolved, load_checkpoint, load_model_state
from engine.inference import FlipAverage
from engine.precision import set_arithmetic
from engine.registry import METRICS
from engine.tasks.base import Metrics, Task, find_task, task_family
from modeling.build import build_criterion, build_input_spec, build_model, build_normalize
from utils.contracts import InputSpec
from utils.distributed import local_gpu
from utils.errors import UserError, did_you_mean
from utils.labels import nfc
from utils.registry import call
from utils.run_folder import RunFolder

_RESERVED = ("checkpoint", "task", "split", "num_samples", "num_skipped", "loss")


def prepare_checkpoint(checkpoint: Checkpoint, overrides: Sequence[str] = ()) -> tuple[Checkpoint, CfgNode]:
    """Returns a checkpoint to test or predict with, and its configuration, changed by KEY VALUE `overrides`.

    Its `resolved` follows them too. Raises UserError for an override that a test does not allow.
    """
    source, resolved = str(checkpoint.source), checkpoint.resolved
    saved, cfg = load_text(checkpoint.config, source), load_text(checkpoint.config, source, overrides)
    check_test_overrides(saved, cfg)
    spec = override_input(cfg, resolved.input, differences(saved, cfg), {})
    return dataclasses.replace(checkpoint, resolved=dataclasses.replace(resolved, input=spec)), cfg


def override_input(cfg: CfgNode, saved: InputSpec, changed: Collection[str], defaults: dict) -> InputSpec:
    """Returns `saved` with what the `changed` keys of `cfg` ask for in its place."""
    fields = [name for name in vars(saved) if f"INPUT.{name.upper()}" in changed]
    if not fields:
        return saved
    fresh = build_input_spec(cfg, {**vars(saved), **defaults})
    return dataclasses.replace(saved, **{name: getattr(fresh, name) for name in fields})


def build_task(cfg: CfgNode, resolved: Resolved, teacher: torch.nn.Module | None = None) -> Task:
    """Builds the network with fresh weights, its normalisation and its loss, as one task."""
    kind = find_task(resolved.task)
    model = build_model(cfg, resolved.input, resolved.num_outputs)
    normalize = build_normalize(cfg, resolved.input)
    criterion = build_criterion(cfg, resolved.loss, resolved.class_weights, teacher, resolved.num_outputs)
    task = call(kind, cfg.TASK.arguments(), "TASK", model, normalize, criterion, resolved.names)
    task.name = resolved.task
    return task


def build_trained_task(checkpoint: Checkpoint, cfg: CfgNode, device: torch.device) -> Task:
    """Builds the task of a prepared checkpoint with its weights, in evaluation mode on a device."""
    set_arithmetic(cfg.SOLVER.TF32, cfg.SOLVER.DETERMINISTIC)
    task = build_task(cfg, checkpoint.resolved)
    load_model_state(task.model, checkpoint.weights, str(checkpoint.source), assign=True)
    if "task" in checkpoint.state:
        load_model_state(task.with_model(None), checkpoint.state["task"], str(checkpoint.source))
    task.requires_grad_(False)
    to_device(task, device)
    return evaluation_task(cfg, task.eval())


def load_teacher(resolved: Resolved, device: torch.device) -> torch.nn.Module | None:
    """Returns the network of LOSS.teacher with its normalisation. Raises UserError for other classes or images."""
    if not resolved.teacher:
        return None
    run = RunFolder(Path(resolved.teacher))
    try:
        checkpoint, cfg = prepare_checkpoint(load_checkpoint(run.best_weights if run.has_weights else run.path))
    except UserError as error:
        raise UserError(f"LOSS.teacher: {error}; name a run or a checkpoint of this project") from error
    checkpoint.check_can_teach(resolved)
    task = build_trained_task(checkpoint, cfg, device)
    return torch.nn.Sequential(task.normalize, task.model)


def evaluation_task(cfg: CfgNode, task: Task) -> Task:
    """Returns the task as it is evaluated: with test-time augmentation, if asked for."""
    return task.with_model(FlipAverage(task.model)) if cfg.TEST.TTA_FLIP else task


def to_device(task: Task, device: torch.device) -> None:
    """Moves a task to a device, its network to channels-last memory where the tensors allow it."""
    task.to(device)
    with suppress(RuntimeError):  # a network with five-dimensional weights
        task.model.to(memory_format=torch.channels_last)


def build_metrics(cfg: CfgNode, resolved: Resolved, complete: bool = False) -> Metrics:
    """Returns the metrics of an evaluation: those of TEST.METRICS, or else the task's own, and the monitored one.

    If `complete`, with all that a report on the task shows. Raises UserError for a name that is unknown, reserved, or
    a metric of other tasks.
    """
    names = find_task(resolved.task).default_metrics if cfg.TEST.METRICS is None else cfg.TEST.METRICS
    monitored = resolved.monitor.partition(" ")[2]
    keys = dict.fromkeys(names, "TEST.METRICS") | ({} if monitored == "loss" else {monitored: "TEST.MONITOR"})
    metrics = {name: _find_metric(name, key, resolved) for name, key in keys.items()}
    return metrics | (task_metrics(resolved.task) if complete else {})


def _find_metric(name: str, key: str, resolved: Resolved) -> Callable[..., float]:
    """Returns a registered metric, or a column of a report's table for one class or output, such as recall.cat."""
    column, dot, output = name.partition(".")
    columns = find_task(resolved.task).predictions_type.columns
    if dot and name not in METRICS.names():
        if column not in columns:
            raise UserError(f"{key} {name}: no such score of a class; {did_you_mean(column, columns)}")
        index_of = {nfc(known): i for i, known in enumerate(resolved.names)}
        if (index := index_of.get(nfc(output))) is None:
            raise UserError(f"{key} {name}: no class '{output}'; {did_you_mean(output, resolved.names)}")
        return lambda predictions: columns[column](predictions)[index]
    if name in _RESERVED:
        raise UserError(f"{key} {name}: reserved name; rename the metric")
    task = resolved.task
    if task_family(task).isdisjoint(METRICS.info(name, key).get("tasks", (task,))):
        raise UserError(f"{key} {name}: not a metric of {task}; {did_you_mean(name, task_metrics(task))}")
    return METRICS.get(name, key)


def task_metrics(task_name: str) -> dict[str, Callable[..., float]]:
    """Returns all metrics that a report on a task shows."""
    family = task_family(task_name)
    names = [name for name in METRICS.names() if family.intersection(METRICS.info(name, "").get("tasks", ()))]
    return {name: METRICS.get(name, "") for name in names}


def resolve_device(name: str) -> torch.device:
    """Returns MODEL.DEVICE as a device that is available. Raises UserError for one that is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        name = local_gpu()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"MODEL.DEVICE '{name}': not available here; set it to auto or cpu") from error
    return device
