"""Choice of the workers that read a data set, and of what is kept in memory."""

import math
import os
from contextlib import closing, suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from data.executors import Threads
from data.processes import Processes
from data.reading import SampleReader, resident
from data.samplers import batches_of_keys
from utils.distributed import local_world_size
from utils.errors import UserError
from utils.logger import get_logger

Executor = Threads | Processes
_TRIED = 32  # samples that are read at the start where transforms do not take images of every size


def choose_workers(
    reader: SampleReader, batch_size: int, workers: str, kind: str, prefetch: int, memory: int, pin_memory: bool
) -> tuple[SampleReader, Executor]:
    """Returns how to read batches: a reader, and what runs it.

    `workers` is a number or auto; `kind`, DATALOADER.WORKER_KIND, is threads for auto if all that they share is
    `thread_safe`, else processes. Threads keep a data set of at most `memory` bytes in memory. Raises UserError for
    threads that are not safe, and as `check_sizes`.
    """
    count = max(usable_cpus() // local_world_size(), 1) if workers == "auto" else int(workers)
    unsafe = [thing for thing in (reader.dataset, *reader.transforms) if not getattr(thing, "thread_safe", False)]
    if kind == "threads" and unsafe:
        found = f"{type(unsafe[0]).__name__} is not thread_safe"
        hint = "set it to auto, or thread_safe = True in the class if it is"
        raise UserError(f"DATALOADER.WORKER_KIND threads: {found}; {hint}")
    if count and (kind not in ("auto", "inline", "threads") or (kind == "auto" and unsafe)):
        executor: Executor = Processes(count, prefetch, kind, batch_size)
    else:
        count = 1 if kind == "inline" else max(count, 1)
        executor = Threads(count, prefetch, batch_size, pin_memory, one_at_a_time=bool(unsafe))
        try:
            reader = resident(reader, memory)
        except MemoryError:
            get_logger("data").warning("DATALOADER.RESIDENT_MIB: no memory for the images; they are read in each epoch")
    check_sizes(reader, executor, batch_size)
    return reader, executor


def thread_pool(*datasets: object) -> ThreadPool:
    """Returns threads that may read the data sets: as many as there are CPUs, or one if some are not thread_safe."""
    return ThreadPool(usable_cpus() if all(getattr(dataset, "thread_safe", False) for dataset in datasets) else 1)


def usable_cpus() -> int:
    """Returns the number of CPUs that this process may use, by its affinity and by the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # another system, or no quota
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        count = min(count, math.ceil(quota / period))
    return count


def check_sizes(reader: SampleReader, executor: Executor, batch_size: int) -> None:
    """Tries the transforms on a 3:2 and a 2:3 image and, if one does not fit, on some samples of the data set.

    Raises UserError if those come out in another size, or cannot be read.
    """
    count = len(reader.dataset)
    if not count or reader.takes_any_size():
        return
    batches = batches_of_keys(np.arange(_TRIED) * count // _TRIED, batch_size, epoch=0)
    with closing(executor.run(reader, batches, lambda: None)) as results:
        for result in results:
            if result.error is not None:
                raise result.error
