"""The names that TEST.METRICS and HOOKS can use."""

from utils.registry import Registry

# A metric is called with (logits (N, classes), targets) and gives one number for each
# sample, (N,); it is averaged over all samples of a split. One that is registered with
# whole_set=True is called once, on the CPU, with all of a split, and gives a number.
METRICS = Registry("metric")

# A hook is called with its own arguments and gives an `engine.hooks.base.Hook`.
HOOKS = Registry("hook")
