"""Whole commands, each in processes of its own: until the first step, and until the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from config import CfgNode, load_config
from data.build import dataset_defaults
from engine.precision import resolve_amp
from modeling.build import build_input_spec, build_model, build_normalize
from modeling.dry_run import cpu_bf16_support
from tests.bench.measuring import Contender
from tests.bench.readers import idx_folder
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
BARE = ("-m", "tests.bench.bare")
PATIENCE = 600  # seconds


@contextmanager
def program(*words: str, output: Path) -> Iterator[subprocess.Popen]:
    """Starts Python with these words, and kills it and its children at the end."""
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(is_done: Callable[[], bool], process: subprocess.Popen, output: Path) -> None:
    """Waits until something is done. Raises UserError if the process ends before, or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not is_done():
        if (process.poll() is not None and not is_done()) or time.monotonic() > deadline:
            lines = output.read_text(errors="replace").split("\n")
            raise UserError(f"it ended, or took {PATIENCE} s: {' '.join(lines[-3:]).strip() or 'without output'}")
        time.sleep(0.003)


def has(path: Path, text: str) -> bool:
    return path.is_file() and text in path.read_text(errors="replace")


def first_step_of_ours() -> tuple[int, float]:
    with TemporaryDirectory() as folder:
        run, output = Path(folder) / "run", Path(folder) / "output.txt"
        words = ["tools/train_net.py", "--run-dir", str(run), *"MODEL.DEVICE cpu LOG.PERIOD 1".split()]
        started = time.perf_counter()
        with program(*words, output=output) as process:
            wait_for(lambda: has(run / "metrics.jsonl", '"kind": "step"'), process, output)
            return 1, time.perf_counter() - started


def first_step_of_bare() -> tuple[int, float]:
    with TemporaryDirectory() as folder:
        output = Path(folder) / "output.txt"
        started = time.perf_counter()
        with program(*BARE, "start", output=output) as process:
            wait_for(lambda: has(output, "the first step"), process, output)
            return 1, time.perf_counter() - started


def starts() -> list[Contender]:
    """Returns the contenders that begin to train on the digits."""
    return [
        Contender("strata", lambda _: first_step_of_ours),
        Contender("bare script", lambda _: first_step_of_bare),
    ]


def run_to_end(epochs: int, *words: str) -> tuple[int, float]:
    """Runs a program until it ends. Raises UserError if it fails."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "output.txt"
        words = tuple(word.replace("{folder}", folder) for word in words)
        started = time.perf_counter()
        with program(*words, output=output) as process:
            wait_for(lambda: process.poll() == 0, process, output)
            return epochs, time.perf_counter() - started


def trainings(folder: Path, images: int, epochs: int) -> list[Contender]:
    """Returns the contenders that train on Fashion-MNIST, from the command to its end, ours with its report.

    They train on at most `images` images, of the 57,000 that are not held out.
    """
    file = ROOT / "configs" / "fashion_mnist.yml"
    words = ["--config-file", str(file), "--run-dir", "{folder}/run", "MODEL.DEVICE", "cpu"]
    ours = ["tools/train_net.py", *words, "SOLVER.MAX_EPOCHS", str(epochs)]
    ours += ["DATASETS.TRAIN_SUBSET", str(images)] if images < 57_000 else []

    def bare(precision: str) -> Callable[[], tuple[int, float]]:
        arguments = ["train", str(idx_folder(folder).resolve()), str(images), str(epochs), precision]
        return lambda: run_to_end(epochs, *BARE, *arguments)

    return [
        Contender("strata", lambda _: lambda: run_to_end(epochs, *ours)),
        Contender("bare script", lambda _: bare(precision_of(load_config(file)))),
    ]


def precision_of(cfg: CfgNode) -> str:
    """Returns the precision that a training of ours would choose on this processor."""
    spec = build_input_spec(cfg, dataset_defaults(cfg))
    model, normalize = build_model(cfg, spec, 10), build_normalize(cfg, spec)
    return resolve_amp(cfg.SOLVER.AMP, torch.device("cpu"), cpu_bf16_support(model, normalize, spec))
