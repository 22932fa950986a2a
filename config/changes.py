"""Changes of the configuration that resuming a run and testing a checkpoint allow."""

from collections.abc import Collection

from config.node import CfgNode, differences, leaves
from utils.errors import UserError, did_you_mean

_FREE = "execution setting; does not affect results"
_APPLIED = "applied from here on"
_REFUSED = ""

# (Effect of a change on a resumed run, whether a test may override the keys, keys and sections.) Keys that are not
# listed are refused by both; a key's own entry precedes its section's.
_RULES = (
    (_FREE, True, "OUTPUT_DIR EXPERIMENT MODEL.COMPILE MODEL.DEVICE DATASETS.ROOT DATALOADER SOLVER.DETERMINISTIC"),
    (_FREE, True, "TEST.BATCH_SIZE TEST.REPORT CHECKPOINT LOG"),
    ("ignored when resuming", False, "MODEL.PRETRAINED MODEL.WEIGHTS MODEL.WEIGHTS_MIN_MATCH"),
    (_APPLIED, True, "DATASETS.ON_ERROR DATASETS.MAX_SKIPPED DATASETS.MAX_PIXELS TEST.METRICS TEST.TTA_FLIP"),
    (_APPLIED, False, "SOLVER.BASE_LR SOLVER.WEIGHT_DECAY SOLVER.MICRO_BATCHES SOLVER.CLIP SOLVER.MAX_EPOCHS"),
    (_APPLIED, False, "SOLVER.SCHEDULER HOOKS MODEL.SYNC_BN"),
    (_REFUSED, True, "DATASETS TEST INPUT.SIZE INPUT.TEST_TRANSFORMS"),
    # The held-out images must stay the same: others were trained on.
    (_REFUSED, False, "DATASETS.VAL_RATIO DATASETS.FOLD DATASETS.TRAIN_SUBSET DATASETS.SPLIT_SEED DATASETS.GROUP"),
)
_RULE_OF = {key: (effect, in_test) for effect, in_test, keys in _RULES for key in keys.split()}


def compare(saved: CfgNode, new: CfgNode, allowed: Collection[str] = ()) -> dict[str, str]:
    """Key -> a line about its change, for each key that differs from the configuration of the run to resume.

    Raises UserError for a change that makes it another experiment, unless the key or its section is `allowed`.
    """
    known = leaves(saved).keys() | leaves(new).keys()
    for name in allowed:
        if not any(name in _sections(key) for key in known):
            raise UserError(f"--allow-change: unknown key {name}; {did_you_mean(name, known)}")
    lines = {}
    for key, (old, now) in differences(saved, new).items():
        effect, _ = _rule(key)
        if effect == _REFUSED and not set(allowed) & set(_sections(key)):
            hint = "restore the old value, start a new run without --resume, or accept the change with --allow-change"
            where = f"{key}: {old} -> {now}"
            raise UserError(f"{where}: cannot be changed when resuming; {hint} {key.removesuffix('.NAME')}")
        lines[key] = f"{key}: {old} -> {now} ({effect or _APPLIED})"
    return lines


def check_test_overrides(saved: CfgNode, new: CfgNode) -> None:
    """Raises UserError for a changed key that a test must take from training."""
    for key, (old, _) in differences(saved, new).items():
        if not _rule(key)[1]:
            raise UserError(f"{key}: cannot be overridden at test time; remove it (trained with {old})")


def _rule(key: str) -> tuple[str, bool]:
    return next((_RULE_OF[name] for name in _sections(key) if name in _RULE_OF), (_REFUSED, False))


def _sections(key: str) -> list[str]:
    """The key and the sections that contain it, innermost first."""
    names = key.split(".")
    return [".".join(names[:end]) for end in range(len(names), 0, -1)]
