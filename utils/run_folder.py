"""The folder of a run: where things are in it, who holds it, and how to find one."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from utils.atomic_file import remove_leftovers
from utils.errors import UserError


class RunFolder:
    """`runs/<experiment>/<date-time>/` and the places in it."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yml"
        self.overrides = path / "overrides.yml"
        self.log = path / "log.txt"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.weights = path / "weights"
        self.report = path / "report"
        self.last = self.weights / "last.pth"
        self.previous = self.weights / "previous.pth"
        self.best = self.weights / "best.pth"
        self._lock: int | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def has_weights(self) -> bool:
        return any(path.is_file() for path in (self.best, self.last, self.previous))

    def lock(self) -> bool:
        """Take the run for this process until it ends; False where another process holds it.

        The lock is the operating system's, so that no kind of death leaves it behind, and
        belongs to this process alone, not to its workers.
        """
        try:
            import fcntl
        except ImportError:  # not a POSIX system: runs are not locked there
            return True
        if self._lock is None:
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.unlock()
            return False
        return True

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def create_run(output_dir: Path, experiment: str) -> RunFolder:
    """A new folder, named by the time; runs started in the same second get folders of their own."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    parent = output_dir / experiment
    number = 1
    while True:
        path = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            if not parent.is_dir():
                raise UserError(f"OUTPUT_DIR: {parent} is a file, expected a folder") from None
            number += 1
            continue
        except OSError as error:
            raise UserError(f"OUTPUT_DIR: cannot create {path}: {error.strerror}") from error
        return open_run(path)


def open_run(path: Path) -> RunFolder:
    """A folder as a run, with its weights folder made and cleared of half-written files."""
    run = RunFolder(path)
    try:
        run.weights.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run.weights}: cannot create the folder: {error.strerror}") from error
    remove_leftovers(run.weights)
    return run


def newest_runs(folder: Path) -> Iterator[RunFolder]:
    """The runs with weights below an output or experiment folder, the most recently saved first."""
    runs = {path.parent.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/weights/*.pth")}
    found = [run for run in map(RunFolder, runs) if run.has_weights]
    yield from sorted(found, key=_saved_at, reverse=True)


def _saved_at(run: RunFolder) -> tuple[float, str]:
    times = [path.stat().st_mtime for path in (run.last, run.previous, run.best) if path.is_file()]
    return max(times), str(run)
