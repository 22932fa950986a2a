"""What may change in the configuration between a run and its continuation."""

from collections.abc import Collection

from config.grammar import flow
from config.node import CfgNode, leaves
from utils.errors import UserError

# How it runs, not what: the result is the same, up to the arithmetic of another device.
_FREE = (
    "OUTPUT_DIR",
    "EXPERIMENT.",
    "MODEL.DEVICE",
    "DATASETS.ROOT",
    "DATALOADER.",
    "TEST.BATCH_SIZE",
    "CHECKPOINT.",
    "LOG.",
)
# These are taken over and change what comes.
_APPLIED = ("SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY", "SOLVER.MAX_EPOCHS", "SOLVER.SCHEDULER.", "TEST.METRICS", "HOOKS")


def compare(saved: CfgNode, new: CfgNode, allowed: Collection[str] = ()) -> list[str]:
    """A line for each key that changed since a checkpoint was saved.

    Raises UserError for a change that would make it another experiment, unless the key is `allowed`.
    """
    before, after = leaves(saved), leaves(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, now = before.get(key), after.get(key)
        if old == now:
            continue
        change = f"{key}: {flow(old)} -> {flow(now)}"
        if key.startswith(_FREE):
            lines.append(f"{change} (how it runs, not what)")
        elif key.startswith(_APPLIED) or key in allowed:
            lines.append(f"{change} (applied from here on)")
        else:
            raise UserError(
                f"{change}: the checkpoint was trained with another value, and this would be another experiment; "
                f"leave it as it was, start anew without --resume, or insist with --allow-change {key}"
            )
    return lines
