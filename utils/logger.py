"""Named loggers side by side, to the terminal and to a file."""

import logging
import sys
from logging.handlers import TimedRotatingFileHandler
from pathlib import Path

_ROOT = "strata"


def get_logger(name: str) -> logging.Logger:
    """The logger called `name` ("train", "test", "data"); all of them write to the same places."""
    return logging.getLogger(f"{_ROOT}.{name}")


def setup_logging(level: str = "INFO", line_format: str = "%(asctime)s %(name)s: %(message)s", stream=None) -> None:
    """Send every logger to `stream` (the terminal's error channel). May be called again to change it."""
    root = logging.getLogger(_ROOT)
    root.setLevel(level)
    root.propagate = False
    close_logging()
    root.addHandler(_formatted(_Terminal(stream or sys.stderr), line_format))


def log_to_file(path: Path, line_format: str, daily: bool = False) -> None:
    """Also append every line to a file; with `daily` yesterday's file is put aside at midnight."""
    handler = TimedRotatingFileHandler(path, "midnight", encoding="utf-8") if daily else None
    handler = handler or logging.FileHandler(path, encoding="utf-8")
    logging.getLogger(_ROOT).addHandler(_formatted(handler, line_format))


def close_logging() -> None:
    """Take every handler away, and close the files."""
    root = logging.getLogger(_ROOT)
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()


def _formatted(handler: logging.Handler, line_format: str) -> logging.Handler:
    handler.setFormatter(_ShortName(line_format, "%Y-%m-%d %H:%M:%S"))
    return handler


class _Terminal(logging.StreamHandler):
    """Writes around a progress bar, and leaves out what the bar shows where a person watches it."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "shown_by_bar", False) and self.stream.isatty():
            return
        tqdm = sys.modules.get("tqdm")  # without a bar there is none
        if tqdm is None:
            super().emit(record)
        else:
            tqdm.tqdm.write(self.format(record), file=self.stream)


class _ShortName(logging.Formatter):
    """Shows a logger by the name it was asked for, and the level where it is not INFO."""

    def format(self, record: logging.LogRecord) -> str:
        record = logging.makeLogRecord(vars(record))
        record.name = record.name.removeprefix(f"{_ROOT}.")
        if record.levelno >= logging.WARNING:
            record.name += f" {record.levelname.lower()}"
        return super().format(record)
