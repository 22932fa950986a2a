"""Named loggers that write to the terminal and to a file."""

import logging
import sys
from functools import partial
from logging.handlers import TimedRotatingFileHandler
from pathlib import Path
from typing import TextIO

_ROOT = "strata"


def get_logger(name: str) -> logging.Logger:
    """Returns the logger called `name` ("train", "test", "data"); all of them share their handlers."""
    return logging.getLogger(f"{_ROOT}.{name}")


def setup_logging(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Sends every logger to `stream`, by default stderr. May be called again to change it."""
    root = logging.getLogger(_ROOT)
    root.setLevel(level)
    root.propagate = False
    close_logging()
    _add(_Terminal(stream or sys.stderr))


def log_to_file(path: Path, daily: bool = False) -> None:
    """Also appends every line to a file; with `daily` the file is rotated at midnight."""
    kind = partial(TimedRotatingFileHandler, when="midnight") if daily else logging.FileHandler
    _add(kind(path, encoding="utf-8", errors="backslashreplace"))  # names need not be valid text


def close_logging() -> None:
    """Removes every handler and closes the files."""
    root = logging.getLogger(_ROOT)
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()


def _add(handler: logging.Handler) -> None:
    handler.setFormatter(_ShortName("%(asctime)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger(_ROOT).addHandler(handler)


class _Terminal(logging.StreamHandler):
    """Writes above a progress bar, and omits on a terminal what the bar shows."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")  # imported only by a bar
        if tqdm is None:
            super().emit(record)
        elif not (getattr(record, "shown_by_bar", False) and self.stream.isatty()):
            try:
                tqdm.tqdm.write(self.format(record), file=self.stream)
            except OSError:  # as in the base class: a terminal that is gone stops no training
                self.handleError(record)


class _ShortName(logging.Formatter):
    """Shows loggers by their short names, and the level from WARNING up."""

    def format(self, record: logging.LogRecord) -> str:
        record = logging.makeLogRecord(vars(record))
        record.name = record.name.removeprefix(f"{_ROOT}.")
        if record.levelno >= logging.WARNING:
            record.name += f" {record.levelname.lower()}"
        return super().format(record)
