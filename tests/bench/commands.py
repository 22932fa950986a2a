"""Whole commands, each in processes of its own: until the first step, and until the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.measuring import Contender
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds


@contextmanager
def program(*words: str, output: Path) -> Iterator[subprocess.Popen]:
    """Starts Python with these words, and kills it and its children at the end."""
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(is_done: Callable[[], bool], process: subprocess.Popen, output: Path) -> None:
    """Waits until something is done. Raises UserError if the process ends before, or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not is_done():
        if (process.poll() is not None and not is_done()) or time.monotonic() > deadline:
            lines = output.read_text(errors="replace").split("\n")
            raise UserError(f"it ended, or took {PATIENCE} s: {' '.join(lines[-3:]).strip() or 'without output'}")
        time.sleep(0.003)


def has(path: Path, text: str) -> bool:
    return path.is_file() and text in path.read_text(errors="replace")


def first_step_of_ours() -> tuple[int, float]:
    with TemporaryDirectory() as folder:
        run, output = Path(folder) / "run", Path(folder) / "output.txt"
        words = ["tools/train_net.py", "--run-dir", str(run), *"MODEL.DEVICE cpu LOG.PERIOD 1".split()]
        started = time.perf_counter()
        with program(*words, output=output) as process:
            wait_for(lambda: has(run / "metrics.jsonl", '"kind": "step"'), process, output)
            return 1, time.perf_counter() - started


def first_step_of_bare() -> tuple[int, float]:
    with TemporaryDirectory() as folder:
        output = Path(folder) / "output.txt"
        started = time.perf_counter()
        with program("-m", "tests.bench.bare", output=output) as process:
            wait_for(lambda: has(output, "the first step"), process, output)
            return 1, time.perf_counter() - started


def starts() -> list[Contender]:
    """Returns the contenders that begin to train on the digits."""
    return [
        Contender("strata", lambda _: first_step_of_ours),
        Contender("bare script", lambda _: first_step_of_bare),
    ]


def run_to_end(*words: str) -> float:
    """Runs a program until it ends, and returns the seconds that it took. Raises UserError if it fails."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "output.txt"
        started = time.perf_counter()
        with program(*words, output=output) as process:
            wait_for(lambda: process.poll() == 0, process, output)
            return time.perf_counter() - started
