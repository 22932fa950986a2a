"""The common frame of every tool: argument errors, exit codes, tables and a progress bar.

Exit codes: 0: done; 1: errors found by check_data.py, or a bug; 2: a user's mistake, or images that infer.py could not
read; 128 + n: stopped by signal n.
"""

import argparse
import atexit
import ctypes
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from threading import Timer
from typing import NoReturn, TypeVar

from utils.errors import Interrupted, UserCodeError, UserError, printable
from utils.interrupt import InterruptHandler
from utils.logger import get_logger

_PATIENCE = 5.0  # seconds that the exit after a signal may take
T = TypeVar("T")


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors of one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Calls `main` with the command line and exits with its code. A traceback from here means a bug."""
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")  # readers are the parallelism; read when cv2 is imported
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of an option that a bitwise resume needs
    _keep_freed_memory()
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed; the next file would get its number, and what libraries print
            setattr(sys, name, open(os.devnull, "r+"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names need not be valid text; what is printed is not lost
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        code = _outcome(main)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for what is still in a buffer
        code = 128 + signal.SIGPIPE
    if code > 128 or threading.active_count() > 1 or "RANK" in os.environ:  # the threads of gloo are not Python's
        _leave(code)
    sys.exit(code)


def _keep_freed_memory() -> None:
    """Keeps large blocks that are freed. glibc returns those above 32 MiB, such as activations, to the system after
    every step, which then clears the same pages for the next: a third of the time of a training on CPUs."""
    with suppress(AttributeError, OSError, TypeError):  # other C libraries do not have it
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            ctypes.CDLL(None).mallopt(option, 2**31 - 1)


def _outcome(main: Callable[[Sequence[str]], int | None]) -> int:
    """Calls `main` and returns the exit code; prints a mistake or a signal that ended it."""
    try:
        with InterruptHandler():
            return main(sys.argv[1:]) or 0
    except UserError as error:
        return _report(error)
    except (Interrupted, KeyboardInterrupt) as stop:
        signum = getattr(stop, "signum", signal.SIGINT)
        print(f"stopped by {signal.Signals(signum).name}", file=sys.stderr)
        return 128 + signum
    except ImportError as error:
        missing = next((name for name in ("libGL", "libgthread") if name in str(error)), None)
        if missing is None:
            raise
        hint = "pip uninstall opencv-python && pip install opencv-python-headless"
        return _report(UserError(f"opencv-python needs {missing}, which this machine lacks: {hint}"))
    except OSError as error:  # a folder that cannot be written, a full disk
        if not error.strerror or isinstance(error, BrokenPipeError):
            raise
        return _report(UserError(f"{error.filename or 'input or output'}: {error.strerror}"))


def _leave(code: int) -> NoReturn:
    """Ends the process, but not as Python does, which waits for stuck threads and aborts if another one still works."""
    for thread in threading.enumerate() if code == 0 else ():
        if not thread.daemon and thread is not threading.main_thread():  # of a user's code, which may save something
            thread.join()
    if code > 128:  # a signal, which is obeyed even if an exit function waits for a stuck child
        for signum in InterruptHandler.signals:
            signal.signal(signum, signal.SIG_IGN)
        timer = Timer(_PATIENCE, os._exit, [code])
        timer.daemon = True
        timer.start()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or its reader has gone
            stream.flush()
    os._exit(code)


def _report(error: UserError) -> int:
    """Prints an error as one line, followed by the frames of the user's own code if it failed there; exit code 2."""
    if get_logger("cli").isEnabledFor(logging.DEBUG):  # LOG.LEVEL DEBUG
        traceback.print_exception(error)
    process = f"process {os.environ['RANK']}: " if os.environ.get("RANK", "0") != "0" else ""  # of several
    print(f"{process}error: {printable(str(error))}", file=sys.stderr)
    cause = error.__cause__
    if isinstance(error, UserCodeError) and cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)[1:]  # the first frame is the call itself
        print("".join(traceback.format_list(frames)), end="", file=sys.stderr)
        print("".join(traceback.format_exception_only(cause)), end="", file=sys.stderr)
    return 2


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of equal length, the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        print(f"{first.ljust(widths[0])}  {line}".rstrip())
    print()


def progress_bar(items: Iterable[T], total: int) -> Iterator[T]:
    """Yields images, or batches of them, under a bar of `total` images; no bar without a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit="img", unit_scale=True, dynamic_ncols=True, leave=False, disable=None) as bar:
        for item in items:
            yield item
            bar.update(len(item) if isinstance(item, Sized) else 1)
