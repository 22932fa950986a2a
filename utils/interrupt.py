"""Handles Ctrl-C and SIGTERM: stops at the next step boundary, where everything can be saved.

Imports nothing heavy, so that the handlers are in place before torch is imported.
"""

import math
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from utils.errors import Interrupted

_FORWARDED = 2.0  # seconds
_PATIENCE = 5.0  # seconds that the main thread has to react to a signal that is to stop it at once


class StopNow(Interrupted):
    """A second request: stop at once, even within a step, and save nothing more."""


class InterruptHandler:
    """A context manager that handles SIGINT and SIGTERM.

    Outside `deferred()` a signal raises Interrupted at once. Inside, the first one is only noted, and `poll()`,
    called where stopping is safe, raises; the second one raises StopNow at once. The third ends the process, as does
    one that raises, but is not followed by the end of the block within seconds.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: list[int] = []
        self._handled = -math.inf  # the time of the last one
        self._deferring = False
        self._previous = [signal.getsignal(number) for number in self.signals]

    def __enter__(self) -> "InterruptHandler":
        self._pipe, watched = socket.socketpair()
        self._pipe.setblocking(False)
        self._thread = Thread(target=self._watch, args=(watched,), daemon=True)
        self._thread.start()
        self._previous_pipe = signal.set_wakeup_fd(self._pipe.fileno())
        for number in self.signals:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in zip(self.signals, self._previous, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_pipe)
        self._pipe.send(b"\0")
        self._thread.join()
        self._pipe.close()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block in which signals wait for `poll`, at the latest at its end."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        self.poll()

    def poll(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.received:
            raise Interrupted(self.received[0])

    def _handle(self, signum: int, frame: object) -> None:
        if self._is_forwarded(self._handled):
            return
        self._handled = time.monotonic()
        self.received.append(signum)
        if not self._deferring:
            raise Interrupted(signum)
        if len(self.received) > 1:
            raise StopNow(signum)
        _say(f"{signal.Signals(signum).name}: finishing this step, then saving; again to stop now")

    def _is_forwarded(self, last: float) -> bool:
        """Whether a signal right after the one at time `last` is the same, which torchrun sends on to its processes."""
        return "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - last < _FORWARDED

    def _watch(self, pipe: socket.socket) -> None:
        """Ends the process if the main thread does not: it may be in a call that no signal interrupts."""
        count, stop, last = 0, 0, -math.inf
        with pipe, suppress(TimeoutError):
            while count < 3:
                number = pipe.recv(1)[0]  # of a signal, or 0
                if number == 0:
                    return
                if number in self.signals and not self._is_forwarded(last):
                    count, stop, last = count + 1, number, time.monotonic()
                    if count > 1 or not self._deferring:
                        pipe.settimeout(_PATIENCE)
        _say(f"ended by {signal.Signals(stop).name}")
        os._exit(128 + stop)


def _say(text: str) -> None:
    with suppress(OSError):  # what reads the standard error may have ended by the same Ctrl-C
        os.write(2, f"\n{text}\n".encode())
