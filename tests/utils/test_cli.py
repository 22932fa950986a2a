"""How the tools end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils import cli
from utils.errors import Interrupted, UserError


@pytest.mark.parametrize(
    ("outcome", "code", "line"),
    [
        (None, 0, ""),
        (2, 2, ""),
        (UserError("X: found 1, expected 2"), 2, "error: X: found 1, expected 2\n"),
        (Interrupted(15), 143, "stopped by SIGTERM\n"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "error: /x/y: Permission denied\n"),
        (ImportError("libGL.so.1: cannot open shared object file"), 2, "error: opencv-python needs libGL, which"),
    ],
)
def test_exit_codes(outcome, code, line, capfd):
    def main(argv):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == code
    err = capfd.readouterr().err
    assert err.startswith(line) and err.count("\n") == bool(line)


@pytest.mark.parametrize("bug", [ZeroDivisionError("bug"), ImportError("no module"), OSError("no errno")])
def test_a_bug_keeps_its_traceback(bug):
    def main(argv):
        raise bug

    with pytest.raises(type(bug)):
        cli.run(main)


PRINTING = """
import os, sys
from utils import cli
from utils.errors import UserError
from utils.logger import get_logger, setup_logging

def main(argv):
    setup_logging()
    with open("file", "w") as file:  # must not become the place that a library prints to
        for line in range(int(argv[0])):
            print(line)
            get_logger("x").info("line %d", line)
        for descriptor in (1, 2):
            os.write(descriptor, b"from a library\\n")
    assert open("file").read() == ""
    if argv[1:]:
        raise UserError("mistake")

cli.run(main)
"""


def in_shell(command: str, folder, lines: int, *words: str) -> subprocess.CompletedProcess:
    python = [sys.executable, "-c", PRINTING, str(lines), *words]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]}
    return subprocess.run(
        ["bash", "-c", command, *python], check=False, capture_output=True, text=True, cwd=folder, env=environment
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/null <&-"])
def test_closed_streams(tmp_path, closed):
    done = in_shell(f'"$0" "$@" {closed}', tmp_path, 2)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert done.stdout == ("" if ">&-" in closed.split() or ">/" in closed else "0\n1\nfrom a library\n")
    assert in_shell(f'"$0" "$@" {closed}', tmp_path, 2, "mistake").returncode == 2


@pytest.mark.parametrize("pipe", ["|", "2>&1 |"])
def test_a_reader_that_has_gone_ends_a_tool_quietly(tmp_path, pipe):
    done = in_shell(f'"$0" "$@" {pipe} head -1; exit ${{PIPESTATUS[0]}}', tmp_path, 10000)
    assert done.returncode == 141 and done.stdout == "0\n" and "Error" not in done.stderr


# A program whose main function blocks in one of these ways, and gets signals once it does.
PROGRAM = """
import ctypes, os, signal, threading, time
from utils import cli, interrupt
from utils.errors import UserError
from utils.interrupt import InterruptHandler
cli._PATIENCE = interrupt._PATIENCE = 0.2

def deadlock():  # a call that waits, and returns for no signal
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex), library.pthread_mutex_lock(mutex)

def swallow():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue

def thread():
    threading.Thread(target=swallow, daemon=False).start()
    swallow_nothing()

def swallow_nothing():
    time.sleep(60)

def fail():
    threading.Thread(target=swallow, daemon=False).start()
    raise UserError("nothing hangs")

def step():
    with InterruptHandler() as handler, handler.deferred():
        deadlock()

def main(argv):
    print("ready", flush=True)
    {block}()

cli.run(main)
"""


@pytest.mark.parametrize(
    ("block", "signals", "line"),
    [
        ("swallow_nothing", [signal.SIGINT], "stopped by SIGINT"),
        ("swallow_nothing", [signal.SIGTERM], "stopped by SIGTERM"),
        ("deadlock", [signal.SIGTERM], "ended by SIGTERM"),
        ("swallow", [signal.SIGINT], "ended by SIGINT"),
        ("thread", [signal.SIGTERM], "stopped by SIGTERM"),
        ("fail", [], "error: nothing hangs"),
        ("step", [signal.SIGTERM, signal.SIGTERM], "ended by SIGTERM"),
    ],
)
def test_whatever_blocks_obeys_a_signal(block, signals, line):
    command = [sys.executable, "-c", PROGRAM.format(block=block)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout.readline() == "ready\n"
        for signum in signals:
            time.sleep(0.1)  # until it blocks, and for two signals not to become one
            os.kill(process.pid, signum)
        try:
            err = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert process.returncode == (128 + signals[0] if signals else 2) and err.strip() == line
