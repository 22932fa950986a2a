"""Registries of engine/: tasks, steps, hooks, metrics and the parts of a report, found by their names.

docs/extending.md has an example of each but the last. A hook with `always=True` belongs to every run. A report part is
a function `(SplitResult, Page) -> None` that adds figures, tables or galleries to the page of a split, called in
ascending `order`, for certain `tasks` or for all.
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
