"""Everything that needs a GPU: `make test-gpu`, in less than 8 minutes on one. Skipped without one. Prints figures.

Needs torch and this project's requirements alone; the images are made here.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from config import load_config
from data.executors import on_device
from engine.build import build_trainer
from engine.checkpoint import load_checkpoint
from engine.classifier import Classifier
from engine.hooks.base import Hook
from engine.registry import HOOKS
from tests.engine.test_resume import differences, without_clock
from utils.contracts import Batch
from utils.errors import Interrupted
from utils.run_folder import open_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
ROOT = Path(__file__).resolve().parents[2]
DIGITS = "MODEL.DEVICE cuda SOLVER.MAX_EPOCHS 4 TEST.REPORT false".split()


def make(folder: Path, *words: str, poll=lambda: None, resume: bool = False):
    run = open_run(folder)
    return build_trainer(
        load_config(None, [*DIGITS, *words]), run, load_checkpoint(run.last) if resume else None, poll=poll
    )


def train(folder: Path, *words: str):
    trainer = make(folder, *words)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def cpu_accuracy(tmp_path_factory) -> float:
    return train(tmp_path_factory.mktemp("cpu") / "run", "MODEL.DEVICE", "cpu").metrics["top1"]


@pytest.mark.parametrize(
    "words",
    ["SOLVER.AMP off", "SOLVER.AMP off SOLVER.TF32 true", "SOLVER.AMP bf16", "SOLVER.AMP fp16", "MODEL.COMPILE true"],
)
def test_each_precision_learns_the_digits(tmp_path, cpu_accuracy, words):
    trainer = train(tmp_path / "run", *words.split())
    print(f"\n{words}: {trainer.metrics['top1']:.4f}, on the CPU {cpu_accuracy:.4f}")
    assert trainer.metrics["top1"] > cpu_accuracy - 0.03
    assert trainer.last_record.get("memory_mib", 1) > 0


@pytest.mark.parametrize(
    "words",
    [
        "SOLVER.AMP off",
        "SOLVER.AMP bf16 SOLVER.EMA 0.99",
        "SOLVER.AMP fp16 SOLVER.MICRO_BATCHES 2",
        "SOLVER.AMP bf16 DATALOADER.WORKER_KIND fork DATALOADER.NUM_WORKERS 2",
        "SOLVER.AMP bf16 MODEL.COMPILE true SOLVER.EMA 0.99 SOLVER.MAX_EPOCHS 2",
    ],
)
def test_a_resume_is_bitwise_exact(tmp_path, words):
    words = [*words.split(), "SOLVER.DETERMINISTIC", "true", "INPUT.BATCH_TRANSFORMS", "[MixUp]"]
    train(tmp_path / "whole", *words)
    for number, stop in enumerate((7, 30)):
        polls = iter(range(10**6))

        def poll(polls=polls, stop=stop):
            if next(polls) == stop:
                raise Interrupted(15)

        with pytest.raises(Interrupted):
            make(tmp_path / "run", *words, poll=poll, resume=number > 0).train()
    make(tmp_path / "run", *words, resume=True).train()
    whole, run = (load_checkpoint(tmp_path / name / "weights/last.pth") for name in ("whole", "run"))
    assert differences(without_clock(whole), without_clock(run)) == []


def test_checkpoints_move_between_devices(tmp_path):
    rng, classifiers = np.random.default_rng(0), {}
    images = [rng.integers(0, 256, (8, 8), np.uint8) for _ in range(50)]
    for device in ("cuda", "cpu"):
        train(tmp_path / device, "MODEL.DEVICE", device, "SOLVER.AMP", "off", "SOLVER.EMA", "0.9")
        for other in ("cuda", "cpu"):
            classifier = Classifier.load(tmp_path / device, device=other)
            classifiers[other] = np.stack([prediction.values for prediction in classifier(images)])
        assert np.abs(classifiers["cuda"] - classifiers["cpu"]).max() < 1e-3
    words = "MODEL.DEVICE cpu SOLVER.AMP off SOLVER.EMA 0.9 SOLVER.MAX_EPOCHS 5".split()
    make(tmp_path / "cuda", *words, resume=True).train()


@HOOKS.register("gpu_no_sync")
class NoSync(Hook):
    """Makes torch raise for a synchronisation within steps that are not logged."""

    def __init__(self):
        self.steps = 0

    def before_epoch(self, trainer):
        torch.cuda.set_sync_debug_mode("error")

    def after_step(self, trainer):
        self.steps += 1
        torch.cuda.set_sync_debug_mode("error" if (trainer.step + 1) % 10 else "default")

    def before_evaluate(self, trainer):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("words", ["SOLVER.AMP off", "SOLVER.AMP bf16 SOLVER.EMA 0.99 SOLVER.CLIP.NORM 1.0"])
def test_no_step_waits_for_the_gpu(tmp_path, words):
    trainer = make(tmp_path / "run", *words.split(), "LOG.PERIOD", "10", "HOOKS", "[gpu_no_sync]")
    batches = trainer.timed_batches

    def unwatched():  # reading waits for its own copies
        found = batches()
        while True:
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("default")
            batch = next(found, None)
            torch.cuda.set_sync_debug_mode(mode)
            if batch is None:
                return
            yield batch

    trainer.timed_batches = unwatched
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_no_batch_is_read_before_it_is_copied_or_overwritten_while_it_is_used():
    device, buffers = torch.device("cuda"), [torch.empty(64, 3, 224, 224, dtype=torch.uint8) for _ in range(2)]
    weight = torch.randn(4096, 4096, device=device)

    def batches():
        for number in range(100):
            images = buffers[number % 2].fill_(number)  # memory that is used again, as by the executors
            yield Batch(images, torch.full((64,), number), torch.arange(64))

    sums = []
    for batch in on_device(batches(), device):
        for _ in range(3):
            weight = torch.tanh(weight @ weight)  # the GPU is behind
        sums.append((batch.images.float().mean(), batch.targets.float().mean()))
    assert [[value.item() for value in pair] for pair in sums] == [[number, number] for number in range(100)]


def test_speed_of_resnet50(tmp_path):
    """bf16, channels last, 224 pixels, batches of 128: steps alone beside a bare loop, reading, and both."""
    rng = np.random.default_rng(0)
    for number in range(512):
        folder = tmp_path / f"photos/train/{'ab'[number % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        smooth = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC)
        noisy = cv2.add(smooth, rng.integers(0, 30, smooth.shape, np.uint8))
        cv2.imwrite(str(folder / f"{number}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
    words = f"DATASETS.NAME image_folder DATASETS.ROOT {tmp_path}/photos MODEL.NAME resnet50 MODEL.DEVICE cuda".split()
    words += "SOLVER.AMP bf16 SOLVER.BATCH_SIZE 128 DATALOADER.RESIDENT_MIB 0".split()
    command = [
        sys.executable,
        "tools/benchmark.py",
        *words,
        "--seconds",
        "10",
        "--json",
        str(tmp_path / "figures.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    figures, bare = json.loads((tmp_path / "figures.json").read_text()), bare_loop()
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}: ResNet-50, images/s: bare loop {bare:,.0f}")
    print({name: round(value) for name, value in figures.items() if name != "advice"})
    print(f"{figures['both'] / figures['network']:.2f} of the limit of synthetic data; {figures['advice']}")
    assert figures["network"] > 0.9 * bare


def bare_loop() -> float:
    from torchvision.models import resnet50

    model = resnet50().cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    images = torch.rand(128, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
    targets = torch.randint(0, 1000, (128,), device="cuda")
    for count in (10, 50):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            with torch.autocast("cuda", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(images).float(), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()
    return 128 * count / (time.perf_counter() - started)
