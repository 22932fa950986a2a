"""The folder of a run: its files, its lock, and finding the newest run."""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from utils.atomic_file import remove_leftovers
from utils.errors import UserError
from utils.logger import get_logger


class RunFolder:
    """Paths in `runs/<experiment>/<date-time>/`."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yml"
        self.overrides = path / "overrides.yml"
        self.resolved = path / "resolved.yml"
        self.splits = path / "splits.npz"
        self.held_out = path / "held_out.csv"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.weights = path / "weights"
        self.report = path / "report"
        self.code = path / "code"
        self.environment = path / "environment.txt"
        self.last = self.weights / "last.pth"
        self.previous = self.weights / "previous.pth"
        self.best = self.weights / "best.pth"
        self._lock: int | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_lock": None}  # another process does not hold the lock

    def __str__(self) -> str:
        return str(self.path)

    @property
    def has_weights(self) -> bool:
        return any(path.is_file() for path in (self.best, self.last, self.previous))

    @property
    def best_weights(self) -> Path:
        """The best checkpoint; `last` in a run that was killed before its first evaluation."""
        return next(path for path in (self.best, self.last, self.previous) if path.is_file())

    def lock(self) -> None:
        """Locks the run until this process ends, however it ends. Raises UserError if another process holds it.

        Warns where the file system has no locks.
        """
        self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # EAGAIN, EACCES
            self.unlock()
            raise UserError(f"{self.path}: another process is training this run; stop it first") from error
        except OSError as error:  # ENOSYS, ENOLCK, ENOTSUP
            problem = "cannot lock this run: %s; do not continue it while this process is training"
            get_logger("run").warning(f"%s: {problem}", self.path, error.strerror)

    def unlock(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def run_of(checkpoint: Path) -> RunFolder | None:
    """Returns the run that a checkpoint is in, None for a checkpoint elsewhere."""
    run = RunFolder(checkpoint.parent.parent)
    return run if checkpoint.parent == run.weights else None


def create_run(parent: Path) -> RunFolder:
    """Creates and locks a run in an experiment's folder, named by the time. Raises UserError if it cannot."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        path = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            path.mkdir(parents=True)
            return open_run(path)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise UserError(f"OUTPUT_DIR: cannot create {path}: {error.strerror}") from error


def open_run(path: Path) -> RunFolder:
    """Creates a run's folder if missing, locks it, removes half-written files. Raises UserError if it cannot."""
    run = RunFolder(path)
    try:
        run.weights.mkdir(parents=True, exist_ok=True)
        run.lock()
        remove_leftovers(run.weights)
    except OSError as error:
        raise UserError(f"{path}: cannot write to this run's folder: {error.strerror}") from error
    return run


def newest_runs(folder: Path) -> Iterator[RunFolder]:
    """Yields the runs with weights below an output or experiment folder, the most recently saved first."""
    times: dict[Path, float] = {}  # of the newest checkpoint of each run
    for file in (*folder.glob("*/weights/*.pth"), *folder.glob("*/*/weights/*.pth")):
        if file.name in ("best.pth", "last.pth", "previous.pth"):
            run = file.parent.parent
            times[run] = max(times.get(run, 0), file.stat().st_mtime)
    yield from map(RunFolder, sorted(times, key=lambda run: (times[run], str(run)), reverse=True))
