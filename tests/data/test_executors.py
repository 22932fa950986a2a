"""Readers in a thread and in processes: order, interruption, failure, and their end."""

import faulthandler
import logging
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.executors import Threads
from data.loaders import Loader
from data.processes import Processes
from data.reading import SampleReader
from data.samplers import Keys
from utils.errors import Interrupted, UserCodeError, UserError

ROOT = Path(__file__).resolve().parents[2]


class Calls:
    """40 images, each of its own gray; `before(i)` is called when one is read."""

    def __init__(self, before: Callable[[int], None] = lambda i: None, mask: int = 0):
        self.before = before
        self.mask = mask

    def __len__(self):
        return 40

    def __getitem__(self, i):
        self.before(i)
        return np.full((4, 5, 2), i, np.uint8), np.full((self.mask, self.mask), i, np.uint8) if self.mask else i

    def name(self, i):
        return f"calls/{i}"


def make(before: Callable[[int], None] = lambda i: None, executor=None, mask: int = 0, transforms=()) -> Loader:
    return Loader(
        SampleReader(Calls(before, mask), transforms, (4, 5), 2, seed=0),
        executor or Threads(1, 2, 8),
        8,
        torch.device("cpu"),
    )


@pytest.fixture
def processes():
    made = []

    def build(count: int = 2, prefetch: int = 2, kind: str = "fork", batch_size: int = 8) -> Processes:
        made.append(Processes(count, prefetch, kind, batch_size))
        return made[-1]

    yield build
    for executor in made:
        executor.close()


EXECUTORS = pytest.mark.parametrize(
    "executor",
    [lambda: Threads(1, 2, 8), lambda: Threads(3, 2, 8), lambda: Processes(2, 2, "fork", 8)],
    ids=["thread", "threads", "fork"],
)


@EXECUTORS
def test_order_positions_and_targets(executor):
    made = make(executor=executor(), mask=300)  # masks of a batch do not fit into a pipe at once
    for start in (0, 16, 40):
        indices = []
        for batch in made.batches(0, start):
            gray = batch.images[:, 0, 0, 0]
            assert batch.images.shape == (len(batch), 2, 4, 5) and torch.equal(gray.long(), batch.indices)
            assert batch.targets.dtype == torch.int64 and torch.equal(batch.targets[:, 7, 9], batch.indices)
            indices += batch.indices.tolist()
        assert indices == list(range(start, 40))
    made.close()


def test_the_main_thread_reads_nothing_and_few_batches_are_read_ahead():
    threads, read = set(), []

    def note(i):
        threads.add(threading.current_thread())
        read.append(i)

    batches = make(note, Threads(1, 2, 8)).batches()
    next(batches)
    time.sleep(0.2)
    assert threading.main_thread() not in threads and 8 <= len(read) <= 32
    batches.close()
    time.sleep(0.2)
    count = len(read)
    time.sleep(0.2)
    assert len(read) == count and not any(thread.is_alive() for thread in threads)


class SlowToTell(queue.SimpleQueue):
    def empty(self):
        found = super().empty()
        time.sleep(0.05)  # in which the thread that reads may take the last task
        return found


def test_a_run_can_be_left_while_the_thread_takes_a_task(monkeypatch):
    monkeypatch.setattr("data.executors.SimpleQueue", SlowToTell)
    batches = make(lambda i: time.sleep(0.002), Threads(1, 2, 8)).batches()
    next(batches)
    leaving = threading.Thread(target=batches.close, daemon=True)
    leaving.start()
    leaving.join(timeout=5)
    assert not leaving.is_alive()


@EXECUTORS
def test_poll_is_called_while_waiting_and_may_stop_it(executor):
    made = make(lambda i: time.sleep(0.06), executor())
    calls = []
    next(made.batches(poll=lambda: calls.append(time.monotonic())))
    assert len(calls) >= 2 and max(np.diff(calls)) < 0.4

    def stop():
        raise Interrupted(signal.SIGTERM)

    begin = time.monotonic()
    with pytest.raises(Interrupted):
        next(made.batches(poll=stop))
    assert time.monotonic() - begin < 0.6
    assert next(made.batches(0, 32)).indices.tolist() == list(range(32, 40))  # and it can go on
    made.close()


@EXECUTORS
def test_a_slow_read_is_waited_for_and_said_once(executor, monkeypatch, caplog):
    monkeypatch.setattr("data.executors._SLOW", 0.1)
    logging.getLogger("strata").propagate = True
    made = make(lambda i: time.sleep(0.4 * (i == 11)), executor())
    assert len(list(made.batches())) == 5
    made.close()
    assert [record.getMessage() for record in caplog.records] == [
        "no batch for 0.1 s: DATASETS.ROOT is slow to read, or a read is stuck"
    ]


def test_two_loaders_never_read_in_two_threads_at_once():
    inside, most = [], []

    def note(i):
        inside.append(i)
        most.append(len(inside))
        time.sleep(0.002)
        inside.remove(i)

    one, other = (make(note, Threads(1, 2, 8, one_at_a_time=True)).batches() for _ in range(2))
    for _ in range(5):
        next(one), next(other)
    assert max(most) == 1


def interrupt(i):
    raise KeyboardInterrupt


class BadTransform:
    def __call__(self, image, rng):
        return {"a": image}["b"]


@EXECUTORS
def test_an_error_of_the_users_code_keeps_its_frames(executor):
    def fail_in_here(i):
        if i == 19:
            raise RuntimeError("no such\nframe")

    for made, line, frame in (
        (make(fail_in_here, executor()), "calls/19: no such frame", "fail_in_here"),
        (make(lambda i: sys.exit(f"exit at {i}"), executor()), "calls/0: exit at 0", "SystemExit"),
        (make(interrupt, executor()), "calls/0: KeyboardInterrupt", "interrupt"),
        (make(executor=executor(), transforms=[BadTransform()]), "calls/0: KeyError 'b'", "in __call__"),
    ):
        with pytest.raises(UserCodeError) as caught:
            list(made.batches())
        import traceback

        assert str(caught.value) == line
        assert frame in "".join(traceback.format_exception(caught.value.__cause__))
        made.close()


def kill_self(signum: int) -> Callable[[int], None]:
    def kill(i):
        if i == 20:
            faulthandler.disable()  # pytest's, which would print the stack
            os.kill(os.getpid(), signum)

    return kill


def leave_a_child(i):
    if i == 20:
        if os.fork() == 0:
            time.sleep(6)
        os._exit(7)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (kill_self(signal.SIGKILL), "killed by SIGKILL; the machine may be out of memory: lower DATALOADER.NUM_WORK"),
        (kill_self(signal.SIGBUS), "was killed by SIGBUS; /dev/shm is full"),
        (kill_self(signal.SIGUSR1), "was killed by SIGUSR1; set DATALOADER.NUM_WORKERS to 0"),
        (lambda i: os._exit(7), "ended with exit code 7; set DATALOADER.NUM_WORKERS to 0"),
        (leave_a_child, "ended with exit code 7"),
    ],
)
def test_a_process_that_dies_is_noticed_at_once(processes, end, message):
    made = make(end, processes(prefetch=1))
    begin = time.monotonic()
    with pytest.raises(UserError, match=f"^reader process [01] .*{message}"):
        list(made.batches())
    assert time.monotonic() - begin < 5 and not multiprocessing.active_children()
    begin = time.monotonic()
    with pytest.raises(UserError, match="reader process"):  # a new run starts new processes
        list(made.batches())


def test_processes_ignore_signals_for_the_whole_group(processes):
    made = make(lambda i: time.sleep(0.01), processes())
    batches = made.batches()
    next(batches)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGTERM)
    assert len(list(batches)) == 4


@pytest.mark.parametrize("stop", [lambda: time.sleep(1000), lambda: os.kill(os.getpid(), signal.SIGSTOP)])
def test_closing_does_not_wait_for_a_stuck_process(processes, stop):
    made = make(lambda i: stop() if i == 30 else None, processes())
    next(made.batches())
    time.sleep(0.2)
    begin = time.monotonic()
    made.close()
    assert time.monotonic() - begin < 3 and not multiprocessing.active_children()


def test_one_run_at_a_time(processes):
    made = make(executor=processes())
    first = made.batches()
    next(first)
    second = made.batches()
    next(second)
    with pytest.raises(RuntimeError, match="this loader is being iterated again"):
        next(first)
    assert len(list(second)) == 4


def test_what_cannot_be_sent_to_a_process_is_a_line(processes):
    made = make(lambda i: None, processes(kind="spawn"))  # a lambda cannot be pickled
    with pytest.raises(UserError, match=r"DATALOADER.NUM_WORKERS 2: cannot start a process .*spawn: .*set NUM_WORKERS"):
        next(made.batches())
    assert not multiprocessing.active_children()


def test_a_reader_leaves_the_rest_of_its_memory_alone():
    out = np.full((4, 4, 5, 2), 99, np.uint8)
    reader = SampleReader(Calls(), [], (4, 5), 2, seed=0)
    result = reader.read(Keys(np.array([3, 5]), 0, 0), out)
    assert np.shares_memory(result.batch.images.numpy(), out)
    assert out[:2, 0, 0, 0].tolist() == [3, 5] and (out[2:] == 99).all()


# A program whose readers are stuck, with the executor and the way it ends to be filled in.
PROGRAM = """
import sys, time, os, signal, multiprocessing
sys.path.insert(0, {root!r})
from tests.data.test_executors import make, Threads, Processes
made = make(lambda i: time.sleep(1000) if i == 30 else None, {executor})
batches = made.batches()
next(batches)
time.sleep(0.5)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
{end}
"""


@pytest.mark.parametrize("executor", ["Threads(3, 2, 8)", "Processes(2, 2, 'fork', 8)"])
@pytest.mark.parametrize("end", ["pass", "raise KeyError", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_stuck_readers_never_keep_a_program_alive(executor, end):
    program = PROGRAM.format(root=str(ROOT), executor=executor, end=end)
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)  # noqa: PLW1510
    assert time.monotonic() - begin < 30
    children = [int(pid) for pid in done.stdout.split() if pid.isdigit()]
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in children), done.stderr


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
