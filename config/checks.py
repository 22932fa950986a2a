"""What a value must be: its type, its range or choices, and what goes together."""

import logging
import math
from collections.abc import Callable
from typing import Any

from config.node import CfgNode, leaves
from utils.errors import UserError, did_you_mean

_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text", list: "a list [a, b]"}


def _at_least(low: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: low <= value < math.inf, f"at least {low}"


def _one_of(*choices: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in choices, f"one of {', '.join(map(str, choices))}"


def _numbers(
    low: float, count: tuple[int, ...], kinds: tuple[type, ...] = (int, float), high: float = math.inf
) -> Callable[[Any], bool]:
    return lambda value: len(value) in count and all(type(v) in kinds and low < v <= high for v in value)


def _is_log_format(value: str) -> bool:
    try:
        logging.Formatter(value).format(logging.makeLogRecord({"name": "x", "msg": "y"}))
    except (ValueError, TypeError, KeyError):
        return False
    return True


# Key -> (test of a value that is not None, what is expected in words).
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "SEED": (lambda v: 0 <= v < 2**63, "an integer from 0 to 2**63 - 1"),
    "EXPERIMENT.NAME": (
        lambda v: v.isprintable() and "/" not in v and v not in (".", ".."),
        "a folder's name without '/'",
    ),
    "MODEL.NUM_CLASSES": _at_least(0),
    "MODEL.WEIGHTS_MIN_MATCH": (lambda v: 0 <= v <= 1, "a share from 0 to 1"),
    "MODEL.HEAD.HIDDEN": _at_least(0),
    "MODEL.HEAD.DROPOUT": (lambda v: 0 <= v < 1, "a share from 0 up to, not including, 1"),
    "SOLVER.HEAD_LR_MULT": (lambda v: 0 < v < math.inf, "a number above 0"),
    "SOLVER.LAYER_DECAY": (lambda v: 0 < v <= 1, "a share above 0, at most 1"),
    "SOLVER.FREEZE_EPOCHS": _at_least(0),
    "SOLVER.FREEZE": (lambda v: all(isinstance(name, str) for name in v), "a list of names such as layer1.*"),
    "INPUT.CHANNELS": _one_of(0, 1, 3),
    "INPUT.SIZE": (_numbers(0, (2,), (int,), high=2**14), "[height, width] in pixels, at most 16384"),
    "INPUT.MEAN": (_numbers(-math.inf, (1, 3)), "one number for each channel"),
    "INPUT.STD": (_numbers(0, (1, 3)), "one number above 0 for each channel"),
    "DATASETS.VAL_RATIO": (lambda v: 0 <= v < 1, "a share from 0 up to, not including, 1"),
    "DATASETS.FOLD": (
        lambda v: len(v) == 2 and all(type(n) is int for n in v) and 1 <= v[0] <= v[1] >= 2,
        "[k, n] with 1 <= k <= n and n at least 2",
    ),
    "DATASETS.TRAIN_ITEMS": _at_least(0),
    "DATASETS.SAMPLER": _one_of("shuffle", "balanced", "weighted"),
    "DATASETS.ON_ERROR": _one_of("raise", "skip"),
    "DATASETS.MAX_SKIPPED": (lambda v: 0 <= v <= 1, "a share from 0 to 1"),
    "DATASETS.MAX_PIXELS": (lambda v: 1 <= v <= 178_956_970, "from 1 to 178956970, Pillow's own limit"),
    "DATALOADER.NUM_WORKERS": _at_least(0),
    "DATALOADER.PREFETCH": _at_least(1),
    "DATALOADER.WORKER_KIND": _one_of("auto", "fork", "forkserver", "spawn"),
    "SOLVER.MAX_EPOCHS": _at_least(1),
    "SOLVER.BATCH_SIZE": _at_least(1),
    "SOLVER.AMP": _one_of("off", "bf16", "fp16", "auto"),
    "SOLVER.BASE_LR": (lambda v: 0 < v < math.inf, "a number above 0"),
    "SOLVER.WEIGHT_DECAY": _at_least(0),
    "SOLVER.ACCUMULATE": _at_least(1),
    "SOLVER.CLIP.NORM": _at_least(0),
    "SOLVER.CLIP.VALUE": _at_least(0),
    "SOLVER.EMA": (lambda v: 0 <= v < 1, "a share from 0 up to, not including, 1"),
    "INPUT.BATCH_TRANSFORMS_UNTIL": _at_least(0),
    "SOLVER.SCHEDULER.WARMUP_EPOCHS": _at_least(0),
    "TEST.BATCH_SIZE": _at_least(1),
    "TEST.METRICS": (lambda v: all(isinstance(name, str) for name in v), "a list of names"),
    "CHECKPOINT.EVERY_STEPS": _at_least(0),
    "CHECKPOINT.KEEP_EVERY": _at_least(0),
    "LOG.PERIOD": _at_least(1),
    "LOG.LEVEL": _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
    "LOG.FORMAT": (_is_log_format, "a format of Python's logging, such as %(message)s"),
}


def coerce(value: Any, text: str | None, default: Any, key: str) -> Any:
    """The value as the type of its default, or UserError.

    An integer may stand for a float, a whole float for an integer, a string keeps the
    `text` it was written with, and a key whose default is None takes a list or None.
    """
    is_optional = default is None
    kind = list if is_optional else type(default)
    if is_optional and value is None:
        return None
    if kind is str and text is not None:
        return text
    if kind is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not kind:
        found = "nothing" if value is None else repr(value)
        optional = " or null" if is_optional else ""
        raise UserError(f"{key}: found {found}, expected {_NAMES[kind]}{optional}")
    return value


def check(cfg: CfgNode, where: Callable[[str], str]) -> None:
    """Raise UserError for a value or a combination that cannot work.

    `where(key)` says in which line a key was set, as the start of the message.
    """
    values = leaves(cfg)
    for key, (test, expected) in RULES.items():
        if values[key] is not None and not test(values[key]):
            raise UserError(f"{where(key)}{key}: found {values[key]!r}, expected {expected}")
    for key, problem in _conflicts(cfg):
        raise UserError(f"{where(key)}{key}: {problem}")


def _conflicts(cfg: CfgNode):
    solver, data = cfg.SOLVER, cfg.INPUT
    if solver.SCHEDULER.WARMUP_EPOCHS >= solver.MAX_EPOCHS:
        yield (
            "SOLVER.SCHEDULER.WARMUP_EPOCHS",
            f"{solver.SCHEDULER.WARMUP_EPOCHS} leaves nothing of SOLVER.MAX_EPOCHS {solver.MAX_EPOCHS}; lower it",
        )
    if cfg.MODEL.PRETRAINED and cfg.MODEL.WEIGHTS:
        yield "MODEL.WEIGHTS", "there is MODEL.PRETRAINED too; start from one of them"
    for key in ("MEAN", "STD"):
        if data[key] is not None and data.CHANNELS and len(data[key]) != data.CHANNELS:
            yield f"INPUT.{key}", f"has {len(data[key])} numbers for INPUT.CHANNELS {data.CHANNELS}; give one for each"
    for name in ("lr", "weight_decay"):
        if name in solver.OPTIMIZER:
            instead = "SOLVER.BASE_LR" if name == "lr" else "SOLVER.WEIGHT_DECAY"
            yield f"SOLVER.OPTIMIZER.{name}", f"has a key of its own; set {instead} instead"
    mode, _, metric = cfg.TEST.MONITOR.partition(" ")
    metrics = ["loss", *cfg.TEST.METRICS]
    if mode not in ("max", "min") or not metric:
        yield "TEST.MONITOR", f"found {cfg.TEST.MONITOR!r}, expected 'max' or 'min' and a metric, such as 'max top1'"
    elif metric not in metrics:
        yield "TEST.MONITOR", f"'{metric}' is not in TEST.METRICS; {did_you_mean(metric, metrics)}"
    if cfg.DATASETS.VAL_RATIO == 0 and not cfg.DATASETS.FOLD and cfg.TEST.MONITOR != "max top1":
        yield "TEST.MONITOR", "needs a validation set to watch: set DATASETS.VAL_RATIO above 0"
