"""What may change in the configuration between a run and its continuation."""

from collections.abc import Collection

from config.grammar import flow
from config.node import CfgNode, leaves
from utils.errors import UserError, did_you_mean

# How it runs, not what: the result is the same, up to the arithmetic of another device.
_FREE = (
    "OUTPUT_DIR",
    "EXPERIMENT.",
    "MODEL.COMPILE",
    "MODEL.DEVICE",
    "DATASETS.ROOT",
    "DATALOADER.",
    "SOLVER.DETERMINISTIC",
    "TEST.BATCH_SIZE",
    "TEST.REPORT",
    "CHECKPOINT.",
    "LOG.",
)
# Where a run starts from says nothing to one that goes on.
_START = ("MODEL.PRETRAINED", "MODEL.WEIGHTS")
# These are taken over and change what comes.
_APPLIED = (
    "DATASETS.ON_ERROR",
    "DATASETS.MAX_SKIPPED",
    "DATASETS.MAX_PIXELS",
    "SOLVER.BASE_LR",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.ACCUMULATE",
    "SOLVER.CLIP.",
    "SOLVER.MAX_EPOCHS",
    "SOLVER.SCHEDULER.",
    "TEST.METRICS",
    "TEST.FLIP",
    "HOOKS",
)

# What is held out of a training set must not change afterwards: the network would be tested on what it has seen.
_HELD_OUT = ("DATASETS.VAL_RATIO", "DATASETS.FOLD", "DATASETS.TRAIN_ITEMS")
# These may differ when a trained network is tested.
_IN_TESTING = (*_FREE, "DATASETS.", "TEST.", "INPUT.SIZE", "INPUT.TEST_TRANSFORMS")


def compare(saved: CfgNode, new: CfgNode, allowed: Collection[str] = ()) -> dict[str, str]:
    """Key -> a line about it, for each key that changed since a checkpoint was saved.

    Raises UserError for a change that would make it another experiment, unless the key or its section is `allowed`.
    """
    before, after = leaves(saved), leaves(new)
    known = before.keys() | after.keys()
    for name in allowed:
        if not any(_is_within(key, name) for key in known):
            raise UserError(f"--allow-change {name}: unknown key; {did_you_mean(name, known)}")
    lines = {}
    for key in sorted(known):
        old, now = before.get(key), after.get(key)
        if old == now:
            continue
        change = f"{key}: {flow(old)} -> {flow(now)}"
        if key.startswith(_START):
            lines[key] = f"{change} (without effect: the run has begun)"
        elif key.startswith(_FREE):
            lines[key] = f"{change} (how it runs, not what)"
        elif key.startswith(_APPLIED) or any(_is_within(key, name) for name in allowed):
            lines[key] = f"{change} (applied from here on)"
        else:
            raise UserError(
                f"{change}: the checkpoint was trained with another value, and this would be another experiment; "
                "leave it as it was, start anew without --resume, or insist with "
                f"--allow-change {key.removesuffix('.NAME')}"
            )
    return lines


def check_test_overrides(saved: CfgNode, new: CfgNode) -> None:
    """Raise UserError for a change that makes no sense when a trained network is tested."""
    before, after = leaves(saved), leaves(new)
    for key in before.keys() | after.keys():
        if before.get(key) != after.get(key) and (key in _HELD_OUT or not key.startswith(_IN_TESTING)):
            raise UserError(f"{key}: a trained network is tested with what it was trained with; leave it out")


def _is_within(key: str, name: str) -> bool:
    """Whether `name` is the key or a section that holds it."""
    return key == name or key.startswith(f"{name}.")
