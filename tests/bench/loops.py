"""The training loop, ours and those that PyTorch's users write, over the same batches with the same optimizer."""

import dataclasses
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter
from torch import nn

from config import CfgNode, load_config
from data.build import build_train_and_val, build_train_loader, dataset_defaults
from data.registry import DATASETS, MissingSplit
from engine.build import build_trainer
from engine.hooks.base import Hook
from engine.registry import HOOKS
from engine.trainer import Trainer
from modeling.build import build_input_spec, build_model, build_normalize
from modeling.registry import MODELS
from solver.build import build_optimizer
from tests.bench.measuring import Contender, Run
from utils.contracts import Batch
from utils.run_folder import open_run

BATCH, CLASSES, EPOCHS = 128, 10, 2  # the first epoch warms up
WORDS = (
    f"DATASETS.NAME bench_noise DATASETS.VAL_RATIO 0 MODEL.NAME bench_linear MODEL.DEVICE cpu SOLVER.AMP off "
    f"SOLVER.BATCH_SIZE {BATCH} SOLVER.MAX_EPOCHS {EPOCHS} SOLVER.BASE_LR 0.001 SOLVER.WEIGHT_DECAY 5e-4 "
    "SOLVER.OPTIMIZER.NAME SGD SOLVER.OPTIMIZER.momentum 0.9 SOLVER.OPTIMIZER.nesterov true HOOKS [bench_clock]"
).split()
Step = Callable[[torch.Tensor, torch.Tensor], None]  # (normalised images, targets)


@DATASETS.register("bench_noise", size=(28, 28), channels=1, train_transforms=[], test_transforms=[])
class Noise:
    """Gray images of noise; `steps` batches of them."""

    classes = [str(i) for i in range(CLASSES)]
    thread_safe = True

    def __init__(self, root: Path, split: str, steps: int = 300):
        if split != "train":
            raise MissingSplit("noise has a training set alone")
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (BATCH * steps, 28, 28, 1), np.uint8)
        self.targets = rng.integers(0, CLASSES, BATCH * steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.images[i], int(self.targets[i])

    def name(self, i: int) -> str:
        return f"train/{i:06d}"


@MODELS.register("bench_linear")
class Linear(nn.Module):
    """7,850 parameters: (N, 1, 28, 28) -> (N, 10)."""

    def __init__(self, num_classes: int, in_channels: int):
        super().__init__()
        self.fc = nn.Linear(28 * 28 * in_channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


@HOOKS.register("bench_clock")
class Clock(Hook):
    """Takes the time of the steps of the newest epoch, and of the end of the one before it."""

    def __init__(self) -> None:
        self.started, self.ended, self.steps, self.end = 0.0, 0.0, 0.0, 0.0

    def before_epoch(self, trainer: Trainer) -> None:
        self.started = time.perf_counter()
        self.end = self.started - self.ended

    def before_evaluate(self, trainer: Trainer) -> None:
        self.ended = time.perf_counter()
        self.steps = self.ended - self.started


class FixedBatches:
    """A loader that gives batches that have been read before; all else is that of the `loader`."""

    def __init__(self, loader: Any, batches: list[Batch]):
        self._loader, self._batches = loader, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def batches(self, epoch: int = 0, start: int = 0, poll: Callable[[], None] = lambda: None) -> Iterator[Batch]:
        return iter(self._batches)


class Loops:
    """The contenders; each runs over the same `steps` batches, on one thread."""

    def __init__(self, steps: int):
        self.words = [*WORDS, "DATASETS.steps", str(steps)]
        self.cfg: CfgNode = load_config(None, self.words)
        self.spec = build_input_spec(self.cfg, dataset_defaults(self.cfg))
        loader = build_train_loader(self.cfg, build_train_and_val(self.cfg).train, self.spec)
        self.batches = [_copy(batch) for batch in loader.batches()]
        loader.close()
        self.normalize = build_normalize(self.cfg, self.spec)
        self.epoch_ends: list[float] = []

    def contenders(self) -> list[Contender]:
        peers = {"bare loop": self.bare, "torchvision's references": self.references, "timm's script": self.timm}
        steps = [Contender(name, partial(self._peer, make)) for name, make in peers.items()]
        return [Contender("strata", lambda _: self._ours), *steps]

    def note(self) -> str:
        end = statistics.median(self.epoch_ends) * 1000
        return f"besides, the end of an epoch of strata (checkpoint, log, TensorBoard) takes {end:.1f} ms"

    def _ours(self) -> tuple[int, float]:
        with TemporaryDirectory() as folder:
            trainer = build_trainer(self.cfg, open_run(Path(folder) / "run"))
            trainer.train_loader.close()
            trainer.train_loader = FixedBatches(trainer.train_loader, self.batches)
            clock = next(hook for hook in trainer.hooks if isinstance(hook, Clock))
            trainer.train()
        self.epoch_ends.append(clock.end)
        return len(self.batches), clock.steps

    def _peer(self, make: Callable[[nn.Module, torch.optim.Optimizer], Step], _: ExitStack) -> Run:
        model = build_model(self.cfg, self.spec, CLASSES)
        step = make(model, build_optimizer(self.cfg, model))

        def run() -> tuple[int, float]:
            started = time.perf_counter()
            for batch in self.batches:
                step(self.normalize(batch.images), batch.targets)
            return len(self.batches), time.perf_counter() - started

        return run

    @staticmethod
    def bare(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
        criterion = nn.CrossEntropyLoss()

        def step(images: torch.Tensor, targets: torch.Tensor) -> None:
            criterion(model(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    @staticmethod
    def references(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
        """Returns the step of torchvision's references/classification/train.py, with its metric logger."""
        criterion, meters, count = nn.CrossEntropyLoss(), _Meters(), 0

        def step(images: torch.Tensor, targets: torch.Tensor) -> None:
            nonlocal count
            started = time.time()
            output = model(images)
            loss = criterion(output, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            acc1, acc5 = _accuracy(output, targets, (1, 5))
            meters.update(len(images), acc1=acc1.item(), acc5=acc5.item())
            meters.update(1, loss=loss.item(), lr=optimizer.param_groups[0]["lr"])
            meters.update(1, img_s=len(images) / (time.time() - started))
            count += 1
            if count % 10 == 0:
                str(meters)  # it would be printed

        return step

    @staticmethod
    def timm(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
        """Returns the step of timm's train.py, with its meters and its schedule moved at every update."""
        criterion, losses, data_time, update_time = nn.CrossEntropyLoss(), *(AverageMeter() for _ in range(3))
        schedule, updates, ended = CosineLRScheduler(optimizer, 10**6, t_in_epochs=False), 0, time.time()

        def step(images: torch.Tensor, targets: torch.Tensor) -> None:
            nonlocal updates, ended
            data_time.update(time.time() - ended)
            loss = criterion(model(images), targets)
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), images.size(0))
            updates += 1
            optimizer.zero_grad()
            now = time.time()
            update_time.update(time.time() - ended)
            ended = now
            if updates % 50 == 0:
                f"{losses.val:#.3g} {losses.avg:#.3g} {update_time.avg:.3f} {data_time.avg:.3f}"  # it would be printed
            schedule.step_update(num_updates=updates, metric=losses.avg)

        return step


def _copy(batch: Batch) -> Batch:
    """Copies a batch, whose memory the loader uses again."""
    tensors = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **{n: t.clone() for n, t in tensors.items() if isinstance(t, torch.Tensor)})


class _Meters:
    """Averages and the last 20 values of each number, as the metric logger of torchvision's references has them."""

    def __init__(self) -> None:
        self.values: dict[str, deque[float]] = {}
        self.totals: dict[str, tuple[float, int]] = {}

    def update(self, n: int, **numbers: float) -> None:
        for name, value in numbers.items():
            self.values.setdefault(name, deque(maxlen=20)).append(value)
            total, count = self.totals.get(name, (0.0, 0))
            self.totals[name] = total + value * n, count + n

    def __str__(self) -> str:
        medians = {name: torch.tensor(list(values)).median().item() for name, values in self.values.items()}
        return "  ".join(f"{n}: {medians[n]:.4f} ({total / count:.4f})" for n, (total, count) in self.totals.items())


@torch.inference_mode()
def _accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[torch.Tensor]:
    _, predicted = output.topk(max(topk), 1, True, True)
    correct = predicted.t().eq(target[None])
    return [correct[:k].flatten().sum(dtype=torch.float32) * (100.0 / len(target)) for k in topk]


def quiet() -> None:
    """Keeps our log off the terminal."""
    logging.getLogger("strata").addHandler(logging.NullHandler())
