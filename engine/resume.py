"""Which run to continue, and from which of its checkpoints."""

from pathlib import Path
from typing import Any

from engine.checkpoint import load_newest
from utils.errors import UserError
from utils.run_folder import RunFolder, newest_runs, open_run


def resume_run(path: Path) -> tuple[RunFolder, dict[str, Any]]:
    """The run in a folder and the state to continue it from. Raises UserError where it cannot be."""
    if not RunFolder(path).has_weights:
        raise UserError(f"--resume {path}: no such run; expected a folder with weights/last.pth")
    run = open_run(path)
    if not run.lock():
        raise UserError(f"--resume {path}: another process is training this run; stop it first")
    found = load_newest(run)
    if found is None:
        raise UserError(f"--resume {path}: it has no weights/last.pth to continue from")
    return run, found[1]


def newest_unfinished(folder: Path) -> tuple[RunFolder, dict[str, Any]] | None:
    """The newest run of an experiment's folder that is neither complete nor held by another process."""
    for run in newest_runs(folder):
        if not run.lock():
            continue
        try:
            found = load_newest(run)
        except UserError:
            found = None
        if found is not None and not found[1]["counters"]["complete"]:
            return open_run(run.path), found[1]
        run.unlock()
    return None


def find_checkpoint(name: str | None, output_dir: Path) -> Path:
    """The weights to test or predict with: a checkpoint, a run's best, or those of the newest run.

    Raises UserError where there are none.
    """
    if name is None:
        for run in newest_runs(output_dir):
            return _weights_of(run)
        raise UserError(f"no run with weights under {output_dir}; train one first: python tools/train_net.py")
    path = Path(name)
    if path.is_dir():
        run = RunFolder(path)
        if not run.has_weights:
            raise UserError(f"{path}: no weights in this folder; expected a run with weights/best.pth")
        return _weights_of(run)
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    return path


def _weights_of(run: RunFolder) -> Path:
    return next(path for path in (run.best, run.last, run.previous) if path.exists())
