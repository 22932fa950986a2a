"""The benchmark names what was made slow on purpose; sleeps are long beside all else."""

import importlib.util
import itertools
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from config import load_config
from data.image_io import EncodedImage
from data.registry import DATASETS
from modeling.registry import MODELS

RATES = {"network", "copying", "reading", "both"}
TOY = "DATASETS.NAME toy MODEL.NAME tiny MODEL.DEVICE cpu SOLVER.AMP off SOLVER.BATCH_SIZE 8".split()
TOY += ["DATALOADER.RESIDENT_MIB", "0", "DATALOADER.NUM_WORKERS", "1"]


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "torchinductor" not in str(path)}  # a cache of torch's


def slow_down(monkeypatch, owner, name: str, seconds: float) -> None:
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a, **options: time.sleep(seconds) or real(*a, **options))


@pytest.fixture
def measured(tool, tmp_path, monkeypatch):
    """measured("KEY", "VALUE", ...) -> the figures of the toy experiment with these changes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("data.workers.usable_cpus", lambda: 1)

    def measured(*words: str) -> dict:
        before = files(tmp_path)
        done = tool("benchmark", *TOY, "--seconds", "0.1", "--json", "-", *words)
        assert done.code == 0, done.err
        assert files(tmp_path) == before  # nothing is left
        figures = json.loads(done.out)
        assert figures.keys() - {"decoding"} == RATES | {"waiting", "memory", "advice"}
        assert 0 <= figures["waiting"] <= 100 and all(figures[name] > 0 for name in RATES | {"memory"})
        return figures

    return measured


def test_a_slow_data_set(measured, monkeypatch):
    slow_down(monkeypatch, DATASETS.get("toy", ""), "__getitem__", 0.01)
    monkeypatch.setattr("data.workers.usable_cpus", lambda: 4)
    figures = measured()
    assert figures["waiting"] > 70 and figures["reading"] < 100 and figures["both"] < 100 < figures["network"]
    assert figures["advice"].startswith(f"the network waits for data {figures['waiting']:.0f} % of the time, and is ")
    assert "raise DATALOADER.NUM_WORKERS, now 1; decoding is not what limits reading" in figures["advice"]


def test_a_slow_network(measured, monkeypatch):
    slow_down(monkeypatch, MODELS.get("tiny", ""), "forward", 0.15)
    figures = measured()
    assert figures["waiting"] < 20 and figures["network"] < 54 and figures["both"] < 54 < figures["reading"]
    assert figures["advice"].startswith("the network is the limit, and waits for data ")
    assert "SOLVER.AMP auto" in figures["advice"] and "COMPILE" not in figures["advice"]


def test_slow_decoding_of_files_some_of_which_are_corrupt(measured, monkeypatch, tmp_path):
    for i, name in itertools.product(range(12), ("a", "b")):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"photos/{name}/{i}.png"), np.full((20, 20, 3), 9 * i, np.uint8))
    (tmp_path / "photos/a/3.png").write_bytes(b"broken")
    slow_down(monkeypatch, EncodedImage, "read", 0.05)
    keys = "DATASETS.NAME image_folder DATASETS.ROOT photos DATASETS.ON_ERROR skip DATASETS.MAX_SKIPPED 0.5"
    figures = measured(*keys.split(), "INPUT.SIZE", "[8,8]", "INPUT.TRAIN_TRANSFORMS", "[{RandomResizedCrop: {}}]")
    assert figures["decoding"] < 50 and figures["waiting"] > 50
    assert figures["advice"].endswith("limited by decoding: pack the data set with tools/pack_dataset.py")


def test_the_table_and_a_file(tool, tmp_path):
    done = tool("benchmark", *TOY, "--seconds", "0.02", "--json", "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert f"{figures['both']:,.0f}  images/s\n" in done.out and done.out.endswith(f"\n\n{figures['advice']}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    assert "--seconds: invalid float value" in tool("benchmark", "--seconds", "x").error()


def test_a_signal_ends_it_at_once(tool, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tiny, calls = MODELS.get("tiny", ""), itertools.count()
    real = tiny.forward

    def forward(self, x):
        if next(calls) == 50:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, x)

    monkeypatch.setattr(tiny, "forward", forward)
    started = time.monotonic()
    done = tool("benchmark", *TOY, "--seconds", "60")
    assert done.code == 130 and time.monotonic() - started < 30, done.err
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("figures", "on_gpu", "expected"),
    [
        ({"waiting": 5}, True, "try a smaller network or smaller images, MODEL.COMPILE true, a larger SOLVER.BATCH"),
        (
            {"waiting": 5, "network": 1000},
            False,
            "is 10.0 x as fast alone: make the data set thread_safe; decoding is not",
        ),
        ({"waiting": 50, "decoding": 200}, False, "decoding is not what limits reading"),
        ({"waiting": 50, "decoding": 120}, False, "reading is limited by decoding"),
    ],
)
def test_advice(figures, on_gpu, expected, monkeypatch):
    tools = Path(__file__).resolve().parents[2] / "tools"
    monkeypatch.syspath_prepend(tools)
    spec = importlib.util.spec_from_file_location("tool_benchmark", tools / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loader = SimpleNamespace(executor=SimpleNamespace(count=99), dataset=[])
    figures = {"network": 99, "both": 100, "reading": 100, **figures}
    assert expected in module.advise(load_config(None, []), on_gpu, loader, figures)
