"""Which run to continue, and from which of its checkpoints."""

from pathlib import Path
from typing import Any

from engine.checkpoint import load_newest
from utils.atomic_file import link_over
from utils.errors import UserError
from utils.logger import get_logger
from utils.run_folder import RunFolder, newest_runs, open_run

_KEYS = {"optimizer", "schedule", "scaler", "hooks", "counters", "rng"}


def resume_run(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """The run in a folder and the state to continue it from. Raises UserError where it cannot be."""
    if not RunFolder(path).has_weights:
        raise UserError(f"--resume {path}: no such run; expected a folder with weights/last.pth")
    run = open_run(path)
    source, state = load_newest(run)
    missing = _KEYS - set(state)
    if missing:
        raise UserError(f"{source}: cannot be resumed: it has no {', '.join(sorted(missing))}")
    if source != run.last:
        link_over(source, run.last)  # what is damaged must not be rotated over what is whole
    return run, state


def newest_unfinished(folder: Path, max_epochs: int) -> tuple[RunFolder, dict[str, Any]] | None:
    """The newest run of an experiment's folder that has begun, is not complete, and that no other process holds."""
    for candidate in newest_runs(folder):
        try:
            run, state = resume_run(candidate.path)
        except UserError as error:
            get_logger("resume").warning("passing over a run: %s", error)
            continue
        if state["counters"]["step"] and not is_complete(state, max_epochs):
            return run, state
        run.unlock()
    return None


def is_complete(state: dict[str, Any], max_epochs: int) -> bool:
    """Whether there is nothing left to train after a checkpoint."""
    counters = state["counters"]
    return counters["epoch"] >= max_epochs or bool(counters["stop_reason"])


def find_checkpoint(path: Path) -> Path:
    """The weights to test or predict with: a checkpoint, a run's best, or those of the newest run in a folder.

    Raises UserError where there are none.
    """
    if path.is_file():
        return path
    if RunFolder(path).has_weights:
        return RunFolder(path).best_weights
    for run in newest_runs(path):
        if run.best.exists():  # a run that has not been evaluated yet is passed over
            return run.best
    problem = "no run with weights in it" if path.is_dir() else "no such run or checkpoint"
    raise UserError(f"{path}: {problem}; train one first: python tools/train_net.py")
