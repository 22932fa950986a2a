"""The exceptions that end a program on purpose, and the wording they share."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can correct: shown as one line, exit code 2.

    The message names the file and line or the key, what was found, what was expected, and what to do.
    """


class UserCodeError(UserError):
    """An exception inside a user's own code: its line is followed by the frames. Raised `from` the original one."""


class Interrupted(BaseException):
    """The process was asked to stop by a signal: exit code 128 + signal number.

    Like KeyboardInterrupt it is not an `Exception`, so that no handler on the way swallows it.
    """

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an "unknown name" message: the closest known names, or else all of them."""
    known = sorted(known)
    by_lower = {k.lower(): k for k in known}
    close = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=2)]
    if len(close) == 2 and difflib.SequenceMatcher(None, name.lower(), close[0].lower()).ratio() > 0.85:
        close.pop()
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"known: {shown or 'none'}"


def one_line(error: BaseException) -> str:
    """The message of any exception on one line; a KeyError's with its type, as it is only a key."""
    text = " ".join(str(error).split())
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__} {text}".strip()


def printable(path: str | Path) -> str:
    """A path or name as one line for terminals, logs and pages, with escapes for what cannot be displayed."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def require(is_valid: bool, name: str, found: object, expected: str) -> None:
    """Raises ValueError about the argument `name` of a class or function unless it is valid."""
    if not is_valid:
        raise ValueError(f"{name}: found {found}, expected {expected}")
