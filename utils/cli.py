"""What every tool has: its options, tables and bar, and how it ends.

Exit code 0: done, 2: a user's mistake, 128 + n: stopped by signal n.
"""

import argparse
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from utils.errors import Interrupted, UserError
from utils.logger import get_logger


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose mistakes are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Call `main` with the command line and end the process. A traceback from here means a bug."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a file's name need not be text
    try:
        code = main(sys.argv[1:]) or 0
    except UserError as error:
        if get_logger("cli").isEnabledFor(logging.DEBUG):  # LOG.LEVEL DEBUG
            traceback.print_exception(error)
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except (Interrupted, KeyboardInterrupt) as stop:
        signum = getattr(stop, "signum", signal.SIGINT)
        print(f"stopped by {signal.Signals(signum).name}", file=sys.stderr)
        code = 128 + signum
    except ImportError as error:
        missing = next((name for name in ("libGL", "libgthread") if name in str(error)), None)
        if missing is None:
            raise
        print(
            f"error: opencv-python needs {missing}, which this machine lacks: "
            "pip uninstall opencv-python && pip install opencv-python-headless",
            file=sys.stderr,
        )
        code = 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output, such as `head`, went away
        code = 128 + 13
    except OSError as error:  # a folder that cannot be written, a disk that is full
        if not error.strerror:
            raise
        print(f"error: {error.filename or 'input or output'}: {error.strerror}", file=sys.stderr)
        code = 2
    sys.exit(code)


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of as many cells, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        print(f"{first.ljust(widths[0])}  {line}".rstrip())
    print()


def say(line: str) -> None:
    """Print a line, above the bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line)


def progress(batches: Iterable[Any], total: int) -> Iterator[Any]:
    """The batches, with a bar of their `total` samples for a person who watches."""
    from tqdm import tqdm

    with tqdm(total=total, unit="img", unit_scale=True, dynamic_ncols=True, leave=False, disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
