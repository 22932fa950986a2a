"""The names that SOLVER.SCHEDULER.NAME can use."""

from typing import NewType

from utils.registry import Registry

# Marks an argument of a schedule that is a length: epochs in YAML and as a default, steps in the function.
Steps = NewType("Steps", int)

# A schedule is called with (step, total_steps) and its own arguments and gives the factor
# on BASE_LR of optimizer step number `step`, counted from 0. It is a pure function. Both
# begin after the warm-up where there is one, and so do the lengths among its arguments.
SCHEDULES = Registry("schedule")
