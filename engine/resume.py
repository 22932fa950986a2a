"""Choosing the run to continue, the state to continue it from, and the checkpoint to test."""

from collections.abc import Collection, Sequence
from pathlib import Path

from engine.checkpoint import Checkpoint, Resolved, State, load_newest
from utils.atomic_file import link_over
from utils.distributed import world_size
from utils.errors import UserError
from utils.logger import get_logger
from utils.run_folder import RunFolder, newest_runs, open_run

# A change of these keys changes the parameters of an optimizer, or their groups.
_GROUP_KEYS = ("MODEL.NAME", "SOLVER.FREEZE", "SOLVER.HEAD_LR_MULT", "SOLVER.LAYER_DECAY", "SOLVER.OPTIMIZER.")
_NEEDED = {"optimizer", "schedule", "scaler", "hooks", "progress", "rng"}


def resume_run(path: Path) -> tuple[RunFolder, Checkpoint]:
    """Opens the run in a folder, and returns it with the checkpoint to continue from. Raises UserError if it cannot."""
    if not RunFolder(path).has_weights:
        raise UserError(f"--resume {path}: no such run; expected a folder with weights/last.pth")
    run = open_run(path)
    try:
        checkpoint = load_newest(run)
        missing = _NEEDED - checkpoint.state.keys()
        if missing:
            raise UserError(f"{checkpoint.source}: cannot be resumed: it has no {', '.join(sorted(missing))}")
    except UserError:
        run.unlock()
        raise
    if checkpoint.source != run.last:
        link_over(checkpoint.source, run.last)  # a damaged file must not be rotated over an intact one
    return run, checkpoint


def newest_unfinished(folder: Path, max_epochs: int) -> tuple[RunFolder, Checkpoint] | None:
    """Returns the newest run of an experiment's folder that has begun, is incomplete and is free; None without any."""
    for candidate in newest_runs(folder):
        try:
            run, checkpoint = resume_run(candidate.path)
            if checkpoint.step and not checkpoint.is_complete(max_epochs):
                return run, checkpoint
            run.unlock()
        except UserError as error:
            get_logger("resume").warning("skipping a run: %s", error)
    return None


def find_checkpoint(path: Path) -> Path:
    """Returns a checkpoint, the best one of a run, or of the newest run in a folder. Raises UserError without any."""
    if path.is_file():
        return path
    if RunFolder(path).has_weights:
        return RunFolder(path).best_weights
    for run in newest_runs(path):
        if run.best.exists():  # a run that has not been evaluated yet is passed over
            return run.best
    problem = "no run with weights in it" if path.is_dir() else "no such run or checkpoint"
    raise UserError(f"{path}: {problem}; train one first: python tools/train_net.py")


def check_data(found: int, missing: int, relabelled: Sequence[str], num_val: int | None) -> None:
    """Raises UserError if training samples of the run to resume are missing, or have another label or weight.

    `num_val` validation samples are left, None in a run without; it cannot go on if none is.
    """
    total, problem = found + missing, ""
    if num_val == 0:
        problem = "all validation images of the run are missing"
    elif missing:
        problem = f"{missing} of the run's {total} training images are missing"
    elif relabelled:
        problem = f"{len(relabelled)} of {total} training images have another label or weight, such as {relabelled[0]}"
    if problem:
        raise UserError(f"{problem}: restore the data, or start a new run without --resume")


def continued_state(checkpoint: Checkpoint, changes: Collection[str], steps_per_epoch: int, has_ema: bool) -> State:
    """Returns the state to continue from, without what the changed configuration keys invalidate."""
    progress = dict(checkpoint.state["progress"])
    state = {**checkpoint.state, "progress": progress}
    if any(key.startswith(_GROUP_KEYS) for key in changes):
        state["optimizer"] = {}  # optimizer state is not transferable
    if any(key.startswith(("TEST.MONITOR", "LOSS.", "TASK.")) for key in changes):
        progress |= {"best": None, "epochs_since_best": 0}  # values of another metric
    if has_ema and "ema" not in state:
        state["ema"] = state["model"]
    if "SOLVER.BATCH_SIZE" in changes:
        # The schedule continues where it was in epochs, which have another number of steps now.
        size = progress["dataset_size"]
        epochs = progress["epoch"] + progress["samples_seen"] / size
        shift = round(epochs * steps_per_epoch) - progress["step"]
        state["schedule"] = {**state["schedule"], "shift": shift}
    return state


def log_machine_changes(now: Resolved, checkpoint: Checkpoint) -> None:
    """Logs the device, the precision and the number of processes of a resumed run if they have changed."""
    before, processes = checkpoint.resolved, 1 + len(checkpoint.state["rng"].get("others", ()))
    for key, new, old in (
        ("MODEL.DEVICE", *(name.partition(":")[0] for name in (now.device, before.device))),
        ("SOLVER.AMP", now.amp, before.amp),
        ("processes", world_size(), processes),
    ):
        if new != old:
            get_logger("resume").info("changed: %s: now resolved to %s, before %s", key, new, old)
