"""Types, ranges and combinations of values, checked before anything is built."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from config.grammar import Setting
from config.node import CfgNode, is_argument, leaves
from utils.errors import UserError

Rule = tuple[Callable[[Any], bool], str]  # a test of a value that is not None, and the expected value in words

# Keys that are gone: ignored in files, because the configurations of earlier runs have them.
REMOVED = {"LOG.FORMAT"}
_TYPES = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list [a, b]"}


def _at_least(low: int) -> Rule:
    return lambda v: v >= low, f"at least {low}"


def _one_of(*choices: str) -> Rule:
    return lambda v: v in choices, f"one of {', '.join(choices)}"


def _integers(value: list, count: int) -> bool:
    return len(value) == count and all(type(item) is int for item in value)


def _numbers(value: list, low: float) -> bool:
    return len(value) > 0 and all(type(item) in (int, float) and low < item < math.inf for item in value)


_POSITIVE: Rule = (lambda v: 0 < v < math.inf, "a finite number above 0")
_FINITE: Rule = (lambda v: 0 <= v < math.inf, "a finite number of at least 0")
_FRACTION: Rule = (lambda v: 0 <= v <= 1, "a fraction from 0 to 1")
_BELOW_1: Rule = (lambda v: 0 <= v < 1, "a fraction of at least 0 and below 1")
# For all numbers that have no rule of their own.
_BY_TYPE: dict[type, Rule] = {int: _at_least(0), float: _FINITE}
_SHARED = {
    "SOLVER.MAX_EPOCHS SOLVER.BATCH_SIZE SOLVER.MICRO_BATCHES TEST.BATCH_SIZE LOG.PERIOD": _at_least(1),
    "DATALOADER.PREFETCH": _at_least(1),
    "SEED DATASETS.SPLIT_SEED": (lambda v: 0 <= v < 2**63, "an integer from 0 to 2**63 - 1"),
    "MODEL.WEIGHTS_MIN_MATCH DATASETS.MAX_SKIPPED": _FRACTION,
    "MODEL.HEAD.DROPOUT DATASETS.VAL_RATIO SOLVER.EMA": _BELOW_1,
    "SOLVER.HEAD_LR_MULT": _POSITIVE,
    "SOLVER.CLIP.NORM SOLVER.CLIP.VALUE": (_FINITE[0], f"{_FINITE[1]}; 0 disables clipping"),
    "SOLVER.FREEZE TEST.METRICS": (lambda v: all(isinstance(item, str) for item in v), "a list of names"),
}
_RULES: dict[str, Rule] = {
    **{key: rule for keys, rule in _SHARED.items() for key in keys.split()},
    "EXPERIMENT.NAME": (lambda v: v.isprintable() and "/" not in v and v not in (".", ".."), "a name without /"),
    "INPUT.SIZE": (lambda v: _integers(v, 2) and all(0 < n <= 2**14 for n in v), "[height, width] up to 16384 pixels"),
    "INPUT.MEAN": (lambda v: _numbers(v, -math.inf), "one number for each channel"),
    "INPUT.STD": (lambda v: _numbers(v, 0), "one number above 0 for each channel"),
    "DATASETS.FOLD": (lambda v: _integers(v, 2) and 1 <= v[0] <= v[1] >= 2, "[k, n] with 1 <= k <= n and n at least 2"),
    "DATASETS.SAMPLER": _one_of("shuffle", "balanced", "weighted"),
    "DATASETS.ON_ERROR": _one_of("raise", "skip"),
    "DATASETS.MAX_PIXELS": (lambda v: 1 <= v <= 178_956_970, "from 1 to 178956970, Pillow's own limit"),
    "DATALOADER.NUM_WORKERS": (
        lambda v: v == "auto" or (v.isdecimal() and int(v) <= 1024),
        "auto or a number of workers up to 1024",
    ),
    "DATALOADER.WORKER_KIND": _one_of("auto", "threads", "fork", "forkserver", "spawn", "inline"),
    "SOLVER.LAYER_DECAY": (lambda v: 0 < v <= 1, "a fraction above 0, at most 1"),
    "SOLVER.AMP": _one_of("off", "bf16", "fp16", "auto"),
    "LOG.LEVEL": _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
}


def coerce(setting: Setting, default: object) -> object:
    """The value of a setting converted to the type of its default. Raises UserError for another type.

    Integers are accepted as floats, whole floats as integers, all scalars as strings, None and lists if it is None.
    """
    value, kind = setting.value, list if default is None else type(default)
    if kind is str and setting.text is not None:
        return setting.text
    if kind is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is kind or (value is None and default is None):
        return value
    found, optional = "nothing" if value is None else repr(value), " or null" if default is None else ""
    raise UserError(f"{setting.where}: {setting.key}: found {found}, expected {_TYPES[kind]}{optional}")


def check(cfg: CfgNode, origins: Mapping[str, str]) -> None:
    """Raises UserError for a value out of range or a conflict. `origins` maps keys to the line that set them."""
    for key, problem in chain(_out_of_range(cfg), _conflicts(cfg)):
        raise UserError(f"{origins[key]}: {key}: {problem}" if key in origins else f"{key}: {problem}")


def _out_of_range(cfg: CfgNode) -> Iterator[tuple[str, str]]:
    for key, value in leaves(cfg).items():
        rule = None if is_argument(key) or value is None else _RULES.get(key) or _BY_TYPE.get(type(value))
        if rule and not rule[0](value):
            yield key, f"found {value!r}, expected {rule[1]}"


def _conflicts(cfg: CfgNode) -> Iterator[tuple[str, str]]:
    solver, data, channels = cfg.SOLVER, cfg.INPUT, cfg.INPUT.CHANNELS
    if solver.SCHEDULER.WARMUP_EPOCHS >= solver.MAX_EPOCHS:
        found = f"found {solver.SCHEDULER.WARMUP_EPOCHS}"
        yield "SOLVER.SCHEDULER.WARMUP_EPOCHS", f"{found}, expected less than SOLVER.MAX_EPOCHS {solver.MAX_EPOCHS}"
    if cfg.MODEL.PRETRAINED and cfg.MODEL.WEIGHTS:
        yield "MODEL.WEIGHTS", "conflicts with MODEL.PRETRAINED true; remove one of them"
    for key in ("MEAN", "STD"):
        if channels and data[key] is not None and len(data[key]) != channels:
            yield f"INPUT.{key}", f"found {len(data[key])} numbers, expected one for each of INPUT.CHANNELS {channels}"
    for name, instead in (("lr", "SOLVER.BASE_LR"), ("weight_decay", "SOLVER.WEIGHT_DECAY")):
        if name in solver.OPTIMIZER:
            yield f"SOLVER.OPTIMIZER.{name}", f"has a key of its own; set {instead} instead"
    if cfg.TEST.MONITOR and not re.fullmatch(r"(max|min) \S.*", cfg.TEST.MONITOR):
        yield "TEST.MONITOR", f"found {cfg.TEST.MONITOR!r}, expected 'max NAME' or 'min NAME', such as 'max top1'"
    if cfg.TEST.MONITOR and cfg.DATASETS.VAL_RATIO == 0 and not cfg.DATASETS.FOLD:
        yield "TEST.MONITOR", "needs a validation set: set DATASETS.VAL_RATIO above 0, or remove TEST.MONITOR"
