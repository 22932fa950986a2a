"""Executors read batches ahead of their use, in threads or in processes.

`run` yields the result of each batch of keys, in order, and calls `poll` at least every 0.2 s while it waits. A
batch's images are valid until the next one is asked for. A run that is left early is closed, as generators are,
before another begins. After `close` a run starts anew.
"""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from data.reading import ReadResult, SampleReader
from data.samplers import Keys
from utils.contracts import Batch
from utils.errors import UserError, one_line
from utils.logger import get_logger

INTERVAL = 0.2  # seconds between two calls of `poll` while waiting
_SLOW = 30.0  # seconds of waiting after which the log says so
Poll = Callable[[], None]  # may raise, to interrupt the wait for a batch
Results = Generator[ReadResult, None, None]
T = TypeVar("T")


def wait_for(get: Callable[[], T], poll: Poll) -> T:
    """Calls `get`, which waits for at most INTERVAL, until it finds something, and `poll` in between."""
    slow_at = time.monotonic() + _SLOW
    while True:
        with suppress(Empty):
            if found := get():
                return found
        poll()
        if time.monotonic() > slow_at:
            get_logger("data").warning("no batch for %g s: DATASETS.ROOT is slow to read, or a read is stuck", _SLOW)
            slow_at = math.inf


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yields batches on a device. On a GPU the copy overlaps with computation and ends before the next request."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    side, main = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    for batch in batches:
        with torch.cuda.stream(side):
            moved = batch.pin_memory().to(device)
        main.wait_stream(side)
        for tensor in moved.tensors.values():
            tensor.record_stream(main)
        yield moved
        side.synchronize()


class Threads:
    """Reads in `count` threads of this process. The main thread only waits, and can be interrupted.

    They read `prefetch` batches ahead beside those they are at, into buffers that are used again, in pinned memory if
    `pin_memory`. `one_at_a_time` is for data sets, which loaders may share, that are not safe for several threads.
    """

    _read_lock = Lock()

    def __init__(
        self, count: int, prefetch: int, batch_size: int, pin_memory: bool = False, one_at_a_time: bool = False
    ):
        self.count, self.prefetch, self.batch_size, self.pin_memory = count, prefetch, batch_size, pin_memory
        self._buffers: list[np.ndarray] = []  # of the last run
        self.lock = self._read_lock if one_at_a_time else nullcontext()

    def run(self, reader: SampleReader, keys: Iterator[Keys], poll: Poll) -> Results:
        tasks: SimpleQueue[_Task | None] = SimpleQueue()
        pending: deque[_Task] = deque()
        ahead, shape = self.count + self.prefetch, (self.batch_size, *reader.size, reader.channels)
        allocate = partial(torch.empty, shape, dtype=torch.uint8, pin_memory=self.pin_memory)
        try:  # one more than batches ahead, for the batch that is in use
            buffers, self._buffers = self._buffers or [allocate().numpy() for _ in range(ahead + 1)], []
        except (RuntimeError, MemoryError) as error:
            hint = "lower the BATCH_SIZE or DATALOADER.PREFETCH"
            found = f"cannot allocate {ahead + 1} batches of {self.batch_size} images: {one_line(error)}; {hint}"
            yield ReadResult(error=UserError(found))
            return
        for _ in range(self.count):
            Thread(target=self._read, args=(reader, tasks), daemon=True).start()
        try:
            for batch_keys in itertools.islice(keys, ahead):
                pending.append(_Task(batch_keys, buffers.pop(), SimpleQueue()))
                tasks.put(pending[-1])
            while pending:
                done = pending.popleft()
                result = wait_for(partial(done.result.get, timeout=INTERVAL), poll)
                if (following := next(keys, None)) is not None:
                    pending.append(_Task(following, buffers.pop(), SimpleQueue()))
                    tasks.put(pending[-1])
                yield result
                buffers.append(done.buffer)
            self._buffers = buffers  # in a run that is left early, threads may still write into theirs
        finally:
            with suppress(Empty):  # not `while not tasks.empty()`: a thread may take the last one in between
                while True:
                    tasks.get_nowait()
            for _ in range(self.count):
                tasks.put(None)

    def _read(self, reader: SampleReader, tasks: "SimpleQueue[_Task | None]") -> None:
        for keys, buffer, result in iter(tasks.get, None):
            with self.lock:
                result.put(reader.read(keys, buffer))

    def close(self) -> None:
        """Frees the memory; the threads have ended with their run."""
        self._buffers = []


class _Task(NamedTuple):
    keys: Keys
    buffer: np.ndarray  # uint8 (batch size, H, W, C)
    result: "SimpleQueue[ReadResult]"
