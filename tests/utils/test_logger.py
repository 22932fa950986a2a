"""Loggers side by side, to the terminal and to a file."""

import io
import logging
import os
import re
import sys

import pytest
import tqdm

from utils.logger import close_logging, get_logger, log_to_file, setup_logging


def undated(text: str) -> list[str]:
    """The lines of a log without the date and time that each begins with."""
    return [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)", line)[1] for line in text.splitlines()]


class Terminal(io.StringIO):
    def __init__(self, is_terminal: bool):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


def test_named_loggers_share_places_level_and_format(tmp_path):
    terminal = Terminal(False)
    setup_logging("INFO", terminal)
    log_to_file(tmp_path / "log.txt")
    get_logger("train").info("one %d", 1)
    get_logger("test").warning("two")
    get_logger("test").info("caf\udce9")  # a byte that is no UTF-8, in the name of a file
    get_logger("test").debug("not shown")
    close_logging()
    get_logger("train").info("after the end")
    assert undated(terminal.getvalue()) == ["train: one 1", "test warning: two", "test: caf\udce9"]
    assert undated((tmp_path / "log.txt").read_text()) == ["train: one 1", "test warning: two", "test: caf\\udce9"]


def test_setting_up_again_does_not_double_lines():
    terminal = Terminal(False)
    setup_logging("INFO", Terminal(False))
    setup_logging("WARNING", terminal)
    get_logger("x").info("low")
    get_logger("x").warning("high")
    assert undated(terminal.getvalue()) == ["x warning: high"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_the_bar_shows_is_left_out_where_a_person_watches(is_terminal):
    terminal = Terminal(is_terminal)
    setup_logging("INFO", terminal)
    get_logger("x").info("step", extra={"shown_by_bar": True})
    assert undated(terminal.getvalue()) == ([] if is_terminal else ["x: step"])


def test_a_file_a_day(tmp_path):
    setup_logging("INFO", Terminal(False))
    log_to_file(tmp_path / "log.txt", daily=True)
    handler = logging.getLogger("strata").handlers[-1]
    get_logger("x").info("yesterday")
    handler.rolloverAt = 0  # midnight has passed
    get_logger("x").info("today")
    close_logging()
    assert undated((tmp_path / "log.txt").read_text()) == ["x: today"]
    assert [undated(path.read_text()) for path in tmp_path.glob("log.txt.*")] == [["x: yesterday"]]


@pytest.mark.parametrize("bar", [False, True])
def test_a_terminal_that_is_gone_stops_nothing(tmp_path, monkeypatch, bar):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setitem(sys.modules, "tqdm", tqdm if bar else None)
    with open(writing, "w", buffering=1) as gone, monkeypatch.context() as patched:
        setup_logging("INFO", gone)
        patched.setattr(sys, "stderr", gone)
        log_to_file(tmp_path / "log.txt")
        get_logger("x").info("still there")
        close_logging()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # for what is still in a buffer
    assert undated((tmp_path / "log.txt").read_text()) == ["x: still there"]
