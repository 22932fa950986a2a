"""Handles Ctrl-C and SIGTERM: stops at the next step boundary, where everything can be saved.

Imports nothing heavy, so that the handlers are in place before torch is imported.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from utils.errors import Interrupted


class StopNow(Interrupted):
    """A second request: stop at once, even within a step, and save nothing more."""


class InterruptHandler:
    """A context manager that handles SIGINT and SIGTERM.

    Outside `deferred()` a signal raises Interrupted at once. Inside, the first one is only noted, and `poll()`,
    called where stopping is safe, raises; the second one raises StopNow at once; the third ends the process.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: list[int] = []
        self._deferring = False
        self._previous = [signal.getsignal(number) for number in self.signals]

    def __enter__(self) -> "InterruptHandler":
        for number in self.signals:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in zip(self.signals, self._previous, strict=True):
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block in which signals wait for `poll`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def poll(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.received:
            raise Interrupted(self.received[0])

    def _handle(self, signum: int, frame: object) -> None:
        self.received.append(signum)
        if len(self.received) > 2:
            os._exit(128 + signum)
        if not self._deferring:
            raise Interrupted(signum)
        if len(self.received) == 2:
            raise StopNow(signum)
        name = signal.Signals(signum).name
        os.write(2, f"\n{name}: finishing this step, then saving; again to stop now\n".encode())
