"""What blocks or dies, in a training and in the tools, with reading threads and processes. Run by `make test-odd`.

Everything ends by itself with a line, or obeys a signal within 10 seconds, and leaves no process behind. The training
then resumes, and its last checkpoint is that of an undisturbed one, tensor by tensor. Not tested: a wait inside the
kernel that nothing can interrupt. With threads, a call into C that keeps Python's lock ends with SIGKILL alone.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.checkpoint import load_checkpoint
from tests.engine.test_resume import differences, without_clock

ROOT = Path(__file__).resolve().parents[2]
INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
SECONDS = 10  # after a signal
KINDS = {0: "inline", 2: "fork", 3: "threads"}  # by number of workers
PYTHON = [sys.executable, "-c", "from tests.batteries import faults; faults.run_tool()"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
QUICK = (
    "INPUT.SIZE [8,8] INPUT.TRAIN_TRANSFORMS [FaultyTransform,Resize,CenterCrop] "
    "INPUT.TEST_TRANSFORMS [Resize,CenterCrop] MODEL.NAME faulty_network MODEL.width 4 MODEL.DEVICE cpu SOLVER.AMP off "
    "SOLVER.BATCH_SIZE 8 TEST.BATCH_SIZE 8 SOLVER.MAX_EPOCHS 2 TEST.REPORT false HOOKS [FaultyHook]"
).split()


@dataclass(frozen=True)
class Case:
    """What happens where, the signals sent once it has, and the end: exit code and what is written."""

    fault: str  # of tests/batteries/faults.py, @ its place
    signals: tuple[int, ...] = ()
    code: int = 2
    text: str = ""
    to: str = "main"  # the process that is signalled: main, group, or reader
    workers: tuple[int, ...] = (0, 2, 3)

    @property
    def name(self) -> str:
        names = [signal.Signals(number).name for number in self.signals]
        return "-".join([self.fault, *names, *([] if self.to == "main" else [self.to])])


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder with the splits train, val and test, of two classes each."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 10), ("test", 10)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / split / name / f"{i:02d}.png"), image)
    return folder


@dataclass
class Program:
    """A tool that runs in a folder, with its output in a file: a child that it leaves must not be waited for."""

    process: subprocess.Popen
    folder: Path

    @property
    def mark(self) -> Path:
        return self.folder / "mark"

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def wait(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.output[-2000:]}") from None

    def wait_for_fault(self) -> int:
        """Returns the id of the process in which it happened."""
        deadline = time.monotonic() + 60
        while not self.mark.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, f"no fault:\n{self.output[-2000:]}"
            time.sleep(0.02)
        time.sleep(0.5)  # until those that wait do so
        return int(self.mark.read_text())

    def send(self, signals: tuple[int, ...], to: str) -> None:
        pid = self.wait_for_fault()
        for signum in signals:
            if to == "group":
                os.killpg(self.process.pid, signum)
            else:
                os.kill(pid if to == "reader" else self.process.pid, signum)
            time.sleep(0.3)


@pytest.fixture
def start(tmp_path) -> Callable[..., Program]:
    programs = []

    def start(tool: str, *words: str, fault: str = "", shell: str = "") -> Program:
        """Starts a tool; `shell` is run before, in the same process, with mounts of its own."""
        (tmp_path / "mark").unlink(missing_ok=True)
        environment = {**ENVIRONMENT, "FAULT": fault, "MARK": str(tmp_path / "mark")}
        command = [*PYTHON, tool, *words]
        if shell:
            command = ["unshare", "-m", "sh", "-c", f'{shell} exec "$@"', "sh", *command]
        with (tmp_path / "output.txt").open("w") as output:
            options = {"cwd": tmp_path, "env": environment, "stdout": output, "stderr": output}
            programs.append(Program(subprocess.Popen(command, **options, start_new_session=True), tmp_path))
        return programs[-1]

    yield start
    for program in programs:
        left = members(program.process.pid)
        for pid in left:
            os.kill(pid, KILL)
        program.process.wait()


def members(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def check_end(program: Program, case: Case, seconds: float = 60) -> None:
    if case.signals:
        program.send(case.signals, case.to)
    code = program.wait(SECONDS if case.signals else seconds)
    assert code in (case.code, 128 - case.code), program.output[-3000:]  # the second if a signal came at the exit
    assert re.search(case.text, program.output), program.output[-3000:]
    assert "Traceback" not in program.output.replace("ReaderTraceback: Traceback", ""), program.output[-5000:]
    deadline = time.monotonic() + 5
    while "leave_a_child" not in case.fault and members(program.process.pid):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.05)
    assert not list(program.folder.rglob("*.tmp"))


def training(workers: int, *words: str) -> list[str]:
    data = ["DATASETS.NAME", "faulty", "DATASETS.ROOT", "images", "DATALOADER.NUM_WORKERS", str(workers)]
    kind = ["DATALOADER.WORKER_KIND", KINDS[workers]] if workers in KINDS else []
    return [*data, *kind, *QUICK, "--run-dir", "run", *words]


@pytest.fixture(scope="session")
def undisturbed(images, tmp_path_factory) -> Path:
    """A folder with the images and a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(images, folder / "images")
    command = [*PYTHON, "train_net", *training(0)]
    subprocess.run(command, check=True, cwd=folder, env=ENVIRONMENT, capture_output=True, timeout=60)
    return folder


@pytest.fixture
def folder(images, tmp_path) -> Path:
    """The folder in which the tools run, with the images."""
    shutil.copytree(images, tmp_path / "images")
    return tmp_path


def check_resume(start: Callable[..., Program], folder: Path, undisturbed: Path, workers: int) -> None:
    """Resumes a training, and compares it with one that nothing has disturbed."""
    again = start("train_net", *training(workers), "--resume")
    assert again.wait(60) == 0, again.output
    one, other = (without_clock(load_checkpoint(place / "run/weights/last.pth")) for place in (undisturbed, folder))
    assert differences(one, other) == []


SAVED = r"saved run/weights/last.pth at epoch (?s:.)*to resume: python"
AT_ONCE = "stopped at once"
TRAININGS = [
    # A reader that is stuck
    Case("sleep@train_sample", (TERM,), 143, SAVED),
    Case("sleep@train_sample", (INT,), 130, SAVED),
    Case("sleep@train_sample", (TERM,), 143, SAVED, to="group"),
    Case("sleep@train_sample", (INT, INT), 130),
    Case("deadlock@train_sample", (TERM,), 143, SAVED),
    Case("swallow@train_sample", (TERM,), 143, SAVED),
    Case("sleep@transform", (TERM,), 143, SAVED),
    Case("sleep@val_sample", (TERM,), 143, SAVED),
    Case("hold_the_lock@train_sample", (TERM,), 143, SAVED, workers=(2,)),
    Case("stop@train_sample", (TERM,), 143, SAVED, workers=(2,)),
    # A reader that dies
    Case("kill@train_sample", (), 2, "reader process [01] was killed by SIGKILL; .*memory", workers=(2,)),
    Case("sleep@train_sample", (KILL,), 2, "killed by SIGKILL; .*memory", to="reader", workers=(2,)),
    Case("sleep@val_sample", (KILL,), 2, "killed by SIGKILL; .*memory", to="reader", workers=(2,)),
    Case("os_exit@train_sample", (), 2, "reader process [01] ended with exit code 7", workers=(2,)),
    Case("sys_exit@train_sample", (), 2, "07.png: no licence"),
    Case("keyboard_interrupt@train_sample", (), 2, "error: .*KeyboardInterrupt"),
    Case("run_out_of_files@train_sample", (), 2, "Too many open files"),
    Case("leave_a_child_and_die@train_sample", (), 2, "reader process [01] ended with exit code 7", workers=(2,)),
    # A reader that leaves something behind
    Case("leave_a_child@train_sample", (), 0),
    Case("leave_a_thread@train_sample", (TERM,), 143, SAVED),
    # The main thread
    Case("sleep@scan", (TERM,), 143, "stopped by SIGTERM"),
    Case("deadlock@scan", (TERM,), 143, "ended by SIGTERM"),
    Case("swallow@scan", (INT,), 130, "ended by SIGINT"),
    Case("sleep@after_step", (INT, INT), 130, AT_ONCE),
    Case("sleep@after_step", (TERM, TERM), 143, AT_ONCE),
    Case("deadlock@after_step", (TERM, TERM), 143, "ended by SIGTERM"),
    Case("deadlock@after_step", (INT, INT, INT), 130, "ended by SIGINT"),
    Case("sleep@after_train", (TERM, TERM), 143, ""),
    Case("sleep@train_sample", (KILL,), -9),
    Case("hold_the_lock@train_sample", (KILL,), -9, workers=(0, 3)),
]


@pytest.mark.parametrize("workers", KINDS)
@pytest.mark.parametrize("case", TRAININGS, ids=lambda case: case.name)
def test_training(case, workers, start, folder, undisturbed):
    if workers not in case.workers:
        pytest.skip("needs a process that reads")
    check_end(start("train_net", *training(workers), fault=case.fault), case)
    check_resume(start, folder, undisturbed, workers)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # an absolute path may be too long


def huge_image(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros((12000, 12000), np.uint8))


SPECIAL = {fifo: "a named pipe", unix_socket: "a socket", device: "a device"}


@pytest.mark.parametrize("workers", KINDS)
@pytest.mark.parametrize("make", SPECIAL)
def test_special_files_are_never_opened(make, workers, start, folder, undisturbed, monkeypatch):
    monkeypatch.chdir(folder)
    image = Path("images/train/cat/07.png")
    image.rename("07.png")
    make(image)
    line = f"images/train/cat/07.png: {SPECIAL[make]}, expected a regular file"
    check_end(start("train_net", *training(workers)), Case("", text=f"error: {line}"))
    line = line.removeprefix("images/")
    check_end(start("check_data", *training(workers)[:4]), Case("", code=1, text=f"corrupt: .*{line}"))
    image.unlink()
    Path("07.png").rename(image)
    check_resume(start, folder, undisturbed, workers)
    make(Path("x.png"))
    check_end(start("infer", "x.png", "--weights", "run"), Case("", code=2, text=f"x.png: {SPECIAL[make]}"))


@pytest.mark.parametrize("workers", KINDS)
def test_an_image_that_decodes_for_long(workers, start, folder, undisturbed):
    image = folder / "images/train/cat/07.png"
    content = image.read_bytes()
    huge_image(image)
    check_end(start("train_net", *training(workers), fault="@train_sample"), Case("", (TERM,), 143, SAVED))
    image.write_bytes(content)
    check_resume(start, folder, undisturbed, workers)


LIMITS = {
    "small /dev/shm": ("mount -t tmpfs -o size=64k tmpfs /dev/shm;", 0, ""),
    "full /dev/shm": ("mount -t tmpfs -o size=4k tmpfs /dev/shm; echo > /dev/shm/x;", 0, ""),
    "long TMPDIR": (f"export TMPDIR=$PWD/{'x' * 100}; mkdir $TMPDIR;", 0, ""),
    "few files": ("ulimit -n 16;", 2, "error: .*Too many open files.*ulimit -n"),
}


@pytest.mark.parametrize("kind", ["none", "fork", "forkserver", "spawn"])
@pytest.mark.parametrize("limit", LIMITS)
def test_limits(limit, kind, start, folder, undisturbed):
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs the right to mount")
    (shell, code, text), workers = LIMITS[limit], 0 if kind == "none" else 1
    if limit == "long TMPDIR" and kind == "forkserver":
        code, text = 2, "error: .*forkserver: AF_UNIX path too long; .*TMPDIR"
    if limit == "few files" and not workers:
        code, text = 0, ""
    words = [] if kind == "none" else ["DATALOADER.WORKER_KIND", kind]
    check_end(start("train_net", *training(workers, *words), shell=shell), Case("", code=code, text=text))
    check_resume(start, folder, undisturbed, workers)


def test_a_download(start, tmp_path):
    program = start("check_data", *"DATASETS.NAME kmnist DATASETS.ROOT .".split(), fault="wait_for_a_server@download")
    check_end(program, Case("", (TERM,), 143, "stopped by SIGTERM"))


CHECK = "DATASETS.NAME faulty DATASETS.ROOT images"
TOOLS = {
    "train_net": ("--resume run TEST.REPORT true", ["sleep@report", "sleep@val_sample", "deadlock@report"]),
    "test_net": ("run", ["sleep@test_sample", "sleep@report"]),
    "check_data": (CHECK, ["sleep@train_sample", "deadlock@train_sample", "sleep@scan"]),
    "export_images": (CHECK, ["sleep@test_sample", "deadlock@test_sample"]),
    "show_batch": (CHECK, ["sleep@train_sample"]),
    "infer": ("images/test --weights run", ["sleep@network"]),
    "model_info": ("MODEL.NAME faulty_network INPUT.SIZE [8,8]", ["deadlock@network"]),
}
ALL_TOOLS = [(tool, words, fault) for tool, (words, faults) in TOOLS.items() for fault in faults]


@pytest.mark.parametrize("signum", [INT, TERM])
@pytest.mark.parametrize(("tool", "words", "fault"), ALL_TOOLS, ids=lambda value: str(value).split()[0])
def test_tools(tool, words, fault, signum, start, folder, undisturbed):
    shutil.copytree(undisturbed / "run", folder / "run")
    workers = ["DATALOADER.NUM_WORKERS", "2"] if tool == "test_net" and signum == TERM else []
    check_end(
        start(tool, *words.split(), *workers, fault=fault),
        Case(fault, (signum,), 128 + signum, "(stopped|ended) by SIG"),
    )
    assert all(cv2.imread(str(path)) is not None for path in folder.rglob("*.png"))  # whole, as far as they are there
    shutil.rmtree(folder / "exported", ignore_errors=True)
    check_end(start(tool, *words.split()), Case(fault="", code=0))
