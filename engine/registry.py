"""Registries of engine/: tasks, steps, hooks, metrics and the parts of a report, found by their names.

- A task (`TASK.NAME`) is a class derived from `engine.tasks.base.Task`.
- A step (`SOLVER.STEP.NAME`) is a class called like `engine.steps.standard.StandardStep`, with further arguments from
  the configuration. An instance is called with a `Batch` and returns a `StepResult`.
- A hook (`HOOKS`) is a class derived from `engine.hooks.base.Hook`. A constructor that names `run` (a RunFolder),
  `classes` (names) or `config` (a nested dictionary) is given these. With `always=True` it belongs to every run.
- A metric (`TEST.METRICS`) is a function `Predictions -> float` over a whole split. With `tasks=("classification",)`
  it appears in every report on these tasks.
- A report part is a function `(SplitResult, Page) -> None` that adds figures, tables or galleries to the page of a
  split, called in ascending `order`, for certain `tasks` or for all.
"""

from typing import TYPE_CHECKING

from utils.registry import Registry

if TYPE_CHECKING:
    from engine.hooks.base import Hook
    from engine.steps.standard import StandardStep
    from engine.tasks.base import Task

TASKS: "Registry[Task]" = Registry("task", "engine.tasks")
STEPS: "Registry[StandardStep]" = Registry("step", "engine.steps")
HOOKS: "Registry[Hook]" = Registry("hook", "engine.hooks")
METRICS: "Registry[float]" = Registry("metric", "engine.metrics")
REPORT_PARTS: "Registry[None]" = Registry("report part", "engine.report.parts")
