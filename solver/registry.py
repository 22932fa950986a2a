"""Registry behind SOLVER.SCHEDULER.NAME; every module of this folder is searched for entries."""

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import NewType

from utils.errors import UserError
from utils.registry import Registry

# Type of a schedule's argument that is a length: epochs in YAML and as a default, steps in the function.
Steps = NewType("Steps", int)

# A schedule is a pure function `schedule(step, total_steps, **arguments) -> float`, the factor on BASE_LR: see
# docs/extending.md. With a warm-up, `step` and `total_steps` count from its end.
SCHEDULES = Registry[float]("schedule", "solver")


def in_steps(
    schedule: Callable[..., float], arguments: Mapping[str, object], steps_per_epoch: int, key: str
) -> dict[str, object]:
    """Returns the arguments of a schedule with lengths in steps, defaults among them.

    Raises UserError about the key `key` for a length that is not a number of epochs above 0.
    """
    converted = dict(arguments)
    parameters = inspect.signature(schedule).parameters
    for name, hint in typing.get_type_hints(schedule).items():
        if Steps in (hint, *typing.get_args(hint)):
            epochs = converted.get(name, parameters[name].default)
            if epochs is not inspect.Parameter.empty:
                converted[name] = _steps(epochs, steps_per_epoch, f"{key}.{name}")
    return converted


def _steps(epochs: object, steps_per_epoch: int, key: str) -> object:
    if isinstance(epochs, list | tuple):
        return [_steps(value, steps_per_epoch, key) for value in epochs]
    if not isinstance(epochs, int | float) or not 0 < epochs < math.inf:
        raise UserError(f"{key}: found {epochs!r}, expected a length in epochs above 0")
    return max(round(epochs * steps_per_epoch), 1)
