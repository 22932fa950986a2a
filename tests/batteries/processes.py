"""The real command under torchrun, in 2 and 3 processes on the bundled digits. Run by `make test-processes`.

Stops, deaths and resumes end as those of one process do: the finished run is that of an undisturbed one, bit for bit.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from engine.checkpoint import load_checkpoint
from tests.engine.test_resume import differences, without_clock

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "MODEL.width 4 MODEL.DEVICE cpu SOLVER.AMP off SOLVER.BATCH_SIZE 24 SOLVER.MAX_EPOCHS 6 SOLVER.EMA 0.9 "
    "TEST.REPORT false LOG.PERIOD 5 CHECKPOINT.EVERY_STEPS 7 INPUT.BATCH_TRANSFORMS [MixUp] DATASETS.TRAIN_SUBSET 480"
).split()


def start(folder: Path, processes: int, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["tools/train_net.py", "--run-dir", str(folder), *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *options, *words, "--resume"], cwd=ROOT, env=environment, **pipes)


def finish(folder: Path, processes: int, *options: str) -> str:
    program = start(folder, processes, *options)
    text = program.communicate(timeout=300)[0]
    assert program.returncode == 0, text
    return text


def workers(program: subprocess.Popen, count: int) -> list[int]:
    """The processes that torchrun has started, by rank."""
    while True:
        found = subprocess.run(
            ["pgrep", "-P", str(program.pid)], check=False, capture_output=True, text=True
        ).stdout.split()
        ranks = {}
        for pid in map(int, found):
            variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            ranks |= {int(v.removeprefix("RANK=")): pid for v in variables if v.startswith("RANK=")}
        if len(ranks) == count:
            return [ranks[rank] for rank in range(count)]
        time.sleep(0.1)


def wait_for_step(folder: Path, step: int) -> None:
    deadline, log = time.monotonic() + 120, folder / "metrics.jsonl"
    while not log.exists() or f'"step": {step},' not in log.read_text():
        assert time.monotonic() < deadline, "it does not train"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[int, Path]:
    folders = {count: tmp_path_factory.mktemp("whole") / str(count) for count in (2, 3)}
    for count, folder in folders.items():
        finish(folder, count)
    return folders


def check_same(folder: Path, other: Path) -> None:
    ours, theirs = (load_checkpoint(path / "weights" / "last.pth") for path in (folder, other))
    assert differences(without_clock(ours), without_clock(theirs)) == []


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_any_one(undisturbed, tmp_path, count, number):
    folder = tmp_path / "run"
    for rank in range(count):
        program = start(folder, count)
        pids = workers(program, count)
        wait_for_step(folder, 20 * (rank + 1))
        os.kill(pids[rank], number)
        text = program.communicate(timeout=60)[0]
        assert text.count("saved ") == 1 and "to resume: torchrun --nproc-per-node=" in text, text
    finish(folder, count)
    check_same(folder, undisturbed[count])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_is_killed(undisturbed, tmp_path, rank):
    folder = tmp_path / "run"
    program = start(folder, 2)
    pids = workers(program, 2)
    wait_for_step(folder, 30)
    os.kill(pids[rank], signal.SIGKILL)
    killed = time.monotonic()
    text = program.communicate(timeout=60)[0]
    assert time.monotonic() - killed < 60 and program.returncode
    assert "error: another process of this job exited" in text, text
    finish(folder, 2)
    check_same(folder, undisturbed[2])


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_starts_them_again(undisturbed, tmp_path, rank):
    folder = tmp_path / "run"
    program = start(folder, 2, "--max-restarts", "1")
    pids = workers(program, 2)
    wait_for_step(folder, 30)
    os.kill(pids[rank], signal.SIGKILL)
    text = program.communicate(timeout=120)[0]
    assert program.returncode == 0 and "resuming" in text, text
    check_same(folder, undisturbed[2])


@pytest.mark.parametrize("is_tree", [False, True])
def test_torchrun_is_stopped(undisturbed, tmp_path, is_tree):
    folder = tmp_path / "run"
    program = start(folder, 2)
    pids = workers(program, 2)
    wait_for_step(folder, 40)
    program.send_signal(signal.SIGTERM)  # which torchrun sends on; a scheduler may signal the whole tree
    if is_tree:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
    text = program.communicate(timeout=60)[0]
    assert "saved " in text and "stopped at once" not in text, text
    finish(folder, 2)
    check_same(folder, undisturbed[2])


def test_a_report_and_a_test_of_the_run(undisturbed):
    folder = undisturbed[2]
    words = [sys.executable, "tools/train_net.py", "--resume", str(folder), "TEST.REPORT", "true"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    assert (folder / "report" / "index.html").exists()
    assert torch.isfinite(next(iter(load_checkpoint(folder / "weights" / "best.pth").weights.values()))).all()
