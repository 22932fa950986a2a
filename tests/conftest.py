"""A toy data set, a toy network and a toy experiment that trains in a blink."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

from config import CfgNode, load_config
from data.registry import DATASETS, MissingSplit
from modeling.registry import MODELS
from utils import cli
from utils.logger import close_logging
from utils.run_folder import RunFolder, open_run

if TYPE_CHECKING:
    from engine.checkpoint import Checkpoint
    from engine.trainer import Trainer


@DATASETS.register("toy", size=(6, 6), channels=1, train_transforms=[{"RandomCrop": {"padding": 1}}, "HFlip"])
class Toy:
    """45 noisy images; the bright third of an image tells its class."""

    classes = ("left", "middle", "right")
    thread_safe = True

    def __init__(self, root: Path, split: str, size: int = 45):
        if split == "val":
            raise MissingSplit("toy has no validation set")
        rng = np.random.default_rng(split == "test")
        self.targets = np.arange(size) % 3
        self.images = rng.integers(0, 100, (size, 6, 6, 1), dtype=np.uint8)
        for image, target in zip(self.images, self.targets, strict=True):
            image[:, 2 * target : 2 * target + 2] += 120

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        return self.images[i], int(self.targets[i])

    def name(self, i: int) -> str:
        return f"toy/{i}"


@MODELS.register("tiny")
class Tiny(nn.Module):
    """Batch norm and dropout, so that running statistics and random state matter for a resume."""

    def __init__(self, num_classes: int, in_channels: int, dropout: float = 0.2):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * 9, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        x = nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)
        return self.fc(self.dropout(x))


settings.register_profile("untimed", deadline=None)  # a busy machine is no defect
settings.load_profile("untimed")

TOY = [
    "DATASETS.NAME",
    "toy",
    "DATASETS.VAL_RATIO",
    "0.2",
    "MODEL.NAME",
    "tiny",
    "MODEL.DEVICE",
    "cpu",
    "SOLVER.AMP",
    "off",
    "SOLVER.BATCH_SIZE",
    "8",
    "SOLVER.MAX_EPOCHS",
    "3",
    "SOLVER.OPTIMIZER.NAME",
    "SGD",
    "SOLVER.BASE_LR",
    "0.1",
    "LOG.PERIOD",
    "2",
]


@pytest.fixture
def toy_cfg() -> Callable[..., CfgNode]:
    """toy_cfg("KEY", "VALUE", ...) -> the toy experiment with these changes."""
    return lambda *overrides: load_config(None, [*TOY, *overrides])


@pytest.fixture
def make_trainer(tmp_path: Path, toy_cfg) -> Callable[..., Trainer]:
    """make_trainer("KEY", "VALUE", ..., run=name, checkpoint=...) -> a trainer of the toy experiment."""

    def make(*overrides: str, run: str | RunFolder = "run", checkpoint: Checkpoint | None = None, **options) -> Trainer:
        from engine.build import build_trainer

        folder = open_run(tmp_path / run) if isinstance(run, str) else run
        return build_trainer(toy_cfg(*overrides), folder, checkpoint, **options)

    return make


@pytest.fixture(autouse=True)
def _one_thread_and_no_handlers(monkeypatch):
    """Toy networks are faster on one thread; log handlers of a test end with it; a tool does not end this process."""
    monkeypatch.setattr(cli, "_leave", sys.exit)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    close_logging()


@pytest.fixture
def spots(tmp_path: Path) -> Path:
    """A CSV table of images with a bright spot, and its column and row as numbers."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(160):
        x, y = rng.uniform(2, 13, 2)
        columns, lines = np.meshgrid(np.arange(16), np.arange(16))
        image = 250 * np.exp(-((columns - x) ** 2 + (lines - y) ** 2) / 6)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image.astype(np.uint8))
        rows.append((f"{i}.png", f"{x:.3f}", f"{y:.3f}", "test" if i % 4 == 0 else "train"))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "x", "y", "split"), *rows])
    return tmp_path
