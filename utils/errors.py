"""The two exceptions that end a program on purpose, and the wording they share."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend: shown as one line, exit code 2.

    The message says which file and line or which key, what was found, what was
    expected, and what to do.
    """


class Interrupted(BaseException):
    """The process was asked to stop by a signal: exit code 128 + signal number.

    Like KeyboardInterrupt it is no `Exception`, so that no handler on the way swallows it.
    """

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an "unknown name" message: the nearest known names, else all of them."""
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
    """The text of an exception of some library, fit for the end of a one-line message."""
    return " ".join(str(error).split()) or type(error).__name__
