"""A data set, a network, a transform, a hook and a part of the report that block or die where FAULT says.

Without this environment variable nothing happens. Before a fault the file that MARK names is written, with the id of
the process.
"""

import ctypes
import os
import runpy
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import torchvision

from data.datasets.image_folder import ImageFolder
from data.registry import DATASETS, TRANSFORMS
from data.transforms.arguments import ThreadSafe
from engine.hooks.base import Hook
from engine.registry import HOOKS, REPORT_PARTS
from modeling.registry import MODELS
from modeling.resnet9 import ResNet9

ROOT = Path(__file__).resolve().parents[2]
FAULT, _, PLACE = os.environ.get("FAULT", "").partition("@")  # such as "sleep@sample"
SAMPLE = "07"  # the name of the file at which it happens, in each class and split


def sleep() -> None:
    while True:
        time.sleep(60)


def deadlock() -> None:
    """A call that never returns, not even after a signal, but releases Python's lock."""
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex), library.pthread_mutex_lock(mutex)


def hold_the_lock() -> None:
    """A call that never returns and keeps Python's lock, so that no other thread runs."""
    mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
    library.pthread_mutex_lock(mutex), library.pthread_mutex_lock(mutex)


def leave_a_child() -> None:
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)


def leave_a_thread() -> None:
    """Python waits for such a thread at its exit."""
    threading.Thread(target=sleep, daemon=False).start()
    sleep()


def leave_a_child_and_die() -> None:
    leave_a_child()
    os._exit(7)


def wait_for_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        urllib.request.urlopen(f"http://127.0.0.1:{server.getsockname()[1]}")


def swallow() -> None:
    """Code that catches whatever is raised in it, and goes on waiting."""
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


def raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


FAULTS = {
    "": lambda: None,  # only the mark is written
    "sleep": sleep,
    "deadlock": deadlock,
    "hold_the_lock": hold_the_lock,
    "leave_a_child": leave_a_child,
    "leave_a_child_and_die": leave_a_child_and_die,
    "leave_a_thread": leave_a_thread,
    "swallow": swallow,
    "keyboard_interrupt": raise_keyboard_interrupt,
    "wait_for_a_server": wait_for_a_server,
    "sys_exit": lambda: sys.exit("no licence"),
    "os_exit": lambda: os._exit(7),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "run_out_of_files": lambda: [os.dup(2) for _ in range(100000)],
}


def fail(place: str) -> None:
    if place == PLACE:
        mark = Path(os.environ["MARK"])
        new = mark.with_suffix(f".{os.getpid()}-{threading.get_ident()}")  # several threads may be here
        new.write_text(str(os.getpid()))
        new.rename(mark)
        FAULTS[FAULT]()


@DATASETS.register("faulty")
class Faulty(ImageFolder):
    def __init__(self, root: Path, split: str, classes=None):
        fail("scan")
        super().__init__(root, split, classes)
        self.split = split

    def __getitem__(self, i: int):
        if self.path(i).stem == SAMPLE:
            fail(f"{self.split}_sample")
        return super().__getitem__(i)


@TRANSFORMS.register("FaultyTransform")
class FaultyTransform(ThreadSafe):
    calls = 0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.calls += 1
        if self.calls == 20:
            fail("transform")
        return image


@HOOKS.register("FaultyHook")
class FaultyHook(Hook):
    def after_step(self, trainer) -> None:
        if trainer.step == 3:
            fail("after_step")

    def after_train(self, trainer) -> None:
        fail("after_train")


@REPORT_PARTS.register("faulty", tasks=["classification"])
def faulty_part(result, page) -> None:
    fail("report")


@MODELS.register("faulty_network", size=(64, 64), min_size=(8, 8))
class FaultyNetwork(ResNet9):
    def forward(self, x):
        fail("network")
        return super().forward(x)


if PLACE == "download":
    torchvision.datasets.KMNIST = lambda root, download: fail("download")


def run_tool() -> None:
    """Runs the tool that the first word of the command line names."""
    sys.argv = [str(ROOT / "tools" / f"{sys.argv[1]}.py"), *sys.argv[2:]]
    sys.path.insert(0, str(ROOT / "tools"))
    runpy.run_path(sys.argv[0], run_name="__main__")
