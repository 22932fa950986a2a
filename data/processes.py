"""Reading in processes, for data sets and transforms that threads may not share."""

import itertools
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from mmap import mmap
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from data.executors import INTERVAL, Poll, Results, wait_for
from data.reading import ReadResult, SampleReader
from data.samplers import Keys
from utils.contracts import Batch
from utils.errors import UserCodeError, UserError, one_line

_PATIENCE = 1.0  # seconds that a process has to end by itself
_HINTS = {
    -signal.SIGKILL: "the machine may be out of memory: lower DATALOADER.NUM_WORKERS",
    -signal.SIGBUS: "/dev/shm is full: enlarge it, or lower DATALOADER.NUM_WORKERS or PREFETCH",
}


class _Worker(NamedTuple):
    process: BaseProcess
    connection: Connection
    slots: np.ndarray  # uint8 (slots, batch size, H, W, C), shared with the process


class Processes:
    """Reads in `count` processes, which live until `close`, `prefetch` batches ahead beside those that they are at.

    Batches are dealt round robin. `kind` is fork, forkserver, spawn, or auto for Python's default. Pixels are passed in
    shared memory that is allocated once, for batches of at most `batch_size`; everything else goes through a pipe.
    """

    def __init__(self, count: int, prefetch: int, kind: str, batch_size: int):
        self.count, self.prefetch, self.kind, self.batch_size = count, prefetch, kind, batch_size
        # Of each process: one more than its batches ahead, for the batch that is in use.
        self._slots = math.ceil((count + prefetch) / count) + 1
        self._run = 0
        self._workers: list[_Worker] = []
        # Runs when this object is deleted, and at exit before Python waits for processes that ignore its signal to end.
        self._finalizer = util.Finalize(self, _end, args=(self._workers,), exitpriority=10)

    def run(self, reader: SampleReader, keys: Iterator[Keys], poll: Poll) -> Results:
        if not self._workers:
            self._start(reader)
        self._run += 1
        run = self._run
        places = ((i % self.count, i // self.count % self._slots) for i in itertools.count())  # process, slot
        pending: deque[tuple[int, int]] = deque()

        def send(batch_keys: Keys) -> None:
            number, slot = next(places)
            pending.append((number, slot))
            with suppress(OSError):  # the process has died, which is noticed when its batch is due
                self._workers[number].connection.send((run, slot, batch_keys))

        for batch_keys in itertools.islice(keys, self.count + self.prefetch):
            send(batch_keys)
        while pending:
            try:
                result = self._receive(*pending.popleft(), run, poll)
            except BaseException:  # an interrupt may have left half a message in a pipe
                self.close()
                raise
            if result.error is None and (following := next(keys, None)) is not None:
                send(following)
            yield result
            if run != self._run:
                raise RuntimeError("this loader is being iterated again; close the first iterator before")

    def _start(self, reader: SampleReader) -> None:
        context: Any = multiprocessing.get_context(None if self.kind == "auto" else self.kind)
        shape = (self._slots, self.batch_size, *reader.size, reader.channels)
        try:
            for _ in range(self.count):
                # Forked processes inherit memory that takes no place in /dev/shm, which is small in many containers.
                is_fork = context.get_start_method() == "fork"
                size = math.prod(shape)
                memory = mmap(-1, size) if is_fork else context.RawArray("B", size)
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(reader, theirs, memory, shape), daemon=True)
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours, np.ndarray(shape, np.uint8, memory)))
        except Exception as error:
            self.close()
            problem = f"cannot start a process of DATALOADER.WORKER_KIND {self.kind}: {one_line(error)}"
            hint = "set NUM_WORKERS to 0 or WORKER_KIND to fork, shorten TMPDIR, or raise ulimit -n"
            raise UserError(f"DATALOADER.NUM_WORKERS {self.count}: {problem}; {hint}") from error

    def _receive(self, number: int, slot: int, run: int, poll: Poll) -> ReadResult:
        """Waits for the batch in a slot of a process."""
        worker = self._workers[number]
        sentinels = [worker.process.sentinel for worker in self._workers]

        def find_ready() -> list[Any]:
            ended = [w for w in self._workers if w.process.exitcode is not None]  # a child may keep its sentinel open
            return wait([worker.connection, *sentinels], INTERVAL) or ended

        while True:
            ready = wait_for(find_ready, poll)
            if worker.connection not in ready:
                return self._report_death()
            try:
                reply_run, result, columns, frames = worker.connection.recv()
            except (EOFError, OSError):
                return self._report_death()
            if reply_run != run:  # of an earlier run, which was left
                continue
            if columns:
                tensors: dict[str, Any] = {name: torch.from_numpy(column) for name, column in columns.items()}
                images = torch.from_numpy(worker.slots[slot, : len(tensors["indices"])])
                result.batch = Batch(images.permute(0, 3, 1, 2), **tensors)  # (N, H, W, C) -> (N, C, H, W)
            if frames:
                result.error.__cause__ = ReaderTraceback(frames)
            return result

    def _report_death(self) -> ReadResult:
        """Closes all processes, as one of them has ended."""
        processes = [worker.process for worker in self._workers]
        ended = wait([process.sentinel for process in processes], _PATIENCE)
        number = next((n for n, p in enumerate(processes) if p.sentinel in ended or p.exitcode is not None), 0)
        processes[number].join(_PATIENCE)
        code = processes[number].exitcode or 0
        self.close()
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = _HINTS.get(code, "set DATALOADER.NUM_WORKERS to 0 to find the cause")
        return ReadResult(error=UserError(f"reader process {number} {end}; {hint}"))

    def close(self) -> None:
        """Ends the processes; one that does not end within a second is killed."""
        _end(self._workers)


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        with suppress(OSError):
            worker.connection.send(None)
    deadline = time.monotonic() + _PATIENCE
    for worker in workers:
        worker.process.join(max(deadline - time.monotonic(), 0))
        worker.process.kill()
    for worker in workers:
        worker.process.join(max(deadline + _PATIENCE - time.monotonic(), 0))
        worker.connection.close()
    workers.clear()


def _work(reader: SampleReader, connection: Connection, memory: Any, shape: tuple[int, ...]) -> None:
    """The body of a reader process."""
    for signum in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group: the main process saves, then ends us
        signal.signal(signum, signal.SIG_IGN)
    cv2.setNumThreads(0)  # the processes are the parallelism
    torch.set_num_threads(1)
    slots = np.ndarray(shape, np.uint8, memory)
    tasks: SimpleQueue[tuple[int, int, Keys]] = SimpleQueue()
    Thread(target=_take_tasks, args=(connection, tasks), daemon=True).start()
    while True:
        run, slot, keys = tasks.get()
        result = reader.read(keys, slots[slot])
        tensors = result.batch.tensors.items() if result.batch is not None else ()
        columns = {name: tensor.numpy() for name, tensor in tensors if name != "images"}
        result.batch = None
        cause = result.error.__cause__ if isinstance(result.error, UserCodeError) else None
        frames = "".join(traceback.format_exception(cause)) if cause else ""
        connection.send((run, result, columns, frames))


def _take_tasks(connection: Connection, tasks: SimpleQueue) -> None:
    """Takes tasks as they come, so that the main process never waits for a busy reader. Ends this process at once,
    however busy, when the main process asks for it or is gone."""
    parent = multiprocessing.parent_process()
    while True:
        ready = wait([connection, *([parent.sentinel] if parent else [])])
        task = None
        with suppress(EOFError, OSError):
            task = connection.recv() if connection in ready else None
        if task is None:
            os._exit(0)
        tasks.put(task)


class ReaderTraceback(Exception):
    """The formatted traceback of an exception in a reader process."""
